"""Outlines of regions as polygons in pixel edges, and their simplification.

A vertex is a corner of pixels: pixel (y, x) lies between the vertices (x, y) and (x + 1, y + 1).
Rings are closed without repeating their first vertex. They begin with their top left vertex; on the
screen, outer rings run clockwise, those of holes counterclockwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

# Vertex after which pieces of a ring are inserted, what orders those of one side, the pieces.
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
    lengths = 2 * lengths
    bounds = np.append(0, np.cumsum(lengths)).tolist()
    first = order[np.array(bounds[:-1], np.int64) // 2]
    vertices = np.stack((level.begin[order], level.end[order]), axis=1).reshape(-1)
    # The highest side of a ring comes first. That of a hole runs left, to the top left vertex.
    is_hole = np.repeat(~level.forward[first], lengths)
    vertices = np.where(is_hole, vertices[_successors(lengths)], vertices)
    points = np.stack((vertices % stride, vertices // stride), axis=1)
    found: list[Outline] = []
    for number, low, high in zip(level.region[first].tolist(), bounds, bounds[1:], strict=False):
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
    stride = padded.shape[1]
    flat = np.ascontiguousarray(padded).reshape(-1)
    different = np.flatnonzero(flat[:-stride] != flat[stride:])
    parts = []
    for offset in (stride, 0):  # the region below, the one above
        value = flat[different + offset]
        place, value = different[value != 0], value[value != 0].astype(np.int64)
        begins = (np.diff(place, prepend=-1) != 1) | (np.diff(value, prepend=0) != 0)
        ends = np.append(begins[1:], True)[: len(begins)]
        # Rows of vertices are one shorter than rows of pixels with the empty ones around them.
        vertex = place - 1 - place // stride
        low, high = vertex[begins], vertex[ends] + 1
        parts.append((value[begins], low, high, np.full(len(low), offset > 0)))
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


def _rings(after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cycles of a permutation, each from its lowest item: their items, and the lengths; int64."""
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
    return np.array(order, np.int64), np.array(lengths, np.int64)


def _successors(lengths: np.ndarray) -> np.ndarray:
    """Place of the next vertex of each one, among all vertices of rings of these lengths."""
    found = np.arange(1, lengths.sum() + 1)
    last = np.cumsum(lengths) - 1
    found[last] = last + 1 - lengths
    return found


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
    rings = [outline.outer, *outline.holes]
    starts = np.stack([hole[0] for hole in outline.holes])
    side, ends = _sides_to_the_left(rings, starts)
    first = np.cumsum([0, *map(len, rings)])
    ring_of = np.searchsorted(first, side, side="right") - 1
    side = side - first[ring_of]
    cuts = np.stack((ends, starts), axis=1)  # [N, 2, 2]
    inserted: list[list[_Cut]] = [[] for _ in rings]
    # A cut leads to a ring that begins higher, or on its left: the last holes are joined first.
    for n in range(len(starts) - 1, -1, -1):
        pieces = [cuts[n], *_with_cuts(rings[n + 1], inserted[n + 1]), cuts[n, ::-1]]
        inserted[ring_of[n]].append((int(side[n]), -int(starts[n, 1]), pieces))
    found = np.concatenate(_with_cuts(rings[0], inserted[0]))
    # A cut may end at a vertex, which is then there several times.
    found = found[(found != np.roll(found, 1, axis=0)).any(axis=1)]
    stride = int(found[:, 0].max()) + 1
    return found, np.isin(found @ [1, stride], cuts.reshape(-1, 2) @ [1, stride])


def _sides_to_the_left(
    rings: Sequence[np.ndarray], starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest vertical sides on the left of some vertices, with the region in between.

    Args:
        rings: of a region.
        starts: top left vertices of holes, int64 [N, 2].

    Returns:
        Place of the vertex at which each side begins, among those of all rings; the point of the
        side that is level with the start, int64 [N, 2].
    """
    x, bottom = np.concatenate(rings).T
    top = bottom[_successors(np.array([len(ring) for ring in rings]))]
    up = np.flatnonzero(top < bottom)  # left sides of the region
    # Each as its pixels, by row and column.
    height = bottom[up] - top[up]
    side = np.repeat(up, height)
    row = np.arange(len(side)) + np.repeat(bottom[up] - np.cumsum(height), height)
    stride = int(x.max()) + 1
    keys = row * stride + x[side]
    order = np.argsort(keys)
    keys, side = keys[order], side[order]
    # Pixels of two rows are beside a cut: it ends where the region ends in either.
    start = starts @ [1, stride]
    below = side[np.searchsorted(keys, start, side="right") - 1]
    above = side[np.searchsorted(keys, start - stride, side="right") - 1]
    nearest = np.where(x[above] > x[below], above, below)
    return nearest, np.stack((x[nearest], starts[:, 1]), axis=1)


def _with_cuts(ring: np.ndarray, cuts: list[_Cut]) -> list[np.ndarray]:
    """Parts of a ring with what is inserted."""
    pieces, done = [], 0
    for side, _, inserted in sorted(cuts, key=lambda cut: cut[:2]):
        pieces.append(ring[done : side + 1])
        pieces += inserted
        done = side + 1
    return [*pieces, ring[done:]]


def simplify(
    rings: Sequence[np.ndarray], tolerance: float, fixed: Mapping[int, np.ndarray] | None = None
) -> list[np.ndarray]:
    """Leave out vertices of rings that are near to the line between those around them.

    Each left out vertex is at most `tolerance` from the side that replaces it. A ring that would
    keep less than three vertices stays as it is. Rings are simplified on their own: neighbours that
    shared a side may overlap or have a gap.

    Args:
        rings: vertices (x, y), [N, 2] each.
        tolerance: in pixels, >= 0.
        fixed: vertices that stay, bool [N], by the place of their ring; the first of each does.

    Source: Ramer (1972), Douglas and Peucker (1973), for all rings at once.
    """
    if not rings:
        return []
    lengths = np.array([len(ring) for ring in rings])
    first = np.cumsum(lengths + 1) - lengths - 1
    closed = np.concatenate([part for ring in rings for part in (ring, ring[:1])])
    points = closed.astype(np.float64)
    kept = np.zeros(len(points), bool)
    for place, stays in (fixed or {}).items():
        kept[first[place] : first[place] + lengths[place]] = stays
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
    parts = ((ring, kept[at : at + len(ring)]) for ring, at in zip(rings, first, strict=True))
    return [ring[stays] if np.count_nonzero(stays) >= 3 else ring for ring, stays in parts]


def areas_and_boxes(rings: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The areas of rings, and the rectangles around them.

    Args:
        rings: vertices (x, y), [N, 2] each, clockwise on the screen; one at least.

    Returns:
        float64 [R]; x and y of the top left corner, width, height, [R, 4].
    """
    points = np.concatenate(rings)
    lengths = np.array([len(ring) for ring in rings])
    first = np.cumsum(lengths) - lengths
    x, y = points.T
    next_x, next_y = points[_successors(lengths)].T
    areas = np.add.reduceat(x * next_y - next_x * y, first) / 2
    low, high = np.minimum.reduceat(points, first), np.maximum.reduceat(points, first)
    return areas, np.concatenate((low, high - low), axis=1)


def _distance(point: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distance of points from line segments; all [N, 2]."""
    along, offset = end - begin, point - begin
    length = (along**2).sum(axis=1)
    share = (along * offset).sum(axis=1) / np.where(length > 0, length, 1)
    return np.linalg.norm(offset - np.clip(share, 0, 1)[:, None] * along, axis=1)
