"""Image transforms of the papers' recipes, on uint8 arrays, and the loader samples made with them.

Images are resized by Pillow's bicubic filter (antialiased when shrinking) on uint8, labels by nearest, as in the public
code; DeepLab's re-implementation resizes them bilinearly, without antialias.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from wsss_fast.data.images import IGNORE, saliency_of
from wsss_fast.errors import InputError

MEAN = np.array([0.485, 0.456, 0.406])  # ImageNet, RGB in 0..1
STD = np.array([0.229, 0.224, 0.225])
MEAN_BGR = np.array([104.008, 116.669, 122.675])  # of Caffe's ImageNet networks, in 0..255


def normalise(image: np.ndarray) -> np.ndarray:
    """uint8 RGB [H, W, 3] -> float32 [3, H, W]: (image / 255 - mean) / std, computed in float64 as the public code."""
    if (
        image.dtype == np.uint8
    ):  # most are: a look-up of the 256 levels of each channel is four times faster
        return np.stack(
            [levels.take(image[..., channel]) for channel, levels in enumerate(_NORMALISED)]
        )
    return np.ascontiguousarray(
        ((image / 255.0 - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)
    )


_NORMALISED = np.ascontiguousarray(
    ((np.arange(256)[:, None] / 255.0 - MEAN) / STD).astype(np.float32).T
)  # [3, 256]


def subtract_mean(image: np.ndarray) -> np.ndarray:
    """uint8 RGB [H, W, 3] -> float32 [3, H, W]: BGR in 0..255 minus the mean colour, as networks from Caffe take it."""
    return np.ascontiguousarray((image[..., ::-1] - MEAN_BGR).astype(np.float32).transpose(2, 0, 1))


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic resize of uint8 [H, W, 3]."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def resize_linear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize of uint8 [H, W, 3] to float32, without antialias, as OpenCV's."""
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
    """Random resize, flip, colour jitter and crop of one training image and its label or saliency map.

    Attributes:
        crop: side of the square crop, px; what the image does not fill is 0 after normalisation (the mean colour), label 255.
        scale: factor drawn uniformly from this range, or None.
        factors: factor drawn from these, or None.
        long_side: the longer side is resized to a whole number of px drawn from this range, or None.
        flip: mirror left-right half of the time.
        jitter: brightness, contrast and saturation each scaled by a factor within 1 +- jitter; 0 is off.
        hue: moved by up to this share of the colour circle, 0..0.5, where there is jitter.
        linear: resize images bilinearly without antialias to sizes rounded down, as DeepLab's re-implementation.
        corner: an image smaller than the crop lies in its upper left corner; otherwise its place is drawn.
        to_input: image [H, W, 3] in 0..255 -> network input float32 [3, H, W].
    """

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
        """uint8 [H, W, 3] and uint8 [H, W] or None -> float32 [3, crop, crop] and uint8 [crop, crop] or None."""
        image, labels = self.resized(image, labels, self._factor(*image.shape[:2], rng))
        if self._flips(rng):
            image = image[:, ::-1]
            labels = None if labels is None else labels[:, ::-1]
        image = self._coloured(image, rng)
        return self.cropped(self.to_input(image), labels, *self._place(image, rng))

    def with_saliency(
        self, image: np.ndarray, levels: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """An image and its saliency map, resized by the same bicubic filter as in EPS' public code.

        Args:
            image: uint8 [H, W, 3].
            levels: saliency, uint8 [h, w, 3] of any size; it is stretched to the image.
            rng: what is drawn from.

        Returns:
            float32 [3, crop, crop] and, in 0..1, float32 [1, crop, crop]; 0 where the image does not fill the crop.
        """
        image, _, levels = self._together(image, None, levels, rng)
        return image, torch.from_numpy(saliency_of(levels)[None])

    def with_maps(
        self, image: np.ndarray, labels: np.ndarray, levels: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """An image, its label map, and three maps of pixel values, which are resized as `with_saliency` resizes saliency.

        Args:
            image: uint8 [H, W, 3].
            labels: uint8 [H, W].
            levels: the maps, uint8 [h, w, 3] of any size; they are stretched to the image.
            rng: what is drawn from.

        Returns:
            float32 [3, crop, crop], uint8 [crop, crop] and, in 0..1, float32 [3, crop, crop]; 0, 255 and 0 where the image
            does not fill the crop.
        """
        image, labels, levels = self._together(image, labels, levels, rng)
        return (
            image,
            labels,
            torch.from_numpy((levels / 255.0).astype(np.float32).transpose(2, 0, 1).copy()),
        )

    def _together(
        self,
        image: np.ndarray,
        labels: np.ndarray | None,
        levels: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor | None, np.ndarray]:
        """As `__call__`, with uint8 [crop, crop, 3] of `levels` besides."""
        image, labels = self.resized(image, labels, self._factor(*image.shape[:2], rng))
        levels = resize_image(levels, *image.shape[:2])
        if self._flips(rng):
            image, levels = image[:, ::-1], levels[:, ::-1]
            labels = None if labels is None else labels[:, ::-1]
        image = self._coloured(image, rng)
        top, left = self._place(image, rng)
        image, labels = self.cropped(self.to_input(image), labels, top, left)
        return (
            image,
            labels,
            self.placed(levels.transpose(2, 0, 1), 0, top, left).transpose(1, 2, 0),
        )

    def _flips(self, rng: np.random.Generator) -> bool:
        return self.flip and rng.random() < 0.5

    def _coloured(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not self.jitter:
            return image
        image = _jitter(image, self.jitter, rng)
        return _turn_hue(image, rng.uniform(-self.hue, self.hue)) if self.hue else image

    def _place(self, image: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
        """Where the crop begins in the image; along a side shorter than the crop, where the image begins in the crop."""
        top, left = (
            0 if n < self.crop and self.corner else int(rng.integers(0, abs(n - self.crop) + 1))
            for n in image.shape[:2]
        )
        return top, left

    def _factor(self, height: int, width: int, rng: np.random.Generator) -> float:
        factor = 1.0
        if self.scale is not None:
            factor = rng.uniform(*self.scale)
        if self.factors is not None:
            factor *= self.factors[rng.integers(len(self.factors))]
        if self.long_side is not None:
            factor *= rng.integers(self.long_side[0], self.long_side[1], endpoint=True) / max(
                height, width
            )
        return factor

    def resized(
        self, image: np.ndarray, labels: np.ndarray | None, factor: float
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Image and labels with their sides scaled by `factor`."""
        whole = np.floor if self.linear else np.round
        height, width = (max(1, int(whole(n * factor))) for n in image.shape[:2])
        labels = None if labels is None else resize_labels(labels, height, width)
        return (resize_linear if self.linear else resize_image)(image, height, width), labels

    def cropped(
        self, image: np.ndarray, labels: np.ndarray | None, top: int, left: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The crop at (top, left) of a network input; along a side shorter than the crop, the input lies there in the crop."""
        cropped = torch.from_numpy(self.placed(image, 0, top, left))
        return cropped, None if labels is None else torch.from_numpy(
            self.placed(labels, IGNORE, top, left)
        )

    def placed(self, array: np.ndarray, fill: float, top: int, left: int) -> np.ndarray:
        """The crop at (top, left) of [..., H, W]; `fill` where the array does not reach."""
        side, (height, width) = self.crop, array.shape[-2:]
        source = tuple(
            slice(o, o + side) if n >= side else slice(0, n)
            for o, n in ((top, height), (left, width))
        )
        target = tuple(
            slice(0, side) if n >= side else slice(o, o + n)
            for o, n in ((top, height), (left, width))
        )
        out = np.full((*array.shape[:-2], side, side), fill, array.dtype)
        out[(..., *target)] = array[(..., *source)]
        return out


def _jitter(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    x = image.astype(np.float32) * brightness
    gray = x @ np.array([0.299, 0.587, 0.114], np.float32)
    x = gray[..., None] + saturation * (x - gray[..., None])
    x = gray.mean() + contrast * (x - gray.mean())
    return np.clip(x + 0.5, 0, 255).astype(np.uint8)


def _turn_hue(image: np.ndarray, share: float) -> np.ndarray:
    """uint8 RGB with its hue moved by a share of the colour circle."""
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    hsv[..., 0] += np.uint8(round(share * 255) % 256)  # wraps around as hues do
    return np.asarray(Image.fromarray(hsv, mode="HSV").convert("RGB"))
