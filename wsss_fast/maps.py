"""Class maps, which the stages exchange: labels and scores; one file per image, not pickled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import remarks
from wsss_fast.engine.files import atomic_write
from wsss_fast.errors import InputError
from wsss_fast.ops.reference.merge_maps import strided_size as strided_size
from wsss_fast.readers.arrays import load_arrays, num_finite, value_range

_LARGEST_LABEL = 254  # 255 is "unsure" in label maps
# Scores of 1 are rounded in files; IRN divides both maps by the largest score at the image's size,
# which interpolation makes smaller.
_TOLERANCE, _LARGEST_STRIDED = 0.01, 3.0


@dataclasses.dataclass(frozen=True)
class ClassMaps:
    """Scores of the present classes of one image.

    Attributes:
        keys: labels as in label maps, int16 [K]: 1..C; a method that also scores the background
            puts it into row 0, with key 0.
        strided: scores in 0..1 at a quarter of the image's size, float32
            [K, (H-1)//4+1, (W-1)//4+1].
        high_res: scores in 0..1 at the image's size, float32 [K, H, W], or None.
        path: the file that they were read from, for errors.
    """

    keys: np.ndarray
    strided: np.ndarray
    high_res: np.ndarray | None = None
    path: Path | None = dataclasses.field(default=None, compare=False)

    def foreground(self) -> ClassMaps:
        """Without the background row, which a constant threshold replaces, as in the papers."""
        rows = self.keys > 0
        if rows.all():
            return self
        return ClassMaps(
            self.keys[rows],
            self.strided[rows],
            None if self.high_res is None else self.high_res[rows],
            self.path,
        )

    def at_size(self, height: int, width: int) -> np.ndarray:
        """Scores at the image's size, [K, H, W].

        They are `high_res`, or `strided` upsampled bilinearly, float32.

        Raises:
            InputError: they are of an image of another size.
        """
        where = "" if self.path is None else f"{self.path}: "
        if self.high_res is not None:
            if self.high_res.shape[1:] != (height, width):
                raise InputError(
                    f"{where}maps are {self.high_res.shape[1:]}, but the image is {(height, width)}"
                )
            return self.high_res
        if not len(self.keys):
            return np.zeros((0, height, width), np.float32)
        if self.strided.shape[1:] != (wanted := strided_size(height, width)):
            raise InputError(
                f"{where}strided maps are {self.strided.shape[1:]}, but an image of "
                f"{(height, width)} needs {wanted}"
            )
        strided = self.strided.astype(np.float32, copy=False)
        return resize_maps(torch.from_numpy(strided), height, width).numpy()


def resize_maps(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear resize of [..., h, w] maps, align_corners False."""
    lead = maps.shape[:-2]
    if 0 in lead:  # which torch refuses
        return maps.new_zeros(*lead, height, width)
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
    """Write `<folder>/<id>.npz` (keys int16, strided and high_res float16), atomically.

    Raises:
        InputError: a score is NaN or infinite.
    """
    for scores in (maps.strided, maps.high_res):
        if scores is not None and num_finite(scores) < scores.size:
            raise InputError(
                f"{maps_path(folder, id)}: not written: scores are NaN or infinite; check the "
                "weights, or use --precision fp32"
            )
    arrays: dict[str, Any] = {
        "keys": maps.keys.astype(np.int16),
        "strided": maps.strided.astype(np.float16, copy=False),
    }
    if maps.high_res is not None:
        arrays["high_res"] = maps.high_res.astype(np.float16, copy=False)
    with atomic_write(maps_path(folder, id)) as temporary:
        np.savez(temporary, **arrays)


def load_maps(folder: Path, id: str, data: Dataset | None = None) -> ClassMaps:
    """Read what `save_maps` wrote, as float32; otherwise as `load_stored`."""
    maps = load_stored(folder, id, data)
    full = None if maps.high_res is None else np.ascontiguousarray(maps.high_res, np.float32)
    strided = np.ascontiguousarray(maps.strided, np.float32)
    return ClassMaps(maps.keys, strided, full, maps.path)


def load_stored(folder: Path, id: str, data: Dataset | None = None) -> ClassMaps:
    """Read what `save_maps` wrote: float16 stays, other dtypes become float32.

    A class with the same score everywhere is remarked, and a class that is not among the image's
    tags.

    Args:
        folder: of the maps.
        id: of the image.
        data: the data set of the image, to compare the labels with its classes and tags.

    Raises:
        InputError: the file is missing or damaged, its arrays do not match, a score is not finite
            or not within 0..1, or a label is not a class of `data`.
    """
    path = maps_path(folder, id)
    try:
        arrays = load_arrays(path, ("keys", "strided", "high_res"), "maps")
    except FileNotFoundError:
        raise InputError(f"{path}: no maps for id {id!r}") from None
    keys, strided, high_res = (arrays.get(name) for name in ("keys", "strided", "high_res"))
    if keys is None or strided is None or keys.ndim != 1 or strided.ndim != 3:
        shapes = ", ".join(f"{name} {list(a.shape)}" for name, a in arrays.items())
        raise InputError(f"{path}: needs keys [K] and strided [K,h,w], has {shapes}")
    for name, scores in (("strided", strided), ("high_res", high_res)):
        if scores is not None and (scores.ndim != 3 or len(scores) != len(keys)):
            raise InputError(
                f"{path}: needs keys [K] and {name} [K,h,w], has {list(keys.shape)} and "
                f"{list(scores.shape)}"
            )
    full = None if high_res is None else _half_or_single(high_res)
    maps = ClassMaps(_checked_keys(path, keys), _half_or_single(strided), full, path)
    check_scores(path, maps)
    if data is not None:
        _compare_with_tags(path, maps, id, data)
    return maps


def _half_or_single(scores: np.ndarray) -> np.ndarray:
    """Contiguous scores, float16 as they are, others as float32."""
    return np.ascontiguousarray(scores, None if scores.dtype == np.float16 else np.float32)


def _checked_keys(path: Path, keys: np.ndarray) -> np.ndarray:
    """Labels as int16; InputError for fractions, repetitions and what is no label."""
    if keys.size and not (
        keys.dtype.kind != "b"
        and np.array_equal(keys, keys.astype(np.int64))
        and keys.min() >= 0
        and keys.max() <= _LARGEST_LABEL
        and len(np.unique(keys)) == len(keys)
    ):
        raise InputError(
            f"{path}: keys are {keys.tolist()[:20]}; must be different whole numbers in "
            f"0..{_LARGEST_LABEL}"
        )
    return keys.astype(np.int16)


def check_scores(path: Path, maps: ClassMaps) -> None:
    """Raise InputError for scores that are not within 0..1; remark constant ones."""
    finest = maps.strided if maps.high_res is None else maps.high_res
    for name, scores, largest in (
        ("high_res", maps.high_res, 1 + _TOLERANCE),
        ("strided", maps.strided, 1 + _TOLERANCE if maps.high_res is None else _LARGEST_STRIDED),
    ):
        if scores is None or not len(scores):
            continue
        if not scores.size:
            raise InputError(f"{path}: {name} is {list(scores.shape)}, which holds no scores")
        low, high = value_range(scores)
        if low < -_TOLERANCE or high > largest:
            raise InputError(
                f"{path}: {name} has scores {low:g}..{high:g}; must be within "
                "0..1: divide each map by its maximum"
            )
    rows = finest.reshape(len(finest), math.prod(finest.shape[1:]))
    if rows.shape[1] > 1 and any(low == high for low, high in map(value_range, rows)):
        remarks.add("class maps in which a class has the same score everywhere", _short(path))


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _compare_with_tags(path: Path, maps: ClassMaps, id: str, data: Dataset) -> None:
    """Raise InputError for labels beyond the classes; remark those that are not the tags."""
    found = maps.keys[maps.keys > 0]
    if found.size and found.max() > len(data.classes):
        raise InputError(
            f"{path}: has maps of label {found.max()}, but the data set has only "
            f"{len(data.classes)} classes"
        )
    tags = np.flatnonzero(data.tags_of(id)) + 1
    if not np.isin(found, tags).all():
        remarks.add(
            "class maps of classes that are not among their image's tags",
            _short(path),
            of=len(data),
        )
    if not np.isin(tags, found).all():
        remarks.add("class maps that lack a class of their image's tags", path, of=len(data))


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
            f"first {missing[0]!r}{_hint(folder, missing[0])}"
        )


def _hint(folder: Path, id: str) -> str:
    """Where the maps of an id may be instead."""
    if maps_path(folder / "maps", id).is_file():
        return f"; did you mean {folder / 'maps'}?"
    if (folder / f"{id}.npy").is_file():
        return "; it has .npy files: `wsss-fast convert from-pickles` makes maps of them"
    number = id.rpartition("_")[2]
    if id.startswith("COCO_") and maps_path(folder, number).is_file():
        return f"; it has {number}.npz: repeat `wsss-fast convert from-pickles` with --images"
    return ""


def to_labels(index: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Labels, uint8, for indices into [background, *keys]."""
    return np.concatenate([[0], keys]).astype(np.uint8)[index]


def merge_views(views: Sequence[torch.Tensor], height: int, width: int) -> torch.Tensor:
    """Sum over views of maps [K, h_i, w_i], each resized bilinearly to [K, height, width]."""
    return torch.stack([resize_maps(view, height, width) for view in views]).sum(dim=0)
