"""Average precision of object masks, computed by pycocotools."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from wsss_fast.data import Source, opened
from wsss_fast.data.coco_folders import find_part
from wsss_fast.data.coco_json import read_coco
from wsss_fast.data.coco_outlines import plain_outline
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import distributed, remarks
from wsss_fast.engine.progress import track
from wsss_fast.errors import InputError
from wsss_fast.readers.instances import load_instances
from wsss_fast.readers.label_maps import IGNORE, read_labels

OBJECTS = "SegmentationObject"
HOW_TO_INSTALL = "AP50 is computed by pycocotools: pip install pycocotools"
HOW = "pycocotools: IoU >= 0.5, precision at 101 recalls"


@dataclasses.dataclass(frozen=True)
class InstanceScores:
    """Average precision of object masks.

    Attributes:
        ap50: mean over the classes that have a true object, 0..1.
        by_class: average precision by class name, 0..1; NaN for a class without a true object.
        images: number of images that were scored.
        objects: number of true objects.
        found: number of objects that were found in these images.
    """

    ap50: float
    by_class: dict[str, float]
    images: int
    objects: int
    found: int

    def summary(self) -> dict[str, Any]:
        """What metrics.json records."""
        return {**dataclasses.asdict(self), "computed_by": HOW}

    def __str__(self) -> str:
        """As the command prints it."""
        wide = max(map(len, self.by_class))
        classes = "".join(
            f"\n{name:{wide}}  {'no true object' if np.isnan(ap) else f'{100 * ap:.1f}'}"
            for name, ap in self.by_class.items()
        )
        return (
            f"AP50 {100 * self.ap50:.1f} % over {self.images} images with {self.objects} true "
            f"objects; {self.found} found{classes}"
        )


def evaluate_instances(
    data: Source, *, instances: str | Path, objects: str | Path | None = None
) -> InstanceScores:
    """Average precision at IoU 0.5 of object masks (AP50), mean over the classes.

    pycocotools computes it: the objects of all images in the order of their scores are matched,
    each to the best true object of its class and image that is still free, with an IoU of at least
    0.5; the AP of a class is the mean of its interpolated precision at the recalls 0, 0.01, ..., 1.
    All objects of an image count. The VOC AP of chainercv, which made IRN's published 37.7, differs
    in two ways: it is the area under the same curve, not a mean at 101 recalls, and an object whose
    best true object is taken is wrong, even if another one would do.

    Collective: the main process computes.

    Args:
        data: data set whose true masks name the class of each object.
        instances: folder of `<id>.npz`, as `irn.find_instances` writes them.
        objects: folder of PNGs with the number of the object of each pixel (0 none, 255 the border,
            which belongs to no object), or an instances JSON of COCO; default: the data set's
            SegmentationObject, or its JSON in COCO's layout. Images without a PNG or a true mask
            are not scored.

    Raises:
        InputError: pycocotools is not installed, there are no true objects, or a file cannot be
            used.
    """
    data = opened(data)
    source = find_truth(data) if objects is None else Path(objects)
    if source is None or not source.exists():
        where = data.root / OBJECTS if source is None else source
        raise InputError(f"{where}: no such file or directory; it holds the true objects")
    check_installed()
    return distributed.run_on_main(lambda: _evaluate(data, Path(instances), source))


def check_installed() -> ModuleType:
    """The module `pycocotools.cocoeval`; InputError that says how to install it."""
    try:
        import pycocotools.cocoeval
    except ImportError:
        raise InputError(HOW_TO_INSTALL) from None
    return pycocotools.cocoeval


def is_installed() -> bool:
    """Whether pycocotools is installed."""
    with contextlib.suppress(InputError):
        return check_installed() is not None
    return False


def find_truth(data: Dataset) -> Path | None:
    """Where the true objects of a data set are: VOC's folder or COCO's JSON; None without one."""
    folder = data.root / OBJECTS
    if any((folder / f"{id}.png").is_file() for id in data.masks):
        return folder
    if data.layout != "coco":
        return None
    with contextlib.suppress(InputError):  # a data set that `load` did not open
        return find_part(data.root, data.split.partition(":")[0]).json
    return None


def _evaluate(data: Dataset, folder: Path, source: Path) -> InstanceScores:
    truth = true_objects(data, source)
    number_of = {image["file_name"]: image["id"] for image in truth["images"]}
    found = list(_found_objects(data, folder, number_of))
    aps = average_precisions(truth, found)
    by_class = {name: aps.get(label, float("nan")) for label, name in enumerate(data.classes, 1)}
    known = [value for value in by_class.values() if not np.isnan(value)]
    objects = sum(not one["iscrowd"] for one in truth["annotations"])
    return InstanceScores(float(np.mean(known)), by_class, len(number_of), objects, len(found))


def average_precisions(truth: dict[str, Any], found: list[dict[str, Any]]) -> dict[int, float]:
    """AP50 by category id, of the categories with a true object.

    Args:
        truth: images, categories and annotations as in COCO's JSON.
        found: objects as in COCO's results, with run lengths that are not compressed.
    """
    cocoeval = check_installed()
    from pycocotools import coco, mask

    for one in found:
        one["segmentation"] = mask.frPyObjects(one["segmentation"], *one["segmentation"]["size"])
    categories = sorted({one["category_id"] for one in truth["annotations"] if not one["iscrowd"]})
    if not found:
        return dict.fromkeys(categories, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO()
        known.dataset = truth
        known.createIndex()
        evaluation = cocoeval.COCOeval(known, known.loadRes(found), "segm")
        parameters = evaluation.params
        parameters.iouThrs = np.array([0.5])
        parameters.maxDets = [len(found)]
        parameters.areaRng, parameters.areaRngLbl = [[0, 1e10]], ["all"]
        parameters.catIds = categories
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, 0]  # [recalls, categories]
    return {label: float(precision[:, place].mean()) for place, label in enumerate(categories)}


def true_objects(data: Dataset, source: Path) -> dict[str, Any]:
    """The true objects of a data set as in COCO's JSON.

    Categories are numbered as labels, 1..C, images 1..N; `file_name` is the id.

    Args:
        data: the data set.
        source: folder of PNGs, or an instances JSON; see `evaluate_instances`.

    Raises:
        InputError: there is no true object, or a file cannot be used.
    """
    read = _from_json if source.is_file() else _from_folder
    images, annotations = read(data, source)
    if not annotations:
        raise InputError(f"{source}: has no true object of the {len(data)} images")
    for number, one in enumerate(annotations, 1):
        one["id"] = number
    categories = [{"id": label, "name": name} for label, name in enumerate(data.classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _from_folder(data: Dataset, folder: Path) -> tuple[list[Any], list[Any]]:
    """Images and annotations from PNGs of object numbers."""
    scored = [id for id in data.ids if id in data.masks and (folder / f"{id}.png").is_file()]
    images, annotations = [], []
    for number, id in enumerate(track(scored, "true objects"), 1):
        path, labels = folder / f"{id}.png", data.mask(id)
        objects = read_labels(path)
        if objects.shape != labels.shape:
            raise InputError(
                f"{path}: is {objects.shape}, but its mask {data.masks[id]} is {labels.shape}"
            )
        images.append(_image(number, id, objects.shape))
        for value in np.unique(objects):
            if value in (0, IGNORE):
                continue
            mask = objects == value
            inside = np.bincount(labels[mask], minlength=IGNORE + 1)
            inside[[0, IGNORE]] = 0
            if not inside.any():
                text = "true objects have no class in their mask, and are not counted"
                remarks.add(text, f"{path}, object {value}", unit="object")
                continue
            annotations.append(
                {
                    "image_id": number,
                    "category_id": int(inside.argmax()),
                    "iscrowd": 0,
                    "area": int(mask.sum()),
                    "segmentation": run_lengths(mask),
                }
            )
    return images, annotations


def _from_json(data: Dataset, path: Path) -> tuple[list[Any], list[Any]]:
    """Images and annotations from COCO's JSON."""
    content = read_coco(path, outlines=True)
    id_of = content.names()
    name_of = dict(zip(content.category_ids, content.classes, strict=True))
    scored = [id for id in data.ids if data.scored is None or id in data.scored]
    number_of = {id: number for number, id in enumerate(scored, 1)}
    label_of = {name: label for label, name in enumerate(data.classes, 1)}
    images = [_image(number, id, data.size(id)) for id, number in number_of.items()]
    annotations = []
    for one in content.annotations:
        id = id_of[one["image_id"]]
        number, label = number_of.get(id), label_of.get(name_of[one["category_id"]])
        if number is None or label is None:
            continue
        place = f"{path}, annotation {one.get('id')}"
        try:
            outline = plain_outline(one.get("segmentation"), data.size(id), place)
        except ValueError as error:
            raise InputError(f"{place}: {error}") from None
        annotations.append(
            {
                "image_id": number,
                "category_id": label,
                "iscrowd": int(bool(one.get("iscrowd"))),
                "area": 1,  # objects of every area count
                "segmentation": outline,
            }
        )
    return images, annotations


def _image(number: int, id: str, size: tuple[int, ...]) -> dict[str, Any]:
    return {"id": number, "file_name": id, "height": size[0], "width": size[1]}


def _found_objects(
    data: Dataset, folder: Path, number_of: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """Objects of the scored images as in COCO's results."""
    for id, number in number_of.items():
        found = load_instances(folder, id, len(data.classes), data.size(id))
        for mask, label, score in zip(found.masks(), found.labels, found.scores, strict=True):
            yield {
                "image_id": number,
                "category_id": int(label),
                "score": float(score),
                "segmentation": run_lengths(mask),
            }


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A mask, bool [H, W], as COCO's run lengths: column by column, zeros first."""
    flat = mask.T.reshape(-1)
    bounds = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate(([0], bounds, [flat.size]))).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}
