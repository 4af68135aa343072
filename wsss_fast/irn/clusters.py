"""Groups of cells whose displacements lead to the same place."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from wsss_fast.regions import regions


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
