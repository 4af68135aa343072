"""The augmentation of training images as a reference: whole images, resized by Pillow."""

import numpy as np
import torch
from PIL import Image

from wsss_fast.data.transforms import MEAN, MEAN_BGR, STD, normalise, subtract_mean


def augmented(augment, image, labels, maps, rng):
    """Crops of an image, of its labels (or None) and of its maps [M, h, w] (or None)."""
    image, labels = _resized(augment, image, labels, _factor(augment, image, rng))
    if maps is not None:
        maps = np.stack([_bicubic(one, *image.shape[:2]) for one in maps])
    if augment.flip and rng.random() < 0.5:
        image = image[:, ::-1]
        labels = None if labels is None else labels[:, ::-1]
        maps = None if maps is None else maps[..., ::-1]
    if augment.jitter:
        image = _jitter(image, augment.jitter, rng)
        if augment.hue:
            image = _turn_hue(image, rng.uniform(-augment.hue, augment.hue))
    top, left = (
        0 if n < augment.crop and augment.corner else rng.integers(0, abs(n - augment.crop) + 1)
        for n in image.shape[:2]
    )
    place = augment.crop, top, left
    return (
        _crop(_INPUTS[augment.to_input](image), 0, *place),
        None if labels is None else _crop(labels, 255, *place),
        None if maps is None else _crop(maps, 0, *place),
    )


def _normalised(image):
    return ((image / 255.0 - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)


def _without_mean(image):
    return (image[..., ::-1] - MEAN_BGR).astype(np.float32).transpose(2, 0, 1)


_INPUTS = {normalise: _normalised, subtract_mean: _without_mean}


def _factor(augment, image, rng):
    factor = 1.0
    if augment.scale is not None:
        factor = rng.uniform(*augment.scale)
    if augment.factors is not None:
        factor *= augment.factors[rng.integers(len(augment.factors))]
    if augment.long_side is not None:
        low, high = augment.long_side
        factor *= rng.integers(low, high, endpoint=True) / max(image.shape[:2])
    return factor


def _resized(augment, image, labels, factor):
    round_ = np.floor if augment.linear else np.round
    height, width = (max(1, int(round_(n * factor))) for n in image.shape[:2])
    if labels is not None and labels.shape != (height, width):
        small = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST)
        labels = np.asarray(small)
    return (_linear if augment.linear else _bicubic)(image, height, width), labels


def _bicubic(image, height, width):
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def _linear(image, height, width):
    x = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    size = height, width
    resized = torch.nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)
    return resized[0].permute(1, 2, 0).numpy()


def _jitter(image, strength, rng):
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    x = image.astype(np.float32) * brightness
    gray = x @ np.array([0.299, 0.587, 0.114], np.float32)
    x = gray[..., None] + saturation * (x - gray[..., None])
    x = gray.mean() + contrast * (x - gray.mean())
    return np.clip(x + 0.5, 0, 255).astype(np.uint8)


def _turn_hue(image, share):
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    hsv[..., 0] += np.uint8(round(share * 255) % 256)
    return np.asarray(Image.fromarray(hsv, mode="HSV").convert("RGB"))


def _crop(array, fill, side, top, left):
    places = list(zip((top, left), array.shape[-2:], strict=True))
    source = [slice(o, o + side) if n >= side else slice(0, n) for o, n in places]
    target = [slice(0, side) if n >= side else slice(o, o + n) for o, n in places]
    out = np.full((*array.shape[:-2], side, side), fill, array.dtype)
    out[..., target[0], target[1]] = array[..., source[0], source[1]]
    return out
