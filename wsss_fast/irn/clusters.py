"""Groups of cells whose displacements lead to the same place, and connected regions."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F


def find_centres(displacement: torch.Tensor, steps: int) -> torch.Tensor:
    """Follow the displacements from every cell.

    Each step adds the displacement at the place that was reached, interpolated bilinearly, and
    stays within the grid.

    Args:
        displacement: (dy, dx) of each cell in cells, float32 [2, h, w].
        steps: number of steps.

    Returns:
        The cell (y, x) nearest to the place that is reached from each cell, int64 [2, h, w].

    Source: IRN, section 4.2, and its public code.
    """
    height, width = displacement.shape[1:]
    y, x = (torch.arange(n, device=displacement.device).float() for n in (height, width))
    # Places as (x, y), as grid_sample takes them: -1 is the first cell and 1 the last one.
    place = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    last = torch.stack((x[-1], y[-1]))
    scale = (last / 2).clamp_min(0.5)
    field = displacement.flip(0)[None].float()
    for _ in range(steps):
        moved = F.grid_sample(field, place / scale - 1, padding_mode="border", align_corners=True)
        place = torch.minimum((place + moved.permute(0, 2, 3, 1)).clamp_min(0), last)
    return place[0].round().long().permute(2, 0, 1).flip(0)


def cluster(centres: torch.Tensor, displacement: torch.Tensor, centre: float) -> np.ndarray:
    """Group the cells by the region of small displacements that they lead to.

    Args:
        centres: cell (y, x) that each cell leads to, int64 [2, h, w].
        displacement: (dy, dx) of each cell in cells, float32 [2, h, w].
        centre: length of a displacement in cells, below which a cell belongs to a centre. The cells
            that end outside of all centres are one group.

    Returns:
        Number of the group of each cell, int64 [h, w] of 0..N-1.
    """
    small = displacement.float().square().sum(0).sqrt() < centre
    region = regions(small.cpu().numpy())
    y, x = centres.cpu().numpy()
    return np.unique(region[y, x], return_inverse=True)[1].reshape(region.shape)


def regions(labels: np.ndarray) -> np.ndarray:
    """The 4-connected regions of equal labels.

    Args:
        labels: integers or bool [H, W], H and W >= 1; 0 belongs to no region.

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
    # Runs of the next row that have a column in common with a run.
    first = np.searchsorted(stop, start + stride, side="right")
    count = np.maximum(np.searchsorted(start, stop + stride, side="left") - first, 0)
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

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    for a, b in zip(first, second, strict=True):
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return np.array([root(item) for item in range(count)], np.int64)
