"""Image tags of public code in `.npy` files: a dictionary by image, or one array of all images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsss_fast.engine import remarks
from wsss_fast.errors import InputError
from wsss_fast.readers.arrays import check_numbers, load_array
from wsss_fast.readers.unpickling import is_pickled, unpickle

Key = int | str
_EXPECTED = "expected a dictionary of image -> tags [C], or an array of tags [N, C]"


def read_tag_arrays(path: Path) -> tuple[tuple[Key, ...] | None, np.ndarray]:
    """The tags of all images in an `.npy` file; a value above 0 is a tag.

    Args:
        path: a pickled dictionary (`np.save` of a dict) of image name or number -> values [C], or
            an array of numbers [N, C]. Of a pickle only arrays and tensors are loaded.

    Returns:
        The dictionary's keys, None for an array; and the tags, uint8 [N, C] of 0 and 1.

    Raises:
        InputError: the file is damaged, refers to code, or holds something else.
    """
    keys: tuple[Key, ...] | None = None
    if is_pickled(path):
        content = unpickle(path, "image tags")
        if not isinstance(content, dict):
            raise InputError(f"{path}: holds a {type(content).__name__}; {_EXPECTED}")
        keys = tuple(_key(path, key) for key in content)
        values = _stacked(path, content)
    else:
        values = load_array(path, "image tags")
        if values.ndim != 2:
            raise InputError(f"{path}: is an array {list(values.shape)}; {_EXPECTED}")
    if not values.size:
        raise InputError(f"{path}: has no tags; {_EXPECTED}")
    tags = (values > 0).astype(np.uint8)
    if (values != tags).any():
        remarks.add("image tags have other values than 0 and 1: all above 0 are tags", path)
    return keys, tags


def _key(path: Path, key: Any) -> Key:
    if isinstance(key, np.ndarray | torch.Tensor) and key.ndim == 0:
        key = key.item()
    if isinstance(key, str):
        return key
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return int(key)
    raise InputError(f"{path}: key {key!r:.80} is neither the name nor the number of an image")


def _stacked(path: Path, content: dict[Any, Any]) -> np.ndarray:
    """The values of a dictionary as one array [N, C]; torch tensors and lists, too.

    Raises:
        InputError: a value is no vector of finite numbers, or they differ in length.
    """
    arrays: list[np.ndarray] = []
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            is_plain = value.layout == torch.strided and value.device.type != "meta"
            value = value.detach().cpu().float().numpy() if is_plain else None
        try:
            array = np.asarray(value)
        except (TypeError, ValueError):
            array = np.asarray(None)
        if array.ndim != 1 or array.dtype.kind not in "iufb":
            is_array = isinstance(value, np.ndarray | list)
            got = f"{array.dtype} {list(array.shape)}" if is_array else type(value).__name__
            raise InputError(f"{path}: {key!r:.80} has {got}; {_EXPECTED}")
        if arrays and array.shape != arrays[0].shape:
            raise InputError(
                f"{path}: {key!r:.80} has {len(array)} values, the first image {len(arrays[0])}; "
                "all need one per class"
            )
        arrays.append(array)
    if not arrays:
        return np.zeros((0, 0))
    stacked = np.stack(arrays)
    check_numbers(path, stacked, "the tags")
    return stacked
