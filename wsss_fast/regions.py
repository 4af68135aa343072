"""Connected regions of equal labels."""

from __future__ import annotations

import numpy as np


def regions(labels: np.ndarray, connectivity: int = 4) -> np.ndarray:
    """The connected regions of equal labels.

    Args:
        labels: integers or bool [H, W], H and W >= 1; 0 belongs to no region.
        connectivity: 4, or 8 if pixels that share only a corner are connected, too.

    Returns:
        Number of the region of each pixel, int64 [H, W]: 0 none, 1..N in the order of their first
        pixels, row by row.
    """
    height, width = labels.shape
    stride = width + 1
    flat = np.zeros((height, stride), labels.dtype)  # so that no run spans two rows
    flat[:, :width] = labels
    flat = flat.reshape(-1)
    bounds = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]))
    start, stop = bounds[:-1], bounds[1:]
    inside = flat[start] != 0
    start, stop = start[inside], stop[inside]
    # Runs of the next row that have a column, or with 8 a corner, in common with a run.
    reach = stride + (1 if connectivity == 8 else 0)
    first = np.searchsorted(stop, start + 2 * stride - reach, side="right")
    count = np.maximum(np.searchsorted(start, stop + reach, side="left") - first, 0)
    upper = np.repeat(np.arange(len(start)), count)
    lower = np.arange(len(upper)) - np.repeat(np.cumsum(count) - count - first, count)
    joined = flat[start[upper]] == flat[start[lower]]
    root = _roots(len(start), upper[joined].tolist(), lower[joined].tolist())
    number = np.unique(root, return_inverse=True)[1] + 1
    found = np.zeros(flat.shape, np.int64)
    found[flat != 0] = np.repeat(number, stop - start)
    return found.reshape(height, stride)[:, :width]


def _roots(count: int, first: list[int], second: list[int]) -> np.ndarray:
    """The smallest of the items that each item is joined to, int64 [count], by union-find."""
    parent = list(range(count))
    for a, b in zip(first, second, strict=True):
        while parent[a] != a:
            parent[a] = a = parent[parent[a]]
        while parent[b] != b:
            parent[b] = b = parent[parent[b]]
        if a < b:
            parent[b] = a
        else:
            parent[a] = b
    found = np.array(parent, np.int64)
    while (found != found[found]).any():
        found = found[found]
    return found
