"""IRN's random walk, which spreads class maps up to boundaries: schema, fake, public function."""

import torch
from torch import Tensor

from ._arguments import FLOATING, argument_error, check_device, is_floating, is_integer, is_number
from ._library import call, can_inspect_values, define
from .reference.random_walk import random_walk as reference_walk

MAX_STEPS = 1_000_000
MAX_RADIUS = 32  # 3,204 neighbours; the same as in csrc/math/random_walk.h


def _reference(maps, edge, radius, beta, steps):
    # In float32 the rounding errors of the sums would repeat in every step and add up to 1e-3.
    out = reference_walk(maps.double(), edge.double(), radius=radius, beta=beta, steps=steps)
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

    With a_ij = 1 - (maximum of edge on the path from i to j, both ends included) for cells nearer
    than `radius`, a_ii = 1 and otherwise a_ij = 0:

        out = (maps * (1 - edge)) T^steps,  T_ij = a_ij^beta / sum_i a_ij^beta

    A path is every cell of the rectangle between i and j that is nearer than 1 to the straight
    line. So every step replaces a cell by a weighted mean of the cells around it. The public code
    squares the dense matrix T eight times; here the sparse steps are applied one by one.

    Not differentiable. The CPU kernel gives the same bits for any number of threads.

    Args:
        maps: [K, h, w], or [B, K, h, w] with one edge map for each image; floating point, of any
            range; a NaN spreads within its map.
        edge: [h, w], or [B, h, w]; floating point, from 0 (no boundary) to 1.
        radius: distance of the farthest neighbours in cells, 1..32; 5 has 68 neighbours.
        beta: exponent, > 0; larger values respect weak boundaries more.
        steps: number of steps, 0..1,000,000.

    Returns:
        float32, the shape of `maps`.

    Raises:
        ValueError: a wrong argument, with its name and value; the values of edge are only checked
            on the CPU, outside of compiled graphs.

    Source: IRN (Ahn, Cho and Kwak, CVPR 2019), section 4.3, eqs. 7 and 8, and its public code; AMN
    uses it unchanged.

    >>> maps = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    >>> random_walk(maps, torch.tensor([[0.0, 0.0, 1.0, 0.0]]))
    tensor([[[0.5000, 0.5000, 0.0000, 0.0000]]])
    """
    _check(maps, edge, radius, beta, steps)
    single = maps.dim() == 3
    if single:
        maps, edge = maps.unsqueeze(0), edge.unsqueeze(0)
    out = call(_op, maps.to(torch.float32), edge.to(torch.float32), radius, float(beta), steps)
    return out.squeeze(0) if single else out


def _check(maps: Tensor, edge: Tensor, radius: int, beta: float, steps: int) -> None:
    op = "random_walk"
    if not is_floating(maps, 3, 4):
        raise argument_error(op, "maps", maps, f"{FLOATING} [K, h, w] or [B, K, h, w]")
    if not is_floating(edge, maps.dim() - 1):
        shape = "[h, w]" if maps.dim() == 3 else "[B, h, w]"
        raise argument_error(op, "edge", edge, f"{FLOATING} {shape}")
    if edge.shape != maps.shape[:-3] + maps.shape[-2:]:
        raise ValueError(
            f"{op}: maps is {list(maps.shape)} but edge is {list(edge.shape)}; "
            "B, h and w must match"
        )
    check_device(op, "maps", maps, edge=edge)
    if not is_integer(radius) or not 1 <= radius <= MAX_RADIUS:
        raise argument_error(op, "radius", radius, f"an integer in 1..{MAX_RADIUS}")
    if not is_number(beta) or beta <= 0:
        raise argument_error(op, "beta", beta, "a finite number > 0")
    if not is_integer(steps) or not 0 <= steps <= MAX_STEPS:
        raise argument_error(op, "steps", steps, f"an integer >= 0, at most {MAX_STEPS}")
    if not edge.numel() or not can_inspect_values(edge):
        return
    low, high = (v.item() for v in edge.detach().aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"{op}: edge spans {low:g}..{high:g}; must be within 0..1 (apply a sigmoid to logits)"
        )
