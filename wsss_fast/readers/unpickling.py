"""Pickled objects in `.npy` files: NumPy arrays, torch tensors and plain Python, nothing else.

This is the only module of the package that unpickles. Public files of maps and of image tags are
pickles of dictionaries; a pickle that refers to anything else, such as malicious code, is rejected,
not run.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsss_fast.errors import InputError
from wsss_fast.readers import first_bytes
from wsss_fast.readers.arrays import retried

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
    SyntaxError,  # likewise
)
_DTYPE_NAME = re.compile(r"[?]|[biufc][1-9][0-9]?|O8?|[SU][0-9]{1,4}")


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
            content = _RestrictedUnpickler(file, path).load()
            if not isinstance(content, _Array):
                raise InputError(f"{path}: holds a {type(content).__name__}, not an array")
            return _plain(content.item())
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
        with path.open("rb") as file:
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
    """Loads NumPy arrays and torch tensors only."""

    def __init__(self, file: io.BufferedReader, path: Path):
        super().__init__(file, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module.replace("numpy._core", "numpy.core"), name))
        if allowed is None:
            code = repr(f"{module}.{name}")[1:-1]
            raise InputError(
                f"{self._path}: refers to {code:.80}; only arrays and tensors are unpickled"
            )
        return allowed


# NumPy's own functions trust what a pickle says of a dtype, so that a damaged file can crash the
# process. These check it.


class _Dtype:
    """Stands for `numpy.dtype` in a pickle: numbers, texts and objects, no records."""

    def __init__(self, name: Any, *_: Any):
        if not isinstance(name, str) or not _DTYPE_NAME.fullmatch(name):
            raise pickle.UnpicklingError(f"dtype {name!r:.40}")
        self.real = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        order, fields = state[1], state[2:5]
        if order not in ("<", ">", "=", "|") or fields != (None, None, None):
            raise pickle.UnpicklingError("a dtype with fields")
        self.real = self.real.newbyteorder(order)


class _Array(np.ndarray):
    """An array whose content comes later in the pickle."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state
        count = math.prod(shape)
        if dtype.real.kind == "O":
            is_whole = isinstance(content, list) and len(content) == count
        else:
            content = _as_bytes(content)
            is_whole = len(content) == count * dtype.real.itemsize
        if min(shape, default=0) < 0 or not is_whole:
            raise pickle.UnpicklingError("an array with more or fewer values than its shape")
        whole: Any = (1, tuple(shape), dtype.real, bool(is_fortran), content)
        super().__setstate__(whole)


def _reconstruct(*_: Any) -> _Array:
    return np.zeros(0, "b").view(_Array)


def _scalar(dtype: _Dtype, content: Any) -> Any:
    return np.frombuffer(_as_bytes(content), dtype.real, 1)[0]


def _frombuffer(content: Any, dtype: _Dtype, shape: Any, order: str) -> np.ndarray:
    return np.frombuffer(content, dtype.real).reshape(shape, order="F" if order == "F" else "C")


def _as_bytes(content: Any) -> bytes:
    """Python 2 wrote bytes as text."""
    return content.encode("latin1") if isinstance(content, str) else bytes(memoryview(content))


def _plain(value: Any) -> Any:
    """The value with NumPy's own class of arrays; containers are rebuilt."""
    if isinstance(value, _Array):
        return value.view(np.ndarray)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value


def _load_storage(content: bytes) -> Any:
    """The storage of a tensor. Torch's own function for this would unpickle anything."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "ndarray"): "ndarray",  # an argument of _reconstruct, never called
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): dict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch.storage", "_load_from_bytes"): _load_storage,
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
}
