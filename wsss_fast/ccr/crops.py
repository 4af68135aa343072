"""Crops of CCR: overlapping parts of an image around the centres of mass of its class maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Box = tuple[int, int, int, int]  # y0, y1, x0, x1 in pixels; the ends are not included

# Pixels by which crops extend past the centre of one class, past the extreme centres of two.
BUFFERS = (10, 20)


def centres_of_mass(maps: np.ndarray) -> np.ndarray:
    """Centre of mass of each map.

    Args:
        maps: scores >= 0, [K, H, W].

    Returns:
        (y, x) in pixels, float64 [K, 2]; NaN for a map that is 0 everywhere.
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

    With one class they meet at its centre and overlap by twice the first buffer. With two, each
    extends past the farther of both centres by the second buffer. With three or more, there is one
    crop, the whole image.

    Args:
        centres: (y, x) in pixels of the centre of each present class, [K, 2]; NaN is replaced by
            the middle of the image.
        size: size (H, W) of the image.
        buffers: extent in pixels past the centres, for one and for two classes.
        wrap_crops: whether a crop that would begin outside of the image, at -n, begins n pixels
            before the opposite border, so that it is a strip, as in the public code, whose slices
            take negative starts from the end; otherwise it begins at 0.

    Returns:
        Four boxes; one for three or more classes (the public code has it four times); none for no
        class.

    Source: the public code of CCR, `split_img.py`.
    """
    height, width = size
    if len(centres) == 0:
        return []
    if len(centres) > 2:
        return [(0, height, 0, width)]
    whole = np.where(np.isfinite(centres), centres, (height / 2, width / 2)).astype(int)
    buffer = buffers[len(centres) - 1]
    rows = _spans(whole[:, 0].tolist(), height, buffer, wrap_crops)
    columns = _spans(whole[:, 1].tolist(), width, buffer, wrap_crops)
    return [(*row, *column) for row in rows for column in columns]


def _spans(
    centres: Sequence[int], side: int, buffer: int, wrap: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(begin, end) of the first and of the last crop along a side."""
    end, begin = min(side, max(centres) + buffer), min(centres) - buffer
    begin = range(side)[begin:].start if wrap else max(0, begin)
    return (0, end), (begin, side)
