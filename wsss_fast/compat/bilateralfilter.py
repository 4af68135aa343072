"""The public module `bilateralfilter` over this package's operator; code changes its import only.

    from wsss_fast.compat.bilateralfilter import bilateralfilter, bilateralfilter_batch

Arguments, results and in-place conventions are those of the module that regularised losses build
with SWIG (meng-tang/rloss, pytorch/wrapper/bilateralfilter). What it leaves unchecked, so that it
reads or writes out of bounds or fails, is a ValueError or TypeError that names the argument; the
number of threads of torch does not change.
"""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsss_fast.ops.bilateral import apply_filter, image_and_lattice

__all__ = ["bilateralfilter", "bilateralfilter_batch"]


def bilateralfilter(
    image: Any, _in: Any, out: np.ndarray, H: int, W: int, sigmargb: float, sigmaxy: float
) -> None:
    """Filter the maps of one image; see `wsss_fast.ops.bilateral_filter`.

    Args:
        image: 3 * H * W levels 0..255, plane by plane: a flat array, CPU tensor or list, which is
            converted to float32; float64 and integers of more than 16 bits are refused.
        _in: K * H * W values, as `image`.
        out: receives the results: a flat float32 array of as many values.
        H: height in pixels.
        W: width.
        sigmargb: standard deviation in levels > 0.
        sigmaxy: standard deviation in pixels > 0.

    Raises:
        TypeError: an array of another dtype or rank, a number of another type.
        ValueError: wrong lengths or values.

    >>> out = np.zeros(4, dtype=np.float32)
    >>> bilateralfilter([0, 0, 255, 255] * 3, [1, 3, 5, 0], out, 1, 4, 15.0, 100.0)
    >>> out
    array([3.9226, 3.9004, 2.6535, 2.6439], dtype=float32)
    """
    name = "bilateralfilter"
    height, width = _size(name, "H", H, 1), _size(name, "W", W, 1)
    values = _flat(name, "_in", _in)
    channels, rest = divmod(len(values), height * width)
    if rest:
        raise ValueError(
            f"{name}: _in has {len(values)} values; must be a multiple of H * W = "
            f"{height} * {width}"
        )
    shape = (1, channels, height, width)
    _filter(name, ("image", image), values, ("out", out), shape, sigmargb, sigmaxy)


def bilateralfilter_batch(
    images: Any,
    ins: Any,
    outs: np.ndarray,
    N: int,
    K: int,
    H: int,
    W: int,
    sigmargb: float,
    sigmaxy: float,
) -> None:
    """Filter the maps of N images; see `bilateralfilter`.

    Args:
        images: N * 3 * H * W levels.
        ins: N * K * H * W values.
        outs: receives the results.
        N: number of images.
        K: number of maps of an image.
        H: height in pixels.
        W: width.
        sigmargb: standard deviation in levels > 0.
        sigmaxy: standard deviation in pixels > 0.

    Raises:
        TypeError: an array of another dtype or rank, a number of another type.
        ValueError: wrong lengths or values.
    """
    name = "bilateralfilter_batch"
    shape = (
        _size(name, "N", N, 0),
        _size(name, "K", K, 0),
        _size(name, "H", H, 1),
        _size(name, "W", W, 1),
    )
    values = _flat(name, "ins", ins)
    _check_length(name, "ins", values, shape, "N * K * H * W")
    _filter(name, ("images", images), values, ("outs", outs), shape, sigmargb, sigmaxy)


def _filter(
    name: str,
    image: tuple[str, Any],
    values: Tensor,
    out: tuple[str, Any],
    shape: tuple[int, int, int, int],
    sigmargb: Any,
    sigmaxy: Any,
) -> None:
    batch, _, height, width = shape
    levels = _flat(name, *image)
    sizes = "3 * H * W" if name == "bilateralfilter" else "N * 3 * H * W"
    _check_length(name, image[0], levels, (batch, 3, height, width), sizes)
    target = _output(name, *out)
    _check_length(name, out[0], target, shape, "as many as the values")
    sxy = _deviation(name, "sigmaxy", sigmaxy)
    srgb = _deviation(name, "sigmargb", sigmargb)
    planes = levels.view(batch, 3, height, width)
    inputs = image_and_lattice(name, planes, sxy, srgb, ("sigmaxy", "sigmargb"))
    target.view(shape).copy_(apply_filter(inputs, values.view(shape)))


def _size(name: str, argument: str, value: Any, least: int) -> int:
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: {argument} is {value!r}; must be an integer") from None
    if size < least:
        raise ValueError(f"{name}: {argument} is {size}; must be >= {least}")
    return size


def _deviation(name: str, argument: str, value: Any) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"{name}: {argument} is {value!r}; must be a number")
    deviation = float(value)
    if not (math.isfinite(deviation) and deviation > 0):
        raise ValueError(f"{name}: {argument} is {value!r}; must be finite and > 0")
    return deviation


def _flat(name: str, argument: str, value: Any) -> Tensor:
    """A flat float32 tensor, which shares the memory of `value` where possible."""
    wanted = "must be 1-D, of float32 or a dtype that float32 holds exactly"
    given = value
    if isinstance(value, Tensor):
        described = f"a {value.dtype} tensor {list(value.shape)} on {value.device}"
        if value.device.type != "cpu" or value.layout != torch.strided or value.requires_grad:
            raise TypeError(
                f"{name}: {argument} is {described}; must be dense, on the CPU, without gradient"
            )
        # numpy has no bfloat16.
        given = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    elif not isinstance(value, np.ndarray):
        try:
            given = np.asarray(value, dtype=np.float32)
        except (TypeError, ValueError):
            raise TypeError(f"{name}: {argument} is no array; {wanted}") from None
    if given.ndim != 1 or not np.can_cast(given.dtype, np.float32):
        raise TypeError(f"{name}: {argument} is {given.dtype} {list(given.shape)}; {wanted}")
    # torch warns of memory that must not be written.
    copied = not given.flags.writeable or any(stride < 0 for stride in given.strides)
    converted = np.array(given, np.float32) if copied else np.ascontiguousarray(given, np.float32)
    return torch.from_numpy(converted)


def _output(name: str, argument: str, value: Any) -> Tensor:
    if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.ndim != 1:
        found = (
            f"{value.dtype} {list(value.shape)}"
            if isinstance(value, np.ndarray)
            else f"a {type(value).__name__}"
        )
        raise TypeError(f"{name}: {argument} is {found}; must be a flat float32 numpy array")
    if not value.flags.c_contiguous:
        raise TypeError(f"{name}: {argument} is strided; must be contiguous")
    if not value.flags.writeable:
        raise ValueError(f"{name}: {argument} is read-only; the results are written to it")
    return torch.from_numpy(value)


def _check_length(
    name: str, argument: str, values: Tensor, shape: tuple[int, ...], sizes: str
) -> None:
    if len(values) != math.prod(shape):
        raise ValueError(
            f"{name}: {argument} has {len(values)} values; must be {math.prod(shape)}, {sizes}"
        )
