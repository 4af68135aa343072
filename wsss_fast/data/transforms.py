"""Image transforms of the papers' recipes, on uint8 arrays.

Images are resized by Pillow's bicubic filter (antialiased when shrinking) on uint8, labels by
nearest, as in the public code. DeepLab's re-implementation resizes images bilinearly, without
antialiasing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from wsss_fast.data.windows import Window, resize_image, resize_labels, resize_linear
from wsss_fast.engine.ranges import PIXELS, SCALE, SHARE, Range
from wsss_fast.errors import InputError
from wsss_fast.readers.label_maps import IGNORE
from wsss_fast.readers.saliency_maps import saliency_of

MEAN = np.array([0.485, 0.456, 0.406])  # ImageNet, RGB in 0..1
STD = np.array([0.229, 0.224, 0.225])
MEAN_BGR = np.array([104.008, 116.669, 122.675])  # Caffe's ImageNet networks, in 0..255


def normalise(image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Network input (image / 255 - mean) / std, computed in float64 as in the public code.

    Args:
        image: RGB [H, W, 3] in 0..255.
        out: float32 [3, H, W] to write to.

    Returns:
        float32 [3, H, W].
    """
    out = _input_like(image) if out is None else out
    if image.dtype == np.uint8:  # looking up the 256 levels of a channel is four times faster
        for channel, levels in enumerate(_NORMALISED):
            np.take(levels, image[..., channel], out=out[channel], mode="clip")
    else:
        out[...] = ((image / 255.0 - MEAN) / STD).transpose(2, 0, 1)
    return out


# `normalise` of the 256 levels of each channel, [3, 256].
_NORMALISED = np.ascontiguousarray(
    ((np.arange(256)[:, None] / 255.0 - MEAN) / STD).astype(np.float32).T
)


def subtract_mean(image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Network input of Caffe's networks: BGR in 0..255 minus the mean colour.

    Args:
        image: RGB [H, W, 3] in 0..255.
        out: float32 [3, H, W] to write to.

    Returns:
        float32 [3, H, W].
    """
    out = _input_like(image) if out is None else out
    for channel, mean in enumerate(MEAN_BGR):  # in float64
        np.subtract(image[..., 2 - channel], mean, out=out[channel], casting="same_kind")
    return out


def _input_like(image: np.ndarray) -> np.ndarray:
    return np.empty((3, *image.shape[:2]), np.float32)


# Saliency and value of a map by its 256 levels.
_SALIENCY = saliency_of(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2))[0]
_VALUES = (np.arange(256) / 255.0).astype(np.float32)


_NO_MAPS = np.empty((0, 1, 1), np.uint8)


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random resize, flip, colour jitter and crop of a training image, its labels and its maps.

    Attributes:
        crop: side of the square crop in pixels. Where the image does not fill it, the network input
            is 0 (the mean colour), labels are 255, maps 0.
        scale: range of a factor on the image's sides, drawn uniformly; None for 1.
        factors: values of another factor, one of which is drawn; None for 1.
        long_side: range of the longer side in pixels, drawn uniformly from whole numbers; None
            keeps the side.
        flip: whether half of the images are mirrored left to right.
        jitter: largest relative change of brightness, contrast and saturation, 0..1; 0 for none.
        hue: largest shift of the hue as a fraction of the colour circle, 0..0.5; needs jitter > 0.
        linear: whether images are resized bilinearly, without antialiasing, to sizes rounded down,
            as in DeepLab's re-implementation.
        corner: whether an image smaller than the crop lies in its upper left corner; otherwise its
            place is drawn.
        to_input: function from an image [H, W, 3] in 0..255 to a network input, float32 [3, H, W].
    """

    ranges: ClassVar = {
        "crop": PIXELS,
        "scale": SCALE,
        "factors": SCALE,
        "long_side": PIXELS,
        "jitter": SHARE,
        "hue": Range(0, 0.5),
    }

    crop: int
    scale: tuple[float, float] | None = None
    factors: tuple[float, ...] | None = None
    long_side: tuple[int, int] | None = None
    flip: bool = True
    jitter: float = 0.0
    hue: float = 0.0
    linear: bool = False
    corner: bool = False
    to_input: Callable[[np.ndarray], np.ndarray] = normalise

    def __post_init__(self):
        for name in ("scale", "long_side"):
            low, high = getattr(self, name) or (1, 1)
            if not 0 < low <= high:
                raise InputError(f"augment.{name}: got {(low, high)}, needs 0 < low <= high")
        if self.factors is not None and (not self.factors or min(self.factors) <= 0):
            raise InputError(f"augment.factors: got {self.factors}, needs numbers > 0")
        if self.crop < 1 or not 0 <= self.jitter < 1:
            raise InputError(
                f"augment: crop must be >= 1 and jitter in 0..1, got {self.crop} and {self.jitter}"
            )
        if not 0 <= self.hue <= 0.5:
            raise InputError(f"augment: hue must be in 0..0.5, got {self.hue}")

    def __call__(
        self, image: np.ndarray, labels: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """An image and its label map.

        Args:
            image: uint8 [H, W, 3].
            labels: uint8 [H, W], or None.
            rng: source of the random numbers.

        Returns:
            float32 [3, crop, crop], and uint8 [crop, crop] or None.
        """
        cropped, cropped_labels, _ = self._transform(image, labels, _NO_MAPS, rng)
        return cropped, cropped_labels

    def with_saliency(
        self, image: np.ndarray, levels: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """An image and its saliency map, resized by the bicubic filter as in EPS' public code.

        Args:
            image: uint8 [H, W, 3].
            levels: saliency, uint8 [h, w, 3] of any size; it is stretched to the image.
            rng: source of the random numbers.

        Returns:
            float32 [3, crop, crop] and, in 0..1, float32 [1, crop, crop].
        """
        gray = levels[..., :1]
        if (levels == gray).all():
            cropped, _, planes = self._transform(image, None, gray.transpose(2, 0, 1), rng)
            return cropped, torch.from_numpy(_SALIENCY.take(planes))
        cropped, _, planes = self._transform(image, None, levels.transpose(2, 0, 1), rng)
        return cropped, torch.from_numpy(saliency_of(planes.transpose(1, 2, 0))[None])

    def with_maps(
        self, image: np.ndarray, labels: np.ndarray, maps: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """An image, its label map and M maps of pixel values, resized by the bicubic filter.

        Args:
            image: uint8 [H, W, 3].
            labels: uint8 [H, W].
            maps: uint8 [M, h, w] of any size; they are stretched to the image.
            rng: source of the random numbers.

        Returns:
            float32 [3, crop, crop], uint8 [crop, crop] and, in 0..1, float32 [M, crop, crop].
        """
        cropped, cropped_labels, cropped_maps = self._transform(image, labels, maps, rng)
        assert cropped_labels is not None
        return cropped, cropped_labels, torch.from_numpy(_VALUES.take(cropped_maps))

    def _transform(
        self,
        image: np.ndarray,
        labels: np.ndarray | None,
        maps: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor | None, np.ndarray]:
        """float32 [3, crop, crop], uint8 [crop, crop] or None, uint8 [M, crop, crop]."""
        size = self._size(image, self._draw_factor(image, rng))
        flip = self.flip and rng.random() < 0.5
        strengths = hue = None
        if self.jitter:
            low, high = 1 - self.jitter, 1 + self.jitter
            strengths = rng.uniform(low, high, 3).astype(np.float32)
            hue = rng.uniform(-self.hue, self.hue) if self.hue else None
        window = Window.of_crop(size, self.crop, *self._draw_place(size, rng), flip=flip)
        part = self._part(image, window, strengths)
        cropped = self._input(part if hue is None else _turn_hue(part, hue), window)
        found = None
        if labels is not None:
            found = torch.from_numpy(window.placed(window.labels(labels), IGNORE))
        values = np.zeros((len(maps), self.crop, self.crop), np.uint8)
        for target, one in zip(window.place(values), maps, strict=True):
            target[...] = window.image(one)
        return torch.from_numpy(cropped), found, values

    def _part(self, image: np.ndarray, window: Window, strengths: np.ndarray | None) -> np.ndarray:
        """The part of the resized image, its colours changed by `strengths`, if they are given."""
        if strengths is None:
            return window.linear(image) if self.linear else window.image(image)
        resize = resize_linear if self.linear else resize_image
        return _jitter(resize(image, window.height, window.width), window, *strengths)

    def _input(self, part: np.ndarray, window: Window) -> np.ndarray:
        """The crop as a network input, float32 [3, crop, crop]."""
        if self.to_input not in (normalise, subtract_mean):
            return window.placed(self.to_input(part), 0)
        shape = (3, self.crop, self.crop)
        crop = np.empty(shape, np.float32) if window.is_full() else np.zeros(shape, np.float32)
        self.to_input(part, window.place(crop))
        return crop

    def _draw_place(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """(top, left) of the crop in an image of this size.

        Along a side on which the image is shorter than the crop, it is the image's place in the
        crop.
        """
        top, left = (
            0 if n < self.crop and self.corner else int(rng.integers(0, abs(n - self.crop) + 1))
            for n in size
        )
        return top, left

    def _draw_factor(self, image: np.ndarray, rng: np.random.Generator) -> float:
        factor = 1.0
        if self.scale is not None:
            factor = rng.uniform(*self.scale)
        if self.factors is not None:
            factor *= self.factors[rng.integers(len(self.factors))]
        if self.long_side is not None:
            longer = rng.integers(self.long_side[0], self.long_side[1], endpoint=True)
            factor *= longer / max(image.shape[:2])
        return factor

    def resized(
        self, image: np.ndarray, labels: np.ndarray | None, factor: float
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Image and labels with their sides scaled by `factor`."""
        height, width = self._size(image, factor)
        labels = None if labels is None else resize_labels(labels, height, width)
        return (resize_linear if self.linear else resize_image)(image, height, width), labels

    def _size(self, image: np.ndarray, factor: float) -> tuple[int, int]:
        round_ = np.floor if self.linear else np.round
        height, width = (max(1, int(round_(n * factor))) for n in image.shape[:2])
        return height, width

    def cropped(
        self, image: np.ndarray, labels: np.ndarray | None, top: int, left: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The crop of a network input [3, H, W] and of its labels, placed as in `crop_or_pad`."""
        image = self.crop_or_pad(image, 0, top, left)
        if labels is not None:
            labels = self.crop_or_pad(labels, IGNORE, top, left)
        return torch.from_numpy(image), None if labels is None else torch.from_numpy(labels)

    def crop_or_pad(self, array: np.ndarray, fill: float, top: int, left: int) -> np.ndarray:
        """The square crop of [..., H, W] at (top, left).

        Along a side on which the array is shorter than the crop, it begins there in the crop, and
        the rest is `fill`.
        """
        size = array.shape[-2:]
        window = Window.of_crop(size, self.crop, top, left, flip=False)
        rows = slice(window.top, window.top + window.rows)
        part = array[..., rows, window.left : window.left + window.columns]
        out = np.full((*array.shape[:-2], self.crop, self.crop), fill, array.dtype)
        window.place(out)[...] = part
        return out


def _jitter(
    image: np.ndarray,
    window: Window,
    brightness: np.float32,
    contrast: np.float32,
    saturation: np.float32,
) -> np.ndarray:
    """The window of an image [H, W, 3] with other colours, uint8; contrast needs the whole mean."""
    x = (image[:, ::-1] if window.flip else image).astype(np.float32)
    x *= brightness
    gray = x @ np.array([0.299, 0.587, 0.114], np.float32)
    mean = gray.mean()
    shown = dataclasses.replace(window, left=window.first_column(), flip=False)
    gray = shown.part(gray)[..., None]
    x = shown.part(x) - gray
    x *= saturation
    x += gray
    x -= mean
    x *= contrast
    x += mean
    x += np.float32(0.5)
    return np.clip(x, 0, 255, out=x).astype(np.uint8)


def _turn_hue(image: np.ndarray, share: float) -> np.ndarray:
    """uint8 RGB [H, W, 3] with its hue moved by a share of the colour circle."""
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    hsv[..., 0] += np.uint8(round(share * 255) % 256)  # wraps around, as hues do
    return np.asarray(Image.fromarray(hsv, mode="HSV").convert("RGB"))
