"""Objects of label maps: connected regions of a class, and their polygons."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from wsss_fast.errors import InputError
from wsss_fast.export.polygons import join_holes, outlines, simplify
from wsss_fast.readers.label_maps import IGNORE
from wsss_fast.regions import regions

Holes = Literal["rle", "cut", "fill"]


class Objects(NamedTuple):
    """The objects of a label map.

    Attributes:
        region: number of the object of each pixel, int64 [H, W]: 0 none, 1..N in the order of their
            first pixels, row by row.
        labels: label of the class of each object, int64 [N].
        areas: number of pixels of each object, int64 [N].
    """

    region: np.ndarray
    labels: np.ndarray
    areas: np.ndarray


def check_tolerance(tolerance: float) -> None:
    """Raise InputError unless `tolerance` is a finite number of pixels >= 0."""
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise InputError(f"tolerance: is {tolerance}, must be a finite number of pixels >= 0")


def find_objects(labels: np.ndarray, *, min_area: int = 1) -> Objects:
    """The 4-connected regions of each class.

    Args:
        labels: uint8 [H, W]; 0 is background; 255, ignored pixels, belongs to no object.
        min_area: smaller objects are left out, in pixels.
    """
    known = np.where(labels == IGNORE, 0, labels)
    region = regions(known)
    areas = np.bincount(region.reshape(-1))
    of_region = np.zeros(len(areas), np.int64)
    of_region[region] = known
    kept = areas >= min_area
    kept[0] = False
    if not kept[1:].all():
        region = (np.cumsum(kept) * kept)[region]
    return Objects(region, of_region[kept], areas[kept])


def find_polygons(
    objects: Objects, *, holes: Holes, tolerance: float = 0.0
) -> list[np.ndarray | None]:
    """Each object as one polygon.

    Args:
        objects: as `find_objects` gives them.
        holes: "cut" joins each hole to the outline by a cut of no width, so that the polygon has
            the object's pixels; "fill" makes holes a part of the object; with "rle", an object with
            holes has no polygon.
        tolerance: outlines are simplified by at most this distance, in pixels; 0 keeps them.

    Returns:
        For each object its vertices (x, y) in pixel edges, int64 [N, 2], clockwise on the screen,
        or None.
    """
    found = outlines(objects.region)
    rings = [one.outer for one in found]
    ends = {}
    if holes == "cut":
        for place, one in enumerate(found):
            if one.holes:
                rings[place], ends[place] = join_holes(one)
    if tolerance:
        rings = simplify(rings, tolerance, ends)
    if holes != "rle":
        return list(rings)
    return [None if one.holes else ring for one, ring in zip(found, rings, strict=True)]
