"""IRN's inter-pixel relation network: class boundaries and displacements to object centres."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from wsss_fast.nets.backbone import Backbone

PAPER_WIDTHS = (64, 128, 256, 256, 256)
STRIDE = 4  # output stride of boundaries and displacements
_EDGE_WIDTH = 32


class IrnNet(nn.Module):
    """Boundary and displacement branches on a frozen backbone.

    IRN (Ahn, Cho and Kwak, CVPR 2019), section 4.1. Both branches apply a 1x1 convolution and a
    group-norm to the output of every stage. The boundary branch resizes them to stride 4 and weighs
    their concatenation; the displacement branch first fuses the coarse stages at stride 8, then all
    at stride 4.

    Args:
        backbone: the backbone; it gets no gradient, and its batch-norm stays in eval mode.
        widths: channels of the displacement branch for each stage.

    Attributes:
        mean_displacement: [2], subtracted from displacements in eval mode; measured after training
            (public name: mean shift).
    """

    mean_displacement: torch.Tensor

    def __init__(self, backbone: Backbone, widths: Sequence[int] = PAPER_WIDTHS):
        super().__init__()
        self.backbone = backbone
        channels = list(backbone.stage_channels.values())
        self.edge = nn.ModuleList(_reduce(c, _EDGE_WIDTH, 4) for c in channels)
        self.edge_out = nn.Conv2d(_EDGE_WIDTH * len(channels), 1, 1)
        by_stride = list(zip(widths, backbone.stage_strides, strict=True))
        fine = [width for width, stride in by_stride if stride <= STRIDE]
        coarse = [width for width, stride in by_stride if stride > STRIDE]
        last = widths[-1]
        self.displacement = nn.ModuleList(
            _reduce(c, w, _groups(w)) for c, w in zip(channels, widths, strict=True)
        )
        self.displacement_up = _reduce(sum(coarse), last, _groups(last))
        self.displacement_out = nn.Sequential(
            *_reduce(sum(fine) + last, last, _groups(last)),
            nn.ReLU(inplace=True),
            nn.Conv2d(last, 2, 1, bias=False),
        )
        self.register_buffer("mean_displacement", torch.zeros(2))

    def train(self, mode: bool = True) -> IrnNet:
        super().train(mode)
        self.backbone.eval()
        return self

    def edge_parameters(self) -> list[nn.Parameter]:
        """Parameters of the boundary branch."""
        return [*self.edge.parameters(), *self.edge_out.parameters()]

    def displacement_parameters(self) -> list[nn.Parameter]:
        """Parameters of the displacement branch."""
        return [
            *self.displacement.parameters(),
            *self.displacement_up.parameters(),
            *self.displacement_out.parameters(),
        ]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """images [B, 3, H, W] -> boundary logits [B, 1, h, w] and displacements [B, 2, h, w].

        Displacements are (dy, dx) in cells; both are at stride 4.
        """
        with torch.no_grad():
            maps = self.backbone.stages(images)
        strides = self.backbone.stage_strides
        size = maps[strides.index(STRIDE)].shape[-2:]
        edges = [
            F.relu(_at_stride(branch(x), stride, STRIDE, size))
            for branch, x, stride in zip(self.edge, maps, strides, strict=True)
        ]
        edge = self.edge_out(torch.cat(edges, dim=1))
        return edge, self._displacement(maps, size)

    def _displacement(self, maps: list[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        strides = self.backbone.stage_strides
        half = maps[strides.index(2 * STRIDE)].shape[-2:]
        fine, coarse = [], []
        for branch, x, stride in zip(self.displacement, maps, strides, strict=True):
            if stride <= STRIDE:
                fine.append(F.relu(_at_stride(branch(x), stride, STRIDE, size)))
            else:
                coarse.append(F.relu(_at_stride(branch(x), stride, 2 * STRIDE, half)))
        fused = self.displacement_up(torch.cat(coarse, dim=1))
        fine.append(F.relu(_at_stride(fused, 2 * STRIDE, STRIDE, size)))
        displacement = self.displacement_out(torch.cat(fine, dim=1))
        if self.training:
            return displacement
        return displacement - self.mean_displacement[:, None, None]


def _reduce(channels: int, width: int, groups: int) -> nn.Sequential:
    """1x1 convolution and group-norm; the ReLU is left out, since resizing comes before it."""
    return nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(groups, width))


def _groups(width: int) -> int:
    return min(16, width // 8)


def _at_stride(x: torch.Tensor, stride: int, wanted: int, size: Sequence[int]) -> torch.Tensor:
    """Maps of `stride` at the stride `wanted`, cropped to `size`.

    Bilinear upsampling by the integer factor, or average pooling.
    """
    if stride > wanted:
        x = F.interpolate(x, scale_factor=stride // wanted, mode="bilinear", align_corners=False)
    elif stride < wanted:
        x = F.avg_pool2d(x, wanted // stride, ceil_mode=True)
    return x[..., : size[0], : size[1]]
