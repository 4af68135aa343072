"""Class maps from and to the pickled `.npy` files of IRN's public code, which many others share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsss_fast.engine import remarks
from wsss_fast.engine.files import atomic_write
from wsss_fast.engine.progress import say, track
from wsss_fast.errors import InputError, RunError
from wsss_fast.maps import ClassMaps, check_scores, load_maps, save_maps
from wsss_fast.readers import pickled_maps

_LISTED = 20  # files that cannot be converted are listed one by one up to this many
_LARGEST_CLASS = 253  # from 0; label 255 is "unsure" in label maps


def maps_from_pickles(source: Path, out: Path) -> Path:
    """Convert `<source>/<id>.npy` of IRN's public code to this package's maps.

    A public file is a pickled dictionary {"keys": class numbers from 0, "cam": [K, h, w] at stride
    4, "high_res": [K, H, W]} of arrays or tensors. Only these types are unpickled. A file that
    cannot be converted is named and left out.

    Args:
        source: folder of the public files.
        out: folder to write `<id>.npz` to, in the format of `cam.infer` and `amn.infer`.

    Raises:
        InputError: no such folder or no `.npy` in it, or no file can be converted.
        RunError: some files were left out: they are damaged, contain something else, or refer to
            code.
    """
    files = _files(source, ".npy")
    if not files:
        hint = "; it has maps: did you mean to-pickles?" if _files(source, ".npz") else ""
        raise InputError(f"convert: {source} has no .npy files{hint or _not_a_folder(source)}")

    def convert(path: Path) -> None:
        save_maps(out, path.stem, read_public_maps(path))

    _convert_all(files, convert, out)
    return out


def maps_to_pickles(source: Path, out: Path) -> Path:
    """Convert this package's maps to `<out>/<id>.npy`, pickled as IRN's public code expects them.

    A background row is left out. A file that cannot be converted is named and left out.

    Args:
        source: folder of `<id>.npz`.
        out: folder to write to.

    Raises:
        InputError: no such folder or no maps in it, or no file can be converted.
        RunError: some files were left out: they are damaged.
    """
    files = _files(source, ".npz")
    if not files:
        hint = "; it has .npy files: did you mean from-pickles?" if _files(source, ".npy") else ""
        raise InputError(f"convert: {source} has no maps (.npz){hint or _not_a_folder(source)}")

    def convert(path: Path) -> None:
        maps = load_maps(source, path.stem).foreground()
        content = {"keys": maps.keys.astype(np.int64) - 1, "cam": maps.strided}
        if maps.high_res is not None:
            content["high_res"] = maps.high_res
        with atomic_write(out / f"{path.stem}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, np.array(content, dtype=object), allow_pickle=True)

    _convert_all(files, convert, out)
    return out


def _files(folder: Path, suffix: str) -> list[Path]:
    """Files of a folder by their suffix, without hidden ones, such as those of macOS."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.glob(f"*{suffix}") if not p.name.startswith("."))


def _not_a_folder(path: Path) -> str:
    if path.is_dir():
        return ""
    return "; it is a file, name its folder" if path.exists() else "; there is no such folder"


def _convert_all(files: Sequence[Path], convert: Callable[[Path], None], out: Path) -> None:
    """Convert every file that can be; name the others."""
    if out.exists() and not out.is_dir():
        raise InputError(f"convert: {out} is not a directory; name another one to write to")
    failures = []
    with remarks.collected():
        for path in track(files, "convert maps", unit="img"):
            try:
                convert(path)
            except InputError as error:
                failures.append(str(error))
    if not failures:
        return
    if len(failures) == len(files):
        rest = f"; none of {len(files)} files can be converted" if len(files) > 1 else ""
        raise InputError(f"{failures[0]}{rest}")
    for failure in failures[:_LISTED]:
        say(f"left out: {failure}")
    more = len(failures) - _LISTED
    raise RunError(
        f"convert: {len(failures)} of {len(files)} files were left out"
        f"{f', {more} of them not listed here' if more > 0 else ''}; the others are in {out}"
    )


def read_public_maps(path: Path) -> ClassMaps:
    """The class maps in a pickled `.npy` file of IRN's public code; see `maps_from_pickles`.

    Raises:
        InputError: the file cannot be used.
    """
    return _from_public(path, pickled_maps.read(path))


def _from_public(path: Path, content: dict[Any, Any]) -> ClassMaps:
    if not {"keys", "cam"} <= set(content):
        has = ", ".join(map(str, list(content)[:6])) or "nothing"
        raise InputError(
            f"{path}: has no maps; expected a dictionary with keys, cam and high_res, has {has}"
        )
    keys, strided = (pickled_maps.as_array(path, name, content[name]) for name in ("keys", "cam"))
    high_res = content.get("high_res")
    if high_res is not None:
        high_res = pickled_maps.as_array(path, "high_res", high_res).astype(np.float32)
    strided = strided.astype(np.float32)
    keys_are_labels = keys.ndim == 1 and (
        not keys.size
        or np.issubdtype(keys.dtype, np.integer)
        and keys.min() >= 0
        and keys.max() <= _LARGEST_CLASS
        and len(np.unique(keys)) == len(keys)
    )
    maps_match = all(
        m is None or (m.ndim == 3 and len(m) == len(keys) and np.isfinite(m).all())
        for m in (strided, high_res)
    )
    if not keys_are_labels or not maps_match:
        shapes = [[] if m is None else list(m.shape) for m in (keys, strided, high_res)]
        raise InputError(
            f"{path}: keys, cam and high_res are {shapes}; "
            "expected whole numbers [K], each once, and finite [K, h, w]"
        )
    maps = ClassMaps((keys + 1).astype(np.int16), strided, high_res, path)
    check_scores(path, maps)
    return maps
