"""pydensecrf.utils: unary energies and pairwise features as flat numpy arrays, [labels, N] and [features, N]."""

import warnings

import numpy as np
import torch

from wsss_fast import ops


def unary_from_labels(
    labels: np.ndarray, n_labels: int, gt_prob: float, zero_unsure: bool = True
) -> np.ndarray:
    """Energies [n_labels, N] float32 of an integer label map of any shape that is right with probability `gt_prob`.

    With `zero_unsure`, 0 says "could be anything" (a uniform unary) and is not counted in `n_labels`: label k is row
    k - 1. Without it, label k is row k. Raises ValueError for labels out of range, or `gt_prob` outside (0, 1).
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"unary_from_labels: labels is {labels.dtype}; must be integers")
    first = int(bool(zero_unsure))
    rows = torch.from_numpy(labels.astype(np.int64).reshape(1, -1) - first)
    if rows.numel() and not (rows.min() >= -first and rows.max() < n_labels):
        raise ValueError(
            f"unary_from_labels: labels span {labels.min()}..{labels.max()}; must be 0..{n_labels - 1 + first}"
        )
    unary = ops.unary_from_labels(
        rows, n_labels, gt_prob=gt_prob, unsure_label=-1 if zero_unsure else None
    )
    return unary.reshape(n_labels, -1).numpy()


def unary_from_softmax(
    sm: np.ndarray, scale: float | None = None, clip: float | None = 1e-5
) -> np.ndarray:
    """Energies [labels, N] float32: -log of probabilities [labels, ...].

    `scale` in (0, 1] mixes in the uniform distribution: scale * sm + (1 - scale) / labels. `clip` is the smallest
    probability; None or 0 keeps zeros, whose energy is infinite. Raises ValueError for another `scale`.
    """
    sm = np.asarray(sm)
    if sm.ndim < 1 or sm.shape[0] < 1:
        raise ValueError(f"unary_from_softmax: sm is {list(sm.shape)}; must be [labels, ...]")
    if scale is not None:
        if not 0.0 < scale <= 1.0:
            raise ValueError(f"unary_from_softmax: scale is {scale}; must be in (0, 1]")
        sm = scale * sm + (1.0 - scale) / sm.shape[0]
    if clip is not None:
        sm = np.clip(sm, clip, 1.0)
    with np.errstate(divide="ignore"):
        return -np.log(sm).reshape(sm.shape[0], -1).astype(np.float32)


def compute_unary(labels: np.ndarray, M: int, GT_PROB: float = 0.5) -> np.ndarray:
    """Deprecated there, too: `unary_from_labels`."""
    warnings.warn(
        "compute_unary is deprecated, use unary_from_labels", DeprecationWarning, stacklevel=2
    )
    return unary_from_labels(labels, M, GT_PROB)


def softmax_to_unary(sm: np.ndarray, GT_PROB: float = 1) -> np.ndarray:
    """Deprecated there, too: `unary_from_softmax`."""
    warnings.warn(
        "softmax_to_unary is deprecated, use unary_from_softmax", DeprecationWarning, stacklevel=2
    )
    return unary_from_softmax(sm, scale=GT_PROB)


def create_pairwise_gaussian(sdims: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Features [len(shape), N] float32 of all points of a grid: the position along each axis over its `sdims`.

    Raises ValueError where `sdims` and `shape` differ in length.
    """
    sdims = _per_item("create_pairwise_gaussian: sdims", sdims, len(shape), "shape's axes")
    positions = np.indices(tuple(shape), dtype=np.float32).reshape(len(shape), -1)
    return positions / sdims[:, None]


def create_pairwise_bilateral(
    sdims: tuple[float, ...], schan: float | tuple[float, ...], img: np.ndarray, chdim: int = -1
) -> np.ndarray:
    """Features [axes + channels, N] float32 of an image's pixels: positions over `sdims`, levels over `schan`.

    `chdim` is the axis of the channels; -1: there is none, the image has one channel. `schan` may be one number for all.
    Raises ValueError where `sdims` or `schan` do not match the image.
    """
    img = np.asarray(img)
    if not -1 <= chdim < img.ndim:
        raise ValueError(
            f"create_pairwise_bilateral: chdim is {chdim}; must be an axis of img {list(img.shape)}, or -1"
        )
    channels = img[None] if chdim == -1 else np.moveaxis(img, chdim, 0)
    schan = np.full(len(channels), schan, np.float32) if np.isscalar(schan) else schan
    schan = _per_item(
        "create_pairwise_bilateral: schan", schan, len(channels), "the image's channels"
    )
    sdims = _per_item(
        "create_pairwise_bilateral: sdims", sdims, channels.ndim - 1, "the image's axes"
    )
    levels = channels.reshape(len(channels), -1).astype(np.float32) / schan[:, None]
    return np.concatenate([create_pairwise_gaussian(sdims, channels.shape[1:]), levels])


def _per_item(name: str, sigmas, count: int, items: str) -> np.ndarray:
    sigmas = np.asarray(sigmas, np.float32)
    if sigmas.shape != (count,) or not (sigmas > 0).all():
        raise ValueError(
            f"{name} is {sigmas.tolist()}; must be {count} numbers > 0, one for each of {items}"
        )
    return sigmas
