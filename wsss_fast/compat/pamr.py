"""PAMR of 1-stage-wseg; only the import changes.

from wsss_fast.compat.pamr import PAMR
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _local_refinement as local

__all__ = ["PAMR"]


class PAMR(torch.nn.Module):
    """Pixel-adaptive mask refinement, with the public constructor and state dict.

    In contrast to the public module, inputs need not be contiguous, and images get no gradient: one
    that requires a gradient is an error.

    Args:
        num_iter: number of iterations.
        dilations: distances of the neighbours in pixels.

    >>> image, mask = torch.rand(1, 3, 8, 8), torch.rand(1, 2, 4, 4)
    >>> PAMR(num_iter=3, dilations=[1, 2])(image, mask).shape
    torch.Size([1, 2, 8, 8])
    """

    def __init__(self, num_iter: int = 1, dilations: Sequence[int] = (1,)):
        super().__init__()
        self.num_iter, self.dilations = num_iter, dilations
        centre = torch.eye(9).view(9, 1, 3, 3)
        self.aff_x = _Filters(centre[4:5] - local.neighbour_kernel())
        self.aff_m = _Filters(local.neighbour_kernel())
        self.aff_std = _Filters(centre)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Refine masks [B, K, h, w] by images [B, C, H, W] of any range.

        Returns:
            [B, K, H, W] of the dtype that results from the two; computed in float32.
        """
        return local.refine("pamr", x, mask, self.dilations, self.num_iter)


class _Filters(torch.nn.Module):
    """The filters that public checkpoints have; see `local.neighbour_kernel`."""

    kernel: Tensor

    def __init__(self, kernel: Tensor):
        super().__init__()
        self.register_buffer("kernel", kernel)
