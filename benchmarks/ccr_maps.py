"""CCR's maps compared with CAM, with the same classifier.

Variants of the procedure, with and without CRF refinement, on all images and on groups of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsss_fast import amn, cam, ccr, data, threshold_curve
from wsss_fast.evaluation.curves import Curve, crf_curve
from wsss_fast.evaluation.metrics import Metrics
from wsss_fast.readers.label_maps import IGNORE

# The published procedure with the small network's scales.
_JOINT = ccr.ErasingOptions(scales=ccr.RECIPES["small"].erasing.scales)
SMALL = dataclasses.replace(ccr.RECIPES["small"], erasing=_JOINT)
VARIANTS = {
    "published": _JOINT,
    "each class": dataclasses.replace(_JOINT, masking="class"),
    "unit of the image": dataclasses.replace(_JOINT, unit="image"),
    "each class, unit of the image": dataclasses.replace(_JOINT, masking="class", unit="image"),
    "one round": dataclasses.replace(_JOINT, rounds=1),
    "two rounds": dataclasses.replace(_JOINT, rounds=2),
    "three rounds": dataclasses.replace(_JOINT, rounds=3),
    "each class, three rounds": dataclasses.replace(_JOINT, masking="class", rounds=3),
}
# One threshold at which the recall of all maps is compared. At its own best threshold, which is
# lower, a sparse map covers as much as any other.
_RECALL_THRESHOLD = 0.4
# Thresholds tried after CRF refinement, relative to the best one before it.
_CRF_OFFSETS = (-0.20, -0.16, -0.12, -0.08, -0.04, 0.0, 0.04, 0.08)
# Variants that are also scored after CRF refinement and on groups of images.
MAIN_VARIANTS = ("published", "each class", "each class, three rounds")

Row = dict[str, object]


def classifier(dataset: data.Dataset, run: Path, seed: int) -> Path:
    """Weights of the classifier in `run`, which is trained if missing; also computes its CAMs."""
    weights, recipe = run / "cam/weights.pth", amn.PIPELINES["small"].cam
    if not weights.exists():
        cam.train(
            dataset,
            run,
            backbone="small",
            recipe=recipe,
            val=data.load(dataset.root, split="val"),
            seed=seed,
        )
    cam.infer(dataset, weights, run, backbone="small", recipe=recipe)
    return weights


def folders(
    dataset: data.Dataset, run: Path, out: Path, variants: Sequence[str]
) -> dict[str, Path]:
    """Folder of the maps of CAM and of each variant; computes those that are missing."""
    found = {"CAM": run / "cam/maps"}
    for variant in variants:
        name = variant.replace(", ", "-").replace(" ", "-")
        found[variant] = ccr.infer(
            dataset,
            run / "cam/weights.pth",
            out,
            backbone="small",
            name=f"{name}/maps",
            recipe=dataclasses.replace(SMALL, erasing=VARIANTS[variant]),
        ).maps
    return found


def map_rows(dataset: data.Dataset, maps: dict[str, Path], seed: int, crf: bool) -> list[Row]:
    """Figures in % of each kind of maps at its best threshold.

    They are mIoU, its gain over CAM, and recall and precision of the object pixels of all classes
    together. After CRF refinement only CAM and `MAIN_VARIANTS` are scored, at the best of
    `crf_thresholds`.
    """
    rows: list[Row] = []
    for name, folder in maps.items():
        curve = threshold_curve(folder, dataset)
        fixed = threshold_curve(folder, dataset, thresholds=(_RECALL_THRESHOLD,))
        row: Row = {
            "seed": seed,
            "maps": name,
            **_figures(curve, rows, ""),
            **_coverage(curve.metrics),
            f"recall at {_RECALL_THRESHOLD}": _coverage(fixed.metrics)["recall"],
        }
        if crf and name in ("CAM", *MAIN_VARIANTS):
            refined = crf_curve(
                folder,
                dataset,
                amn.PIPELINES["small"].crf,
                thresholds=crf_thresholds(curve.best),
                label=f"{name} + CRF",
            )
            row |= _figures(refined, rows, " + CRF")
        elif crf:
            row |= dict.fromkeys(("mIoU + CRF", "at + CRF", "gain + CRF"), float("nan"))
        rows.append(row)
    return rows


def crf_thresholds(best: float) -> list[float]:
    """Thresholds to try after CRF refinement, ascending; `best` is the best one before it."""
    return sorted({round(min(max(best + step, 0.0), 1.0), 2) for step in _CRF_OFFSETS})


def _figures(curve: Curve, rows: list[Row], suffix: str) -> Row:
    """The best point of a curve (%), and its gain over CAM's, which is the first row."""
    miou = 100 * curve.metrics.miou
    return {
        f"mIoU{suffix}": miou,
        f"at{suffix}": curve.best,
        f"gain{suffix}": miou - rows[0][f"mIoU{suffix}"] if rows else 0.0,
        f"curve{suffix}": dict(zip(map(str, curve.thresholds), curve.miou, strict=True)),
    }


def _coverage(metrics: Metrics) -> dict[str, float]:
    """Recall and precision (%) of the object pixels of all classes together."""
    hits = np.diag(metrics.confusion)[1:].sum()
    return {
        "recall": float(100 * hits / metrics.confusion[1:].sum()),
        "precision": float(100 * hits / max(1, metrics.confusion[:, 1:].sum())),
    }


def kind_rows(dataset: data.Dataset, maps: dict[str, Path], seed: int) -> list[Row]:
    """mIoU (%) of CAM and `MAIN_VARIANTS` on groups of images, each at its best threshold there."""
    rows: list[Row] = []
    for kind, ids in _groups(dataset).items():
        if not ids:
            continue
        part = dataset.only(ids)
        miou = {
            name: 100 * threshold_curve(maps[name], part).metrics.miou
            for name in ("CAM", *MAIN_VARIANTS)
        }
        gains = {f"gain, {name}": miou[name] - miou["CAM"] for name in MAIN_VARIANTS}
        rows.append({"seed": seed, "images": kind, "count": len(ids), **miou, **gains})
    return rows


def _groups(dataset: data.Dataset) -> dict[str, list[str]]:
    """Ids by number of classes; within a number, by whether objects are larger than the median."""
    share = {id: _share(dataset.mask(id)) for id in dataset.ids}
    count = {id: min(int(dataset.tags_of(id).sum()), 3) for id in dataset.ids}
    groups: dict[str, list[str]] = {}
    for name, classes in (("one class", 1), ("two classes", 2), ("three and more", 3)):
        ids = groups[name] = [i for i in dataset.ids if count[i] == classes]
        if classes < 3:  # the last group is too small to be divided
            median = float(np.median([share[i] for i in ids])) if ids else 0.0
            groups[f"{name}, larger half"] = [i for i in ids if share[i] > median]
            groups[f"{name}, smaller half"] = [i for i in ids if share[i] <= median]
    return groups


def _share(mask: np.ndarray) -> float:
    """Share of the image that a class covers, on average over the classes in the mask."""
    classes = np.setdiff1d(np.unique(mask), [0, IGNORE])
    return float(((mask > 0) & (mask < IGNORE)).mean() / max(1, len(classes)))
