"""Class maps, which the stages exchange: labels and scores; one file per image, not pickled."""

from __future__ import annotations

import dataclasses
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsss_fast.data.dataset import Dataset
from wsss_fast.engine.files import atomic_write
from wsss_fast.errors import InputError

# What NumPy and zipfile raise for damaged files, found by fuzzing (tools/fuzz.py).
_UNREADABLE = (
    OSError,
    ValueError,
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    RuntimeError,
    KeyError,
    zlib.error,
)


@dataclasses.dataclass(frozen=True)
class ClassMaps:
    """Scores of the present classes of one image.

    Attributes:
        keys: labels as in label maps, int16 [K]: 1..C; a method that also scores the background
            puts it into row 0, with key 0.
        strided: scores in 0..1 at a quarter of the image's size, float32
            [K, (H-1)//4+1, (W-1)//4+1].
        high_res: scores in 0..1 at the image's size, float32 [K, H, W], or None.
    """

    keys: np.ndarray
    strided: np.ndarray
    high_res: np.ndarray | None = None

    def foreground(self) -> ClassMaps:
        """Without the background row, which a constant threshold replaces, as in the papers."""
        rows = self.keys > 0
        return ClassMaps(
            self.keys[rows],
            self.strided[rows],
            None if self.high_res is None else self.high_res[rows],
        )

    def at_size(self, height: int, width: int) -> np.ndarray:
        """Scores at the image's size, float32 [K, H, W].

        They are `high_res`, or `strided` upsampled bilinearly.

        Raises:
            InputError: `high_res` has another size.
        """
        if self.high_res is not None:
            if self.high_res.shape[1:] != (height, width):
                raise InputError(
                    f"maps are {self.high_res.shape[1:]}, but the image is {(height, width)}"
                )
            return self.high_res
        if not len(self.keys):
            return np.zeros((0, height, width), np.float32)
        return resize_maps(torch.from_numpy(self.strided), height, width).numpy()


def strided_size(height: int, width: int) -> tuple[int, int]:
    """Size of maps at stride 4, as IRN and AMN store them."""
    return (height - 1) // 4 + 1, (width - 1) // 4 + 1


def resize_maps(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear resize of [..., h, w] maps, align_corners False."""
    lead = maps.shape[:-2]
    flat = maps.reshape(1, -1, *maps.shape[-2:])
    resized = torch.nn.functional.interpolate(
        flat, (height, width), mode="bilinear", align_corners=False
    )
    return resized.reshape(*lead, height, width)


def maps_path(folder: Path, id: str) -> Path:
    """File of the maps of one image."""
    return folder / f"{id}.npz"


def map_files(data: Dataset) -> list[str]:
    """Names of the files of the maps of a data set."""
    return [f"{id}.npz" for id in data.ids]


def save_maps(folder: Path, id: str, maps: ClassMaps) -> None:
    """Write `<folder>/<id>.npz` (keys int16, strided and high_res float16), atomically."""
    arrays: dict[str, Any] = {
        "keys": maps.keys.astype(np.int16),
        "strided": maps.strided.astype(np.float16),
    }
    if maps.high_res is not None:
        arrays["high_res"] = maps.high_res.astype(np.float16)
    with atomic_write(maps_path(folder, id)) as temporary:
        np.savez(temporary, **arrays)


def load_maps(folder: Path, id: str) -> ClassMaps:
    """Read what `save_maps` wrote.

    Raises:
        InputError: the file is missing or damaged, or its arrays do not match.
    """
    path = maps_path(folder, id)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("keys", "strided", "high_res") if name in file}
    except FileNotFoundError:
        raise InputError(f"{path}: no maps for id {id!r}") from None
    except _UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as maps ({error})") from None
    keys, strided, high_res = arrays.get("keys"), arrays.get("strided"), arrays.get("high_res")
    # A member without NumPy's header is read as bytes.
    if any(not isinstance(a, np.ndarray) or a.dtype.kind not in "iuf" for a in arrays.values()):
        raise InputError(f"{path}: contains something other than arrays of numbers")
    if keys is None or strided is None or strided.ndim != 3 or len(keys) != len(strided):
        raise InputError(f"{path}: needs keys [K] and strided [K,h,w]")
    full = None if high_res is None else high_res.astype(np.float32)
    return ClassMaps(keys, strided.astype(np.float32), full)


def check_maps(folder: Path, data: Dataset) -> None:
    """Check that `folder` has the maps of every id of `data`.

    Raises:
        InputError: no such folder, or maps are missing; with the first id and their number.
    """
    if not folder.is_dir():
        raise InputError(f"maps: {folder} is not a directory")
    present = {p.name for p in folder.iterdir()}
    missing = [i for i in data.ids if f"{i}.npz" not in present]
    if missing:
        raise InputError(
            f"maps: {folder} has no maps for {len(missing)} of {len(data)} ids, "
            f"first {missing[0]!r}"
        )


def label_index(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Argmax of the scores against a constant background score; background wins ties.

    Args:
        scores: float [K, H, W], without a background row.
        threshold: score of the background.

    Returns:
        int64 [H, W] in 0..K: 0 for background, otherwise 1 + the row. `to_labels` turns it into
        labels.
    """
    if not len(scores):
        return np.zeros(scores.shape[1:], np.int64)
    best = scores.argmax(axis=0)
    return np.where(scores.max(axis=0) > np.float32(threshold), best + 1, 0)


def to_labels(index: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Labels, uint8, for indices into [background, *keys]."""
    return np.concatenate([[0], keys]).astype(np.uint8)[index]


def merge_views(views: Sequence[torch.Tensor], height: int, width: int) -> torch.Tensor:
    """Sum over views of maps [K, h_i, w_i], each resized bilinearly to [K, height, width]."""
    return torch.stack([resize_maps(view, height, width) for view in views]).sum(dim=0)
