"""Photos: what can be read as 8-bit RGB, and what is not a whole photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from wsss_fast.errors import InputError
from wsss_fast.readers._decoding import UNREADABLE

_EXIF_ORIENTATION = 0x0112
_MODES = ("RGB", "L", "LA", "RGBA", "P", "PA", "CMYK", "YCbCr", "1")


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
    except UNREADABLE as error:
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
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as an image ({error})") from None
