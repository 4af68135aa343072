"""Label maps: masks, seeds, predictions; 0 is background, 255 ignore."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from wsss_fast.engine.files import atomic_write
from wsss_fast.errors import InputError
from wsss_fast.readers._decoding import UNREADABLE

IGNORE = 255


def voc_palette() -> np.ndarray:
    """The VOC colour of each label, uint8 [256, 3].

    Bits 0, 3 and 6 of a label are the highest three bits of its red, bits 1, 4 and 7 those of its
    green, bits 2 and 5 the highest two of its blue.
    """
    labels = np.arange(256, dtype=np.uint8)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(3):
        for channel in range(3):
            colours[:, channel] |= ((labels >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours


def read_labels(path: Path, num_classes: int | None = None) -> np.ndarray:
    """Read a label map as uint8 [H, W] from palette indices or gray values.

    Args:
        path: palette or gray PNG; 0 background, 1..num_classes, 255 ignore.
        num_classes: number of classes; None allows any label.

    Raises:
        InputError: the file cannot be read, is a colour image (which has no label indices), or has
            a label that is neither background, a class nor 255.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1"):
                raise InputError(
                    f"{path}: label maps are palette or 8-bit gray PNGs, "
                    f"but this one has mode {image.mode}"
                )
            labels = np.array(image).astype(np.uint8)
    except FileNotFoundError:
        raise InputError(f"{path}: no such label map") from None
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as a label map ({error})") from None
    if num_classes is not None:
        bad = np.setdiff1d(np.unique(labels), [*range(num_classes + 1), IGNORE])
        if bad.size:
            raise InputError(
                f"{path}: label {bad[0]} is impossible; allowed are 0..{num_classes} and {IGNORE}"
            )
    return labels


_PALETTE = voc_palette().tobytes()


def write_labels(path: Path, labels: np.ndarray, palette: bytes | None = None) -> None:
    """Write labels as a PNG, atomically.

    Args:
        path: file to write.
        labels: uint8 [H, W].
        palette: RGB bytes; None for VOC's colours, b"" for a gray PNG.
    """
    image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8), mode=None)
    if palette != b"":
        image.putpalette(_PALETTE if palette is None else palette)
    with atomic_write(path) as temporary:
        image.save(temporary)
