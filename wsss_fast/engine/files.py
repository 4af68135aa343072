"""Atomic writes: a file that exists under its final name is complete; damaged archives."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsss_fast.engine.serialize import jsonable


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, renamed to `path` if the block ends without an error.

    The suffix is kept, since writers choose the format by it.

    Raises:
        OSError: the disk is full, for instance; always with `path` as its file name.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # a file that could not be created cannot be removed
            temporary.unlink()


def temporary_path(path: Path) -> Path:
    """The temporary file of `path` in this thread.

    Its name is short, since that of `path` may be the longest that the file system allows.
    """
    stem = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= 32 else ""
    return path.with_name(f".{stem}.{os.getpid()}-{threading.get_ident():x}.tmp{suffix}")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; see `serialize.jsonable`."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(jsonable(value), indent=2) + "\n")


def damaged_entry(archive: zipfile.ZipFile) -> str | None:
    """The first file of an archive whose bytes do not match its checksum, or None.

    torch does not compare the checksums: it would load other numbers than were saved. It may store
    none, 0.
    """
    for entry in archive.infolist():
        try:
            with archive.open(entry) as file:
                while entry.CRC and file.read(1 << 20):
                    pass
        # RuntimeError is of entries that seem encrypted, or compressed in an unknown way.
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError):
            return entry.filename
    return None
