"""Arrays of numbers from `.npy` and `.npz`: finite, never pickled."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from wsss_fast.errors import InputError
from wsss_fast.readers import first_bytes

# What NumPy and zipfile raise for damaged files, found by fuzzing (tools/fuzz.py).
_UNREADABLE = (
    OSError,
    ValueError,
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    RuntimeError,
    KeyError,
    TypeError,
    SyntaxError,
    IndexError,
    OverflowError,
    MemoryError,
    struct.error,
    tokenize.TokenError,
    zlib.error,
)
_ATTEMPTS = 10
# Larger arrays must not be packed to less than this share, as maps of photos never are.
_LARGE, _MOST_PACKED = 1 << 30, 200
_Result = TypeVar("_Result")


def load_arrays(path: Path, names: Sequence[str], what: str = "arrays") -> dict[str, np.ndarray]:
    """Those of the named arrays that an `.npz` file has, as they are stored.

    Args:
        path: the file.
        names: of the arrays to read; others are not read.
        what: what the file should be, for errors.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is damaged or something else, or an array is not of finite numbers;
            one line with the file's name.
    """
    with _load(path, what) as found:
        _check_unpacked_size(path, found.zip, names)
        try:
            # A member without NumPy's header is read as bytes.
            arrays: dict[str, Any] = {
                name: retried(partial(found.__getitem__, name)) for name in names if name in found
            }
        except _UNREADABLE as error:
            raise _unreadable(path, what, error) from None
        missing = [name for name in names if name not in arrays]
        if missing and not arrays:
            has = ", ".join(list(found)[:6]) or "nothing"
            raise InputError(f"{path}: needs {' and '.join(missing)}, has {has}")
    for name, array in arrays.items():
        check_numbers(path, array, name)
    return arrays


def _check_unpacked_size(path: Path, archive: zipfile.ZipFile, names: Sequence[str]) -> None:
    """Raise InputError for an archive of kilobytes that unpacks to gigabytes."""
    wanted = [entry for entry in archive.infolist() if entry.filename.removesuffix(".npy") in names]
    unpacked = sum(entry.file_size for entry in wanted)
    if unpacked > _LARGE and unpacked > _MOST_PACKED * sum(e.compress_size for e in wanted):
        raise InputError(
            f"{path}: is {path.stat().st_size} bytes, but unpacks to {unpacked / 2**30:.1f} GiB of "
            "almost equal values; it is not read"
        )


def load_array(path: Path, what: str = "an array") -> np.ndarray:
    """The array of an `.npy` file, as it is stored.

    Raises:
        InputError: the file is missing, damaged or something else, or the array is not of finite
            numbers; one line with the file's name.
    """
    try:
        found = _load(path, what, allowed=first_bytes.NUMPY_ARRAY)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    if not isinstance(found, np.ndarray):
        names = ", ".join(list(found)[:6])
        found.close()
        raise InputError(f"{path}: cannot be read as {what}: it is an archive (.npz) of {names}")
    check_numbers(path, found, "the array")
    return found


def retried(read: Callable[[], _Result]) -> _Result:
    """What `read` returns, which parses the header of an array from its start.

    NumPy parses it as Python source, and early releases of Python 3.11 raise SystemError when two
    threads parse at a time: they count the recursion of both together. Then `read` is called again.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return read()
        except SystemError:
            continue
    return read()


def check_numbers(path: Path, array: object, name: str) -> None:
    """Raise InputError for anything but an array of real numbers that float32 can hold."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iufb":
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(
            f"{path}: contains something other than arrays of numbers: {name} is {kind}"
        )
    if array.dtype.kind == "f":
        wrong = array.size - num_finite(array)
        if wrong:
            raise InputError(
                f"{path}: {name} has {wrong} of {array.size} values that are NaN or infinite; "
                "make the file again with weights and settings that give finite values"
            )


def num_finite(array: np.ndarray) -> int:
    """Number of values that are finite, also as float32, which all computations use."""
    if array.dtype == np.float16:  # by its exponent: NumPy's own test is five times slower
        return int(np.count_nonzero((array.view(np.uint16) & 0x7C00) != 0x7C00))
    with np.errstate(over="ignore", invalid="ignore"):
        return int(np.count_nonzero(np.isfinite(array.astype(np.float32, copy=False))))


def value_range(array: np.ndarray) -> tuple[float, float]:
    """Smallest and largest value of an array that is not empty and has only finite values."""
    if array.dtype != np.float16:
        return float(array.min()), float(array.max())
    # By their bits, which are sign and magnitude: NumPy's own comparisons are ten times slower.
    bits = array.view(np.int16)
    least, most = (edge.view(np.float16) for edge in (bits.min(), bits.max()))
    if least >= 0 and not np.signbit(least):
        return float(least), float(most)
    least = array.view(np.uint16).max().view(np.float16)
    most = most if not np.signbit(most) else bits.min().view(np.float16)
    return float(least), float(most)


def _load(path: Path, what: str, allowed: str | None = None) -> Any:
    """The open archive; an array, if the file is of the `allowed` kind."""
    try:
        described = first_bytes.describe(path)
        if described not in (None, allowed):
            raise InputError(f"{path}: cannot be read as {what}: it is {described}")
        return retried(lambda: np.load(path, allow_pickle=False))
    except (FileNotFoundError, InputError):
        raise
    except _UNREADABLE as error:
        raise _unreadable(path, what, error) from None


def _unreadable(path: Path, what: str, error: BaseException) -> InputError:
    text = " ".join(str(error).split()) or type(error).__name__
    if "allow_pickle" in text:
        why = "it holds pickled Python objects, which may run code; save arrays of numbers"
    elif isinstance(error, IsADirectoryError | PermissionError):
        why = error.strerror or text
    else:
        why = f"truncated or damaged ({text[:100]})"
    return InputError(f"{path}: cannot be read as {what}: {why}")
