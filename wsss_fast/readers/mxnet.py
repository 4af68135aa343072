"""A reader of MXNet's `.params` files, for ResNet-38's published ImageNet weights.

MXNet itself can no longer be installed. The format, little-endian: uint64 0x112, uint64 reserved,
uint64 number of arrays, the arrays, uint64 number of names, and each name as uint64 length and
bytes. An array: uint32 magic (absent before version 1), int32 storage (from version 2), uint32
number of dimensions, the dimensions (int64; uint32 before version 1), int32 device and int32 its
number, int32 type, the values.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsss_fast.errors import InputError

_FILE_MAGIC = 0x112
_V1, _V2 = 0xF993FAC8, 0xF993FAC9
_TYPES: dict[int, Any] = {
    0: np.float32,
    1: np.float64,
    2: np.float16,
    3: np.uint8,
    4: np.int32,
    5: np.int8,
    6: np.int64,
}
_MAX_DIMENSIONS = 32
_MAX_NAME_LENGTH = 4096
_MAX_ELEMENTS = 2**40  # of empty arrays as well: numpy rejects shapes whose product overflows


def is_params(path: Path) -> bool:
    """Whether a file starts with the magic number of MXNet's parameter files."""
    with path.open("rb") as file:
        return file.read(8) == struct.pack("<Q", _FILE_MAGIC)


def read_params(path: Path) -> Mapping[str, torch.Tensor]:
    """The arrays of a file by name.

    Sizes that the file claims are compared with its length before memory is allocated.

    Raises:
        InputError: the file is truncated or damaged, or holds something that no weights file does
            (sparse arrays, unknown types).
    """
    with path.open("rb") as file:
        reader = _Reader(path, file)
        magic, _, count = reader.numbers("QQQ")
        if magic != _FILE_MAGIC:
            raise reader.error("does not start as an MXNet parameter file")
        # An array and its name take at least 12 bytes.
        arrays = [_array(reader) for _ in range(reader.possible(count, 12))]
        (named,) = reader.numbers("Q")
        if named != count:
            raise reader.error(f"{count} arrays, but {named} names")
        names = [_name(reader) for _ in range(count)]
        if reader.left():
            raise reader.error(f"{reader.left()} bytes after the last name")
    if len(set(names)) != len(names):
        raise reader.error("a name is listed more than once")
    return dict(zip(names, arrays, strict=True))


class _Reader:
    """Reads a file's fields, and never more bytes than it has."""

    def __init__(self, path: Path, file: BufferedReader):
        self.path, self.file, self.size = path, file, path.stat().st_size

    def error(self, what: str) -> InputError:
        return InputError(f"{self.path}: {what}; not a usable MXNet weights file")

    def left(self) -> int:
        return self.size - self.file.tell()

    def possible(self, count: int, each: int) -> int:
        """`count`, if as many items of `each` bytes can follow."""
        if count > self.left() // each:
            raise self.error(f"truncated or damaged at byte {self.file.tell()}")
        return count

    def bytes(self, count: int) -> bytearray:
        data = bytearray(self.possible(count, 1))
        if self.file.readinto(data) != count:
            raise self.error(f"truncated at byte {self.file.tell()}")
        return data

    def numbers(self, kinds: str) -> tuple[int, ...]:
        return struct.unpack(f"<{kinds}", self.bytes(struct.calcsize(f"<{kinds}")))


def _array(reader: _Reader) -> torch.Tensor:
    (magic,) = reader.numbers("I")
    if magic == _V2:
        (storage,) = reader.numbers("i")
        if storage != 0:
            raise reader.error(f"an array has storage type {storage}, must be dense (0)")
    dimensions = reader.numbers("I")[0] if magic in (_V1, _V2) else magic
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise reader.error(f"an array has {dimensions} dimensions")
    shape = reader.numbers(("q" if magic in (_V1, _V2) else "I") * dimensions)
    _, _, kind = reader.numbers("iii")
    if kind not in _TYPES or min(shape) < 0 or math.prod(max(n, 1) for n in shape) > _MAX_ELEMENTS:
        raise reader.error(f"an array has type {kind} and shape {shape}")
    dtype = np.dtype(_TYPES[kind]).newbyteorder("<")
    data = reader.bytes(math.prod(shape) * dtype.itemsize)
    return torch.from_numpy(np.frombuffer(data, dtype).reshape(shape))


def _name(reader: _Reader) -> str:
    (length,) = reader.numbers("Q")
    if length > _MAX_NAME_LENGTH:
        raise reader.error(f"a name has {length} bytes")
    try:
        return reader.bytes(length).decode()
    except UnicodeDecodeError:
        raise reader.error("a name is not text") from None
