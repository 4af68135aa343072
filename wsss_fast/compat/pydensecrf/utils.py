"""pydensecrf.utils: unary energies [labels, N] and pairwise features [features, N] in numpy."""

import warnings
from typing import Any

import numpy as np
import torch

from wsss_fast import ops

from ._checks import as_array, whole_number


def unary_from_labels(
    labels: np.ndarray, n_labels: int, gt_prob: float, zero_unsure: bool = True
) -> np.ndarray:
    """Energies [n_labels, N] float32 of a label map that is right with probability `gt_prob`.

    Args:
        labels: integers of any shape.
        n_labels: number of labels.
        gt_prob: probability that a label is right, strictly between 0 and 1.
        zero_unsure: 0 stands for an unknown label (a uniform unary) and is not counted in
            `n_labels`: label k is row k - 1. Otherwise label k is row k.

    Raises:
        ValueError: a label or `gt_prob` out of range.
    """
    labels = as_array("unary_from_labels: labels", labels)
    n_labels = whole_number("unary_from_labels: n_labels", n_labels, 1)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"unary_from_labels: labels is {labels.dtype}; must be integers")
    first = int(bool(zero_unsure))
    if labels.size and not (labels.min() >= 0 and labels.max() < n_labels + first):
        raise ValueError(
            f"unary_from_labels: labels span {labels.min()}..{labels.max()}; "
            f"must be 0..{n_labels - 1 + first}"
        )
    rows = torch.from_numpy(labels.astype(np.int64).reshape(1, -1) - first)
    unary = ops.unary_from_labels(
        rows, n_labels, gt_prob=gt_prob, unsure_label=-1 if zero_unsure else None
    )
    return unary.reshape(n_labels, -1).numpy()


def unary_from_softmax(
    sm: np.ndarray, scale: float | None = None, clip: float | None = 1e-5
) -> np.ndarray:
    """Energies [labels, N] float32: -log of probabilities [labels, ...].

    Args:
        sm: probabilities [labels, ...].
        scale: in (0, 1]; mixes in the uniform distribution, scale * sm + (1 - scale) / labels.
        clip: smallest probability; None or 0 keeps zeros, whose energy is infinite.

    Raises:
        ValueError: a wrong shape, NaN, or `scale` or `clip` out of range.
    """
    sm = as_array("unary_from_softmax: sm", sm)
    if sm.ndim < 1 or sm.shape[0] < 1:
        raise ValueError(f"unary_from_softmax: sm is {list(sm.shape)}; must be [labels, ...]")
    if np.isnan(sm).any():
        raise ValueError("unary_from_softmax: sm has NaN values")
    if clip is not None and not 0.0 <= clip <= 1.0:
        raise ValueError(f"unary_from_softmax: clip is {clip}; must be in 0..1, or None")
    if scale is not None:
        if not 0.0 < scale <= 1.0:
            raise ValueError(f"unary_from_softmax: scale is {scale}; must be in (0, 1]")
        sm = scale * sm + (1.0 - scale) / sm.shape[0]
    if clip is not None:
        sm = np.clip(sm, clip, 1.0)
    with np.errstate(divide="ignore"):
        return -np.log(sm).reshape(sm.shape[0], -1).astype(np.float32)


def compute_unary(labels: np.ndarray, M: int, GT_PROB: float = 0.5) -> np.ndarray:
    """`unary_from_labels`; deprecated in pydensecrf as well."""
    warnings.warn(
        "compute_unary is deprecated, use unary_from_labels", DeprecationWarning, stacklevel=2
    )
    return unary_from_labels(labels, M, GT_PROB)


def softmax_to_unary(sm: np.ndarray, GT_PROB: float = 1) -> np.ndarray:
    """`unary_from_softmax`; deprecated in pydensecrf as well."""
    warnings.warn(
        "softmax_to_unary is deprecated, use unary_from_softmax", DeprecationWarning, stacklevel=2
    )
    return unary_from_softmax(sm, scale=GT_PROB)


def create_pairwise_gaussian(sdims: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Features [len(shape), N] float32 of all points of a grid.

    Args:
        sdims: standard deviation along each axis, in points.
        shape: shape of the grid.

    Raises:
        ValueError: `sdims` and `shape` differ in length.
    """
    shape = tuple(whole_number("create_pairwise_gaussian: shape", side, 0) for side in shape)
    sigmas = _per_item("create_pairwise_gaussian: sdims", sdims, len(shape), "shape's axes")
    positions = np.indices(shape, dtype=np.float32).reshape(len(shape), -1)
    return positions / sigmas[:, None]


def create_pairwise_bilateral(
    sdims: tuple[float, ...], schan: float | tuple[float, ...], img: np.ndarray, chdim: int = -1
) -> np.ndarray:
    """Features [axes + channels, N] float32 of an image's pixels: positions and levels.

    Args:
        sdims: standard deviation along each axis, in pixels.
        schan: standard deviation of each channel's levels, or one number for all.
        img: the image.
        chdim: axis of the channels; -1 for an image of one channel without such an axis.

    Raises:
        ValueError: `sdims`, `schan` or `chdim` do not match the image.
    """
    img = as_array("create_pairwise_bilateral: img", img)
    if not -1 <= chdim < img.ndim:
        raise ValueError(
            f"create_pairwise_bilateral: chdim is {chdim}; "
            f"must be an axis of img {list(img.shape)}, or -1"
        )
    channels = img[None] if chdim == -1 else np.moveaxis(img, chdim, 0)
    each = np.full(len(channels), schan, np.float32) if np.ndim(schan) == 0 else schan
    of_levels = _per_item(
        "create_pairwise_bilateral: schan", each, len(channels), "the image's channels"
    )
    of_axes = _per_item(
        "create_pairwise_bilateral: sdims", sdims, channels.ndim - 1, "the image's axes"
    )
    levels = channels.reshape(len(channels), -1).astype(np.float32) / of_levels[:, None]
    positions = create_pairwise_gaussian(tuple(of_axes), channels.shape[1:])
    return np.concatenate([positions, levels])


def _per_item(name: str, sigmas: Any, count: int, items: str) -> np.ndarray:
    array = as_array(name, sigmas).astype(np.float32)
    if array.shape != (count,) or not (array > 0).all():
        raise ValueError(
            f"{name} is {array.tolist()}; must be {count} numbers > 0, one for each of {items}"
        )
    return array
