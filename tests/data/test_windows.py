"""Training samples, of which only the crop is computed, equal those of whole images bit for bit."""

import dataclasses

import numpy as np
import pytest
from whole_images import augmented

from wsss_fast import _native, amn, cam, ccr, eps, irn, seg
from wsss_fast.data import windows
from wsss_fast.data.transforms import Augment
from wsss_fast.readers.saliency_maps import saliency_of

RECIPES = [
    *(recipe for module in (amn, cam, eps, irn, seg) for recipe in module.RECIPES.values()),
    *(recipe.seg for recipe in ccr.REFINEMENTS.values()),
    eps.COCO,
]
AUGMENTS = [
    *dict.fromkeys(recipe.augment for recipe in RECIPES),
    Augment(crop=64, linear=True, jitter=0.2, hue=0.5, scale=(0.3, 3.0)),
    Augment(crop=40, flip=False, factors=(1.0, 0.11, 5.3)),
]
SIZES = [(375, 500), (500, 333), (61, 47), (1, 3)]


def scene(height, width, seed=0):
    """A photo with smooth and noisy parts, labels, and maps of another size."""
    rng = np.random.default_rng([seed, height, width])
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    image[height // 2 :] = np.linspace(0, 255, width)[:, None]
    image.flags.writeable = False  # as a data set's
    labels = rng.integers(0, 21, (height, width)).astype(np.uint8)
    maps = rng.integers(0, 256, (2, height // 2 + 1, width + 5)).astype(np.uint8)
    return image, labels, maps


def seeds(augment):
    """Enough for mirrored and plain crops; few for large ones."""
    return range(3 if augment.crop > 200 else 8)


@pytest.fixture(params=["native", "pillow"])
def resizing(request, monkeypatch):
    if request.param == "pillow":
        monkeypatch.setattr(_native, "load", lambda device="cpu": False)
    return request.param


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("number", range(len(AUGMENTS)))
def test_samples_are_those_of_whole_images(resizing, number, size):
    augment, (image, labels, maps) = AUGMENTS[number], scene(*size)
    for seed in seeds(augment) if resizing == "native" else range(1):
        wanted = augmented(augment, image, labels, maps, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        found = augment.with_maps(image, labels, maps, rng)
        for one, other in zip(found[:2], wanted[:2], strict=True):
            assert one.numpy().dtype == other.dtype
            assert one.is_contiguous() and one.numpy().tobytes() == other.tobytes()
        np.testing.assert_array_equal(found[2], (wanted[2] / 255.0).astype(np.float32))
        # without labels and maps, the same random numbers
        plain, nothing = augment(image, None, np.random.default_rng(seed))
        assert nothing is None and (plain == found[0]).all()


@pytest.mark.parametrize("coloured", [False, True], ids=["gray", "coloured"])
def test_saliency_is_that_of_whole_maps(coloured):
    image, _, _ = scene(120, 90)
    levels = np.random.default_rng(1).integers(0, 256, (70, 50, 3)).astype(np.uint8)
    if not coloured:
        levels[...] = levels[..., :1]
    augment = dataclasses.replace(eps.Recipe().augment, crop=80, long_side=(60, 150))
    for seed in range(12):
        planes = levels.transpose(2, 0, 1)
        wanted = augmented(augment, image, None, planes, np.random.default_rng(seed))
        found, salient = augment.with_saliency(image, levels, np.random.default_rng(seed))
        assert found.numpy().tobytes() == wanted[0].tobytes()
        assert salient.dtype.is_floating_point and salient.shape == (1, 80, 80)
        expected = saliency_of(wanted[2].transpose(1, 2, 0))
        assert salient.numpy().tobytes() == expected.tobytes()


def test_another_network_input_is_cropped_too():
    def red(image):
        return image[None, ..., 0].astype(np.float32).repeat(3, axis=0)[..., ::-1]

    image, _, _ = scene(50, 70)
    for crop in (32, 90):
        cropped, _ = Augment(crop=crop, flip=False, to_input=red)(
            image, None, np.random.default_rng(0)
        )
        assert cropped.shape == (3, crop, crop) and cropped.is_contiguous()
        assert (cropped != 0).any()


@pytest.mark.parametrize("old, new", [(1, 9), (9, 1), (7, 7), (33, 50), (50, 33), (375, 468)])
def test_first_rows_and_columns_of_a_bilinear_resize(old, new):
    """Also as many rows as the image has."""
    image = np.random.default_rng(old).integers(0, 256, (old, 40, 3)).astype(np.uint8)
    whole = windows.resize_linear(image, new, 61)
    for rows in {1, (new + 1) // 2, min(old, new), max(1, min(old, new) - 1), new}:
        for wanted in (1, 33, 40, 61):
            part = windows.resize_linear(image, new, 61, rows=rows, columns=wanted)
            height, width = part.shape[:2]
            assert height >= rows and width >= wanted
            assert (part == whole[:height, :width]).all()
