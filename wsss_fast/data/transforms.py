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

from wsss_fast.engine.ranges import PIXELS, SCALE, SHARE, Range
from wsss_fast.errors import InputError
from wsss_fast.readers.label_maps import IGNORE
from wsss_fast.readers.saliency_maps import saliency_of

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
        return np.stack(
            [levels.take(image[..., channel]) for channel, levels in enumerate(_NORMALISED)]
        )
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
    return np.ascontiguousarray((image[..., ::-1] - MEAN_BGR).astype(np.float32).transpose(2, 0, 1))


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic resize of uint8 [H, W, 3] or [H, W]."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def resize_linear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize of uint8 [H, W, 3] to float32, without antialiasing, as OpenCV's."""
    x = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        x, (height, width), mode="bilinear", align_corners=False
    )
    return resized[0].permute(1, 2, 0).numpy()


def resize_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest resize of uint8 [H, W]."""
    if labels.shape == (height, width):
        return labels
    return np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))


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
        cropped, cropped_labels, _ = self._transform(image, labels, None, rng)
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
        cropped, _, channels = self._transform(image, None, levels.transpose(2, 0, 1), rng)
        assert channels is not None
        return cropped, torch.from_numpy(saliency_of(channels.transpose(1, 2, 0))[None])

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
        assert cropped_labels is not None and cropped_maps is not None
        values = torch.from_numpy((cropped_maps / 255.0).astype(np.float32))
        return cropped, cropped_labels, values

    def _transform(
        self,
        image: np.ndarray,
        labels: np.ndarray | None,
        maps: np.ndarray | None,
        rng: np.random.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor | None, np.ndarray | None]:
        """float32 [3, crop, crop], uint8 [crop, crop] or None, uint8 [M, crop, crop] or None."""
        image, labels = self.resized(image, labels, self._draw_factor(image, rng))
        if maps is not None:
            height, width = image.shape[:2]
            maps = np.stack([resize_image(one, height, width) for one in maps])
        if self.flip and rng.random() < 0.5:
            image = image[:, ::-1]
            labels = None if labels is None else labels[:, ::-1]
            maps = None if maps is None else maps[..., ::-1]
        image = self._jitter_colours(image, rng)
        top, left = self._draw_place(image, rng)
        cropped, cropped_labels = self.cropped(self.to_input(image), labels, top, left)
        cropped_maps = None if maps is None else self.crop_or_pad(maps, 0, top, left)
        return cropped, cropped_labels, cropped_maps

    def _jitter_colours(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not self.jitter:
            return image
        image = _jitter(image, self.jitter, rng)
        return _turn_hue(image, rng.uniform(-self.hue, self.hue)) if self.hue else image

    def _draw_place(self, image: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
        """(top, left) of the crop in the image.

        Along a side on which the image is shorter than the crop, it is the image's place in the
        crop.
        """
        top, left = (
            0 if n < self.crop and self.corner else int(rng.integers(0, abs(n - self.crop) + 1))
            for n in image.shape[:2]
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
        round_ = np.floor if self.linear else np.round
        height, width = (max(1, int(round_(n * factor))) for n in image.shape[:2])
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
        side, (height, width) = self.crop, array.shape[-2:]
        places = ((top, height), (left, width))
        source = [slice(o, o + side) if n >= side else slice(0, n) for o, n in places]
        target = [slice(0, side) if n >= side else slice(o, o + n) for o, n in places]
        out = np.full((*array.shape[:-2], side, side), fill, array.dtype)
        out[..., target[0], target[1]] = array[..., source[0], source[1]]
        return out


def _jitter(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    x = image.astype(np.float32) * brightness
    gray = x @ np.array([0.299, 0.587, 0.114], np.float32)
    x = gray[..., None] + saturation * (x - gray[..., None])
    x = gray.mean() + contrast * (x - gray.mean())
    return np.clip(x + 0.5, 0, 255).astype(np.uint8)


def _turn_hue(image: np.ndarray, share: float) -> np.ndarray:
    """uint8 RGB [H, W, 3] with its hue moved by a share of the colour circle."""
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    hsv[..., 0] += np.uint8(round(share * 255) % 256)  # wraps around, as hues do
    return np.asarray(Image.fromarray(hsv, mode="HSV").convert("RGB"))
