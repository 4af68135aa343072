"""Pickled objects in `.npy` files: NumPy arrays, torch tensors and plain Python, nothing else.

This is the only module of the package that unpickles. Public files of maps and of image tags are
pickles of dictionaries; a pickle that refers to anything else, such as malicious code, is rejected,
not run.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import struct
import tokenize
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsss_fast.errors import InputError
from wsss_fast.readers import first_bytes
from wsss_fast.readers.arrays import retried
from wsss_fast.readers.pickled_arrays import PickledArray, PickledType, from_buffer, scalar

# What NumPy, torch and pickle raise for damaged files.
_UNREADABLE = (
    ValueError,
    EOFError,
    OSError,
    pickle.UnpicklingError,
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    RuntimeError,
    MemoryError,
    OverflowError,
    AssertionError,  # of torch, for a storage in its old format
    struct.error,
    tokenize.TokenError,  # of NumPy, for a header
    SyntaxError,  # likewise, for the dtype in it
)

_MOST_REPEATED = 1 << 24  # values of a tensor with strides of 0


def unpickle(path: Path, what: str) -> Any:
    """The object in an `.npy` file of one pickled object; tensors of any device are on the CPU.

    Args:
        path: the file.
        what: what it should be, for the messages: "maps".

    Raises:
        InputError: the file is damaged, holds an array of numbers, or refers to code; one line with
            the file's name.
    """
    try:
        described = first_bytes.describe(path)
        if described is not None and not described.startswith("an array of NumPy"):
            raise InputError(f"{path}: cannot be unpickled as {what}: it is {described}")
        with path.open("rb") as file:
            shape, _, dtype = _read_header(file)
            if dtype.kind != "O" or shape != ():
                raise InputError(
                    f"{path}: is an array {dtype} {list(shape)}; expected a pickled dictionary"
                )
            _check_memo(file)
            return _the_object(_RestrictedUnpickler(file, path).load())
    except InputError:
        raise
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{path}: cannot be unpickled as {what} ({reason})") from None


def is_pickled(path: Path) -> bool:
    """Whether an `.npy` file holds pickled objects, by its header; they are not loaded.

    Files that cannot be read hold none: the reader of arrays says what they are.
    """
    try:
        with first_bytes.open_file(path) as file:
            return _read_header(file)[2].kind == "O"
    except _UNREADABLE:
        return False


def _read_header(file: io.BufferedReader) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and dtype of an `.npy` file."""
    start = file.tell()

    def read() -> tuple[tuple[int, ...], bool, np.dtype]:
        file.seek(start)
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        return read_header(file)

    return retried(read)


class _RestrictedUnpickler(pickle.Unpickler):
    """Loads `PickledArray`, torch tensors and plain Python only."""

    def __init__(self, file: io.BufferedReader, path: Path):
        super().__init__(file, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        function = _ALLOWED.get((module.replace("numpy._core", "numpy.core"), name))
        if function is None:
            code = repr(f"{module}.{name}")[1:-1]
            raise InputError(
                f"{self._path}: refers to {code:.80}; only arrays and tensors are unpickled"
            )
        # A new function each time: a pickle can change the attributes of what it refers to.
        return function if function is dict else lambda *arguments: function(*arguments)


def _load_storage(content: bytes) -> Any:
    """The storage of a tensor. Torch's own function for this would unpickle anything."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _check_memo(file: io.BufferedReader) -> None:
    """Raise ValueError for a place in the memo beyond the file: a table up to it is allocated."""
    start, end = file.tell(), file.seek(0, 2)
    file.seek(start)
    try:
        for code, argument, _ in pickletools.genops(file):
            if code.name in ("PUT", "LONG_BINPUT") and int(str(argument)) > end:
                raise ValueError(f"place {argument} in the memo of a pickle of {end} bytes")
    except ValueError as error:
        if re.search("remain|not enough data|exhausted|no newline", str(error)):
            raise ValueError("pickle data was truncated") from None
        raise
    file.seek(start)


def _tensor(*arguments: Any) -> torch.Tensor:
    """A tensor, but not one of gigabytes that repeats the few values of its storage."""
    tensor = torch._utils._rebuild_tensor_v2(*arguments)
    stored = tensor.untyped_storage().nbytes() // tensor.element_size()
    if tensor.numel() > max(stored, _MOST_REPEATED):
        raise ValueError(f"a tensor {list(tensor.shape)} of {stored} values")
    return tensor


def _the_object(content: Any) -> Any:
    """The object in an array of no dimensions, with NumPy's arrays for all that are in it."""
    if not isinstance(content, PickledArray):
        raise ValueError(f"a {type(content).__name__} instead of an array of one object")
    return _resolved(content, {}).item()


def _resolved(value: Any, done: dict[int, Any]) -> Any:
    """Containers with NumPy's arrays; `done` has those that were met, by their identity."""
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, PickledArray):
        done[id(value)] = array = value.array()
        if array.dtype == object:
            array.reshape(-1)[:] = _objects(_resolved(v, done) for v in value.objects)
        return array
    if isinstance(value, dict):
        done[id(value)] = mapping = {}
        mapping.update({key: _resolved(item, done) for key, item in value.items()})
        return mapping
    if isinstance(value, list):
        items: list[Any] = []
        done[id(value)] = items
        items.extend(_resolved(item, done) for item in value)
        return items
    if isinstance(value, tuple):
        done[id(value)] = tuple(_resolved(item, done) for item in value)
        return done[id(value)]
    return value


def _objects(values: Iterable[Any]) -> np.ndarray:
    """An array of objects, which may be arrays themselves."""
    found = list(values)
    array = np.empty(len(found), object)
    for place, value in enumerate(found):
        array[place] = value
    return array


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: PickledArray(),
    ("numpy.core.multiarray", "scalar"): scalar,
    ("numpy.core.numeric", "_frombuffer"): from_buffer,
    ("numpy", "ndarray"): lambda *_: PickledArray(),
    ("numpy", "dtype"): PickledType,
    ("collections", "OrderedDict"): dict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch.storage", "_load_from_bytes"): _load_storage,
    ("__builtin__", "bytes"): lambda: b"",  # of protocol 2, for no bytes
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
}
