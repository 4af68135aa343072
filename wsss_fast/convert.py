"""Class maps from and to the pickled `.npy` files of IRN's public code, which many others share.

This is the only module of the package that unpickles. Public files are pickles of NumPy arrays and
torch tensors; a pickle that refers to anything else, such as malicious code, is rejected, not run.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsss_fast.engine.files import atomic_write
from wsss_fast.engine.progress import track
from wsss_fast.errors import InputError
from wsss_fast.maps import ClassMaps, load_maps, save_maps


def maps_from_pickles(source: Path, out: Path) -> Path:
    """Convert `<source>/<id>.npy` of IRN's public code to this package's maps.

    A public file is a pickled dictionary {"keys": class numbers from 0, "cam": [K, h, w] at stride
    4, "high_res": [K, H, W]} of arrays or tensors. Only these types are unpickled.

    Args:
        source: folder of the public files.
        out: folder to write `<id>.npz` to, in the format of `cam.infer` and `amn.infer`.

    Raises:
        InputError: no such folder or no `.npy` in it, or a file that is damaged, contains something
            else, or refers to code.
    """
    files = sorted(source.glob("*.npy")) if source.is_dir() else []
    if not files:
        raise InputError(f"convert: {source} has no .npy files")
    for path in track(files, "convert maps", unit="img"):
        save_maps(out, path.stem, _from_public(path, _unpickle(path)))
    return out


def maps_to_pickles(source: Path, out: Path) -> Path:
    """Convert this package's maps to `<out>/<id>.npy`, pickled as IRN's public code expects them.

    A background row is left out.

    Args:
        source: folder of `<id>.npz`.
        out: folder to write to.

    Raises:
        InputError: no such folder or no maps in it, or a damaged file.
    """
    files = sorted(source.glob("*.npz")) if source.is_dir() else []
    if not files:
        raise InputError(f"convert: {source} has no maps (.npz)")
    for path in track(files, "convert maps", unit="img"):
        maps = load_maps(source, path.stem).foreground()
        content = {"keys": maps.keys.astype(np.int64) - 1, "cam": maps.strided}
        if maps.high_res is not None:
            content["high_res"] = maps.high_res
        with atomic_write(out / f"{path.stem}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, np.array(content, dtype=object), allow_pickle=True)
    return out


def _from_public(path: Path, content: Any) -> ClassMaps:
    if not isinstance(content, dict) or not {"keys", "cam"} <= set(content):
        raise InputError(f"{path}: has no maps; expected a dictionary with keys, cam and high_res")
    try:
        keys, strided = np.asarray(content["keys"]), np.asarray(content["cam"], dtype=np.float32)
        high_res = content.get("high_res")
        if high_res is not None:
            high_res = np.asarray(high_res, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: keys, cam and high_res are not arrays ({error})") from None
    keys_are_labels = (
        keys.ndim == 1
        and np.issubdtype(keys.dtype, np.integer)
        and (not keys.size or keys.min() >= 0 and keys.max() < 255)
    )
    maps_match = all(
        m is None or (m.ndim == 3 and len(m) == len(keys) and np.isfinite(m).all())
        for m in (strided, high_res)
    )
    if not keys_are_labels or not maps_match:
        shapes = [[] if m is None else list(m.shape) for m in (keys, strided, high_res)]
        raise InputError(
            f"{path}: keys, cam and high_res are {shapes}; "
            "expected whole numbers [K] and finite [K, h, w]"
        )
    return ClassMaps((keys + 1).astype(np.int16), strided, high_res)


def _unpickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
            if dtype.kind != "O" or shape != ():
                raise InputError(
                    f"{path}: is an array {dtype} {list(shape)}; expected a pickled dictionary"
                )
            return _RestrictedUnpickler(file, path).load().item()
    except (
        ValueError,
        EOFError,
        OSError,
        pickle.UnpicklingError,
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
        RuntimeError,
    ) as error:
        raise InputError(f"{path}: cannot be unpickled as maps ({error})") from None


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
    return torch.load(io.BytesIO(content), weights_only=True)


def _numpy_function(name: str) -> Callable[[], Any]:
    """A function of NumPy's multiarray module, which was renamed in NumPy 2."""
    core = getattr(np, "_core", None) or np.core
    return lambda: getattr(core.multiarray, name)


_ALLOWED: dict[tuple[str, str], Callable[[], Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _numpy_function("_reconstruct"),
    ("numpy.core.multiarray", "scalar"): _numpy_function("scalar"),
    ("numpy", "ndarray"): lambda: np.ndarray,
    ("numpy", "dtype"): lambda: np.dtype,
    ("collections", "OrderedDict"): lambda: dict,
    ("torch._utils", "_rebuild_tensor_v2"): lambda: torch._utils._rebuild_tensor_v2,
    ("torch.storage", "_load_from_bytes"): lambda: _load_storage,
    ("_codecs", "encode"): lambda: lambda text, _: text.encode("latin1"),
}
