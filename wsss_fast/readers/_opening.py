"""Opening image files: damage, cut-off ends and other kinds of files become one line."""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from wsss_fast.errors import InputError
from wsss_fast.readers.first_bytes import describe, open_file

# What Pillow raises for damaged files, found by fuzzing (tools/fuzz.py).
UNREADABLE = (
    OSError,
    UnidentifiedImageError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
)
_HEIC = re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL)
# A marker in the compressed data of a JPEG: neither a stuffed zero nor a restart marker.
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")
_PNG = b"\x89PNG\r\n\x1a\n"


@contextlib.contextmanager
def opened(path: Path, what: str) -> Iterator[Image.Image]:
    """Open an image file; whatever its decoder raises in the block becomes one line.

    Args:
        path: the file, whose content decides on its format, not its name.
        what: what it should be, for the messages: "image", "label map" or "saliency map".

    Raises:
        InputError: the file is missing, cut off, damaged, too large or not an image.
    """
    try:
        with open_file(path) as file:
            if has_end(file) is False:
                end = "its end marker is missing" if _is_jpeg(file) else "its data end too early"
                kind = "JPEG" if _is_jpeg(file) else what
                raise InputError(f"{path}: truncated {kind} ({end})")
            file.seek(0)
            with Image.open(file) as image:
                if image.format == "EPS":  # another program would run it
                    raise InputError(f"{path}: is a PostScript file; convert it to JPEG or PNG")
                yield image
    except FileNotFoundError:
        raise InputError(f"{path}: no such {what}") from None
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{path}: cannot be read as {_a(what)}: {_kind(path)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        reason = str(error).split(",")[0] or "out of memory"
        raise InputError(f"{path}: is too large ({reason}); scale it down") from None
    except UNREADABLE as error:
        reason = str(error)
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise InputError(f"{path}: cannot be read as {_a(what)} ({reason})") from None


def has_end(file: BinaryIO) -> bool | None:
    """Whether a JPEG, PNG or WebP file is there to its end, whatever follows it.

    Usually reads only the first and last bytes; the rest where those do not tell.

    Returns:
        None for other formats: their decoders find a missing end.
    """
    file.seek(0)
    head = file.read(16)
    if head.startswith(b"\xff\xd8"):
        return _last(file, 2) == b"\xff\xd9" or _jpeg_has_end(file)
    if head.startswith(_PNG):
        return _last(file, 12)[4:8] == b"IEND" or _png_is_whole(file)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return 8 + int(struct.unpack_from("<I", head, 4)[0]) <= file.seek(0, 2)
    return None


def raw_mode(image: Image.Image) -> str:
    """How the samples of an image that is not yet loaded are stored: "L;2", "RGB;16B"."""
    tiles = getattr(image, "tile", [])
    if not tiles:
        return image.mode
    arguments = tiles[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else image.mode


def num_frames(image: Image.Image) -> int:
    """Number of pictures in the file: frames of an animation, pages of a TIFF.

    A phone's JPEG with a preview or a depth map behind it (MPO) counts as one.
    """
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return 1
    return int(getattr(image, "n_frames", 2))


def _is_jpeg(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(2) == b"\xff\xd8"


def _last(file: BinaryIO, count: int) -> bytes:
    file.seek(-min(count, file.seek(0, 2)), 2)
    return file.read()


def _jpeg_has_end(file: BinaryIO) -> bool:
    """Whether the end marker follows the compressed data, not a thumbnail or a second picture."""
    file.seek(0)
    data = file.read()
    at, in_scan = 2, False
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == 0xD9 and in_scan:
            return True
        if marker == 0xD8:  # another picture begins before this one has ended
            return False
        is_segment = marker in (0xC4, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE) or 0xE0 <= marker <= 0xEF
        if (is_segment or not in_scan) and len(data) >= at + 2:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
        in_scan = in_scan or marker == 0xDA
    return False


def _png_is_whole(file: BinaryIO) -> bool:
    """Whether the chunks up to the last of the pixels' are as their checksums say."""
    file.seek(len(_PNG))
    while len(header := file.read(8)) == 8 and header[4:] != b"IEND":
        length = int.from_bytes(header[:4], "big")
        if header[4:] != b"IDAT":
            file.seek(length + 4, 1)
            continue
        content, checksum = file.read(length), file.read(4)
        if zlib.crc32(content, zlib.crc32(b"IDAT")).to_bytes(4, "big") != checksum:
            return False
    return True


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(16)
    if _HEIC.match(head):
        return "it is HEIC, which is not supported; convert it to JPEG or PNG"
    if head.startswith(b"PK\x03\x04"):
        return "it is a zip archive; unpack it first"
    described = describe(path)
    if described is None or described.endswith(" image"):
        return "it is damaged or of an unknown format; convert it to JPEG or PNG"
    return f"it is {described}"


def _a(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"
