"""Textured photos to measure on: scikit-image's at the size that a benchmark asks for, or made ones without it."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image

try:
    import skimage.data as stored
except ImportError:  # a test extra; made textures stand in
    stored = None

_NAMES = ("chelsea", "coffee", "astronaut", "rocket")
_MOTORCYCLE = (
    "motorcycle_left.png"  # skimage downloads it on demand; it is used where that has happened
)
_MADE = 4


@functools.cache
def _originals() -> tuple[dict[str, Image.Image], str]:
    """The photos by name, none where they cannot be had, and why not."""
    if stored is None:
        return {}, "scikit-image is not installed"
    try:
        found = {name: Image.fromarray(getattr(stored, name)()) for name in _NAMES}
    except (
        ImportError,
        OSError,
        ValueError,
    ) as error:  # this version of skimage would download them
        return {}, f"scikit-image's cannot be had: {type(error).__name__}"
    motorcycle = Path(stored.data_dir) / _MOTORCYCLE
    if motorcycle.is_file():
        found["motorcycle"] = Image.open(motorcycle).convert("RGB")
    return found, ""


def source() -> str:
    """Which photos these are, for the header of a table."""
    found, missing = _originals()
    return f"photos {', '.join(found)}" if found else f"{_MADE} made textures ({missing})"


@functools.cache
def photos(height: int, width: int) -> torch.Tensor:
    """uint8 [P, 3, height, width]: each photo resized by Lanczos; P is 5, or 4 without the motorcycle or of made ones."""
    found, _ = _originals()
    if not found:
        return torch.stack([_made(seed, height, width) for seed in range(_MADE)])
    resized = [
        np.array(image.resize((width, height), Image.Resampling.LANCZOS))
        for image in found.values()
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()


def _made(seed: int, height: int, width: int) -> torch.Tensor:
    """uint8 [3, height, width]: regions of one colour with shading and grain, so that a lattice has as many vertices."""
    generator = torch.Generator().manual_seed(seed)

    def smooth(channels: int, rows: int, columns: int) -> torch.Tensor:
        low = torch.randn(1, channels, rows, columns, generator=generator)
        return torch.nn.functional.interpolate(low, (height, width), mode="bicubic")[0]

    colours = torch.rand(8, 3, generator=generator) * 255
    regions = colours[smooth(8, 7, 9).argmax(0)].permute(2, 0, 1)
    grain = torch.randn(3, height, width, generator=generator)
    return (
        (regions + 20 * smooth(3, 12, 16) + 8 * smooth(3, 60, 80) + 4 * grain)
        .round()
        .clamp(0, 255)
        .to(torch.uint8)
    )


def batch(first: int, count: int, height: int, width: int) -> torch.Tensor:
    """uint8 [count, 3, height, width]: `count` photos from the `first` on; each round through them is mirrored or shifted."""
    all_photos = photos(height, width)
    chosen = []
    for index in range(first, first + count):
        turn, place = divmod(index, len(all_photos))
        photo = all_photos[place].roll(17 * (turn // 2), 2)
        chosen.append(photo.flip(2) if turn % 2 else photo)
    return torch.stack(chosen)
