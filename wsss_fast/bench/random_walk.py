"""random_walk, 256 steps of radius 5, against the eager reference, scipy and the dense matrix.

A grid of 128x96 is that of an image of 512x384. eager is the reference in float64, the baseline.
scipy computes the same steps with a sparse matrix in float32 and one thread, including the matrix.
dense squares the matrix eight times, as the public code does; it is left out at 128x96, where that
took 191 s on two cores. The roofline is the multiply-adds of all steps that stay on the map; the
plain call is a matrix product, since the data stay in the caches.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from wsss_fast import ops
from wsss_fast.bench.harness.roofline import Roofline, matmul
from wsss_fast.bench.harness.suite import EAGER, OURS, Implementation, Input, Suite
from wsss_fast.ops.reference.random_walk import path
from wsss_fast.ops.reference.random_walk import random_walk as reference_walk

try:
    from scipy import sparse
except ImportError:  # optional; a note below the table says so
    sparse = None

# The defaults. The dense implementation doubles the steps: 256 are 8 squarings.
_RADIUS, _BETA, _STEPS = 5, 10.0, 256
_ERROR = 1e-3  # of the largest value: required of float32 against the dense float64 result


@dataclasses.dataclass(frozen=True)
class Grid:
    """Shape of the maps [K, h, w]; whether the dense transition matrix is small enough."""

    maps: tuple[int, int, int]
    dense: bool = False


ROWS = {
    "tiny3": ("32x24, 3 maps", Grid((3, 32, 24), dense=True)),
    **{f"irn{k}": (f"128x96, {k} map{'s' * (k > 1)}", Grid((k, 128, 96))) for k in range(1, 6)},
}


def suite() -> Suite:
    notes = [
        "dense is only measured at 32x24: at 128x96 the public code's took 191 s on two cores."
    ]
    if sparse is None:
        notes.append("scipy is not installed.")
    return Suite(
        name="random_walk",
        op="random_walk",
        title=f"Random walk, radius {_RADIUS}, {_STEPS} steps",
        rows={key: text for key, (text, _) in ROWS.items()},
        quick=("tiny3", "irn3"),
        make=lambda key, number: make(ROWS[key][1], number),
        tiny=lambda key: make(dataclasses.replace(ROWS[key][1], maps=(2, 7, 6)), 0),
        implementations=lambda key: implementations(ROWS[key][1]),
        limits={"error": _ERROR},
        roofline=lambda key: least_steps(ROWS[key][1]),
        notes=tuple(notes),
    )


def make(grid: Grid, number: int) -> Input:
    """Maps of a few blobs, and an edge map of thin, partly open boundaries."""
    k, height, width = grid.maps
    generator = torch.Generator().manual_seed(number)
    low = torch.randn(1, k + 1, 6, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(low, (height, width), mode="bicubic")[0]
    edge = torch.exp(-(8 * smooth[-1]).square()) * torch.rand(height, width, generator=generator)
    return smooth[:-1].clamp(min=0), edge


def implementations(grid: Grid) -> dict[str, Implementation]:
    """Ours, the reference in float64, scipy's sparse products, and the dense matrix if small."""
    found = {
        OURS: Implementation(lambda maps, edge: ops.random_walk(maps, edge)),
        EAGER: Implementation(lambda maps, edge: reference_walk(maps.double(), edge.double())),
    }
    if sparse is not None:
        found["scipy"] = Implementation(by_sparse_steps, on_cpu=True)
    if grid.dense:
        found["dense"] = Implementation(by_squaring)
    return found


def transition(edge: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Entries T[i, j] of the sparse matrix as i, j, value; every column sums to 1.

    Cells are numbered row by row. The path from a cell to the one displaced by (y, x) is also the
    way back, so only one half is computed.
    """
    height, width = edge.shape
    cells = torch.arange(height * width, device=edge.device).view(height, width)
    places, values = [torch.stack([cells.flatten()] * 2)], [torch.ones_like(edge).flatten()]
    for y, x in _half_of_the_neighbours(height, width):
        left = max(0, -x)

        def at(plane: Tensor, v: int, u: int, y: int = y, x: int = x, left: int = left) -> Tensor:
            return plane[v : v + height - y, left + u : left + u + width - abs(x)]

        wall = torch.stack([at(edge, v, u) for v, u in path(y, x)]).amax(0).flatten()
        pair = torch.stack([at(cells, 0, 0).flatten(), at(cells, y, x).flatten()])
        places += [pair, pair.flip(0)]
        values += [(1 - wall) ** _BETA] * 2
    (i, j), value = torch.cat(places, 1), torch.cat(values)
    return i, j, value / torch.zeros_like(edge).flatten().index_add_(0, j, value)[j]


def _half_of_the_neighbours(height: int, width: int) -> list[tuple[int, int]]:
    """Displacements (y, x) within radius and map, only one of two opposite ones."""
    return [
        (y, x)
        for y in range(min(_RADIUS, height))
        for x in range(-_RADIUS + 1, _RADIUS)
        if (y > 0 or x > 0) and y * y + x * x < _RADIUS * _RADIUS and abs(x) < width
    ]


def by_sparse_steps(maps: Tensor, edge: Tensor) -> Tensor:
    """256 products with scipy's sparse matrix."""
    i, j, value = (t.numpy() for t in transition(edge))
    matrix = sparse.csr_matrix((value, (j, i)))  # transposed: maps are columns
    field = (maps * (1 - edge)).flatten(1).T.contiguous().numpy()
    for _ in range(_STEPS):
        field = matrix @ field
    return torch.from_numpy(field).T.reshape(maps.shape)


def by_squaring(maps: Tensor, edge: Tensor) -> Tensor:
    """The dense matrix squared eight times."""
    i, j, value = transition(edge)
    matrix = torch.zeros(edge.numel(), edge.numel(), device=edge.device).index_put_((i, j), value)
    for _ in range(_STEPS.bit_length() - 1):
        matrix = matrix @ matrix
    return ((maps * (1 - edge)).flatten(1) @ matrix).view(maps.shape)


def least_steps(grid: Grid) -> Roofline:
    """A multiply-add for every map, step and pair of cells nearer than the radius."""
    k, height, width = grid.maps
    reach = range(-_RADIUS + 1, _RADIUS)
    pairs = sum(
        max(0, height - abs(y)) * max(0, width - abs(x))
        for y in reach
        for x in reach
        if y * y + x * x < _RADIUS**2
    )
    return dataclasses.replace(matmul(1024, 1024, 1024), work=2.0 * _STEPS * k * pairs)
