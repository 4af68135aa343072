"""Seconds to export 1,000 masks of 500x375 to each format; what was written is read back first.

The masks are the largest of three smooth random fields and a constant per pixel, with noise on the
fields: ragged outlines, holes, and single pixels, as maps have without a CRF.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from wsss_fast import export
from wsss_fast.data import VOC_CLASSES
from wsss_fast.data.lists import VOC_COUNTS
from wsss_fast.engine.files import write_json
from wsss_fast.export.command import _FORMATS
from wsss_fast.readers.label_maps import write_labels
from wsss_fast.regions import regions

_SIZE = (375, 500)
_SUFFIX = {"cvat": ".zip", "yolo": "", "voc-test": ".tgz"}  # the others are .json


def main(argv: list[str]) -> None:
    """The command line of `measure`."""
    tyro.cli(measure, args=argv, prog="python -m benchmarks export")


def measure(
    out: Path = Path("bench-export"),
    *,
    count: int = 1000,
    noise: float = 0.008,
    formats: tuple[str, ...] = tuple(_FORMATS),
) -> None:
    """Write masks, export them to every format, and print the seconds; writes `<out>/export.json`.

    Args:
        out: folder for masks and exports; it is removed before.
        count: number of masks.
        noise: standard deviation of the noise per pixel; the fields' is 1. With more, some masks
            have more objects than CVAT can hold.
        formats: to measure.
    """
    shutil.rmtree(out, ignore_errors=True)
    masks = out / "masks"
    pieces = _make(masks, count, noise)
    VOC_COUNTS["test"] = count  # instead of 1456
    rows = {}
    for name in formats:
        target = out / f"{name}{_SUFFIX.get(name, '.json')}"
        wall, own = time.perf_counter(), time.process_time()
        _FORMATS[name](masks, target)
        seconds = {"wall": time.perf_counter() - wall, "processor": time.process_time() - own}
        _CHECKS[name](target, masks)
        files = [target] if target.is_file() else [p for p in target.rglob("*") if p.is_file()]
        rows[name] = {**seconds, "bytes": sum(p.stat().st_size for p in files)}
        print(
            f"{name:14} {seconds['wall']:6.1f} s, {seconds['processor']:6.1f} s of processor time, "
            f"{rows[name]['bytes'] / 1e6:6.1f} MB"
        )
    write_json(out / "export.json", {"count": count, "regions": pieces, "formats": rows})
    print(f"{count} masks with {pieces / count:.0f} connected regions on average")


def _make(folder: Path, count: int, noise: float) -> int:
    """Write masks; returns the number of their connected regions."""
    rng = np.random.default_rng(0)
    pieces = 0
    for number in range(count):
        fields = np.stack([_smooth(rng) for _ in range(3)])
        fields += rng.normal(0, noise, fields.shape)
        chosen = np.append(0, 1 + rng.choice(len(VOC_CLASSES), 3, replace=False))
        best = np.concatenate((np.full((1, *_SIZE), 0.8), fields)).argmax(axis=0)
        labels = chosen[best].astype(np.uint8)
        pieces += int(regions(labels).max())
        write_labels(folder / f"2008_{number:06}.png", labels)
    names = {0: "background", **dict(enumerate(VOC_CLASSES, 1)), 255: "ignore"}
    write_json(folder / "classes.json", names)
    return pieces


def _smooth(rng: np.random.Generator) -> np.ndarray:
    coarse = Image.fromarray(rng.normal(0, 1, (6, 8)).astype(np.float32))
    return np.asarray(coarse.resize(_SIZE[::-1], Image.Resampling.BICUBIC))


def _check_coco(path: Path, masks: Path) -> None:
    """All masks, painted by pycocotools."""
    from pycocotools.coco import COCO

    read = COCO(str(path))
    for image, (id, labels) in zip(
        read.loadImgs(read.getImgIds()), export.open_masks(masks), strict=True
    ):
        found = np.zeros_like(labels)
        for one in read.loadAnns(read.getAnnIds(image["id"])):
            found[read.annToMask(one).astype(bool)] = one["category_id"]
        _check(id, found, labels)


def _check_labelstudio(path: Path, masks: Path) -> None:
    """All masks, from the blocks of their run lengths."""
    tasks = json.loads(path.read_text())
    for task, (id, labels) in zip(tasks, export.open_masks(masks), strict=True):
        found = np.zeros_like(labels)
        for region in task["predictions"][0]["result"]:
            label = 1 + VOC_CLASSES.index(region["value"]["brushlabels"][0])
            found[_brush(region["value"]["rle"]).reshape(labels.shape)] = label
        _check(id, found, labels)


def _brush(rle: list[int]) -> np.ndarray:
    """Whether each pixel of a brush mask of runs is set."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    count, place = int(bits[:32], 2), 53
    values = np.zeros(count, bool)
    start = 0
    while start < count:
        size = (3, 4, 8, 16)[int(bits[place + 1 : place + 3], 2)]
        end = start + int(bits[place + 3 : place + 3 + size], 2) + 1
        values[start:end] = bits[place + 3 + size] == "1"
        start, place = end, place + 11 + size
    return values[3::4]


def _check_pngs(contents: Callable[[str], Any], masks: Path) -> None:
    for id, labels in export.open_masks(masks):
        with Image.open(contents(id)) as image:
            _check(id, np.asarray(image), labels)


def _check_voc_test(path: Path, masks: Path) -> None:
    with tarfile.open(path) as archive:
        folder = "results/VOC2012/Segmentation/comp6_test_cls"
        _check_pngs(lambda id: archive.extractfile(f"{folder}/{id}.png"), masks)


def _check_cvat(path: Path, masks: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        _check_pngs(lambda id: archive.open(f"SegmentationClass/{id}.png"), masks)


def _check_yolo(path: Path, masks: Path) -> None:
    """All masks, from the polygons as pycocotools fills them."""
    from pycocotools import mask as coco_mask

    for id, labels in export.open_masks(masks):
        found = np.zeros_like(labels)
        for row in (path / "labels" / f"{id}.txt").read_text().splitlines():
            number, *shares = row.split()
            points = np.array(shares, np.float64).reshape(-1, 2) * labels.shape[::-1]
            polygon = coco_mask.frPyObjects([points.round().reshape(-1).tolist()], *labels.shape)
            found[coco_mask.decode(polygon)[..., 0].astype(bool)] = int(number) + 1
        _check(id, found, labels)


def _check(id: str, found: np.ndarray, expected: np.ndarray) -> None:
    if not np.array_equal(found, expected):
        raise SystemExit(f"{id}: {(found != expected).sum()} pixels differ")


_CHECKS: dict[str, Callable[[Path, Path], None]] = {
    "coco": _check_coco,
    "coco-polygons": _check_coco,
    "labelstudio": _check_labelstudio,
    "voc-test": _check_voc_test,
    "cvat": _check_cvat,
    "yolo": _check_yolo,
}
