"""The pickled dictionaries of class maps that public code writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsss_fast.errors import InputError
from wsss_fast.readers.unpickling import unpickle


def read(path: Path) -> dict[Any, Any]:
    """The dictionary in an `.npy` file; tensors of any device are on the CPU.

    Raises:
        InputError: the file is damaged, holds something else, or refers to code; one line with the
            file's name.
    """
    content = unpickle(path, "maps")
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: has no maps; expected a dictionary of maps, not a {type(content).__name__}"
        )
    return content


def as_array(path: Path, name: str, value: Any) -> np.ndarray:
    """A value of the dictionary as an array of numbers.

    Raises:
        InputError: it is something else.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach()
        if value.device.type == "meta" or value.layout != torch.strided or value.is_quantized:
            raise InputError(f"{path}: {name} is a tensor without plain values: {_describe(value)}")
        value = value.cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {name} is not an array ({error})") from None
    if array.dtype.kind not in "iuf":
        raise InputError(f"{path}: {name} is not an array of numbers, but {array.dtype}")
    return array


def _describe(value: torch.Tensor) -> str:
    return f"{value.dtype}, {value.layout}, on {value.device}".replace("torch.", "")
