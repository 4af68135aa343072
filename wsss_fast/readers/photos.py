"""Photos: what can be read as 8-bit RGB, and what is not a whole photo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from wsss_fast.engine import remarks
from wsss_fast.errors import InputError
from wsss_fast.readers._opening import UNREADABLE, num_frames, opened, raw_mode

LeastSize = Callable[[tuple[int, int]], tuple[int, int]]  # (H, W) -> (h, w)

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPED = (5, 6, 7, 8)  # orientations that exchange height and width
_REDUCED = 0xFE  # TIFF's NewSubfileType, whose lowest bit marks a reduced picture
_ENDS = ("JPEG", "MPO", "PNG", "WEBP")  # formats whose end `opened` checks
_MODES = ("RGB", "L", "LA", "RGBA", "P", "PA", "CMYK", "YCbCr", "1")
# A 16-bit photo whose high bytes are all below it holds 8- to 12-bit values: black, if reduced.
_DARK = 16


def check_image(path: Path) -> None:
    """Check that a photo can be read, by its first and last bytes only where they tell.

    Formats other than JPEG, PNG and WebP are decoded, and so are files of 16 bits per channel.

    Raises:
        InputError: the file is missing, empty, cut off, not an image or of an unsupported mode.
    """
    with opened(path, "image") as image:
        _check_mode(path, image)
        must_decode = image.format not in _ENDS or ";16" in raw_mode(image)
    if must_decode:
        read_image(path)


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) as `read_image` returns it, from the header only where it tells.

    Raises:
        InputError: as `read_image`.
    """
    with opened(path, "image") as image:
        turned = orientation(image) in _SWAPPED
        if turned and image.format == "TIFF":
            image.load()
            turned = False
        return (image.width, image.height) if turned else (image.height, image.width)


def reduction(size: tuple[int, int], least: tuple[int, int]) -> int:
    """By how much a photo of `size` may be decoded smaller, with sides of at least `least`.

    Returns:
        8, 4, 2 or 1: what JPEG decoders offer.
    """
    height, width = size
    fits = (by for by in (8, 4, 2) if height // by >= least[0] and width // by >= least[1])
    return next(fits, 1)


def read_image(path: Path, least: LeastSize | None = None) -> np.ndarray:
    """Read a photo as uint8 RGB [H, W, 3].

    Gray, CMYK, palette and alpha images are converted; EXIF rotation is applied; of an animation or
    a TIFF of several pages, the first is read.

    Args:
        path: the file.
        least: function from the photo's (H, W) to the smallest size that serves; a JPEG is then
            decoded smaller by `reduction`, which is faster. None decodes it whole.

    Raises:
        InputError: the file is missing, truncated, not an image, or has more than 8 bits per
            channel in a mode that Pillow does not reduce to RGB.
    """
    with opened(path, "image") as image:
        _check_mode(path, image)
        is_deep = ";16" in raw_mode(image)
        if least is not None:
            _reduce(image, least)
        photo = upright(image)
        if "A" in photo.getbands() or "transparency" in photo.info:
            photo = photo.convert("RGBA")
            if (np.array(photo.getchannel("A")) < 255).any():
                remarks.add(
                    "transparent photo: its alpha is dropped, which shows the hidden colours", path
                )
        pixels = np.array(photo.convert("RGB"))
        if is_deep and pixels.size and pixels.max() < _DARK:
            raise InputError(
                f"{path}: has 16 bits per channel, but no value above "
                f"{256 * int(pixels.max()) + 255}; convert it to 8 bits with its own range"
            )
    return pixels


def _reduce(image: Image.Image, least: LeastSize) -> None:
    """Let a JPEG that is not yet loaded be decoded smaller; other formats are not changed."""
    if image.format == "TIFF":
        image.load()  # Pillow turns it
    turned = image.format != "TIFF" and orientation(image) in _SWAPPED
    size = (image.width, image.height) if turned else (image.height, image.width)
    by = reduction(size, least(size))
    if by > 1 and image.format in ("JPEG", "MPO"):
        image.draft(None, (image.width // by, image.height // by))


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1..8; 1 if there is none or its block is damaged."""
    if image.format == "PNG":  # its EXIF may follow the pixels, whose errors must not be lost
        image.load()
    try:
        found = image.getexif().get(_EXIF_ORIENTATION, 1)
    except UNREADABLE:
        return 1
    return found if found in _UPRIGHT else 1


def is_turned(path: Path) -> bool:
    """Whether the photo is turned or mirrored by its EXIF orientation."""
    with opened(path, "image") as image:
        return orientation(image) != 1


def remark_orientation(path: Path) -> None:
    """Remark a photo that EXIF turns without a change of its size: its label map may not be so."""
    with opened(path, "image") as image:
        found = orientation(image)
        if found != 1 and (found not in _SWAPPED or image.width == image.height):
            remarks.add("photo turned by its EXIF orientation: its map must be turned, too", path)


def upright(image: Image.Image) -> Image.Image:
    """The image, turned by its EXIF orientation; Pillow itself turns TIFFs when they are loaded."""
    turn = None if image.format == "TIFF" else _UPRIGHT.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def _check_mode(path: Path, image: Image.Image) -> None:
    if image.mode not in _MODES:
        raise InputError(
            f"{path}: image mode {image.mode} is not supported; convert it to 8-bit RGB or gray"
        )
    if image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_REDUCED, 0) & 1:
        raise InputError(
            f"{path}: its first picture is a reduced preview, as in raw photos; "
            "convert the full picture to JPEG or PNG"
        )
    if num_frames(image) > 1:
        remarks.add("photo file with several pictures: only the first is used", path)
