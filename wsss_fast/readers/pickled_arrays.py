"""NumPy's arrays, types and numbers from pickled states, which are checked first.

NumPy itself takes a pickled state as it is: a damaged or malicious one can make it read memory that
is not the array's.
"""

from __future__ import annotations

import math
import re
import sys
from typing import Any

import numpy as np

_TYPE = re.compile(r"[<>=|]?(?:[?bhilqpBHILQPefdgFDGO]|[biufcSUO]\d{0,9})", re.ASCII)
_KINDS = "biufcSUO"
_LARGEST_ITEM = 1 << 16  # bytes, as of a string


class PickledType:
    """`numpy.dtype(...)` of a pickle, before and after its state is set.

    Raises:
        ValueError: it is no plain type of numbers, texts or objects.
    """

    __slots__ = ("type",)

    def __init__(self, text: Any = None, *_: Any):
        if isinstance(text, bytes):
            text = text.decode("latin1")
        if not isinstance(text, str) or not _TYPE.fullmatch(text):
            raise ValueError(f"arrays of type {text!r} are not read")
        self.type = np.dtype(text)
        if self.type.kind not in _KINDS or self.type.itemsize > _LARGEST_ITEM:
            raise ValueError(f"arrays of type {text!r} are not read")

    def __setstate__(self, state: Any) -> None:
        order, subarray, names, fields = state[1:5]
        if isinstance(order, bytes):
            order = order.decode("latin1")
        if order not in ("<", ">", "=", "|") or (subarray, names, fields) != (None, None, None):
            raise ValueError("arrays of composite types are not read")
        size = state[5] if self.type.kind in "SU" else -1  # texts have their length in the state
        if size not in (-1, self.type.itemsize):
            if not isinstance(size, int) or not 0 <= size <= _LARGEST_ITEM:
                raise ValueError(f"texts of {size} bytes are not read")
            self.type = np.dtype(f"{self.type.kind}{size // (4 if self.type.kind == 'U' else 1)}")
        self.type = self.type.newbyteorder(order)


class PickledArray:
    """An array of a pickle; `array` builds it once its state is set.

    Attributes:
        objects: what an array of objects holds, flat.
    """

    __slots__ = ("_fortran", "_raw", "_shape", "_type", "objects")

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = (0,)
        self._type, self._fortran, self._raw = np.dtype(np.uint8), False, b""
        self.objects: list[Any] = []

    def __setstate__(self, state: Any) -> None:
        shape, kind, fortran, raw = state[-4:]
        self._shape, self._type, self._fortran = _shape(shape), _type(kind), bool(fortran)
        if self._type.hasobject:
            is_plain = isinstance(raw, list) and not (self._fortran and len(self._shape) > 1)
            if not is_plain or len(raw) != math.prod(self._shape):
                raise ValueError(f"an array of objects {self._shape} has other content")
            self.objects = raw
            return
        # Python 2 has texts for bytes.
        self._raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(self._raw, (bytes, bytearray)):
            raise ValueError(f"the values of an array are a {type(raw).__name__}")

    def array(self) -> np.ndarray:
        """The array; one of objects has None for each.

        Raises:
            ValueError: the state has another number of bytes than the array.
        """
        if self._type.hasobject:
            return np.empty(self._shape, object)
        flat = np.frombuffer(_checked(self._raw, self._type, self._shape), self._type)
        return flat.reshape(self._shape, order="F" if self._fortran else "C").copy(order="K")


def from_buffer(buffer: Any, kind: Any, shape: Any, order: Any) -> PickledArray:
    """NumPy's function for arrays of pickles of protocol 5, of which the buffer is in the file."""
    array = PickledArray()
    array.__setstate__((shape, kind, order == "F", bytes(buffer)))
    return array


def scalar(kind: Any, content: Any) -> Any:
    """A number or text of NumPy.

    Raises:
        ValueError: it has another number of bytes than its type, or is an object.
    """
    if isinstance(content, str):
        content = content.encode("latin1")
    plain = _type(kind)
    if plain.hasobject or not isinstance(content, (bytes, bytearray)):
        raise ValueError("an object instead of a number")
    return np.frombuffer(_checked(content, plain, ()), plain)[0]


def _type(kind: Any) -> np.dtype:
    if not isinstance(kind, PickledType):
        raise ValueError(f"the type of an array is a {type(kind).__name__}")
    return kind.type


def _shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"the shape of an array is {str(shape)[:60]}")
    return shape


def _checked(raw: bytes | bytearray, kind: np.dtype, shape: tuple[int, ...]) -> bytes | bytearray:
    if len(raw) != math.prod(shape) * kind.itemsize:
        raise ValueError(f"an array {list(shape)} of {kind} has {len(raw)} bytes")
    if kind.kind == "U" and raw:
        points = np.frombuffer(raw, np.dtype(np.uint32).newbyteorder(kind.byteorder))
        if points.max() > sys.maxunicode:
            raise ValueError(f"a text of {kind} has the character {points.max():#x}")
    return raw
