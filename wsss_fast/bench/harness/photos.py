"""Photos as inputs: scikit-image's at the size that a benchmark needs, or synthetic textures."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image

try:
    import skimage.data as skimage_data
except ImportError:  # optional; synthetic textures replace the photos
    skimage_data = None  # type: ignore[assignment]

_NAMES = ("chelsea", "coffee", "astronaut", "rocket")
_MOTORCYCLE = "motorcycle_left.png"  # downloaded by skimage on demand; used if that has happened
_SYNTHETIC = 4


@functools.cache
def _originals() -> tuple[dict[str, Image.Image], str]:
    """The photos by name, or none and the reason."""
    if skimage_data is None:
        return {}, "scikit-image is not installed"
    try:
        found = {name: Image.fromarray(getattr(skimage_data, name)()) for name in _NAMES}
    except (ImportError, OSError, ValueError) as error:  # some versions of skimage download them
        return {}, f"scikit-image's photos are not available: {type(error).__name__}"
    motorcycle = Path(skimage_data.data_dir) / _MOTORCYCLE
    if motorcycle.is_file():
        found["motorcycle"] = Image.open(motorcycle).convert("RGB")
    return found, ""


def source() -> str:
    """Which photos are used, for the title of a table."""
    found, missing = _originals()
    if found:
        return f"photos {', '.join(found)}"
    return f"{_SYNTHETIC} synthetic textures ({missing})"


@functools.cache
def photos(height: int, width: int) -> torch.Tensor:
    """uint8 [P, 3, height, width]: each photo resized by Lanczos.

    P is 5, or 4 without the motorcycle and for synthetic textures.
    """
    found, _ = _originals()
    if not found:
        return torch.stack([_synthetic(seed, height, width) for seed in range(_SYNTHETIC)])
    resized = [
        np.array(image.resize((width, height), Image.Resampling.LANCZOS))
        for image in found.values()
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()


def _synthetic(seed: int, height: int, width: int) -> torch.Tensor:
    """uint8 [3, height, width]: shaded and grainy regions of one colour.

    A lattice over them has about as many vertices as over a photo.
    """
    generator = torch.Generator().manual_seed(seed)

    def smooth(channels: int, rows: int, columns: int) -> torch.Tensor:
        low = torch.randn(1, channels, rows, columns, generator=generator)
        return torch.nn.functional.interpolate(low, (height, width), mode="bicubic")[0]

    colours = torch.rand(8, 3, generator=generator) * 255
    regions = colours[smooth(8, 7, 9).argmax(0)].permute(2, 0, 1)
    grain = torch.randn(3, height, width, generator=generator)
    levels = regions + 20 * smooth(3, 12, 16) + 8 * smooth(3, 60, 80) + 4 * grain
    return levels.round().clamp(0, 255).to(torch.uint8)


def batch(first: int, count: int, height: int, width: int) -> torch.Tensor:
    """uint8 [count, 3, height, width]: `count` photos, starting with number `first`.

    Each round through the photos is mirrored or shifted, so that no two are equal.
    """
    all_photos = photos(height, width)
    chosen = []
    for index in range(first, first + count):
        turn, number = divmod(index, len(all_photos))
        photo = all_photos[number].roll(17 * (turn // 2), 2)
        chosen.append(photo.flip(2) if turn % 2 else photo)
    return torch.stack(chosen)
