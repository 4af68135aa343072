"""Reading images and label maps, and writing palette PNGs; every error names the file."""

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
# What Pillow raises for damaged files, found by fuzzing (tools/fuzz.py).
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


def check_image(path: Path) -> None:
    """Check that an image can be read, by its header and its last bytes only, which is cheap.

    Raises:
        InputError: the file is missing, empty, not an image, has more than 8 bits per channel, or
            is a JPEG without its end marker.
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
            f"{path}: image mode {image.mode} is not supported; convert it to 8-bit RGB or gray"
        )


def read_image(path: Path) -> np.ndarray:
    """Read a photo as uint8 RGB [H, W, 3].

    Gray, CMYK, palette and alpha images are converted; EXIF rotation is applied.

    Raises:
        InputError: the file is missing, truncated, not an image, or has more than 8 bits per
            channel.
    """
    try:
        with Image.open(path) as image:
            _check_mode(path, image)
            rotated = image.getexif().get(_EXIF_ORIENTATION, 1) != 1
            upright = ImageOps.exif_transpose(image) if rotated else image
            return np.array(upright.convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as an image ({error})") from None


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
    except _UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as a label map ({error})") from None
    if num_classes is not None:
        bad = np.setdiff1d(np.unique(labels), [*range(num_classes + 1), IGNORE])
        if bad.size:
            raise InputError(
                f"{path}: label {bad[0]} is impossible; allowed are 0..{num_classes} and {IGNORE}"
            )
    return labels


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
    except _UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as a saliency map ({error})") from None
    return read_image(path)


def saliency_of(levels: np.ndarray) -> np.ndarray:
    """Saliency, float32 [H, W] in 0..1, from uint8 [H, W, 3]: the mean over channels."""
    return (levels / 255.0).mean(axis=2).astype(np.float32)


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
