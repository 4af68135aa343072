"""Reading the `.npy` files of public code as class maps, whatever their form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from wsss_fast.engine import remarks
from wsss_fast.errors import InputError
from wsss_fast.maps import ClassMaps, check_scores, resize_maps, strided_size
from wsss_fast.readers import pickled_maps
from wsss_fast.readers.arrays import load_array, num_finite
from wsss_fast.readers.unpickling import is_pickled

Size = tuple[int, int]  # (H, W)
Form = Literal["irn", "amn", "clip-es", "toco", "int-keys", "crf", "logits", "probabilities"]

_LARGEST_CLASS = 253  # from 0; label 255 is "unsure" in label maps
_MOST_LABELS = _LARGEST_CLASS + 2
_ROUNDING = 1e-2
_SUM_ERROR = 1e-2  # of probabilities, which files may hold as float16
# A label of less probability at every pixel is not stored: it is nowhere the most probable one.
_LEAST_PROBABILITY = 1e-3
_AT_SIZE = ("high_res", "attn_highres", "highres")  # names of scores at the image's size
_STRIDED = ("cam", "strided_cam")  # and of those at stride 4


class PublicMaps(NamedTuple):
    """Class maps, and the form of the file that they were read from."""

    maps: ClassMaps
    form: Form


def read_public_maps(
    path: Path, *, form: Form | None = None, size: Size | None = None
) -> PublicMaps:
    """Read the class maps in an `.npy` file of public code; see `maps_from_pickles` for the forms.

    Args:
        path: the file.
        form: the form that the file must have; None recognises it.
        size: (H, W) of the photo, to which logits are resized; plain logits, which are smaller
            than the photo, need it.

    Returns:
        Maps with their keys ascending, and the form.

    Raises:
        InputError: the file cannot be used; the message names it.
    """
    if is_pickled(path):
        found = _from_dictionary(path, pickled_maps.read(path), form, size)
    else:
        found = _from_array(path, form, size)
    if form not in (None, found.form) and len(found.maps.keys):
        raise InputError(f"{path}: is of the form {found.form}, not {form}")
    check_scores(path, found.maps)
    return found


def _from_dictionary(
    path: Path, content: Mapping[Any, Any], form: Form | None, size: Size | None
) -> PublicMaps:
    if "msc_seg" in content:
        logits = pickled_maps.as_array(path, "msc_seg", content["msc_seg"])
        if logits.ndim != 4 or len(logits) != 1:
            raise InputError(f"{path}: msc_seg is {list(logits.shape)}, must be [1, C + 1, H, W]")
        return PublicMaps(_from_logits(path, logits[0], size), "logits")
    if "keys" in content:
        return _from_keys(path, content)
    if all(isinstance(k, (int, np.integer)) and not isinstance(k, bool) for k in content):
        return _from_numbers(path, content, form)
    has = ", ".join(map(str, list(content)[:6]))
    raise InputError(
        f"{path}: has no maps; expected a dictionary with keys and maps (cam, high_res, "
        f"attn_highres), with class numbers, or with msc_seg; has {has}"
    )


def _from_keys(path: Path, content: Mapping[Any, Any]) -> PublicMaps:
    """The dictionaries of IRN, AMN, CLIP-ES and ToCo."""
    names = [next((n for n in group if n in content), None) for group in (_STRIDED, _AT_SIZE)]
    keys = pickled_maps.as_array(path, "keys", content["keys"])
    given = [None if n is None else pickled_maps.as_array(path, n, content[n]) for n in names]
    if names == [None, None]:
        if keys.size:
            has = ", ".join(map(str, list(content)[:6]))
            raise InputError(
                f"{path}: has no maps; expected a dictionary with keys and cam, high_res or "
                f"attn_highres, has {has}"
            )
        return PublicMaps(_without_classes(path, None), "amn")
    rows = {len(m) for m in given if m is not None and m.ndim == 3}
    first = int(rows == {keys.size + 1})  # AMN's row of the background has no key
    maps = {n: m for n, m in zip(names, given, strict=True) if n is not None and m is not None}
    _check(path, "keys", keys, maps, keys.size + first)
    labels = np.concatenate([np.zeros(first, np.int64), keys.astype(np.int64) + 1])
    form: Form = "amn" if first else "irn"
    if given[0] is None:
        form = "clip-es" if names[1] == "attn_highres" else "toco"
    return PublicMaps(_assembled(path, labels, given[0], given[1]), form)


def _check(
    path: Path, name: str, keys: np.ndarray, maps: Mapping[str, np.ndarray], rows: int
) -> None:
    """Raise InputError unless keys are different classes, and maps finite with `rows` rows."""
    are_classes = keys.ndim == 1 and (
        not keys.size
        or np.issubdtype(keys.dtype, np.integer)
        and keys.min() >= 0
        and keys.max() <= _LARGEST_CLASS
        and len(np.unique(keys)) == len(keys)
    )
    if are_classes and all(m.ndim == 3 and len(m) == rows and _is_finite(m) for m in maps.values()):
        return
    *others, last = (name, *maps)
    shapes = [list(array.shape) for array in (keys, *maps.values())]
    raise InputError(
        f"{path}: {', '.join(others)} and {last} are {shapes}; expected whole numbers [K] in "
        f"0..{_LARGEST_CLASS}, each once, and finite [K, h, w], or [K + 1, h, w] with the "
        "background first"
    )


def _is_finite(array: np.ndarray) -> bool:
    return num_finite(array) == array.size


def _from_numbers(path: Path, content: Mapping[Any, Any], form: Form | None) -> PublicMaps:
    """Maps by class number, as of MCTformer, EPS and PSA; or marginals of their CRF, by label."""
    if not content:
        return PublicMaps(_without_classes(path, None), "crf" if form == "crf" else "int-keys")
    arrays = [pickled_maps.as_array(path, f"the map {key}", m) for key, m in content.items()]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or arrays[0].ndim != 2:
        listed = {int(key): list(a.shape) for key, a in zip(content, arrays, strict=True)}
        raise InputError(f"{path}: its maps are {listed}; expected maps [H, W] of one size")
    scores = np.stack(arrays)
    numbers = np.array([int(key) for key in content])
    # Marginals have a background, 0, and sum to 1 at every pixel; each map has its maximum at 1.
    are_marginals = form == "crf" or (form is None and 0 in numbers and _sums_to_1(scores))
    if are_marginals and 0 not in numbers:
        raise InputError(f"{path}: has no map 0, the background, so it is not of the form crf")
    classes = numbers - 1 if are_marginals else numbers
    foreground = classes[classes >= 0] if are_marginals else classes
    _check(path, "numbers", foreground, {"maps": scores}, len(scores))
    maps = _assembled(path, classes + 1, None, scores)
    return PublicMaps(maps, "crf" if are_marginals else "int-keys")


def _sums_to_1(scores: np.ndarray) -> bool:
    """Whether scores [L, H, W] are probabilities."""
    with np.errstate(over="ignore", invalid="ignore"):
        sums = scores.sum(axis=0, dtype=np.float64)
    return bool(scores.size and scores.min() >= 0 and (np.abs(sums - 1) < _SUM_ERROR).all())


def _from_array(path: Path, form: Form | None, size: Size | None) -> PublicMaps:
    """Plain arrays [C + 1, h, w]: logits, as of deeplab-pytorch, or probabilities."""
    values = load_array(path, "class maps")
    if values.ndim == 4 and len(values) == 1:
        values = values[0]
    if values.ndim != 3 or values.dtype.kind != "f" or not values.size:
        raise InputError(
            f"{path}: is an array {values.dtype} {list(values.shape)}; expected a pickled "
            "dictionary of maps, or floating-point logits [C + 1, h, w]"
        )
    if form in (None, "probabilities") and _sums_to_1(values):
        return PublicMaps(_kept(path, _resized(path, values, size)), "probabilities")
    if form in (None, "logits") and (is_logits(values) or form == "logits"):
        return PublicMaps(_from_logits(path, values, size, needs_size=True), "logits")
    low, high = float(values.min()), float(values.max())
    raise InputError(
        f"{path}: is an array {list(values.shape)} that spans {low:g}..{high:g}; neither logits, "
        "some of which are negative, nor probabilities, which sum to 1 over the first axis"
    )


def is_logits(values: np.ndarray) -> bool:
    """Whether scores [C + 1, h, w] are logits: no others are negative but for rounding."""
    return values.size > 0 and float(values.min()) < -_ROUNDING


def softmax(path: Path, logits: np.ndarray, size: Size | None) -> np.ndarray:
    """Probabilities, float32 [C + 1, H, W], of logits [C + 1, h, w], which are resized first.

    Raises:
        InputError: the labels are too many, or a value is not finite.
    """
    resized = _resized(path, logits, size)
    return torch.softmax(torch.from_numpy(resized), dim=0).numpy()


def _from_logits(
    path: Path, logits: np.ndarray, size: Size | None, needs_size: bool = False
) -> ClassMaps:
    if needs_size and size is None:
        raise InputError(
            f"{path}: has logits {list(logits.shape)}, which are smaller than their photo; name "
            "the folder of the photos with --images, so that they are resized"
        )
    return _kept(path, softmax(path, logits, size))


def _resized(path: Path, scores: np.ndarray, size: Size | None) -> np.ndarray:
    """Scores [C + 1, h, w] as float32 at the photo's size, bilinearly."""
    if not 2 <= len(scores) <= _MOST_LABELS or not scores.size:
        raise InputError(
            f"{path}: is {list(scores.shape)}; must be [C + 1, h, w], 2 to {_MOST_LABELS} labels "
            "with the background first"
        )
    if not _is_finite(scores):
        raise InputError(f"{path}: has values that are NaN, infinite or beyond float32")
    single = np.ascontiguousarray(scores, np.float32)
    if size is None or single.shape[1:] == size:
        return single
    return resize_maps(torch.from_numpy(single), *size).numpy()


def _kept(path: Path, probabilities: np.ndarray) -> ClassMaps:
    """Maps of the labels that occur, and of the background."""
    highest = probabilities.reshape(len(probabilities), -1).max(axis=1)
    labels = np.union1d([0], np.flatnonzero(highest >= _LEAST_PROBABILITY))
    return _assembled(path, labels, None, probabilities[labels])


def _without_classes(path: Path, size: Size | None) -> ClassMaps:
    shape = (1, 1) if size is None else strided_size(*size)
    return ClassMaps(np.zeros(0, np.int16), np.zeros((0, *shape), np.float32), None, path)


def _assembled(
    path: Path, labels: np.ndarray, strided: np.ndarray | None, at_size: np.ndarray | None
) -> ClassMaps:
    """Maps in the order of their labels; what is not at stride 4 is resized."""
    order = np.argsort(labels, kind="stable")
    full = None if at_size is None else np.ascontiguousarray(at_size[order], np.float32)
    small = None if strided is None else np.ascontiguousarray(strided[order], np.float32)
    if full is not None:
        if not math.prod(full.shape[1:]):
            raise InputError(f"{path}: its maps are {list(full.shape)}, which have no pixel")
        wanted = strided_size(*full.shape[1:])
        if small is not None and small.shape[1:] != wanted:
            text = "class maps whose cam is not at stride 4: computed from those at full size"
            remarks.add(text, path)
        if small is None or small.shape[1:] != wanted:
            small = np.zeros((0, *wanted), np.float32)
            if len(full):
                small = resize_maps(torch.from_numpy(full), *wanted).numpy()
    assert small is not None
    return ClassMaps(labels[order].astype(np.int16), small, full, path)
