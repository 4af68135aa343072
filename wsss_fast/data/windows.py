"""The part of a resized image that a training crop shows; the rest is mostly not computed."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from PIL import Image

from wsss_fast import _native
from wsss_fast.ops.resize_window import resize_window


@dataclasses.dataclass(frozen=True)
class Window:
    """Part of a resized image, and its place in a square crop.

    Attributes:
        height, width: size of the whole resized image.
        top, left, rows, columns: the part of it, before it is mirrored.
        flip: whether the part is mirrored left to right.
        row, column: its upper left corner in the crop.
        side: of the crop.
    """

    height: int
    width: int
    top: int
    left: int
    rows: int
    columns: int
    flip: bool
    row: int
    column: int
    side: int

    @classmethod
    def of_crop(
        cls, size: tuple[int, int], side: int, top: int, left: int, *, flip: bool
    ) -> Window:
        """The window of the crop at (top, left) of the mirrored image.

        Along a side on which the image is shorter than the crop, it begins there in the crop.
        """
        height, width = size
        rows, columns = min(height, side), min(width, side)
        first, row = (top, 0) if height >= side else (0, top)
        start, column = (left, 0) if width >= side else (0, left)
        if flip:
            start = width - start - columns
        return cls(height, width, first, start, rows, columns, flip, row, column, side)

    def part(self, array: np.ndarray) -> np.ndarray:
        """The part of a resized array [height, width, ...], mirrored where it should be."""
        found = array[self.top : self.top + self.rows, self.left : self.left + self.columns]
        return found[:, ::-1] if self.flip else found

    def place(self, crop: np.ndarray) -> np.ndarray:
        """Where the part lies in a crop [..., side, side]."""
        rows = slice(self.row, self.row + self.rows)
        return crop[..., rows, self.column : self.column + self.columns]

    def first_column(self) -> int:
        """The first column of the part in the mirrored image."""
        return self.width - self.left - self.columns if self.flip else self.left

    def is_full(self) -> bool:
        """Whether the part fills the crop."""
        return self.rows == self.columns == self.side

    def placed(self, part: np.ndarray, fill: float) -> np.ndarray:
        """The crop [..., side, side] with a part [..., rows, columns]; the rest is `fill`."""
        if self.is_full():
            return np.ascontiguousarray(part)
        crop = np.full((*part.shape[:-2], self.side, self.side), fill, part.dtype)
        self.place(crop)[...] = part
        return crop

    def image(self, image: np.ndarray) -> np.ndarray:
        """The part of an image, uint8 [H, W, 3] or [H, W], resized by Pillow's bicubic filter."""
        if image.shape[:2] == (self.height, self.width):
            return self.part(image)
        if not _native.load("cpu"):
            return self.part(resize_image(image, self.height, self.width))
        part = (self.top, self.left, self.rows, self.columns)
        found = resize_window(_tensor(image), self.height, self.width, *part).numpy()
        return found[:, ::-1] if self.flip else found

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """The part of a label map, uint8 [H, W], resized by nearest as in Pillow."""
        rows, columns = (
            _nearest_places(old, new)[first : first + count]
            for old, new, first, count in (
                (labels.shape[0], self.height, self.top, self.rows),
                (labels.shape[1], self.width, self.left, self.columns),
            )
        )
        return labels[rows[:, None], columns[::-1] if self.flip else columns]

    def linear(self, image: np.ndarray) -> np.ndarray:
        """The part of an image, uint8 [H, W, 3], resized bilinearly to float32."""
        rows, columns = self.top + self.rows, self.left + self.columns
        return self.part(resize_linear(image, self.height, self.width, rows, columns))


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic resize of uint8 [H, W, 3] or [H, W]."""
    if image.shape[:2] == (height, width):
        return image
    if _native.load("cpu"):
        whole = (0, 0, height, width)
        return resize_window(_tensor(image), height, width, *whole).numpy()
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def resize_linear(
    image: np.ndarray, height: int, width: int, rows: int | None = None, columns: int | None = None
) -> np.ndarray:
    """Bilinear resize of uint8 [H, W, 3] to float32, without antialiasing, as OpenCV's.

    Args:
        image: the image.
        height, width: its new size.
        rows, columns: how many of its first rows and columns are needed; default: all.

    Returns:
        float32, at least [rows, columns, 3] of the result.
    """
    values = image.astype(np.float32)
    if image.shape[:2] == (height, width):
        return values
    x = torch.from_numpy(values).permute(2, 0, 1)[None]
    sides = list(zip(image.shape[:2], (height, width), (rows, columns), strict=True))
    factors = [new / old for old, new, _ in sides]
    # torch divides by such a factor in double, but by the sizes in float32, which may round
    # otherwise; then the first rows and columns of the smaller result would differ.
    if all(
        np.float32(1 / factor) == np.float32(old) / np.float32(new)
        for (old, new, _), factor in zip(sides, factors, strict=True)
    ):
        # torch would copy a side whose size stays.
        size = [n if n is None or n != old or old == new else n + 1 for old, new, n in sides]
        size, scales = [size[0] or height, size[1] or width], factors
    else:
        size, scales = [height, width], [None, None]
    resized = torch.ops.aten.upsample_bilinear2d(x, size, False, *scales)
    return resized[0].permute(1, 2, 0).numpy()


def resize_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest resize of uint8 [H, W]."""
    if labels.shape == (height, width):
        return labels
    return np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))


def _nearest_places(old: int, new: int) -> np.ndarray:
    """The pixel that Pillow's nearest takes for each of `new` pixels of a side of `old`."""
    places = np.arange(old, dtype=np.int32)
    if old == new:
        return places
    line = Image.fromarray(places[None]).resize((new, 1), Image.Resampling.NEAREST)
    return np.array(line)[0]


def _tensor(image: np.ndarray) -> torch.Tensor:
    """A tensor of the image, which is copied where it is read-only: torch would warn."""
    image = np.ascontiguousarray(image)
    return torch.from_numpy(image if image.flags.writeable else image.copy())
