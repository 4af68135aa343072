"""IRN's random walk in plain PyTorch: 256 sparse steps, each a sum of shifted maps."""

import torch
from torch import Tensor

__all__ = ["random_walk"]


def random_walk(
    maps: Tensor, edge: Tensor, *, radius: int = 5, beta: float = 10.0, steps: int = 256
) -> Tensor:
    """The definition of `wsss_fast.ops.random_walk`: same arguments, without checks.

    Returns the dtype of the maps and computes in it, but for half precisions in float64.
    """
    dtype = maps.dtype
    if dtype.itemsize == 2:
        maps = maps.double()
    edge = edge.to(maps.dtype)
    reach, (height, width) = radius - 1, edge.shape[-2:]
    span = range(-reach, reach + 1)
    offsets = [(y, x) for y in span for x in span if y * y + x * x < radius * radius]

    def at(padded: Tensor, y: int, x: int) -> Tensor:
        """For every cell the value of the cell displaced by (y, x)."""
        return padded[..., reach + y : reach + y + height, reach + x : reach + x + width]

    walls = torch.nn.functional.pad(edge, [reach] * 4, value=1.0)  # no path leaves the map

    def affinity_to(y: int, x: int) -> Tensor:
        if (y, x) == (0, 0):
            return torch.ones_like(edge)
        return (1 - torch.stack([at(walls, *cell) for cell in path(y, x)]).amax(0)) ** beta

    affinity = torch.stack([affinity_to(y, x) for y, x in offsets])
    transition = affinity / affinity.sum(0)  # [offsets, ..., h, w]
    field = maps * (1 - edge.unsqueeze(-3))
    for _ in range(steps):
        around = torch.nn.functional.pad(field, [reach] * 4)
        field = torch.zeros_like(field)
        for weight, offset in zip(transition, offsets, strict=True):
            field += weight.unsqueeze(-3) * at(around, *offset)
    return field.to(dtype)


def path(y: int, x: int) -> list[tuple[int, int]]:
    """The cells from (0, 0) to (y, x), both included, nearer than 1 to the straight line."""
    rows, columns = range(min(0, y), max(0, y) + 1), range(min(0, x), max(0, x) + 1)
    return [(v, u) for v in rows for u in columns if (y * u - x * v) ** 2 < y * y + x * x]
