"""Checks of the drop-in's arguments, which are numpy arrays and numbers of any kind."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsss_fast.ops.lattice import check_sigmas

Sigmas = float | tuple[float, ...] | np.ndarray
Compatibility = float | np.ndarray  # a number (Potts), [nlabels] or [nlabels, nlabels] float32


def whole_number(name: str, value: Any, least: int, most: int = 2**31 - 1) -> int:
    """`value` as an int; numpy's integers and whole floats are accepted."""
    try:
        number = operator.index(value)
    except TypeError:
        if not isinstance(value, Real) or not float(value).is_integer():
            raise ValueError(f"{name} is {value!r}; must be an integer >= {least}") from None
        number = int(float(value))
    if number < least:
        raise ValueError(f"{name} is {value}; must be >= {least}")
    if number > most:
        raise ValueError(f"{name} is {value}; must be at most {most}")
    return number


def as_array(name: str, value: Any) -> np.ndarray:
    """`value` as an array, without a copy where possible."""
    try:
        return np.asarray(value)
    except (RuntimeError, TypeError, ValueError) as error:  # a tensor with a gradient, ragged lists
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name} cannot be read as an array: {reason}") from None


def float32_array(name: str, value: Any, dimensions: int | None) -> np.ndarray:
    """`value` as a float32 array with a number of dimensions, or any."""
    array = as_array(name, value)
    if array.dtype != np.float32:
        raise ValueError(f"{name} is {array.dtype}; must be float32, as .astype(np.float32) gives")
    if dimensions is not None and array.ndim != dimensions:
        raise ValueError(f"{name} is {list(array.shape)}; must have {dimensions} dimensions")
    return array


def compatibility(method: str, compat: Compatibility, labels: int) -> float | Tensor:
    """A number, or a tensor [L], or a symmetric one [L, L]."""
    if isinstance(compat, np.ndarray) and compat.ndim == 0:
        compat = compat.item()
    if isinstance(compat, Real):
        number = float(compat)
        if not np.isfinite(number):
            raise ValueError(f"{method}: compat is {compat}; must be finite")
        return number
    array = float32_array(f"{method}: compat", compat, None)
    if array.shape not in ((labels,), (labels, labels)):
        raise ValueError(
            f"{method}: compat is {list(array.shape)}; "
            f"must be a number, [{labels}] or [{labels}, {labels}]"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{method}: compat has NaN or infinite values")
    weights = torch.from_numpy(array.copy())
    return weights if weights.dim() == 1 else (weights + weights.t()) / 2


def sigmas(name: str, value: Sigmas, count: int) -> tuple[float, ...]:
    """`count` standard deviations from a number or as many."""
    return check_sigmas(name, value.tolist() if isinstance(value, np.ndarray) else value, count)
