"""Image transforms of the papers' recipes, on uint8 arrays.

Images are resized by Pillow's bicubic filter (antialiased when shrinking) on uint8, labels by
nearest, as in the public code. DeepLab's re-implementation resizes images bilinearly, without
antialiasing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from wsss_fast.data.colours import Jitter, Part, draw_jitter, jittered, shift_hsv
from wsss_fast.data.dataset import Photo
from wsss_fast.data.resizing import (
    mirrored,
    resize_image,
    resize_labels,
    resize_linear,
    resize_part,
)
from wsss_fast.engine.ranges import PIXELS, SCALE, SHARE, Range
from wsss_fast.engine.serialize import later
from wsss_fast.errors import InputError
from wsss_fast.readers.label_maps import IGNORE
from wsss_fast.readers.saliency_maps import saliency_of

# A photo may be decoded smaller than it is, but its sides stay this many times as long as those it
# is resized to, so that the decoder's own filter hardly matters.
_DECODED = 2
MEAN = np.array([0.485, 0.456, 0.406])  # ImageNet, RGB in 0..1
STD = np.array([0.229, 0.224, 0.225])
MEAN_BGR = np.array([104.008, 116.669, 122.675])  # Caffe's ImageNet networks, in 0..255


def normalise(image: np.ndarray) -> np.ndarray:
    """Network input (image / 255 - mean) / std, computed in float64 as in the public code.

    Args:
        image: RGB [H, W, 3] in 0..255.

    Returns:
        float32 [3, H, W].
    """
    if image.dtype == np.uint8:  # looking up the 256 levels of a channel is four times faster
        planes = np.empty((3, *image.shape[:2]), np.float32)
        for channel, plane in enumerate(planes):
            _NORMALISED[channel].take(image[..., channel], out=plane, mode="clip")
        return planes
    normalised = ((image / 255.0 - MEAN) / STD).astype(np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


# `normalise` of the 256 levels of each channel, [3, 256].
_NORMALISED = np.ascontiguousarray(
    ((np.arange(256)[:, None] / 255.0 - MEAN) / STD).astype(np.float32).T
)


def subtract_mean(image: np.ndarray) -> np.ndarray:
    """Network input of Caffe's networks: BGR in 0..255 minus the mean colour.

    Args:
        image: RGB [H, W, 3] in 0..255.

    Returns:
        float32 [3, H, W].
    """
    planes = np.empty((3, *image.shape[:2]), np.float32)
    for channel, plane in enumerate(planes):
        if image.dtype == np.uint8:
            _SUBTRACTED[channel].take(image[..., 2 - channel], out=plane, mode="clip")
        else:
            np.subtract(image[..., 2 - channel], MEAN_BGR[channel], out=plane, casting="same_kind")
    return planes


# `subtract_mean` of the 256 levels of blue, green and red.
_SUBTRACTED = (np.arange(256) - MEAN_BGR[:, None]).astype(np.float32)
# `saliency_of` of the 256 levels of gray.
_SALIENCY = saliency_of(np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2))[:, 0]


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
        hsv: largest shift of hue (in 1/180 of the circle), saturation and value (in levels 0..255),
            each drawn from whole numbers, before the image is resized; 0 for none.
        linear: whether images are resized bilinearly, without antialiasing, to sizes rounded down,
            as in DeepLab's re-implementation.
        corner: whether an image smaller than the crop lies in its upper left corner; otherwise its
            place is drawn.
        to_input: function from an image [H, W, 3] in 0..255 to a network input, float32 [3, H, W],
            of which each pixel depends on that of the image only.
    """

    ranges: ClassVar = {
        "crop": PIXELS,
        "scale": SCALE,
        "factors": SCALE,
        "long_side": PIXELS,
        "jitter": SHARE,
        "hue": Range(0, 0.5),
        "hsv": Range(0, 90),
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
    hsv: int = later(0)

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
        self, image: np.ndarray | Photo, labels: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """An image and its label map.

        Args:
            image: uint8 [H, W, 3], or a data set's `photo`.
            labels: uint8 [H, W], or None.
            rng: source of the random numbers.

        Returns:
            float32 [3, crop, crop], and uint8 [crop, crop] or None.
        """
        cropped, cropped_labels, _ = self._transform(image, labels, None, rng)
        return cropped, cropped_labels

    def with_saliency(
        self, image: np.ndarray | Photo, levels: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """An image and its saliency map, resized by the bicubic filter as in EPS' public code.

        Args:
            image: uint8 [H, W, 3], or a data set's `photo`.
            levels: saliency, uint8 [h, w, 3] of any size; it is stretched to the image.
            rng: source of the random numbers.

        Returns:
            float32 [3, crop, crop] and, in 0..1, float32 [1, crop, crop].
        """
        planes = levels.transpose(2, 0, 1)
        is_gray = (planes[0] == planes[1]).all() and (planes[0] == planes[2]).all()
        cropped, _, maps = self._transform(image, None, planes[:1] if is_gray else planes, rng)
        assert maps is not None
        if is_gray:
            return cropped, torch.from_numpy(_SALIENCY.take(maps))
        return cropped, torch.from_numpy(saliency_of(maps.transpose(1, 2, 0))[None])

    def with_maps(
        self,
        image: np.ndarray | Photo,
        labels: np.ndarray,
        maps: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """An image, its label map and M maps of pixel values, resized by the bicubic filter.

        Args:
            image: uint8 [H, W, 3], or a data set's `photo`.
            labels: uint8 [H, W].
            maps: uint8 [M, h, w] of any size; they are stretched to the image.
            rng: source of the random numbers.

        Returns:
            float32 [3, crop, crop], uint8 [crop, crop] and, in 0..1, float32 [M, crop, crop].
        """
        cropped, cropped_labels, cropped_maps = self._transform(image, labels, maps, rng)
        assert cropped_labels is not None and cropped_maps is not None
        values = torch.from_numpy((cropped_maps / 255.0).astype(np.float32))
        return cropped, cropped_labels, values

    def _transform(
        self,
        photo: np.ndarray | Photo,
        labels: np.ndarray | None,
        maps: np.ndarray | None,
        rng: np.random.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor | None, np.ndarray | None]:
        """float32 [3, crop, crop], uint8 [crop, crop] or None, uint8 [M, crop, crop] or None."""
        image, drawn = self._opened(photo, rng)
        cropped = torch.from_numpy(self._padded(self.to_input(self._pixels(image, drawn)), drawn))
        cropped_labels = cropped_maps = None
        if labels is not None:
            moved = mirrored(resize_labels(labels, *drawn.size), drawn.flip)
            placed = self.crop_or_pad(moved, IGNORE, drawn.top, drawn.left)
            cropped_labels = torch.from_numpy(placed)
        if maps is not None:
            parts = [self._resized_part(one, drawn) for one in maps]
            cropped_maps = self._padded(np.stack(parts), drawn)
        return cropped, cropped_labels, cropped_maps

    def _opened(
        self, photo: np.ndarray | Photo, rng: np.random.Generator
    ) -> tuple[np.ndarray, _Drawn]:
        """The decoded photo, and the random choices, which depend on the size of the whole one."""
        if isinstance(photo, np.ndarray):
            return photo, self._draw(photo.shape[:2], rng)
        choices: list[_Drawn] = []

        def least(size: tuple[int, int]) -> tuple[int, int]:
            choices.append(self._draw(size, rng))
            height, width = choices[0].size
            return _DECODED * height, _DECODED * width

        image = photo(least)
        return image, choices[0]

    def _draw(self, size: tuple[int, int], rng: np.random.Generator) -> _Drawn:
        """The random choices for an image of a size (H, W)."""
        resized = self._resized_size(size, self._draw_factor(size, rng))
        flip = self.flip and rng.random() < 0.5
        jitter = draw_jitter(self.jitter, self.hue, rng) if self.jitter else None
        top, left = (
            0 if n < self.crop and self.corner else int(rng.integers(0, abs(n - self.crop) + 1))
            for n in resized
        )
        shift = rng.integers(-self.hsv, self.hsv, 3, endpoint=True) if self.hsv else None
        return _Drawn(resized, flip, jitter, top, left, shift)

    def _draw_factor(self, size: tuple[int, int], rng: np.random.Generator) -> float:
        factor = 1.0
        if self.scale is not None:
            factor = rng.uniform(*self.scale)
        if self.factors is not None:
            factor *= self.factors[rng.integers(len(self.factors))]
        if self.long_side is not None:
            longer = rng.integers(self.long_side[0], self.long_side[1], endpoint=True)
            factor *= longer / max(size)
        return factor

    def _resized_size(self, size: tuple[int, int], factor: float) -> tuple[int, int]:
        round_ = np.floor if self.linear else np.round
        height, width = (max(1, int(round_(n * factor))) for n in size)
        return height, width

    def _pixels(self, image: np.ndarray, drawn: _Drawn) -> np.ndarray:
        """The part of the resized, mirrored and jittered image that is in the crop, [h, w, 3]."""
        if drawn.hsv is not None:
            image = shift_hsv(image, *drawn.hsv)
        if drawn.jitter is not None:  # needs the mean of the whole image
            height, width = drawn.size
            everything = slice(0, height), slice(0, width)
            whole = (
                resize_linear(image, height, width)
                if self.linear
                else resize_part(image, height, width, everything)
            )
            part, _ = self._places(drawn.size, drawn.top, drawn.left)
            return jittered(mirrored(whole, drawn.flip, axis=1), drawn.jitter, part)
        return self._resized_part(image, drawn)

    def _resized_part(self, image: np.ndarray, drawn: _Drawn) -> np.ndarray:
        """The part of the resized and mirrored [H, W, ...] that is in the crop."""
        (rows, columns), _ = self._places(drawn.size, drawn.top, drawn.left)
        if drawn.flip:
            width = drawn.size[1]
            columns = slice(width - columns.stop, width - columns.start)
        if self.linear and image.ndim == 3:
            part = resize_linear(image, *drawn.size)[rows, columns]
        else:
            part = resize_part(image, *drawn.size, (rows, columns))
        return mirrored(part, drawn.flip, axis=1)

    def _padded(self, part: np.ndarray, drawn: _Drawn) -> np.ndarray:
        """A part [..., h, w] at its place in a crop of zeros."""
        side = self.crop
        if part.shape[-2:] == (side, side):
            return np.ascontiguousarray(part)
        _, place = self._places(drawn.size, drawn.top, drawn.left)
        out = np.zeros((*part.shape[:-2], side, side), part.dtype)
        out[..., place[0], place[1]] = part
        return out

    def resized(
        self, image: np.ndarray, labels: np.ndarray | None, factor: float
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Image and labels with their sides scaled by `factor`."""
        height, width = self._resized_size(image.shape[:2], factor)
        labels = None if labels is None else resize_labels(labels, height, width)
        return (resize_linear if self.linear else resize_image)(image, height, width), labels

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
        source, target = self._places(array.shape[-2:], top, left)
        out = np.full((*array.shape[:-2], self.crop, self.crop), fill, array.dtype)
        out[..., target[0], target[1]] = array[..., source[0], source[1]]
        return out

    def _places(self, size: Sequence[int], top: int, left: int) -> tuple[Part, Part]:
        """Rows and columns of the crop in an array of a size (H, W), and of these in the crop."""
        side, source, target = self.crop, [], []
        for start, length in zip((top, left), size, strict=True):
            inside = length >= side
            source.append(slice(start, start + side) if inside else slice(0, length))
            target.append(slice(0, side) if inside else slice(start, start + length))
        return (source[0], source[1]), (target[0], target[1])


class _Drawn(NamedTuple):
    """Random choices for an image.

    Attributes:
        size: (height, width) of the resized image.
        flip: whether it is mirrored.
        jitter: changes of its colours, or None.
        top, left: place of the crop in it. Along a side on which it is shorter than the crop, its
            place in the crop.
        hsv: shifts of hue, saturation and value, [3], or None.
    """

    size: tuple[int, int]
    flip: bool
    jitter: Jitter | None
    top: int
    left: int
    hsv: np.ndarray | None
