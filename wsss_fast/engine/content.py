"""What identifies the content of a file: its size and enough of its bytes, but no times.

So a copy of a data set or of a run folder counts as the same, and a replaced file does not.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_PART = 16 << 10
# Files up to this size, and those whose bytes do not depend on each other, are read whole. An .npz
# has checksums of its arrays at its end, a PNG that of its pixels; the parts of a compressed photo
# all change with the photo.
_WHOLE = 4 * _PART
_UNCOMPRESSED = (".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".npy")


def contents_of(paths: Iterable[Path]) -> list[bytes]:
    """`content_of` each file, read by several threads."""
    with ThreadPoolExecutor(8) as readers:
        return list(readers.map(content_of, paths))


def content_of(path: Path) -> bytes:
    """A hash of the content of a file; empty if it cannot be read, which its reader reports."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return b""
        return _read(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    except OSError:
        return b""


def hash_of(texts: Iterable[str]) -> str:
    """A short hash of texts; each is told from its neighbours."""
    sha = hashlib.sha256()
    for text in texts:
        content = text.encode(errors="surrogateescape")
        sha.update(b"%d:%b" % (len(content), content))
    return sha.hexdigest()[:16]


@functools.lru_cache(1 << 20)
def _read(path: Path, size: int, *state: int) -> bytes:
    """The hash for a file in this state: a pipeline asks for it in every stage."""
    digest = hashlib.sha256(size.to_bytes(8, "big"))
    with path.open("rb") as file:
        if size <= _WHOLE or path.suffix.lower() in _UNCOMPRESSED:
            while block := file.read(1 << 20):
                digest.update(block)
        elif path.suffix.lower() == ".npz":
            file.seek(size - _PART)
            digest.update(file.read(_PART))
        else:
            for start in (0, (size - _PART) // 2, size - _PART):
                file.seek(start)
                digest.update(file.read(_PART))
    return digest.digest()
