"""Training samples have the bytes of the whole procedure, which computes every pixel in turn."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_fast import _native, amn, cam, eps, irn, seg
from wsss_fast.data import resizing, transforms
from wsss_fast.data.colours import turn_hue
from wsss_fast.data.transforms import MEAN, MEAN_BGR, STD, Augment, normalise, subtract_mean

AUGMENTS = {
    "cam": cam.RECIPES["resnet50"].augment,
    "cam38": cam.RECIPES["resnet38"].augment,
    "amn": amn.RECIPES["resnet50"].augment,
    "irn": irn.RECIPES["resnet50"].augment,
    "eps": eps.RECIPES["resnet38"].augment,
    "eps-coco": eps.COCO.augment,
    "seg": seg.RECIPES["resnet101"].augment,
    "small": seg.RECIPES["small"].augment,
    "linear-jitter": Augment(64, scale=(0.5, 2.0), jitter=0.2, hue=0.3, linear=True),
    "bgr": Augment(64, scale=(0.5, 2.0), to_input=subtract_mean),
}
SIZES = [(375, 500), (500, 375), (60, 90), (128, 128), (1, 7)]


def bicubic(image, height, width):
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def linear(image, height, width):
    x = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    x = torch.nn.functional.interpolate(x, (height, width), mode="bilinear", align_corners=False)
    return x[0].permute(1, 2, 0).numpy()


def whole_procedure(augment, image, labels, maps, rng):
    """Resize, mirror, change colours, normalise, then crop: all of it for the whole image."""
    factor = 1.0
    if augment.scale:
        factor = rng.uniform(*augment.scale)
    if augment.factors:
        factor *= augment.factors[rng.integers(len(augment.factors))]
    if augment.long_side:
        factor *= rng.integers(*augment.long_side, endpoint=True) / max(image.shape[:2])
    down = np.floor if augment.linear else np.round
    height, width = (max(1, int(down(n * factor))) for n in image.shape[:2])
    image = (linear if augment.linear else bicubic)(image, height, width)
    labels = np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
    maps = np.stack([bicubic(one, height, width) for one in maps])
    if augment.flip and rng.random() < 0.5:
        image, labels, maps = image[:, ::-1], labels[:, ::-1], maps[..., ::-1]
    if augment.jitter:
        image = jitter(image, augment.jitter, augment.hue, rng)
    top, left = (
        0 if n < augment.crop and augment.corner else int(rng.integers(abs(n - augment.crop) + 1))
        for n in (height, width)
    )
    if augment.to_input is normalise:
        x = ((image / 255.0 - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)
    else:
        x = (image[..., ::-1] - MEAN_BGR).astype(np.float32).transpose(2, 0, 1)
    return tuple(
        crop(a, augment.crop, fill, top, left) for a, fill in ((x, 0), (labels, 255), (maps, 0))
    )


def jitter(image, strength, hue, rng):
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3).astype("f4")
    x = image.astype(np.float32) * brightness
    gray = x @ np.array([0.299, 0.587, 0.114], np.float32)
    x = gray[..., None] + saturation * (x - gray[..., None])
    x = gray.mean() + contrast * (x - gray.mean())
    image = np.clip(x + 0.5, 0, 255).astype(np.uint8)
    return through_hsv(image, rng.uniform(-hue, hue)) if hue else image


def through_hsv(image, share):
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    hsv[..., 0] += np.uint8(round(share * 255) % 256)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return np.asarray(Image.fromarray(hsv, mode="HSV").convert("RGB"))


def crop(array, side, fill, top, left):
    out = np.full((*array.shape[:-2], side, side), fill, array.dtype)
    places = list(zip((top, left), array.shape[-2:], strict=True))
    source = [slice(o, o + side) if n >= side else slice(0, n) for o, n in places]
    target = [slice(0, side) if n >= side else slice(o, o + n) for o, n in places]
    out[(..., *target)] = array[(..., *source)]
    return out


@pytest.mark.parametrize("native", [False, True], ids=["pillow", "native"])
@pytest.mark.parametrize("name", AUGMENTS)
def test_bytes_of_the_whole_procedure(name, native, monkeypatch):
    if native and not _native.load("cpu"):
        pytest.skip("needs the native library")
    if not native:
        monkeypatch.setattr(resizing, "has_native_kernel", lambda *_: False)
    augment, rng = AUGMENTS[name], np.random.default_rng(7)
    for seed, size in enumerate(SIZES):
        image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        image.flags.writeable = False  # as those of a data set
        labels = rng.integers(0, 22, size).astype(np.uint8)
        levels = rng.integers(0, 256, (size[0] // 2 + 1, size[1], 3 if seed % 2 else 1))
        levels = np.broadcast_to(levels.astype(np.uint8), (*levels.shape[:2], 3))
        planes = np.ascontiguousarray(levels.transpose(2, 0, 1))
        x, y, maps = whole_procedure(augment, image, labels, planes, generator(seed))
        saliency = (maps.transpose(1, 2, 0) / 255.0).mean(axis=2).astype(np.float32)[None]
        same(augment(image, labels, generator(seed)), (x, y))
        same(augment.with_saliency(image, levels, generator(seed)), (x, saliency))
        values = (maps / 255.0).astype(np.float32)
        same(augment.with_maps(image, labels, planes, generator(seed)), (x, y, values))


def generator(seed):
    return np.random.default_rng([0, 3, seed])


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.is_contiguous()
        assert one.numpy().dtype == other.dtype and one.numpy().tobytes() == other.tobytes()


@pytest.mark.parametrize("share", [0.05, -0.1])
def test_hue_of_every_colour_is_turned_as_by_pillow(share):
    """Steps of 3 in red and green: all 256 values of blue, 1.9 million colours."""
    level = np.arange(256, dtype=np.uint8)
    image = np.stack(np.meshgrid(level[::3], level[::3], level, indexing="ij"), -1)
    image = image.reshape(-1, 256, 3)
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    turn_hue(planes, share)
    np.testing.assert_array_equal(planes.transpose(1, 2, 0), through_hsv(image, share))


def test_table_of_saliency_levels():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
    same([torch.from_numpy(transforms._SALIENCY)], [(levels / 255.0).mean(axis=2)[0].astype("f4")])


def test_recipes_have_no_other_input():
    """`to_input` of every recipe is one of those above."""
    for augment in AUGMENTS.values():
        assert dataclasses.asdict(augment)["to_input"] in (normalise, subtract_mean)
