"""IRN's training loss: which pixel pairs belong together, and where the centre of their object lies, read off seed labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from wsss_fast.data.images import IGNORE
from wsss_fast.engine import distributed
from wsss_fast.errors import InputError
from wsss_fast.ops.reference.random_walk import path

_EPSILON = 1e-5


class RelationLosses(NamedTuple):
    """Scalars, float32 (float64 for float64 logits).

    Attributes:
        positive: -log affinity over pairs of one label; mean of the means over background and over foreground pairs.
        negative: -log (1 - affinity) over pairs of different labels.
        foreground: distance of a foreground pair's displacements from their true offset, cells.
        background: distance of a background pair's displacements from each other, cells.
    """

    positive: Tensor
    negative: Tensor
    foreground: Tensor
    background: Tensor

    def total(self) -> Tensor:
        """(positive + negative) / 2 + (foreground + background) / 2."""
        return (self.positive + self.negative) / 2 + (self.foreground + self.background) / 2


class Pairs(NamedTuple):
    """All pairs of one offset in a grid whose margin has room for every offset.

    Attributes:
        offset: (dy, dx), cells from the source to the target.
        affinity: 1 - the highest boundary on the path between them, both ends included, [B, n].
        displacement: of the source minus of the target, [B, 2, n].
        source: label of the source, [B, n].
        target: label of the target, [B, n].
    """

    offset: tuple[int, int]
    affinity: Tensor
    displacement: Tensor
    source: Tensor
    target: Tensor


def offsets(radius: int) -> list[tuple[int, int]]:
    """Half of the offsets (dy, dx) shorter than `radius`, one of each opposite two; 34 for radius 5, 152 for 10."""
    span = range(1 - radius, radius)
    return [
        (y, x)
        for y in range(radius)
        for x in span
        if (y > 0 or x > 0) and y * y + x * x < radius * radius
    ]


def pairs(edge: Tensor, displacement: Tensor, labels: Tensor, radius: int) -> Iterator[Pairs]:
    """Every pair within `radius` whose source lies `radius - 1` cells inside the left, right and lower border.

    Args:
        edge: [B, h, w] boundary probabilities, 0..1.
        displacement: [B, 2, h, w], cells.
        labels: [B, h, w], 0..C and 255.
        radius: cells; as in the public code a pair is shorter than this.

    Raises:
        InputError: the grid has no room for the radius.
    """
    height, width = edge.shape[-2:]
    reach = radius - 1
    rows, columns = height - reach, width - 2 * reach
    if radius < 2 or rows < 1 or columns < 1:
        raise InputError(
            f"radius: got {radius}, but a grid of {height}x{width} cells (a quarter of the crop) has room for "
            f"2..{min(height, (width - 1) // 2 + 1)}"
        )

    def at(values: Tensor, y: int, x: int) -> Tensor:
        """What lies (y, x) from each source, [..., n]."""
        return values[..., y : y + rows, reach + x : reach + x + columns].flatten(-2)

    number = torch.arange(height * width, device=edge.device).view(height, width)
    for offset in offsets(radius):
        with torch.no_grad():  # only the highest cell of a path gets a gradient
            best = at(edge, 0, 0)
            where = at(number, 0, 0).expand_as(best)
            for cell in path(*offset):
                value = at(edge, *cell)
                where = torch.where(value > best, at(number, *cell), where)
                best = torch.maximum(best, value)
        affinity = 1 - edge.flatten(1).gather(1, where)
        yield Pairs(
            offset,
            affinity,
            at(displacement, 0, 0) - at(displacement, *offset),
            at(labels, 0, 0),
            at(labels, *offset),
        )


def relation_losses(
    edge_logits: Tensor, displacement: Tensor, labels: Tensor, radius: int = 10
) -> RelationLosses:
    """Losses of IRN's two branches against seed labels; pairs with an ignored end count nowhere, an empty group gives 0.

    Args:
        edge_logits: [B, 1, h, w].
        displacement: [B, 2, h, w], (dy, dx) in cells.
        labels: uint8 or int64 [B, h, w] of 0 background, 1..C and 255.
        radius: of the pairs, cells.

    Raises:
        InputError: the grid has no room for the radius.

    Source: IRN (Ahn, Cho and Kwak, CVPR 2019), eqs. 2-6, with its public code's constants.
    """
    if edge_logits.shape[-2:] != labels.shape[-2:]:
        raise ValueError(
            f"relation_losses: edge_logits is {list(edge_logits.shape)} but labels is {list(labels.shape)}; "
            "h and w must match"
        )
    dtype = torch.promote_types(
        edge_logits.dtype, torch.float32
    )  # autocast hands half precision over
    edge, displacement = edge_logits.to(dtype).sigmoid()[:, 0], displacement.to(dtype)
    # Positive pairs of background, of foreground, negative pairs, displacements of foreground, of background.
    sums, counts = edge.new_zeros(5), edge.new_zeros(5)
    for pair in pairs(edge, displacement, labels, radius):
        known = (pair.source != IGNORE) & (pair.target != IGNORE)
        same = known & (pair.source == pair.target)
        background, foreground, different = (
            same & (pair.source == 0),
            same & (pair.source != 0),
            known & ~same,
        )
        attract, repel = -(pair.affinity + _EPSILON).log(), -(1 + _EPSILON - pair.affinity).log()
        truth = pair.displacement.new_tensor(pair.offset)[:, None]
        off_truth, off_zero = ((pair.displacement - d).abs().sum(1) for d in (truth, 0.0))
        terms = (
            (attract, background),
            (attract, foreground),
            (repel, different),
            (off_truth, foreground),
            (off_zero, background),
        )
        sums = sums + torch.stack([values.masked_fill(~mask, 0).sum() for values, mask in terms])
        counts = counts + torch.stack([mask.sum() for _, mask in terms])
    counts = distributed.all_reduce_mean(
        counts
    )  # of several processes, so that the mean of their losses is that of the whole batch
    background, foreground, negative, off_truth, off_zero = sums / (
        counts * counts.new_tensor([1, 1, 1, 2, 2]) + _EPSILON
    )
    return RelationLosses((background + foreground) / 2, negative, off_truth, off_zero)
