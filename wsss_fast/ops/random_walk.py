"""IRN's random walk, which spreads class maps up to boundaries: schema, fake, public function."""

import math

import torch
from torch import Tensor

from . import reference
from ._library import can_inspect_values, define

MAX_RADIUS = 32  # 3,204 neighbours; csrc/math/walk.h has the same


def _reference(maps, edge, radius, beta, steps):
    # The roundings of float32 sums repeat in every step and would add up to 1e-3.
    out = reference.random_walk(maps.double(), edge.double(), radius=radius, beta=beta, steps=steps)
    return out.to(maps.dtype).contiguous()


def _fake(maps, edge, radius, beta, steps):
    return torch.empty(maps.shape, dtype=maps.dtype, device=maps.device)


# maps [B, K, h, w] float32, edge [B, h, w] float32 -> [B, K, h, w]
_op = define(
    "random_walk(Tensor maps, Tensor edge, int radius, float beta, int steps) -> Tensor",
    reference=_reference,
    fake=_fake,
)


def random_walk(
    maps: Tensor, edge: Tensor, *, radius: int = 5, beta: float = 10.0, steps: int = 256
) -> Tensor:
    """Spread maps over neighbouring cells between which no boundary lies.

    out = (maps * (1 - edge)) T^steps,  T_ij = a_ij^beta / sum_i a_ij^beta,  a_ij = 1 - max of edge on the path from i to
    j, both ends included, for cells nearer than `radius`; a_ii = 1; otherwise 0. A path is every cell of the rectangle
    between i and j that is nearer than 1 to the straight line. So every step replaces a cell by a weighted mean of the
    cells around it. The public code squares the dense matrix T eight times; here the sparse steps are taken one by one.

    Args:
        maps: [K, h, w], or [B, K, h, w] with one edge map an image; floating, finite, any range.
        edge: [h, w], or [B, h, w]; floating, 0 (no boundary) .. 1.
        radius: cells, 1..32; 5 has 68 neighbours.
        beta: > 0; larger values respect weak boundaries more.
        steps: >= 0.

    Returns:
        float32, the shape of `maps`.

    Not differentiable. The CPU kernel gives the same bits with any number of threads.
    Raises ValueError, naming the argument and what it got; the values of edge are only looked at on the CPU, outside of
    compiled graphs.
    Source: IRN (Ahn, Cho and Kwak, CVPR 2019), section 4.3, eqs. 7 and 8, and its public code; AMN uses it unchanged.

    >>> maps = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    >>> random_walk(maps, torch.tensor([[0.0, 0.0, 1.0, 0.0]]))
    tensor([[[0.5000, 0.5000, 0.0000, 0.0000]]])
    """
    _check(maps, edge, radius, beta, steps)
    if maps.dim() == 3:
        maps, edge = maps.unsqueeze(0), edge.unsqueeze(0)
        return _op(
            maps.to(torch.float32), edge.to(torch.float32), radius, float(beta), steps
        ).squeeze(0)
    return _op(maps.to(torch.float32), edge.to(torch.float32), radius, float(beta), steps)


def _check(maps: Tensor, edge: Tensor, radius: int, beta: float, steps: int) -> None:
    op = "random_walk"
    if maps.dim() not in (3, 4) or not maps.is_floating_point():
        raise ValueError(
            f"{op}: maps is {maps.dtype} {list(maps.shape)}; must be floating [K, h, w] or [B, K, h, w]"
        )
    if edge.dim() != maps.dim() - 1 or not edge.is_floating_point():
        wanted = "[h, w]" if maps.dim() == 3 else "[B, h, w]"
        raise ValueError(
            f"{op}: edge is {edge.dtype} {list(edge.shape)}; must be floating {wanted}"
        )
    if edge.shape != maps.shape[:-3] + maps.shape[-2:]:
        raise ValueError(
            f"{op}: maps is {list(maps.shape)} but edge is {list(edge.shape)}; B, h and w must match"
        )
    if edge.device != maps.device:
        raise ValueError(f"{op}: maps is on {maps.device} but edge is on {edge.device}")
    if isinstance(radius, bool) or not isinstance(radius, int) or not 1 <= radius <= MAX_RADIUS:
        raise ValueError(f"{op}: radius is {radius!r}; must be an integer in 1..{MAX_RADIUS}")
    if not 0 < beta < math.inf:
        raise ValueError(f"{op}: beta is {beta}; must be finite and > 0")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"{op}: steps is {steps!r}; must be an integer >= 0")
    if not edge.numel() or not can_inspect_values(edge):
        return
    low, high = (v.item() for v in edge.detach().aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"{op}: edge spans {low:g}..{high:g}; must be within 0..1 (apply a sigmoid to logits)"
        )
