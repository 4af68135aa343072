"""Masks as a COCO annotation file, each object as a polygon."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsss_fast.export import rle
from wsss_fast.export.coco import check_min_area, write_coco
from wsss_fast.export.masks import open_masks
from wsss_fast.export.objects import Holes, check_tolerance, find_objects, find_polygons
from wsss_fast.export.polygons import areas_and_boxes


def to_coco_polygons(
    masks: str | Path,
    out: str | Path,
    *,
    classes: Sequence[str] | str | Path | None = None,
    images: str | Path | None = None,
    min_area: int = 1,
    holes: Holes = "rle",
    tolerance: float = 0.0,
) -> Path:
    """Write masks as a COCO annotation file of polygons, one per object.

    An object is a set of pixels of a class that are connected by their sides. Vertices are corners
    of pixels, so that COCO's own tools give the same pixels back. Ids are those of `to_coco`. A
    mask that cannot be used is named and left out.

    Args:
        masks: folder of `<id>.png`; 0 is background, 255 ignored.
        out: JSON file to write.
        classes: names of the classes, or a file of them; see `open_masks`.
        images: folder of the photos; see `open_masks`.
        min_area: pixels; smaller objects are left out.
        holes: what becomes of objects with holes, which COCO's polygons do not have: "rle" writes
            these objects as run lengths; "cut" joins each hole to the outline by a cut of no width,
            for tools that read polygons only; "fill" makes holes a part of the object.
        tolerance: outlines are simplified by at most this distance, in pixels; 0 keeps each pixel.

    Returns:
        `out`.

    Raises:
        InputError: a folder or file is missing, or no mask can be used.
        RunError: some masks were left out.
    """
    check_min_area(min_area)
    check_tolerance(tolerance)

    def annotate(labels: np.ndarray) -> Iterator[dict[str, Any]]:
        found = find_objects(labels, min_area=min_area)
        polygons = find_polygons(found, holes=holes, tolerance=tolerance)
        as_polygon = _as_polygons([ring for ring in polygons if ring is not None])
        as_runs = _as_runs(found.region, [ring is None for ring in polygons])
        for label, ring in zip(found.labels.tolist(), polygons, strict=True):
            yield {"category_id": label, **next(as_runs if ring is None else as_polygon)}

    return write_coco(open_masks(masks, classes=classes, images=images), out, annotate)


def _as_polygons(rings: Sequence[np.ndarray]) -> Iterator[dict[str, Any]]:
    """Segmentation, area and bbox of polygons."""
    if not rings:
        return
    areas, boxes = areas_and_boxes(rings)
    flat = np.concatenate(rings).reshape(-1).tolist()
    begin = 0
    for ring, area, box in zip(rings, areas.tolist(), boxes.tolist(), strict=True):
        end = begin + ring.size
        yield {"segmentation": [flat[begin:end]], "area": area, "bbox": box}
        begin = end


def _as_runs(region: np.ndarray, chosen: Sequence[bool]) -> Iterator[dict[str, Any]]:
    """Segmentation, area and bbox of the regions that are chosen of 1..N, as run lengths."""
    kept = np.array([False, *chosen])
    if not kept.any():
        return
    for one in rle.encode_regions(np.where(kept[region], region, 0)):
        yield {
            "segmentation": {"size": list(region.shape), "counts": one.counts},
            "area": one.area,
            "bbox": list(one.bbox),
        }
