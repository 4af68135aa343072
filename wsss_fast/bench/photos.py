"""Textured photos to measure on: scikit-image's, at the size that a benchmark asks for."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wsss_fast.errors import InputError

try:
    import skimage.data as stored
except ImportError:  # a test extra; the error is raised when photos are asked for
    stored = None

_NAMES = ("chelsea", "coffee", "astronaut", "rocket")
_MOTORCYCLE = "motorcycle_left.png"  # skimage downloads it on demand; it is used where that has happened


@functools.cache
def photos(height: int, width: int) -> torch.Tensor:
    """uint8 [P, 3, height, width]: each photo resized by Lanczos; P is 5, or 4 without the motorcycle.

    Raises:
        InputError: scikit-image is not installed.
    """
    if stored is None:
        raise InputError("bench: the photos come with scikit-image, which is not installed; pip install scikit-image")
    originals = [Image.fromarray(getattr(stored, name)()) for name in _NAMES]
    motorcycle = Path(stored.data_dir) / _MOTORCYCLE
    if motorcycle.is_file():
        originals.append(Image.open(motorcycle).convert("RGB"))
    resized = [np.array(image.resize((width, height), Image.Resampling.LANCZOS)) for image in originals]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()


def batch(first: int, count: int, height: int, width: int) -> torch.Tensor:
    """uint8 [count, 3, height, width]: `count` photos from the `first` on; every second round through them is mirrored."""
    all_photos = photos(height, width)
    chosen = []
    for index in range(first, first + count):
        turn, place = divmod(index, len(all_photos))
        chosen.append(all_photos[place].flip(2) if turn % 2 else all_photos[place])
    return torch.stack(chosen)
