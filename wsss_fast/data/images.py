"""Reading images and label maps, and writing palette PNGs; every problem is said with the file's name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from wsss_fast.engine.files import atomic_write
from wsss_fast.errors import InputError

IGNORE = 255
_EXIF_ORIENTATION = 0x0112
_MODES = ("RGB", "L", "LA", "RGBA", "P", "PA", "CMYK", "YCbCr", "1")
# What Pillow raises for damaged files, beside OSError: found by fuzzing (benchmarks/fuzz.py)
_UNREADABLE = (
    OSError,
    UnidentifiedImageError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def voc_palette() -> np.ndarray:
    """The VOC colour of each label: uint8 [256, 3]. Bits of the label are spread over the channels, high bits first."""
    labels = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(3):  # three bits a round: one for each channel
        for channel in range(3):
            colours[:, channel] |= (((labels >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return colours


def check_image(path: Path) -> None:
    """Refuse an image that cannot be read, from its header and its last bytes only, so that whole lists are cheap.

    Raises:
        InputError: missing, empty, not an image, of a mode with more than 8 bits, or a JPEG without its end marker.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such image")
    try:
        with path.open("rb") as file:
            head = file.read(2)
            file.seek(0, 2)
            file.seek(-min(file.tell(), 64), 2)
            tail = file.read()
        with Image.open(path) as image:
            _check_mode(path, image)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as an image ({error})") from None
    if head == b"\xff\xd8" and b"\xff\xd9" not in tail:
        raise InputError(f"{path}: truncated JPEG (its end marker is missing)")


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) as `read_image` returns it, from the header only."""
    with Image.open(path) as image:
        turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
        return (image.width, image.height) if turned else (image.height, image.width)


def _check_mode(path: Path, image: Image.Image) -> None:
    if image.mode not in _MODES:
        raise InputError(
            f"{path}: image mode {image.mode} has no 8-bit meaning; convert it to 8-bit RGB or gray"
        )


def read_image(path: Path) -> np.ndarray:
    """Read a photo as uint8 RGB [H, W, 3]; gray, CMYK, palette and alpha are converted, EXIF rotation is applied.

    Raises:
        InputError: the file is missing, truncated, no image, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            _check_mode(path, image)
            if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
                image = ImageOps.exif_transpose(image)
            return np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as an image ({error})") from None


def read_labels(path: Path, num_classes: int | None = None) -> np.ndarray:
    """Read a label map as uint8 [H, W]: palette indices or gray values; 0 background, 1..num_classes, 255 ignore.

    Raises:
        InputError: unreadable, a colour image (indices are lost), or a value that is neither a class nor 255.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1"):
                raise InputError(
                    f"{path}: label maps are palette or 8-bit gray PNGs, this one has mode {image.mode}"
                )
            labels = np.array(image).astype(np.uint8)
    except FileNotFoundError:
        raise InputError(f"{path}: no such label map") from None
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as a label map ({error})") from None
    if num_classes is not None:
        bad = np.setdiff1d(np.unique(labels), [*range(num_classes + 1), IGNORE])
        if bad.size:
            raise InputError(
                f"{path}: label {bad[0]} is impossible, allowed are 0..{num_classes} and {IGNORE}"
            )
    return labels


def read_saliency(path: Path) -> np.ndarray:
    """Read a saliency map as uint8 [H, W, 3]; 16-bit gray is reduced to 8 bits.

    Raises:
        InputError: the file is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # Pillow's modes of 16-bit gray PNGs
                gray = np.rint(np.clip(np.array(image).astype(np.float64), 0, 65535) / 257).astype(
                    np.uint8
                )
                return np.repeat(gray[..., None], 3, axis=2)
    except FileNotFoundError:
        raise InputError(f"{path}: no such saliency map") from None
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as a saliency map ({error})") from None
    return read_image(path)


def saliency_of(levels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> saliency, float32 [H, W] in 0..1: the mean over channels, as the public code takes it."""
    return (levels / 255.0).mean(axis=2).astype(np.float32)


_PALETTE = voc_palette().tobytes()


def write_labels(path: Path, labels: np.ndarray, palette: bytes | None = None) -> None:
    """Write uint8 [H, W] labels as a PNG, atomically; with the VOC palette, with another (RGB bytes), or gray (b"")."""
    image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8), mode=None)
    if palette != b"":
        image.putpalette(_PALETTE if palette is None else palette)
    with atomic_write(path) as temporary:
        image.save(temporary)
