"""IRN's training loss: affinities and displacements of pairs of pixels, supervised by seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from wsss_fast.engine import distributed
from wsss_fast.errors import InputError
from wsss_fast.ops.reference.random_walk import path
from wsss_fast.readers.label_maps import IGNORE

_EPSILON = 1e-5


class RelationLosses(NamedTuple):
    """Scalars, float32 (float64 for float64 logits).

    Attributes:
        positive: -log affinity over pairs of equal labels: the mean of the means over background
            and over foreground pairs.
        negative: mean of -log (1 - affinity) over pairs of different labels.
        foreground: mean distance of the difference of a foreground pair's displacements from the
            pair's offset, in cells.
        background: mean distance between the displacements of a background pair, in cells.
    """

    positive: Tensor
    negative: Tensor
    foreground: Tensor
    background: Tensor

    def total(self) -> Tensor:
        """(positive + negative) / 2 + (foreground + background) / 2."""
        return (self.positive + self.negative) / 2 + (self.foreground + self.background) / 2


class Pairs(NamedTuple):
    """All pairs with one offset.

    Attributes:
        offset: (dy, dx), in cells, from the source to the target.
        affinity: 1 - the highest boundary probability on the path between them, including both
            ends, [B, n].
        displacement: displacement of the source minus that of the target, [B, 2, n].
        source: label of the source, [B, n].
        target: label of the target, [B, n].
    """

    offset: tuple[int, int]
    affinity: Tensor
    displacement: Tensor
    source: Tensor
    target: Tensor


def offsets(radius: int) -> list[tuple[int, int]]:
    """Offsets (dy, dx) shorter than `radius`, one of each two opposite ones.

    There are 34 for radius 5, and 152 for radius 10.
    """
    span = range(1 - radius, radius)
    return [
        (y, x)
        for y in range(radius)
        for x in span
        if (y > 0 or x > 0) and y * y + x * x < radius * radius
    ]


def pairs(edge: Tensor, displacement: Tensor, labels: Tensor, radius: int) -> Iterator[Pairs]:
    """Yield the pairs of each offset shorter than `radius`.

    Sources are the cells from which every offset stays in the grid: those at least `radius - 1`
    cells from the left, right and lower border.

    Args:
        edge: boundary probabilities, [B, h, w] in 0..1.
        displacement: displacements in cells, [B, 2, h, w].
        labels: seed labels, [B, h, w] of 0..C and 255.
        radius: distance in cells below which two cells form a pair, as in the public code.

    Raises:
        InputError: the grid is too small for the radius.
    """
    height, width = edge.shape[-2:]
    reach = radius - 1
    rows, columns = height - reach, width - 2 * reach
    if radius < 2 or rows < 1 or columns < 1:
        raise InputError(
            f"radius: got {radius}, but a grid of {height}x{width} cells (a quarter of the crop) "
            f"allows 2..{min(height, (width - 1) // 2 + 1)}"
        )

    def at(values: Tensor, y: int, x: int) -> Tensor:
        """Values at (y, x) from each source, [..., n]."""
        return values[..., y : y + rows, reach + x : reach + x + columns].flatten(-2)

    number = torch.arange(height * width, device=edge.device).view(height, width)
    for offset in offsets(radius):
        with torch.no_grad():  # only the highest cell of a path gets a gradient
            highest = at(edge, 0, 0)
            cell_number = at(number, 0, 0).expand_as(highest)
            for cell in path(*offset):
                value = at(edge, *cell)
                cell_number = torch.where(value > highest, at(number, *cell), cell_number)
                highest = torch.maximum(highest, value)
        affinity = 1 - edge.flatten(1).gather(1, cell_number)
        yield Pairs(
            offset,
            affinity,
            at(displacement, 0, 0) - at(displacement, *offset),
            at(labels, 0, 0),
            at(labels, *offset),
        )


def _grid(radius: int, like: Tensor) -> Tensor:
    """Offset (dy, dx) at [:, dy, dx + radius - 1], [2, radius, 2 * radius - 1].

    Computed where it is used: a copy of the numbers to a GPU would wait for it.
    """
    rows = torch.arange(radius, dtype=like.dtype, device=like.device)
    columns = torch.arange(1 - radius, radius, dtype=like.dtype, device=like.device)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


def relation_losses(
    edge_logits: Tensor, displacement: Tensor, labels: Tensor, radius: int = 10
) -> RelationLosses:
    """Losses of IRN's two branches against seed labels. Collective.

    Pairs with an ignored end are not counted; the mean over no pairs is 0.

    Args:
        edge_logits: boundary logits, [B, 1, h, w].
        displacement: displacements (dy, dx) in cells, [B, 2, h, w].
        labels: seed labels, uint8 or int64 [B, h, w]: 0 background, 1..C, 255 ignored.
        radius: distance in cells below which two cells form a pair.

    Raises:
        InputError: the grid is too small for the radius.
        ValueError: the shapes do not match.

    Source: IRN (Ahn, Cho and Kwak, CVPR 2019), eqs. 2-6, with its public code's constants.
    """
    if edge_logits.shape[-2:] != labels.shape[-2:]:
        raise ValueError(
            f"relation_losses: edge_logits is {list(edge_logits.shape)} but labels is "
            f"{list(labels.shape)}; h and w must match"
        )
    # Under autocast the logits have half precision.
    dtype = torch.promote_types(edge_logits.dtype, torch.float32)
    edge, displacement = edge_logits.to(dtype).sigmoid()[:, 0], displacement.to(dtype)
    # Positive pairs of background, of foreground, negative pairs, displacements of foreground, of
    # background.
    sums, counts = edge.new_zeros(5), edge.new_zeros(5)
    grid = _grid(radius, displacement)
    for pair in pairs(edge, displacement, labels, radius):
        labelled = (pair.source != IGNORE) & (pair.target != IGNORE)
        same = labelled & (pair.source == pair.target)
        background, foreground = same & (pair.source == 0), same & (pair.source != 0)
        different = labelled & ~same
        attract, repel = -(pair.affinity + _EPSILON).log(), -(1 + _EPSILON - pair.affinity).log()
        y, x = pair.offset
        offset = grid[:, y, x + radius - 1, None]
        from_offset, from_zero = ((pair.displacement - d).abs().sum(1) for d in (offset, 0.0))
        terms = (
            (attract, background),
            (attract, foreground),
            (repel, different),
            (from_offset, foreground),
            (from_zero, background),
        )
        sums = sums + torch.stack([values.masked_fill(~mask, 0).sum() for values, mask in terms])
        counts = counts + torch.stack([mask.sum() for _, mask in terms])
    # Mean counts of all processes, so that the mean of their losses is that of the whole batch.
    counts = distributed.all_reduce_mean(counts)
    # A displacement has two components.
    denominators = torch.cat([counts[:3], 2 * counts[3:]]) + _EPSILON
    positive_bg, positive_fg, negative, displacement_fg, displacement_bg = sums / denominators
    positive = (positive_bg + positive_fg) / 2
    return RelationLosses(positive, negative, displacement_fg, displacement_bg)
