"""Pickled objects in `.npy` files: NumPy arrays, torch tensors and plain Python, nothing else.

This is the only module of the package that unpickles. Public files of maps and of image tags are
pickles of dictionaries; a pickle that refers to anything else, such as malicious code, is rejected,
not run.
"""

from __future__ import annotations

import io
import pickle
import struct
import tokenize
from collections.abc import Callable
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
)


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
            return _RestrictedUnpickler(file, path).load().item()
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
            raise InputError(
                f"{self._path}: refers to {module}.{name}; only arrays and tensors are unpickled"
            )
        return allowed()


def _load_storage(content: bytes) -> Any:
    """The storage of a tensor. Torch's own function for this would unpickle anything."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _numpy_function(module: str, name: str) -> Callable[[], Any]:
    """A function of NumPy's core, which was renamed in NumPy 2."""
    core = getattr(np, "_core", None) or np.core
    return lambda: getattr(getattr(core, module), name)


_ALLOWED: dict[tuple[str, str], Callable[[], Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _numpy_function("multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"): _numpy_function("multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"): _numpy_function("numeric", "_frombuffer"),
    ("numpy", "ndarray"): lambda: np.ndarray,
    ("numpy", "dtype"): lambda: np.dtype,
    ("collections", "OrderedDict"): lambda: dict,
    ("torch._utils", "_rebuild_tensor_v2"): lambda: torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): lambda: lambda tensor, *_: tensor,
    ("torch.storage", "_load_from_bytes"): lambda: _load_storage,
    ("_codecs", "encode"): lambda: lambda text, _: text.encode("latin1"),
}
