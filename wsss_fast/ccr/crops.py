"""Where CCR cuts an image: centres of mass of its class maps, and the overlapping crops around them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Box = tuple[int, int, int, int]  # y0, y1, x0, x1 in px, ends not included

BUFFERS = (
    10,
    20,
)  # px that crops reach past the centre of one class, past the extreme centres of two


def centres_of_mass(maps: np.ndarray) -> np.ndarray:
    """Centre of mass of each map, (y, x) in px.

    Args:
        maps: scores >= 0, [K, H, W].

    Returns:
        float64 [K, 2]; NaN for a map that is 0 throughout, whose centre is undefined.
    """
    weights = maps.astype(np.float64)
    rows, columns = weights.sum(axis=2), weights.sum(axis=1)
    mass = rows.sum(axis=1)
    moments = np.stack(
        [rows @ np.arange(rows.shape[1]), columns @ np.arange(columns.shape[1])], axis=1
    )
    return np.divide(
        moments, mass[:, None], out=np.full((len(maps), 2), np.nan), where=mass[:, None] > 0
    )


def boxes(
    centres: np.ndarray,
    size: tuple[int, int],
    *,
    buffers: tuple[int, int] = BUFFERS,
    wrap_crops: bool = False,
) -> list[Box]:
    """The crops of an image: upper left, upper right, lower left, lower right.

    One class: they meet at its centre and overlap by twice the first buffer. Two: each reaches past the farther one of both
    centres by the second buffer. Three and more: the whole image.

    Args:
        centres: (y, x) px of each present class, [K, 2]; an undefined one (NaN) counts as the middle of the image.
        size: (H, W) of the image.
        buffers: px, for one and for two classes.
        wrap_crops: where a crop would begin outside of the image, begin as far from its other end: what the public code
            does, whose slices count a negative start from the end, so that the crop is a strip. Otherwise it begins at 0.

    Returns:
        Four boxes, or one, that of the image, for three and more classes (the public code has it four times); none for no
        class.

    Source: the public code of CCR, `split_img.py`.
    """
    height, width = size
    if len(centres) == 0:
        return []
    if len(centres) > 2:
        return [(0, height, 0, width)]
    whole = np.where(np.isfinite(centres), centres, (height / 2, width / 2)).astype(int)
    spans = [
        _spans(whole[:, axis], side, buffers[len(centres) - 1], wrap_crops)
        for axis, side in enumerate(size)
    ]
    return [(*rows, *columns) for rows in spans[0] for columns in spans[1]]


def _spans(
    centres: Sequence[int], side: int, buffer: int, wrap: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(begin, end) of the first and the last crop along a side."""
    end, begin = min(side, max(centres) + buffer), min(centres) - buffer
    begin = range(side)[begin:].start if wrap else max(0, begin)
    return (0, end), (begin, side)
