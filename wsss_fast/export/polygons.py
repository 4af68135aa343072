"""Outlines of regions as polygons in pixel edges, and their simplification.

A vertex is a corner of pixels: pixel (y, x) lies between the vertices (x, y) and (x + 1, y + 1).
Rings are closed without repeating their first vertex. On the screen, outer rings run clockwise and
begin with their top left vertex; rings of holes run counterclockwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Number of the vertex after which pieces are inserted, what orders those of one side, the pieces.
_Cut = tuple[int, int, list[np.ndarray]]


class Outline(NamedTuple):
    """The rings of a region.

    Attributes:
        outer: vertices (x, y), [N, 2], N >= 3.
        holes: the same for each hole.
    """

    outer: np.ndarray
    holes: list[np.ndarray]


class _Sides(NamedTuple):
    """Straight parts of outlines: all horizontal ones, or all vertical ones.

    Attributes:
        region: number of the region, int64 [N].
        begin: vertex y * (W + 1) + x at which a side begins in the direction of its ring, int64.
        end: vertex at which it ends, int64.
        forward: whether it runs right or down, bool.
    """

    region: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    forward: np.ndarray


def outlines(region: np.ndarray, connectivity: int = 4) -> list[Outline]:
    """The outline of every region.

    Where two pixels of a region share only a corner, the ring follows the same pixel with
    connectivity 4, so that background on both sides of the corner is one; with connectivity 8 it
    crosses to the other pixel.

    Args:
        region: numbers of connected regions, int [H, W]: 0 none, 1..N; see `regions.regions`.
        connectivity: 4 or 8, as for `regions.regions`.

    Returns:
        Outlines of the regions 1..N, int64 vertices.
    """
    padded = np.zeros((region.shape[0] + 2, region.shape[1] + 2), np.int32)
    padded[1:-1, 1:-1] = region
    level, upright = _level_sides(padded), _upright_sides(padded)
    turn_right = connectivity == 4
    after = _followers(upright, level, turn_right)[_followers(level, upright, not turn_right)]
    order, lengths = _rings(after)
    stride = region.shape[1] + 1
    vertices = np.stack((level.begin[order], level.end[order]), axis=1).reshape(-1)
    points = np.stack((vertices % stride, vertices // stride), axis=1)
    bounds = np.cumsum([0, *lengths])
    of_region = level.region[order[bounds[:-1]]].tolist()
    found: list[Outline] = []
    for number, low, high in zip(of_region, 2 * bounds[:-1], 2 * bounds[1:], strict=True):
        if number > len(found):  # the ring with the top left vertex of a region is its outer one
            found.append(Outline(points[low:high], []))
        else:
            found[-1].holes.append(points[low:high])
    return found


def _level_sides(padded: np.ndarray) -> _Sides:
    """Horizontal sides, by region and then row by row."""
    region, low, high, forward = _runs(padded)
    begin, end = np.where(forward, low, high), np.where(forward, high, low)
    order = np.lexsort((low, region))
    return _Sides(*(part[order] for part in (region, begin, end, forward)))


def _upright_sides(padded: np.ndarray) -> _Sides:
    """Vertical sides."""
    height, width = padded.shape[0] - 1, padded.shape[1] - 1  # numbers of vertices
    region, low, high, is_left = _runs(padded.T)
    low, high = (v % height * width + v // height for v in (low, high))
    # The left side of a region runs up.
    return _Sides(region, np.where(is_left, high, low), np.where(is_left, low, high), ~is_left)


def _runs(padded: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Horizontal pixel sides between different pixels, as runs along one region.

    Returns:
        Region, first and last vertex row * (columns + 1) + column, and whether the region is below.
    """
    above, below = padded[:-1, 1:], padded[1:, 1:]  # the last column is empty: it ends all runs
    differs = above != below
    parts = []
    for side, of_below in ((below, True), (above, False)):
        flat = np.where(differs, side, 0).reshape(-1)
        bounds = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]))
        low, high = bounds[:-1], bounds[1:]
        inside = flat[low] != 0
        low, high = low[inside], high[inside]
        parts.append((flat[low].astype(np.int64), low, high, np.full(len(low), of_below)))
    region, low, high, is_below = (np.concatenate(pair) for pair in zip(*parts, strict=True))
    return region, low, high, is_below


def _followers(sides: _Sides, others: _Sides, turned: bool) -> np.ndarray:
    """Which of the `others` begins where a side ends.

    Args:
        turned: whether, where two of a region begin, the one is meant that runs forward after a
            side that runs backward; otherwise the one of the same direction.
    """
    size = 1 + max(sides.end.max(initial=0), others.begin.max(initial=0))
    keys = 2 * (others.region * size + others.begin) + others.forward
    wanted = 2 * (sides.region * size + sides.end) + (sides.forward ^ turned)
    order = np.argsort(keys)
    keys = keys[order]
    place = np.searchsorted(keys, wanted)
    is_there = keys[np.minimum(place, len(keys) - 1)] == wanted
    # Elsewhere only one begins, of the other direction: the next key below an odd number.
    return order[np.where(is_there | (wanted % 2 == 0), place, place - 1)]


def _rings(after: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Cycles of a permutation, each from its lowest item: their items, and the lengths."""
    follower: list[int] = after.tolist()
    seen = bytearray(len(follower))
    order: list[int] = []
    lengths: list[int] = []
    for first in range(len(follower)):
        if seen[first]:
            continue
        count, item = len(order), first
        while not seen[item]:
            seen[item] = 1
            order.append(item)
            item = follower[item]
        lengths.append(len(order) - count)
    return np.array(order, np.int64), lengths


def join_holes(outline: Outline) -> tuple[np.ndarray, np.ndarray]:
    """One ring for a region with holes: each hole is joined by a cut of no width.

    A cut runs from the top left vertex of a hole to the left, through the region, to the next side
    of another ring. It is passed in both directions, so that the ring encloses the same pixels.

    Args:
        outline: as `outlines` makes it.

    Returns:
        Vertices int64 [N, 2], and whether each is the end of a cut, bool [N].
    """
    if not outline.holes:
        return outline.outer, np.zeros(len(outline.outer), bool)
    # The second vertex of a hole is its top left one.
    rings = [outline.outer, *(np.roll(hole, -1, axis=0) for hole in outline.holes)]
    starts = np.stack([ring[0] for ring in rings[1:]])
    side, column = _sides_to_the_left(rings, starts)
    first = np.cumsum([0, *map(len, rings)])
    ring_of = np.searchsorted(first, side, side="right") - 1
    inserted: list[list[_Cut]] = [[] for _ in rings]
    # A cut leads to a ring that begins higher, or on its left: the last holes are joined first.
    for n in range(len(starts) - 1, -1, -1):
        x, y = starts[n].tolist()
        there, back = (
            np.array([[column[n], y, 1], [x, y, 1]]),
            np.array([[x, y, 1], [column[n], y, 1]]),
        )
        pieces = [there, *_with_cuts(rings[n + 1], inserted[n + 1]), back]
        inserted[ring_of[n]].append((int(side[n] - first[ring_of[n]]), -y, pieces))
    found = np.concatenate(_with_cuts(rings[0], inserted[0]))
    # A cut may end at a vertex, which is then there several times.
    begins = np.flatnonzero((found[1:, :2] != found[:-1, :2]).any(axis=1)) + 1
    begins = np.append(0, begins)
    points, is_end = found[begins, :2], np.maximum.reduceat(found[:, 2], begins) > 0
    if (points[0] == points[-1]).all():
        is_end[0] |= is_end[-1]
        points, is_end = points[:-1], is_end[:-1]
    return points, is_end


def _sides_to_the_left(
    rings: Sequence[np.ndarray], starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest vertical sides on the left of some vertices, with the region in between.

    Args:
        rings: of a region.
        starts: top left vertices of holes, int64 [N, 2].

    Returns:
        Number of the vertex at which each side begins, among those of all rings, and its x.
    """
    points = np.concatenate(rings)
    x, y = points.T
    bottom, top = y, np.concatenate([np.roll(ring[:, 1], -1) for ring in rings])
    up = np.flatnonzero(top < bottom)  # left sides of the region
    # Each as its pixels' rows, by row and column.
    height = bottom[up] - top[up]
    side = np.repeat(up, height)
    row = (
        np.repeat(top[up], height)
        + np.arange(len(side))
        - np.repeat(np.cumsum(height) - height, height)
    )
    stride = int(x.max()) + 1
    keys = row * stride + x[side]
    order = np.argsort(keys)
    # A cut has pixels of two rows on its sides; the region must not end in either.
    above, below = (
        order[
            np.searchsorted(keys[order], (starts[:, 1] - up_by) * stride + starts[:, 0], "right")
            - 1
        ]
        for up_by in (1, 0)
    )
    found = np.where(x[side[above]] > x[side[below]], side[above], side[below])
    return found, x[found]


def _with_cuts(ring: np.ndarray, cuts: list[_Cut]) -> list[np.ndarray]:
    """Parts of a ring with what is inserted; int64 [n, 3]: x, y, whether it is the end of a cut."""
    marked = np.zeros((len(ring), 3), np.int64)
    marked[:, :2] = ring
    pieces, done = [], 0
    for side, _, inserted in sorted(cuts, key=lambda cut: cut[:2]):
        pieces.append(marked[done : side + 1])
        pieces += inserted
        done = side + 1
    return [*pieces, marked[done:]]


def simplify(
    rings: Sequence[np.ndarray], tolerance: float, fixed: Sequence[np.ndarray] | None = None
) -> list[np.ndarray]:
    """Leave out vertices of rings that are near to the line between those around them.

    Each left out vertex is at most `tolerance` from the side that replaces it. A ring that would
    keep less than three vertices stays as it is. Rings are simplified on their own: neighbours that
    shared a side may overlap or have a gap.

    Args:
        rings: vertices (x, y), [N, 2] each.
        tolerance: in pixels, >= 0.
        fixed: for each ring, the vertices that stay, bool [N]; None: the first of each.

    Source: Ramer (1972), Douglas and Peucker (1973), for all rings at once.
    """
    if not rings:
        return []
    lengths = np.array([len(ring) for ring in rings])
    first = np.cumsum(lengths + 1) - lengths - 1
    points = np.concatenate([part for ring in rings for part in (ring, ring[:1])]).astype(
        np.float64
    )
    kept = np.zeros(len(points), bool)
    if fixed is not None:
        kept = np.concatenate([np.append(one, True) for one in fixed])
    kept[first] = kept[first + lengths] = True
    undecided = np.flatnonzero(~kept)
    while undecided.size:
        ends = np.flatnonzero(kept)
        part = np.searchsorted(ends, undecided) - 1
        distance = _distance(points[undecided], points[ends[part]], points[ends[part + 1]])
        begins = np.flatnonzero(np.diff(part, prepend=-1))
        farthest = np.repeat(
            np.maximum.reduceat(distance, begins), np.diff(begins, append=len(part))
        )
        is_far = farthest > tolerance
        candidates = np.flatnonzero(is_far & (distance == farthest))
        candidates = candidates[np.diff(part[candidates], prepend=-1) > 0]  # one per part
        kept[undecided[candidates]] = True
        undecided = undecided[is_far & ~kept[undecided]]
    simple = (
        ring[kept[at : at + len(ring)]] for ring, at in zip(rings, first.tolist(), strict=True)
    )
    return [new if len(new) >= 3 else ring for new, ring in zip(simple, rings, strict=True)]


def _distance(point: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distance of points from line segments; all [N, 2]."""
    along, offset = end - begin, point - begin
    length = (along**2).sum(axis=1)
    share = (along * offset).sum(axis=1) / np.where(length > 0, length, 1)
    return np.linalg.norm(offset - np.clip(share, 0, 1)[:, None] * along, axis=1)
