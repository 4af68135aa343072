"""CCR's maps against CAM, without training the classifier again: variants of the procedure, the CRF, kinds of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsss_fast import amn, cam, ccr, data, threshold_curve
from wsss_fast.data.images import IGNORE
from wsss_fast.evaluation.curves import Curve, crf_curve
from wsss_fast.evaluation.metrics import Metrics

_JOINT = ccr.ErasingOptions(scales=ccr.RECIPES["small"].erasing.scales)
SMALL = dataclasses.replace(
    ccr.RECIPES["small"], erasing=_JOINT
)  # the published procedure with the small network's scales
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
_SPARSE_AT = 0.4  # one threshold for all: at its best one, which is lower, a sparse map covers no less than another
_FROM_BEST = (
    -0.20,
    -0.16,
    -0.12,
    -0.08,
    -0.04,
    0.0,
    0.04,
    0.08,
)  # where the best threshold behind a CRF is looked for
SPLIT = (
    "published",
    "each class",
    "each class, three rounds",
)  # they get a CRF, and are scored on kinds of images

Row = dict[str, object]


def classifier(dataset: data.Dataset, run: Path, seed: int) -> Path:
    """Weights of the classifier in `run`, with its CAMs beside them; both are made, as the demo does, where there are none."""
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
    """CAM and each variant -> its maps, made where they are missing."""
    made = {"CAM": run / "cam/maps"}
    for variant in variants:
        name = variant.replace(", ", "-").replace(" ", "-")
        made[variant] = ccr.infer(
            dataset,
            run / "cam/weights.pth",
            out,
            backbone="small",
            name=f"{name}/maps",
            recipe=dataclasses.replace(SMALL, erasing=VARIANTS[variant]),
        ).maps
    return made


def map_rows(dataset: data.Dataset, made: dict[str, Path], seed: int, crf: bool) -> list[Row]:
    """Each map at its best threshold: mIoU, what it gains on CAM, and how much of the objects it covers, all in %.

    Recall and precision are of the object pixels of all classes together. Behind the CRF, CAM and `SPLIT` have the best
    of `thresholds_behind`.
    """
    rows: list[Row] = []
    for name, folder in made.items():
        curve = threshold_curve(folder, dataset)
        row: Row = {
            "seed": seed,
            "maps": name,
            **_figures(curve, rows, ""),
            **_covered(curve.metrics),
            f"recall at {_SPARSE_AT}": _covered(
                threshold_curve(folder, dataset, thresholds=(_SPARSE_AT,)).metrics
            )["recall"],
        }
        if crf and name in ("CAM", *SPLIT):
            row |= _figures(
                crf_curve(
                    folder,
                    dataset,
                    amn.PIPELINES["small"].crf,
                    thresholds=thresholds_behind(curve.best),
                    label=f"{name} + CRF",
                ),
                rows,
                " + CRF",
            )
        elif crf:
            row |= dict.fromkeys(("mIoU + CRF", "at + CRF", "gain + CRF"), float("nan"))
        rows.append(row)
    return rows


def thresholds_behind(best: float) -> list[float]:
    """Thresholds to try behind a CRF, ascending, where `best` is the best one without it."""
    return sorted({round(min(max(best + step, 0.0), 1.0), 2) for step in _FROM_BEST})


def _figures(curve: Curve, rows: list[Row], behind: str) -> Row:
    """The best point of a curve (%), and its distance to CAM's, which is the first row."""
    miou = 100 * curve.metrics.miou
    return {
        f"mIoU{behind}": miou,
        f"at{behind}": curve.best,
        f"gain{behind}": miou - rows[0][f"mIoU{behind}"] if rows else 0.0,
        f"curve{behind}": dict(zip(map(str, curve.thresholds), curve.miou, strict=True)),
    }


def _covered(metrics: Metrics) -> dict[str, float]:
    """Share of the object pixels that have their class in the prediction, and of what is predicted that is right (%)."""
    hits = np.diag(metrics.confusion)[1:].sum()
    return {
        "recall": float(100 * hits / metrics.confusion[1:].sum()),
        "precision": float(100 * hits / max(1, metrics.confusion[:, 1:].sum())),
    }


def kind_rows(dataset: data.Dataset, made: dict[str, Path], seed: int) -> list[Row]:
    """mIoU (%) of CAM, joint masking and masking by class on parts of the images, each at its best threshold there.

    Images with so many classes, and of these the half in which a class covers more of the picture and the other half.
    """
    share = {id: _share(dataset.mask(id)) for id in dataset.ids}
    count = {id: int(dataset.tags_of(id).sum()) for id in dataset.ids}
    kinds: dict[str, list[str]] = {}
    for name, fits in (
        ("one class", lambda n: n == 1),
        ("two classes", lambda n: n == 2),
        ("three and more", lambda n: n > 2),
    ):
        ids = [i for i in dataset.ids if fits(count[i])]
        middle = float(np.median([share[i] for i in ids])) if ids else 0.0
        kinds[name] = ids
        if name != "three and more":  # too few to be halved
            kinds |= {
                f"{name}, larger half": [i for i in ids if share[i] > middle],
                f"{name}, smaller half": [i for i in ids if share[i] <= middle],
            }
    rows: list[Row] = []
    for kind, ids in kinds.items():
        if ids:
            part = dataset.only(ids)
            miou = {
                name: 100 * threshold_curve(made[name], part).metrics.miou
                for name in ("CAM", *SPLIT)
            }
            rows.append(
                {
                    "seed": seed,
                    "images": kind,
                    "count": len(ids),
                    **miou,
                    **{f"gain, {name}": miou[name] - miou["CAM"] for name in SPLIT},
                }
            )
    return rows


def _share(mask: np.ndarray) -> float:
    """Share of the picture that a class in it covers, in the mean over its classes."""
    return float(
        ((mask > 0) & (mask < IGNORE)).mean()
        / max(1, len(np.setdiff1d(np.unique(mask), [0, IGNORE])))
    )
