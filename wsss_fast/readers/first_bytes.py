"""What a file is by its first bytes, where it is not what its name says."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from pathlib import Path

NUMPY_ARRAY = "an array of NumPy (.npy)"
_ENOUGH = 4096
_LFS = b"version https://git-lfs"

# First bytes, what they are, and what to do.
_UNPACK = "unpack it first"
_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", f"compressed by gzip; {_UNPACK}"),
    (b"BZh", f"compressed by bzip2; {_UNPACK}"),
    (b"\xfd7zXZ\x00", f"compressed by xz; {_UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"compressed by zstd; {_UNPACK}"),
    (b"7z\xbc\xaf\x27\x1c", f"a 7z archive; {_UNPACK}"),
    (b"Rar!", f"a RAR archive; {_UNPACK}"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"%PDF", "a PDF document"),
    (b"\x93NUMPY", NUMPY_ARRAY),
    (b"\x89HDF\r\n", "an HDF5 file, as Keras and MATLAB write"),
    (b"MATLAB 5.0", "a MATLAB file"),
    (b"\x7fELF", "a program or library"),
)


def open_file(path: Path) -> io.BufferedReader:
    """Open a file for reading. A pipe or a device, which may wait or go on for ever, is an OSError.

    Raises:
        OSError: the file cannot be read.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
    return path.open("rb")


def describe(path: Path) -> str | None:
    """What a file is that neither weights nor maps can be, with what to do; None for others.

    Known are Git LFS pointers, web pages, JSON and other text, compressed files, images, arrays,
    empty files, and files of zeros.

    Raises:
        OSError: the file cannot be read.
    """
    with open_file(path) as file:
        start = file.read(_ENOUGH)
    if not start:
        return "empty (0 bytes); its download or copy did not finish, get it again"
    if start.startswith(_LFS):
        return "a pointer of Git LFS, not the file itself; run `git lfs pull` in its repository"
    if start[257:262] == b"ustar":
        return f"a tar archive; {_UNPACK}"
    for magic, what in _KINDS:
        if start.startswith(magic):
            return what
    if not any(start) and _is_zero(path):
        return "nothing but zeros, as after a power cut or a broken download; get it again"
    return _describe_text(path, start)


def _is_zero(path: Path) -> bool:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            if any(chunk):
                return False
    return True


def _describe_text(path: Path, start: bytes) -> str | None:
    """A web page, JSON, XML or other text; None for binary files."""
    try:
        # The last character may be cut.
        text = start.decode("utf-8-sig", errors="strict" if len(start) < _ENOUGH else "ignore")
    except UnicodeDecodeError:
        return None
    if any(ord(c) < 32 and c not in "\t\n\r\f" for c in text) or "\x7f" in text:
        return None
    lower = text.lstrip().lower()
    if lower.startswith(("<!doctype html", "<html", "<head", "<body", "<script")):
        return (
            "a web page (HTML); the link led to a login or error page, "
            "download the file itself in a browser"
        )
    if lower.startswith("<"):
        return "XML text, such as a server's error message; download the file again"
    if lower.startswith(("{", "[")):
        return _describe_json(path)
    shown = " ".join(text.split())
    return f"text ({shown[:40]!r}{' ...' if len(shown) > 40 else ''})"


def _describe_json(path: Path) -> str:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and "weight_map" in content:
        return "the index of weights that are split into several files; join them into one file"
    return "JSON text, such as settings or a server's error message"
