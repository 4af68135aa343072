"""Gaussian filter on a permutohedral lattice in plain PyTorch: the definition, and the fallback."""

import math

import torch
from torch import Tensor

__all__ = ["lattice_filter", "permutohedral_filter", "permutohedral_lattice"]

Lattice = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def permutohedral_lattice(features: Tensor) -> Lattice:
    """The lattice of N points: row, weight, entry, first, next, previous, as in `ops.lattice`.

    Only vertices of simplices that hold a point exist; they are numbered by their coordinates.

    pydensecrf fills its last block of four points with zero features, which create vertices too.
    Vertices decide where the blur can pass, so for equal results the origin's vertices exist here
    as well when 4 does not divide N.

    Args:
        features: [N, d], any floating point dtype, divided by the standard deviations.

    Returns:
        The tensors described in `ops.lattice`; `weight` has the features' dtype.
    """
    points, d = features.shape
    if points % 4:
        features = torch.cat([features, features.new_zeros(1, d)])
    quotient, rank, weight = _enclosing_simplex(features)  # [N, d+1], [N, d+1], [N, d+1]
    # Coordinate j of the simplex' vertex r is (d+1) * a_j + r: all coordinates agree modulo d+1.
    remainder = torch.arange(d + 1, device=features.device)
    wraps = rank[:, None, :d] > d - remainder[:, None]  # [N, d+1, d]
    a = quotient[:, None, :d] - wraps.long()
    corners = torch.cat([a, remainder.expand(len(features), d + 1)[..., None]], -1).reshape(
        -1, d + 1
    )
    table = _RowTable(corners)
    vertices = corners.new_zeros(table.count, d + 1)  # [M, d+1]
    vertices[table.number] = corners

    here = torch.arange(table.count, device=features.device, dtype=torch.int32)
    next_ = here.new_full((d + 1, table.count), -1)
    previous = next_.clone()
    # One step along direction j: -1 on every coordinate, then +(d+1) on coordinate j (the last
    # direction has none).
    wrapped = vertices[:, d] == 0
    step = torch.cat(
        [-wrapped.long()[:, None].expand(-1, d), torch.where(wrapped, d, -1)[:, None]], 1
    )
    for j in range(d + 1):
        target = vertices + step
        if j < d:
            target[:, j] += 1
        ahead = table.find(target)
        found = ahead >= 0
        next_[j] = ahead
        previous[j, ahead[found]] = here[found]

    row = table.number.reshape(-1, d + 1)[:points].to(torch.int32)
    entry = torch.argsort(row.flatten(), stable=True).to(torch.int32)
    sizes = torch.bincount(row.flatten(), minlength=table.count)
    first = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]).to(torch.int32)
    return row, weight[:points].contiguous(), entry, first, next_, previous


def lattice_filter(
    row: Tensor,
    weight: Tensor,
    entry: Tensor,
    first: Tensor,
    next: Tensor,
    previous: Tensor,
    values: Tensor,
    reverse: bool,
) -> Tensor:
    """Splat `values` [N, c] onto the lattice, blur along its directions, slice: [N, c].

    The directions are 0..d, or d..0 if `reverse`. Computes in the dtype of `values` and is
    differentiable in them.
    """
    d = row.shape[1] - 1
    count = first.numel() - 1
    weight = weight.to(values.dtype)
    lattice = values.new_zeros(count, values.shape[1])  # [M, c]
    for r in range(d + 1):
        lattice = lattice.index_add(0, row[:, r], values * weight[:, r, None])
    # A missing neighbour, -1, is the row of zeros after the M vertices.
    zeros = values.new_zeros(1, values.shape[1])
    directions = range(d, -1, -1) if reverse else range(d + 1)
    for j in directions:
        padded = torch.cat([lattice, zeros])  # [M+1, c]
        ahead, behind = (torch.where(n[j] < 0, count, n[j]) for n in (next, previous))
        lattice = lattice + 0.5 * (padded.index_select(0, ahead) + padded.index_select(0, behind))
    out = torch.zeros_like(values)
    for r in range(d + 1):
        out = out + lattice.index_select(0, row[:, r]) * weight[:, r, None]
    return out / (1.0 + 2.0**-d)


def permutohedral_filter(features: Tensor, values: Tensor) -> Tensor:
    """The definition of `wsss_fast.ops.permutohedral_filter`: same arguments, without checks."""
    return lattice_filter(*permutohedral_lattice(features), values, False)


class _RowTable:
    """Numbers the distinct rows of an integer matrix, and looks rows up.

    The coordinates of a row are packed into one int64 key. Before a coordinate that no longer fits,
    the key so far is replaced by its number among the distinct keys, so that rows may have any
    number of coordinates.
    """

    def __init__(self, rows: Tensor):
        # For each column: lowest value, number of values, distinct keys replaced before it or None.
        self.columns: list[tuple[int, int, Tensor | None]] = []
        key = rows.new_zeros(len(rows))
        size = 1
        for column in rows.unbind(1):
            low, high = (int(v) for v in column.aminmax()) if len(rows) else (0, 0)
            prefixes = None
            if size * (high - low + 1) >= 2**63:
                prefixes, key = torch.unique(key, return_inverse=True)
                size = len(prefixes)
            self.columns.append((low, high - low + 1, prefixes))
            key = key * (high - low + 1) + (column - low)
            size *= high - low + 1
        self.keys, self.number = torch.unique(key, return_inverse=True)  # [M] ascending, [rows]
        self.count = len(self.keys)

    def find(self, rows: Tensor) -> Tensor:
        """The number of each row, int32; -1 for rows that are not in the table."""
        key = rows.new_zeros(len(rows))
        known = torch.ones_like(key, dtype=torch.bool)
        for column, (low, extent, prefixes) in zip(rows.unbind(1), self.columns, strict=True):
            if prefixes is not None:
                key = self._place(prefixes, key, known)
            value = column - low
            known &= (value >= 0) & (value < extent)
            key = key * extent + value.clamp(0, extent - 1)
        number = self._place(self.keys, key, known)
        return torch.where(known, number, -1).to(torch.int32)

    @staticmethod
    def _place(ascending: Tensor, key: Tensor, known: Tensor) -> Tensor:
        """Positions of `key` in `ascending`; `known` becomes False where it is missing."""
        place = torch.searchsorted(ascending, key).clamp_(max=max(len(ascending) - 1, 0))
        if len(ascending):
            known &= ascending[place] == key
        return place


def _enclosing_simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The remainder-0 vertex divided by d+1, the coordinates' ranks and the barycentric weights.

    One row for each point; page 5 of Adams, Baek and Davis 2010.
    """
    points, d = features.shape
    # Rounded where pydensecrf rounds: pixels of 8-bit images often lie on a simplex boundary, where
    # one unit in the last place decides between vertices.
    deviation = features.new_tensor(math.sqrt(2.0 / 3.0) * (d + 1)).item()
    scale = [deviation * (1.0 / math.sqrt((i + 1) * (i + 2))) for i in range(d)]
    scaled = features * features.new_tensor(scale)  # [N, d]
    elevated = features.new_zeros(points, d + 1)
    total = features.new_zeros(points)
    for j in range(d, 0, -1):
        elevated[:, j] = total - j * scaled[:, j - 1]
        total = total + scaled[:, j - 1]
    elevated[:, 0] = total
    rounded = torch.round(elevated * (1.0 / (d + 1)))
    excess = rounded.sum(1).long()  # [N]
    delta = elevated - rounded * (d + 1)
    rank = torch.zeros(points, d + 1, dtype=torch.long, device=features.device)
    for i in range(d):
        for j in range(i + 1, d + 1):
            below = (delta[:, i] < delta[:, j]).long()
            rank[:, i] += below
            rank[:, j] += 1 - below
    # Rounding may leave the plane sum(x) = 0; move the coordinates that were rounded furthest.
    rank = rank + excess[:, None]
    quotient = rounded.long() + (rank < 0).long() - (rank > d).long()
    rank = rank % (d + 1)
    offset = (elevated - (quotient * (d + 1)).to(elevated.dtype)) * (1.0 / (d + 1))
    weight = features.new_zeros(points, d + 2)
    weight.scatter_add_(1, d - rank, offset)
    weight.scatter_add_(1, d + 1 - rank, -offset)
    weight[:, 0] += 1.0 + weight[:, d + 1]
    return quotient, rank, weight[:, : d + 1]
