"""Resizing of images and labels on uint8 arrays, as the public code does it."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from wsss_fast.data.colours import Part
from wsss_fast.ops._library import has_native_kernel
from wsss_fast.ops.resize_window import resize_window

_CPU = torch.device("cpu")


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic resize of uint8 [H, W, 3] or [H, W]."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def resize_part(image: np.ndarray, height: int, width: int, part: Part) -> np.ndarray:
    """Rows and columns of `resize_image`'s result; the native library computes nothing else."""
    rows, columns = part
    if image.shape[:2] != (height, width) and has_native_kernel("resize_window", _CPU):
        pixels = torch.from_numpy(image if image.flags.writeable else image.copy())
        top, left = rows.start, columns.start
        window = resize_window(
            pixels, height, width, top, left, rows.stop - top, columns.stop - left
        )
        return window.numpy()
    return resize_image(image, height, width)[part]


def mirrored(array: np.ndarray, flip: bool, axis: int = -1) -> np.ndarray:
    """The array, reversed along an axis if `flip` is set."""
    return np.flip(array, axis) if flip else array


def resize_linear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize of uint8 [H, W, 3] to float32, without antialiasing, as OpenCV's."""
    if image.shape[:2] == (height, width):
        return image.astype(np.float32)
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
