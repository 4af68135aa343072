"""What CCR's procedure does, on any data set with masks: growth over rounds, masking, unit, saliency beside the masks."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from wsss_fast import seg
from wsss_fast.ccr.erasing import ErasingOptions
from wsss_fast.ccr.method import infer
from wsss_fast.ccr.pipeline import PIPELINES, PRESETS, Pipeline, run
from wsss_fast.ccr.refinement import train
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine.run_folder import read_records
from wsss_fast.errors import InputError
from wsss_fast.evaluation import report, run_scores
from wsss_fast.evaluation.curves import threshold_curve
from wsss_fast.pipeline import AnalysesResult, resolve_preset

PARTS = ("rounds", "masking", "unit", "saliency")
Part = Literal["rounds", "masking", "unit", "saliency"]


def analyse(
    data: Source,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    parts: tuple[Part, ...] = PARTS,
    preset: Literal["voc", "shapes"] | None = None,
    backbone: str | None = None,
    seg_weights: str | Path | None = None,
    pipeline: Pipeline | None = None,
    val: Source | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> AnalysesResult:
    """How the response grows over the rounds, what its masking and its unit do, and what saliency beside the masks does.

    The run itself comes first (`ccr.run` until its masks, in `out`), then `<out>/analyses/<variant>/`: maps of the same
    classifier by changed procedures, and segmentation networks trained on the same masks; `<out>/analyses/report.html` is the
    page. What is finished is skipped.

    Args:
        data: images, tags, masks, and for "saliency" a saliency map for every id; a data set, or what `data.load` opens.
        out: run folder of `ccr.run`.
        weights: of the trained classifier, as in `ccr.run`.
        parts: which: "rounds" (stopped after each), "masking" (each class on its own beside joint), "unit" (the whole image's
            maximum beside each crop's), "saliency" (none, everywhere and AAMR in the segmentation training).
        preset: as in `ccr.run`.
        backbone: as in `ccr.run`.
        seg_weights: as in `ccr.run`.
        pipeline: as in `ccr.run`.
        val: images that the segmentation networks of "saliency" predict; without it they predict `data`.
        device: auto, cpu, cuda or cuda:N.
        seed: of every training.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used, no masks.
        RunError: a loss became infinite.
    """
    data, out = opened(data), Path(out)
    backbone, pipeline = resolve_preset(
        "ccr.analyse", PRESETS, PIPELINES, preset, backbone, pipeline
    )
    unknown = [p for p in parts if p not in PARTS]
    if unknown:
        raise InputError(f"ccr.analyse: parts holds {unknown[0]!r}; must be of {', '.join(PARTS)}")
    data.with_masks()
    shared = {"backbone": backbone, "device": device, "precision": precision}
    made = run(
        data,
        out,
        weights=weights,
        pipeline=pipeline,
        until="masks",
        val=val,
        seed=seed,
        workers=workers,
        **shared,
    ).masks
    weights = weights or out / "cam/weights.pth"

    folders, side = {"cam": out / "cam/maps", "ccr": out / "ccr/maps"}, out / "analyses"
    for name, erasing in _variants(pipeline.ccr.erasing, parts).items():
        folders[name] = infer(
            data,
            weights,
            side,
            recipe=dataclasses.replace(pipeline.ccr, erasing=erasing),
            name=f"{name}/maps",
            **shared,
        ).maps
        run_scores.maps(side, name, data, folders[name], fixed=pipeline.ccr_threshold, crf=None)
    if "saliency" in parts:
        unseen = opened(val) if val is not None else data
        start = seg_weights or (weights if backbone == "small" else None)
        net = {
            "backbone": "small" if backbone == "small" else "resnet101",
            "device": device,
            "precision": precision,
        }
        for name, recipe in (
            ("seg-none", dataclasses.replace(pipeline.seg, weight=0.0)),
            ("seg-everywhere", pipeline.seg.everywhere()),
            ("seg-aamr", pipeline.seg),
        ):
            trained = train(
                data,
                side,
                masks=made,
                maps=folders["ccr"],
                weights=start,
                recipe=recipe,
                seed=seed,
                workers=workers,
                name=name,
                **net,
            )
            predicted = seg.infer(
                unseen, trained.weights, side, recipe=recipe.seg, name=f"{name}/predictions", **net
            )
            run_scores.masks(side, name, unseen, predicted.predictions)
    records = {**read_records(out), **read_records(side)}
    networks = [name for name in ("seg-none", "seg-everywhere", "seg-aamr") if name in records]
    page = _write(side, data, folders, records, networks, pipeline.ccr.erasing)
    scored = [name for name in (*folders, *networks) if "miou" in records[name]]
    return AnalysesResult(side, page, {name: records[name]["miou"] for name in scored})


def _variants(erasing: ErasingOptions, parts: Sequence[str]) -> dict[str, ErasingOptions]:
    """Name -> procedure, of those that differ from the pipeline's own."""
    found: dict[str, ErasingOptions] = {}
    if "rounds" in parts:
        found.update(
            {f"after-{n}": dataclasses.replace(erasing, rounds=n) for n in range(1, erasing.rounds)}
        )
    if "masking" in parts:
        other = "class" if erasing.masking == "joint" else "joint"
        found[f"masking-{other}"] = dataclasses.replace(erasing, masking=other)
    if "unit" in parts:
        other = "image" if erasing.unit == "crop" else "crop"
        found[f"unit-{other}"] = dataclasses.replace(erasing, unit=other)
    return found


def _write(
    out: Path,
    data: Dataset,
    folders: dict[str, Path],
    records: dict[str, dict],
    networks: Sequence[str],
    erasing: ErasingOptions,
) -> Path:
    """The page: maps by variant with their curves, by the number of classes an image has, and the networks."""
    counts = {id: int(data.tags_of(id).sum()) for id in data.ids if id in data.masks}
    groups = {
        name: [i for i, n in counts.items() if fits(n)]
        for name, fits in (
            ("1 class", lambda n: n == 1),
            ("2 classes", lambda n: n == 2),
            ("3 and more", lambda n: n > 2),
        )
    }
    groups = {f"{name} ({len(ids)})": ids for name, ids in groups.items() if ids}
    titles = {name: _title(name, erasing) for name in sorted(folders, key=_place)}
    rows = []
    for name, title in titles.items():
        values = records[name]
        each = [
            _at(data.only(ids), folders[name], values["best_threshold"]) for ids in groups.values()
        ]
        rows.append(
            [
                title,
                f"{100 * values['miou']:.1f} @ {values['best_threshold']:.2f}",
                "" if name == "cam" else f"{100 * (values['miou'] - records['cam']['miou']):+.1f}",
                _mean(values, "recall"),
                _mean(values, "precision"),
                *each,
            ]
        )
    lead = [
        "<h2>Maps</h2>",
        f"<p>{html.escape(_WHAT.format(way=_WAYS[erasing.masking], unit=_UNITS[erasing.unit]))}</p>",
        report.table(["maps", "mIoU", "to CAM", "recall", "precision", *groups], rows),
        "<h2>mIoU over the threshold</h2>",
        report.lines(
            {
                title: list(
                    zip(
                        records[name]["curve"]["thresholds"],
                        records[name]["curve"]["miou"],
                        strict=True,
                    )
                )
                for name, title in titles.items()
            },
            "background threshold",
            "mIoU (%)",
        ),
    ]
    if networks:
        lead += [
            "<h2>Saliency beside the masks</h2>",
            "<p>Segmentation networks trained on the same masks, in %: without "
            "saliency, pulled to the saliency everywhere, and only where the response maps do not contradict it "
            "(AAMR). Recall: mean over the classes.</p>",
            report.table(
                ["saliency", "mIoU", "recall"],
                [
                    [
                        name.removeprefix("seg-"),
                        f"{100 * records[name]['miou']:.1f}",
                        _mean(records[name], "recall"),
                    ]
                    for name in networks
                    if "miou" in records[name]
                ],
            ),
        ]
    panels = {
        "image": report.photo(data),
        "truth": report.truth(data),
        **{title: report.heat(data, folders[name]) for name, title in titles.items()},
    }
    return report.write(
        out, data, panels, title="CCR: what the procedure does", curves={}, lead=lead, pictures=12
    )


_WAYS = {"joint": "all classes masked together", "class": "each class masked on its own"}
_UNITS = {
    "crop": "maps divided by their maximum in the crop",
    "image": "maps divided by their maximum in the image",
}
_WHAT = (
    "All in %, of the maps at the threshold that is best for their mIoU; by the number of classes in an image (in "
    "brackets how many such images there are) at the same threshold. Recall and precision: mean over the classes; recall "
    "says how much of the objects is covered. CCR here: {way}, {unit}; the other rows stop it after fewer rounds, or "
    "change one of these."
)


def _place(name: str) -> tuple[int, str]:
    """ErasingOptions in their order, between CAM and the whole procedure; then what else is changed."""
    return (
        0 if name == "cam" else 1 if name.startswith("after-") else 2 if name == "ccr" else 3
    ), name


def _title(name: str, erasing: ErasingOptions) -> str:
    """What the page calls a variant."""
    kind, _, value = name.partition("-")
    if kind == "after":
        return f"{value} round" + ("s" if value != "1" else "")
    return {
        "cam": "CAM",
        "ccr": f"CCR, {erasing.rounds} rounds",
        "masking": _WAYS.get(value, ""),
        "unit": _UNITS.get(value, ""),
    }[kind]


def _at(data: Dataset, folder: Path, threshold: float) -> str:
    return f"{100 * threshold_curve(folder, data, thresholds=(threshold,)).metrics.miou:.1f}"


def _mean(values: dict, figure: str) -> str:
    """Of "recall" or "precision", over the classes."""
    known = [
        v
        for name, v in values[figure].items()
        if name != "background" and v is not None and np.isfinite(v)
    ]
    return f"{100 * np.mean(known):.1f}" if known else ""
