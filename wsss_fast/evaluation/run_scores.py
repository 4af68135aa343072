"""Scoring an artefact of a run: measure it where there are masks, and put the figures into metrics.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsss_fast.data.dataset import Dataset
from wsss_fast.data.images import read_labels
from wsss_fast.engine import distributed
from wsss_fast.engine.run_folder import provenance, read_records, record
from wsss_fast.engine.serialize import jsonable
from wsss_fast.evaluation.confusion_ratio import confusion_ratios
from wsss_fast.evaluation.curves import Curve, crf_curve, labels_at, threshold_curve
from wsss_fast.evaluation.metrics import Metrics, evaluate, evaluate_seeds, metrics_of
from wsss_fast.stages.crf import Crf

# Thresholds tried behind the CRF, relative to the best without it: a CRF removes what a low threshold lets through.
_AROUND_BEST = (-0.24, -0.16, -0.08, 0.0, 0.08)


def maps(
    out: Path,
    name: str,
    data: Dataset,
    folder: Path,
    *,
    fixed: float,
    crf: Crf | None,
    fixed_crf: float = 0.0,
    device: str = "cpu",
    extra: dict[str, Any] | None = None,
    pairs: Sequence[str] = (),
    pairs_at: float | None = None,
) -> None:
    """Record class maps: mIoU at the fixed and at the best threshold, the curve, and the same behind a dense CRF.

    Args:
        out: run folder.
        name: of the record; the one behind the CRF is called `<name>+crf`.
        data: images; nothing is measured if none has a mask.
        folder: the maps.
        fixed: threshold chosen beforehand.
        crf: its parameters; None leaves that record out.
        fixed_crf: threshold chosen beforehand for the record behind the CRF.
        device: where the CRF runs.
        extra: more to put into the record.
        pairs: "target/coincident" names whose confusion ratio is recorded too,
        pairs_at: at this threshold; default: the fixed one. Ratios of different maps compare at equal thresholds only.
    """
    shown_at = fixed if pairs_at is None else pairs_at

    def measure() -> dict[str, Any]:
        curve = threshold_curve(folder, data)
        ratios = confusion_ratios(data, pairs, labels_at(folder, data, shown_at))
        return {
            **_curve_record(curve, fixed, curve.at(fixed)),
            **_ratios_record(ratios),
            "curve": {"thresholds": curve.thresholds, "miou": curve.miou},
        }

    plain = _once(
        out,
        name,
        data,
        folder,
        _asked(pairs, pairs_at=shown_at, fixed=fixed),
        measure,
        {**_cost(out, folder), **(extra or {})},
    )
    if crf is None or plain is None:
        return

    def measure_crf() -> dict[str, Any]:
        around = {
            round(min(max(plain["best_threshold"] + d, 0.0), 1.0), 2) for d in _AROUND_BEST
        } | {fixed_crf}
        curve = crf_curve(
            folder, data, crf, thresholds=sorted(around), device=device, label=f"{name} + CRF"
        )
        return _curve_record(curve, fixed_crf, curve.miou[curve.thresholds.index(fixed_crf)])

    _once(out, f"{name}+crf", data, folder, {"fixed": fixed_crf, "crf": crf}, measure_crf)


def seeds(out: Path, name: str, data: Dataset, folder: Path) -> None:
    """Record seeds: mIoU of the labelled pixels, and their share of all pixels."""
    _once(out, name, data, folder, {}, lambda: evaluate_seeds(folder, data), _cost(out, folder))


def masks(
    out: Path, name: str, data: Dataset, folder: Path, *, pairs: Sequence[str] = ()
) -> Metrics | None:
    """Record label PNGs, with the confusion ratios of `pairs`, and return their metrics; None if no id has a mask."""

    def measure() -> dict[str, Any]:
        metrics = evaluate(folder, data)
        ratios = confusion_ratios(
            data, pairs, lambda id: read_labels(folder / f"{id}.png", len(data.classes))
        )
        return {**metrics.summary(), **_ratios_record(ratios), "confusion": metrics.confusion}

    kept = _once(out, name, data, folder, _asked(pairs), measure, _cost(out, folder))
    return (
        None
        if kept is None
        else metrics_of(np.array(kept["confusion"]), data.classes, kept["images"])
    )


def _curve_record(curve: Curve, fixed: float, at_fixed: float) -> dict[str, Any]:
    return {
        **curve.metrics.summary(),
        "best_threshold": curve.best,
        "fixed_threshold": fixed,
        "miou_at_fixed": at_fixed,
    }


def _ratios_record(ratios: dict[str, float]) -> dict[str, Any]:
    return {"confusion_ratios": ratios} if ratios else {}


def _asked(pairs: Sequence[str], **arguments: Any) -> dict[str, Any]:
    """What a record depends on; without pairs as it was before there were any."""
    return (
        {**arguments, "pairs": list(pairs)}
        if pairs
        else {k: v for k, v in arguments.items() if k != "pairs_at"}
    )


def _once(
    out: Path,
    name: str,
    data: Dataset,
    folder: Path,
    arguments: dict[str, Any],
    measure: Callable[[], dict[str, Any]],
    extra: dict[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Record what `measure` finds and `extra`, unless the record already holds it for this artefact and these arguments."""
    source = jsonable({"made_from": provenance(folder), "masks": len(data.masks), **arguments})
    kept = distributed.run_on_main(lambda: read_records(out).get(name))
    if kept is None or kept.get("source") != source:
        measured = measure() if data.masks else {}

        def write() -> dict[str, Any]:
            record(out, name, {**measured, **(extra or {}), "source": source})
            return read_records(out)[name]

        kept = distributed.run_on_main(write)
    return kept if data.masks else None


def _cost(out: Path, folder: Path) -> dict[str, Any]:
    """Seconds and speed of the stages that made the artefact: its own, and the training beside it."""
    notes = {}
    for path in (folder.parent / "done.json", folder / "done.json"):
        if path.exists() and path.parent != out:
            notes[path.parent] = json.loads(path.read_text())["notes"]
    cost: dict[str, Any] = {"seconds": round(sum(n.get("seconds", 0.0) for n in notes.values()), 2)}
    speeds = [n["images_per_second"] for n in notes.values() if n.get("images_per_second")]
    return {**cost, "images_per_second": speeds[-1]} if speeds else cost
