"""Class maps as the dictionaries that public code reads from pickled `.npy` files."""

from __future__ import annotations

import dataclasses
import io
import pickle
import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from wsss_fast.engine import remarks
from wsss_fast.engine.files import atomic_write
from wsss_fast.errors import InputError
from wsss_fast.maps import ClassMaps

WrittenForm = Literal["irn", "amn", "clip-es", "toco", "int-keys", "crf", "logits"]
_LEAST = 1e-5  # probability whose logarithm is the logit of a label without a map
_TINY = np.finfo(np.float32).tiny
_PROTOCOL = 3  # of pickle; the last one that names functions as text, and read by any Python 3


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a form needs beyond the maps.

    Attributes:
        size: (H, W) of the photo, for maps without scores at its size.
        background: constant score of the background, instead of a row of it.
        num_classes: number of classes of the data set, for logits.
    """

    size: tuple[int, int] | None = None
    background: float | None = None
    num_classes: int | None = None


def public_content(maps: ClassMaps, form: WrittenForm, wanted: Wanted) -> dict[Any, Any]:
    """The dictionary of a form.

    Raises:
        InputError: the form needs something that is not known; the message names the maps' file.
    """
    return _CONTENTS[form](maps, wanted)


def write_pickle(path: Path, content: Mapping[Any, Any]) -> None:
    """Write what `np.load(path, allow_pickle=True).item()` returns as `content`, atomically.

    NumPy 1 can load it, too: NumPy 2 itself would write the name of a module that NumPy 1 lacks.
    """
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(_with_old_names(pickle.dumps(np.array(content, dtype=object), _PROTOCOL)))


def _with_old_names(pickled: bytes) -> bytes:
    """A pickle that names NumPy's modules as NumPy 1 does; NumPy 2 knows these names as well."""
    written, done = io.BytesIO(), 0
    for code, argument, at in pickletools.genops(pickled):
        if code.name == "GLOBAL" and at is not None and str(argument).startswith("numpy._core."):
            module, name = str(argument).replace("numpy._core.", "numpy.core.").split(" ")
            written.write(pickled[done:at] + f"c{module}\n{name}\n".encode())
            done = at + len(str(argument)) + 2  # the code, and the end of the second line
    written.write(pickled[done:])
    return written.getvalue()


def _irn(maps: ClassMaps, wanted: Wanted) -> dict[Any, Any]:
    """IRN's: `cam` must be a tensor, since its readers move it to a GPU."""
    return _with_keys(maps.foreground(), wanted, first=0)


def _amn(maps: ClassMaps, wanted: Wanted) -> dict[Any, Any]:
    """AMN's: a row of the background without a key, which all of its readers drop."""
    if not (maps.keys > 0).any():
        return {"keys": torch.zeros(0, dtype=torch.int64)}  # its COCO code looks for other names
    return _with_keys(_with_background(maps, wanted.background), wanted, first=1)


def _with_keys(maps: ClassMaps, wanted: Wanted, first: int) -> dict[Any, Any]:
    content: dict[Any, Any] = {
        "keys": torch.from_numpy(maps.keys[first:].astype(np.int64) - 1),
        "cam": torch.from_numpy(np.ascontiguousarray(maps.strided, np.float32)),
    }
    if maps.high_res is None and wanted.size is None:
        remarks.add(
            "maps without high_res, which public code needs for all but IRN's random walk: name "
            "the photos with --images",
            maps.path,
        )
        return content
    return {**content, "high_res": _at_size(maps, wanted)}


def _clip_es(maps: ClassMaps, wanted: Wanted) -> dict[Any, Any]:
    maps = maps.foreground()
    scores = _at_size(maps, wanted).astype(np.float16)
    return {"keys": maps.keys.astype(np.int64) - 1, "attn_highres": scores}


def _toco(maps: ClassMaps, wanted: Wanted) -> dict[Any, Any]:
    maps = maps.foreground()
    return {"keys": maps.keys.astype(np.int64) - 1, "high_res": _at_size(maps, wanted)}


def _int_keys(maps: ClassMaps, wanted: Wanted) -> dict[Any, Any]:
    maps = maps.foreground()
    if not len(maps.keys):
        remarks.add("maps without a class: public code of this form cannot read them", maps.path)
        return {}
    return dict(zip((maps.keys - 1).tolist(), _at_size(maps, wanted), strict=True))


def _crf(maps: ClassMaps, wanted: Wanted) -> dict[Any, Any]:
    """Marginals, which sum to 1; the background where there is no score at all."""
    labels, scores = _all_labels(maps, wanted, "crf")
    sums = scores.sum(axis=0)
    scores = np.where(sums > 0, scores / np.maximum(sums, _TINY), (labels == 0)[:, None, None])
    return dict(zip(labels.tolist(), scores.astype(np.float32), strict=True))


def _logits(maps: ClassMaps, wanted: Wanted) -> dict[Any, Any]:
    """ToCo's: the softmax of the logits are the scores, relative to their sum."""
    if wanted.num_classes is None:
        raise InputError("convert: num_classes: the form logits needs the number of classes")
    labels, scores = _all_labels(maps, wanted, "logits")
    if labels.max() > wanted.num_classes:
        raise InputError(
            f"{maps.path}: has maps of label {labels.max()}, but num_classes is "
            f"{wanted.num_classes}"
        )
    logits = np.full((wanted.num_classes + 1, *scores.shape[1:]), np.log(_LEAST), np.float32)
    logits[labels] = np.log(np.maximum(scores, _LEAST))
    return {"msc_seg": logits[None]}


def _all_labels(maps: ClassMaps, wanted: Wanted, form: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels [L] and scores [L, H, W] with the background's, whose label is 0."""
    if wanted.background is None and 0 not in maps.keys:
        raise InputError(
            f"{maps.path}: has no scores of the background, which the form {form} stores; give "
            "background, such as 0.3, the constant score that the classes must exceed"
        )
    maps = dataclasses.replace(maps, high_res=_at_size(maps, wanted))
    full = _with_background(maps, wanted.background)
    assert full.high_res is not None
    return full.keys.astype(np.int64), full.high_res


def _at_size(maps: ClassMaps, wanted: Wanted) -> np.ndarray:
    """Scores at the photo's size, float32 [K, H, W]."""
    if wanted.size is not None:
        return np.ascontiguousarray(maps.at_size(*wanted.size), np.float32)
    if maps.high_res is None:
        raise InputError(
            f"{maps.path}: has no scores at the photo's size; name the folder of the photos with "
            "--images"
        )
    return np.ascontiguousarray(maps.high_res, np.float32)


def _with_background(maps: ClassMaps, constant: float | None) -> ClassMaps:
    """Maps with the background first.

    Its row is a constant, or the one that is there, or what the classes leave of 1.
    """
    others, is_background = maps.foreground(), maps.keys == 0

    def joined(rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
        if constant is not None:
            first = np.full((1, *rows.shape[1:]), constant, np.float32)
        elif is_background.any():
            first = rows[is_background]
        else:
            first = np.clip(1 - classes.max(axis=0, keepdims=True), 0, 1)
        return np.concatenate([first, classes]).astype(np.float32)

    high_res = None
    if maps.high_res is not None and others.high_res is not None:
        high_res = joined(maps.high_res, others.high_res)
    keys = np.concatenate([np.zeros(1, np.int16), others.keys])
    return ClassMaps(keys, joined(maps.strided, others.strided), high_res, maps.path)


_CONTENTS: dict[WrittenForm, Callable[[ClassMaps, Wanted], dict[Any, Any]]] = {
    "irn": _irn,
    "amn": _amn,
    "clip-es": _clip_es,
    "toco": _toco,
    "int-keys": _int_keys,
    "crf": _crf,
    "logits": _logits,
}
