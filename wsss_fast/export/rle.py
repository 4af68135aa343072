"""COCO's run lengths of masks: as counts, and as the string that COCO's tools call compressed.

Source: maskApi of pycocotools, the reference implementation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

_BITS = 5  # of a count per character
_MORE = 1 << _BITS  # set in every character of a count but its last
_FIRST = 48  # character "0"


class Region(NamedTuple):
    """A region of an image.

    Attributes:
        value: of its pixels.
        first: its first pixel down the columns, (y, x).
        area: number of its pixels.
        bbox: x, y of the top left corner, width, height, in pixels.
        counts: its run lengths as COCO's string.
    """

    value: int
    first: tuple[int, int]
    area: int
    bbox: tuple[int, int, int, int]
    counts: str


def run_lengths(mask: np.ndarray) -> np.ndarray:
    """Lengths of the runs of 0 and 1 down the columns, beginning with those of 0.

    Args:
        mask: bool or 0 and 1, [H, W].

    Returns:
        int64 [N]; the first is 0 where the top left pixel is 1.

    >>> run_lengths(np.array([[0, 1], [1, 1]])).tolist()
    [1, 3]
    >>> run_lengths(np.ones((3, 4), bool)).tolist()
    [0, 12]
    """
    flat, bounds = _runs(np.asarray(mask).astype(bool))
    return np.diff(bounds if not flat.size or not flat[0] else np.append(0, bounds))


def compress(counts: np.ndarray) -> str:
    """Run lengths as COCO's string.

    From the fourth count on, the difference from the count two before is written: groups of 5 bits
    in two's complement, the lowest first, each as the character 48 + group, + 32 if more follow.

    Args:
        counts: integers [N], as `run_lengths` gives them.

    >>> compress(np.array([6, 2, 3, 2, 3, 2, 12]))
    '6230009'
    """
    return _characters(_differences(counts, np.arange(len(counts))))[0]


def encode(mask: np.ndarray, *, compressed: bool = True) -> dict[str, Any]:
    """A mask as a COCO segmentation.

    Args:
        mask: bool or 0 and 1, [H, W].
        compressed: whether `counts` is a string, as in COCO's results, or a list of numbers.

    Returns:
        {"size": [H, W], "counts": counts}, as JSON.
    """
    counts = run_lengths(mask)
    return {
        "size": list(mask.shape),
        "counts": compress(counts) if compressed else counts.tolist(),
    }


def encode_regions(values: np.ndarray) -> list[Region]:
    """Every region of equal values, at once.

    Args:
        values: integers [H, W]; 0 belongs to no region.

    Returns:
        The regions by ascending value.
    """
    height = values.shape[0]
    flat, bounds = _runs(values)
    start, stop = bounds[:-1], bounds[1:]
    value = flat[start]
    order = np.argsort(value, kind="stable")
    order = order[np.count_nonzero(value == 0) :]
    start, stop, value = start[order], stop[order], value[order]
    if not len(value):
        return []
    first = np.flatnonzero(np.diff(value, prepend=0))  # first run of each region
    last = np.append(first[1:], len(value)) - 1

    is_first = np.zeros(len(value), bool)
    is_first[first] = True
    before = np.where(is_first, 0, np.roll(stop, 1))
    # Two counts per run, and one more behind the last run unless the region ends with the image.
    has_rest = np.zeros(len(value), bool)
    has_rest[last] = stop[last] < flat.size
    counts = np.stack((start - before, stop - start, flat.size - stop), axis=1)
    kept = np.stack((np.ones_like(has_rest), np.ones_like(has_rest), has_rest), axis=1)
    number = 2 * (np.arange(len(value)) - np.repeat(first, last - first + 1))
    place = number[:, None] + np.arange(3)  # of a count among those of its region
    text, lengths = _characters(_differences(counts[kept], place[kept]))
    ends = np.cumsum(lengths)[np.cumsum(kept.sum(axis=1))[last] - 1].tolist()

    column, end_column = start // height, (stop - 1) // height
    spans = column != end_column  # of runs that continue at the top of the next column
    top = np.minimum.reduceat(np.where(spans, 0, start % height), first)
    bottom = np.maximum.reduceat(np.where(spans, height - 1, (stop - 1) % height), first)
    left, right = column[first], np.maximum.reduceat(end_column, first)
    boxes = np.stack((left, top, right - left + 1, bottom - top + 1), axis=1).tolist()
    areas = np.add.reduceat(stop - start, first).tolist()
    places = np.stack((start[first] % height, column[first]), axis=1).tolist()
    begins = [0, *ends[:-1]]
    return [
        Region(int(v), tuple(place), area, tuple(box), text[begin:end])
        for v, place, area, box, begin, end in zip(
            value[first], places, areas, boxes, begins, ends, strict=True
        )
    ]


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values down the columns, and where their runs begin, with the end of the last one."""
    flat = np.ascontiguousarray(values.T).reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return flat, np.concatenate(([0], changes, [flat.size]))


def _differences(counts: np.ndarray, place: np.ndarray) -> np.ndarray:
    """What is written of counts: from the fourth on, the difference from the one two before.

    Args:
        counts: integers [N], of one or several masks.
        place: of each count among those of its mask, from 0.
    """
    values = np.array(counts, np.int64)
    earlier = np.flatnonzero(place >= 3)
    values[earlier] -= np.asarray(counts, np.int64)[earlier - 2]
    return values


def _characters(values: np.ndarray) -> tuple[str, np.ndarray]:
    """The characters of all values, and the number of those of each, int64 [N]."""
    groups, lengths = 1, np.ones(len(values), np.int64)  # the fewest whose highest bit is a sign
    while True:
        limit = 1 << (_BITS * groups - 1)
        longer = (values < -limit) | (values >= limit)
        if not longer.any():
            break
        lengths += longer
        groups += 1
    place = np.arange(groups)
    parts = (values[:, None] >> (_BITS * place)) & (_MORE - 1)  # [N, groups]
    parts += _FIRST + _MORE * (place < lengths[:, None] - 1)
    return parts[place < lengths[:, None]].astype(np.uint8).tobytes().decode("ascii"), lengths
