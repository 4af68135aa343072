"""Saliency maps: gray or colour images whose brightness is the saliency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from wsss_fast.errors import InputError
from wsss_fast.readers._decoding import UNREADABLE
from wsss_fast.readers.photos import read_image


def read_saliency(path: Path) -> np.ndarray:
    """Read a saliency map as uint8 [H, W, 3]; 16-bit gray is reduced to 8 bits.

    Raises:
        InputError: the file is missing, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # Pillow's modes of 16-bit gray PNGs
                levels = np.clip(np.array(image).astype(np.float64), 0, 65535)
                gray = np.rint(levels / 257).astype(np.uint8)
                return np.repeat(gray[..., None], 3, axis=2)
    except FileNotFoundError:
        raise InputError(f"{path}: no such saliency map") from None
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as a saliency map ({error})") from None
    return read_image(path)


def saliency_of(levels: np.ndarray) -> np.ndarray:
    """Saliency, float32 [H, W] in 0..1, from uint8 [H, W, 3]: the mean over channels."""
    return (levels / 255.0).mean(axis=2).astype(np.float32)
