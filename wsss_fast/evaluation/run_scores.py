"""Scores of the artefacts of a run, in its metrics.json.

An artefact is scored once, if the data set has masks, and again if it or the arguments change.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import distributed
from wsss_fast.engine.progress import say
from wsss_fast.engine.run_folder import provenance, read_records, record
from wsss_fast.engine.serialize import jsonable
from wsss_fast.evaluation import energy_table
from wsss_fast.evaluation.confusion_ratio import confusion_ratios
from wsss_fast.evaluation.curves import Curve, crf_curve, labels_at, threshold_curve
from wsss_fast.evaluation.instances import (
    HOW,
    HOW_TO_INSTALL,
    evaluate_instances,
    find_truth,
    is_installed,
)
from wsss_fast.evaluation.metrics import Metrics, evaluate, evaluate_seeds, metrics_of
from wsss_fast.readers.label_maps import read_labels
from wsss_fast.stages.crf import Crf

# Thresholds tried with CRF refinement, relative to the best one without it. Most are lower, since
# the CRF removes false foreground that a low threshold lets through.
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
    """Record the scores of class maps.

    The record has the mIoU at the fixed and at the best threshold and the threshold curve; another
    record, `<name>+crf`, the same after CRF refinement.

    Collective.

    Args:
        out: run folder.
        name: name of the record.
        data: images; without any mask, nothing is measured.
        folder: folder of the maps.
        fixed: threshold chosen beforehand, 0..1.
        crf: parameters of the dense CRF; None leaves out the record `<name>+crf`.
        fixed_crf: threshold chosen beforehand for CRF refinement, 0..1.
        device: device of the CRF.
        extra: more entries of the record.
        pairs: "target/coincident" names whose confusion ratio is recorded too.
        pairs_at: threshold of these ratios; default: `fixed`. Ratios of different maps are
            comparable only at equal thresholds.
    """
    ratios_at = fixed if pairs_at is None else pairs_at

    def measure() -> dict[str, Any]:
        curve = threshold_curve(folder, data, device=device)
        ratios = confusion_ratios(data, pairs, labels_at(folder, data, ratios_at))
        return {
            **_curve_record(curve, fixed, curve.at(fixed)),
            **_ratios_record(ratios),
            "curve": {"thresholds": curve.thresholds, "miou": curve.miou},
        }

    depends: dict[str, Any] = {"fixed": fixed}
    if pairs:
        depends = {"pairs_at": ratios_at, "fixed": fixed, "pairs": list(pairs)}
    extra = {**_stage_costs(out, folder), **(extra or {})}
    plain = _record_once(out, name, data, folder, depends, measure, extra)
    if crf is None or plain is None:
        return

    def measure_crf() -> dict[str, Any]:
        best = plain["best_threshold"]
        tried = {round(min(max(best + d, 0.0), 1.0), 2) for d in _AROUND_BEST} | {fixed_crf}
        curve = crf_curve(
            folder, data, crf, thresholds=sorted(tried), device=device, label=f"{name} + CRF"
        )
        return _curve_record(curve, fixed_crf, curve.miou[curve.thresholds.index(fixed_crf)])

    depends = {"fixed": fixed_crf, "crf": crf}
    _record_once(out, f"{name}+crf", data, folder, depends, measure_crf)


def seeds(out: Path, name: str, data: Dataset, folder: Path) -> None:
    """Record the scores of seeds: mIoU of the labelled pixels, and their share of all pixels.

    In addition the mIoU of all pixels, with the others counted as background, as in public code.

    Collective.
    """

    def measure() -> dict[str, Any]:
        counted = {"images": len(data.masks), "of_images": len(data)}
        return {**evaluate_seeds(folder, data), **counted}

    _record_once(out, name, data, folder, {}, measure, _stage_costs(out, folder))


def masks(
    out: Path, name: str, data: Dataset, folder: Path, *, pairs: Sequence[str] = ()
) -> Metrics | None:
    """Record the scores of label PNGs, with the confusion ratios of `pairs`.

    Collective.

    Returns:
        The metrics; None if no id has a mask.
    """

    def measure() -> dict[str, Any]:
        metrics = evaluate(folder, data)
        ratios = confusion_ratios(
            data, pairs, lambda id: read_labels(folder / f"{id}.png", len(data.classes))
        )
        return {**metrics.summary(), **_ratios_record(ratios), "confusion": metrics.confusion}

    depends = {"pairs": list(pairs)} if pairs else {}
    found = _record_once(out, name, data, folder, depends, measure, _stage_costs(out, folder))
    if found is None:
        return None
    return metrics_of(np.array(found["confusion"]), data.classes, found["images"], len(data))


def further(
    out: Path, name: str, key: str, measure: Callable[[float], Any], depends: Sequence[Any] = ()
) -> None:
    """Add an entry to the record of class maps, unless it has it for these maps already.

    Collective.

    Args:
        out: run folder.
        name: name of the record.
        key: name of the entry.
        measure: function from the maps' best threshold to the entry.
        depends: what else the entry depends on.
    """
    kept = distributed.run_on_main(lambda: read_records(out)[name])
    best = kept["best_threshold"]
    source = jsonable([kept["source"]["made_from"], best, *depends])
    if kept.get(f"{key}_source") != source:
        values = {key: measure(best), f"{key}_source": source}
        distributed.run_on_main(lambda: record(out, name, values))


def instances(out: Path, name: str, data: Dataset, folder: Path) -> None:
    """Record the average precision of object masks, if it can be computed.

    That needs true objects, see `evaluate_instances`, and pycocotools. Collective.
    """
    known = bool(data.masks) and find_truth(data) is not None
    if known and not is_installed():
        say(f"{name}: not scored: {HOW_TO_INSTALL}")
    scored = known and is_installed()

    def measure() -> dict[str, Any]:
        return evaluate_instances(data, instances=folder).summary() if scored else {}

    depends = {"computed_by": HOW if scored else None}
    _record_once(out, name, data, folder, depends, measure, _stage_costs(out, folder))


def _curve_record(curve: Curve, fixed: float, at_fixed: float) -> dict[str, Any]:
    return {
        **curve.metrics.summary(),
        "best_threshold": curve.best,
        "fixed_threshold": fixed,
        "miou_at_fixed": at_fixed,
    }


def _ratios_record(ratios: dict[str, float]) -> dict[str, Any]:
    return {"confusion_ratios": ratios} if ratios else {}


def _record_once(
    out: Path,
    name: str,
    data: Dataset,
    folder: Path,
    arguments: dict[str, Any],
    measure: Callable[[], dict[str, Any]],
    extra: dict[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Record the result of `measure` and `extra`, unless there is such a record already.

    Collective.

    Returns:
        The record, if it is of this artefact and these arguments; None if no id has a mask.
    """
    data.check_masks()  # so that those which cannot be used are neither scored nor hashed
    truth = data.fingerprint(masks=True)
    source = jsonable({"made_from": provenance(folder), "data": truth, **arguments})
    found = distributed.run_on_main(lambda: read_records(out).get(name))
    if found is None or found.get("source") != source:
        measured = measure() if data.masks else {}

        def write() -> dict[str, Any]:
            record(out, name, {**measured, **(extra or {}), "source": source})
            return read_records(out)[name]

        found = distributed.run_on_main(write)
    return found if data.masks else None


def _stage_costs(out: Path, folder: Path) -> dict[str, Any]:
    """Seconds and speed of the artefact's stage, and of the training in the folder around it.

    `time` is where the seconds of the artefact's stage went, as in `stage_times`; `energy` the
    weight of the training's energy loss, if it had one.
    """
    cost: dict[str, Any] = {}
    notes = {}
    for path in (folder.parent / "done.json", folder / "done.json"):
        if path.exists() and path.parent != out:
            done = json.loads(path.read_text())
            notes[path.parent] = done["notes"]
            if weight := energy_table.weight(done):
                cost["energy"] = weight
    cost["seconds"] = round(sum(n.get("seconds", 0.0) for n in notes.values()), 2)
    speeds = [n["images_per_second"] for n in notes.values() if n.get("images_per_second")]
    if speeds:
        cost["images_per_second"] = speeds[-1]
    if time := notes.get(folder, {}).get("time"):
        cost["time"] = time
    return cost
