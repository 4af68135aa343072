"""CCR's analyses of its parts, on any data set with masks.

They compare numbers of rounds, ways of masking, units of the maps, and uses of saliency maps in the
segmentation training.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wsss_fast import seg
from wsss_fast.ccr.erasing import ErasingOptions
from wsss_fast.ccr.inference import infer
from wsss_fast.ccr.pipeline import PIPELINES, PRESETS, Pipeline, run
from wsss_fast.ccr.training import train
from wsss_fast.data import Source, opened, opened_for
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine.run_folder import check_out, read_records
from wsss_fast.engine.run_lock import with_exclusive_out
from wsss_fast.evaluation import report, run_scores
from wsss_fast.evaluation.curves import threshold_curve
from wsss_fast.evaluation.variants_page import at_best, curve_points, difference, percent
from wsss_fast.runs import AnalysesResult, check_parts, resolve_preset

Part = Literal["rounds", "masking", "unit", "saliency"]
PARTS: tuple[Part, ...] = ("rounds", "masking", "unit", "saliency")
_NETWORKS = ("seg-none", "seg-everywhere", "seg-aamr")


@with_exclusive_out
def analyse(
    data: Source,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    parts: tuple[Part, ...] = PARTS,
    preset: Literal["ccr-voc", "shapes", "voc"] | None = None,
    backbone: str | None = None,
    seg_weights: str | Path | None = None,
    pipeline: Pipeline | None = None,
    val: Source | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> AnalysesResult:
    """Run CCR and analyses of its rounds, its masking, its unit and its saliency loss.

    First comes `ccr.run` until its masks, in `out`; then `<out>/analyses/<variant>/`: maps of the
    same classifier with other erasing options, and segmentation networks trained on the same
    pseudo-masks; and the page `<out>/analyses/report.html`. Finished variants are skipped.
    Collective.

    Args:
        data: images, tags, masks, and for "saliency" a saliency map for every id: a data set, or an
            argument of `data.load`.
        out: run folder of `ccr.run`.
        weights: weights of a trained classifier, as in `ccr.run`.
        parts: analyses to run: "rounds" (the maps after each round), "masking" (of each class alone
            in addition to joint), "unit" (maximum in the whole image in addition to that in each
            crop), "saliency" (none, everywhere and AAMR in the segmentation training).
        preset: name of a published setting, as in `ccr.run`.
        backbone: backbone of the classifier, as in `ccr.run`.
        seg_weights: initial weights of the segmentation networks, as in `ccr.run`.
        pipeline: hyper-parameters of all stages, as in `ccr.run`.
        val: images that the segmentation networks of "saliency" predict; without them, they predict
            `data`.
        device: auto, cpu, cuda or cuda:N.
        seed: seed of every training.
        workers: number of loader processes; 0 loads in the training process.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used, or there are no masks.
        RunError: a loss is not finite.
    """
    chosen = resolve_preset("ccr.analyse", PRESETS, PIPELINES, preset, backbone, pipeline)
    data, out = opened_for(data, chosen.row), check_out(out)
    backbone, numbers = chosen.backbone, chosen.numbers
    check_parts("ccr.analyse", parts, PARTS)
    data.with_masks()
    inference: dict[str, Any] = {"device": device, "precision": precision}
    training: dict[str, Any] = {**inference, "seed": seed, "workers": workers}
    result = run(
        data,
        out,
        preset=preset,
        backbone=backbone,
        weights=weights,
        pipeline=numbers,
        until="masks",
        val=val,
        **training,
    )
    classifier = weights or out / "cam/weights.pth"

    folders, side = {"cam": out / "cam/maps", "ccr": out / "ccr/maps"}, out / "analyses"
    for name, erasing in _variants(numbers.ccr.erasing, parts).items():
        recipe = dataclasses.replace(numbers.ccr, erasing=erasing)
        maps_name = f"{name}/maps"
        folders[name] = infer(
            data, classifier, side, backbone=backbone, recipe=recipe, name=maps_name, **inference
        ).maps
        run_scores.maps(side, name, data, folders[name], fixed=numbers.ccr_threshold, crf=None)
    if "saliency" in parts:
        unseen = data if val is None else opened(val)
        start = seg_weights or (classifier if backbone == "small" else None)
        training["backbone"] = "small" if backbone == "small" else "resnet101"
        _train_networks(data, side, numbers, result.masks, folders["ccr"], start, unseen, training)
    records = {**read_records(out), **read_records(side)}
    page = _write_page(side, data, folders, records, numbers.ccr.erasing)
    scored = [name for name in (*folders, *_NETWORKS) if "miou" in records.get(name, {})]
    return AnalysesResult(side, page, {name: records[name]["miou"] for name in scored})


def _variants(erasing: ErasingOptions, parts: Sequence[str]) -> dict[str, ErasingOptions]:
    """Erasing options other than the pipeline's own, by name."""
    variants: dict[str, ErasingOptions] = {}
    if "rounds" in parts:
        for n in range(1, erasing.rounds):
            variants[f"after-{n}"] = dataclasses.replace(erasing, rounds=n)
    if "masking" in parts:
        masking: Literal["joint", "class"] = "class" if erasing.masking == "joint" else "joint"
        variants[f"masking-{masking}"] = dataclasses.replace(erasing, masking=masking)
    if "unit" in parts:
        unit: Literal["crop", "image"] = "image" if erasing.unit == "crop" else "crop"
        variants[f"unit-{unit}"] = dataclasses.replace(erasing, unit=unit)
    return variants


def _train_networks(
    data: Dataset,
    out: Path,
    numbers: Pipeline,
    masks: Path,
    maps: Path,
    weights: str | Path | None,
    unseen: Dataset,
    options: dict[str, Any],
) -> None:
    """Train, predict and score a segmentation network for each use of the saliency maps.

    Args:
        data: training images.
        out: run folder of the analyses.
        numbers: hyper-parameters of the pipeline.
        masks: folder of the pseudo-masks.
        maps: folder of the response maps.
        weights: initial weights of the networks.
        unseen: images to predict.
        options: backbone, device, precision, seed and workers.
    """
    inference = {name: options[name] for name in ("backbone", "device", "precision")}
    refinements = (
        dataclasses.replace(numbers.seg, weight=0.0),
        numbers.seg.everywhere(),
        numbers.seg,
    )
    for name, recipe in zip(_NETWORKS, refinements, strict=True):
        trained = train(
            data, out, masks=masks, maps=maps, weights=weights, recipe=recipe, name=name, **options
        )
        predicted = seg.infer(
            unseen,
            trained.weights,
            out,
            recipe=recipe.seg,
            name=f"{name}/predictions",
            **inference,
        )
        run_scores.masks(out, name, unseen, predicted.predictions)


def _write_page(
    out: Path,
    data: Dataset,
    folders: Mapping[str, Path],
    records: Mapping[str, dict[str, Any]],
    erasing: ErasingOptions,
) -> Path:
    """Write the page: table and curves of the maps, table of the networks, pictures."""
    titles = {name: _title(name, erasing) for name in sorted(folders, key=_order)}
    panels = {
        "image": report.photo(data),
        **report.truth_column(data),
        **{title: report.heat(data, folders[name]) for name, title in titles.items()},
    }
    explanation = _EXPLANATION.format(masking=_MASKINGS[erasing.masking], unit=_UNITS[erasing.unit])
    curves = {title: curve_points(records[name]) for name, title in titles.items()}
    lead = [
        "<h2>Maps</h2>",
        f"<p>{html.escape(explanation)}</p>",
        _maps_table(data, folders, records, titles),
        "<h2>mIoU over the threshold</h2>",
        report.lines(curves, "background threshold", "mIoU (%)"),
        *_networks_section(records),
    ]
    return report.write(
        out, data, panels, title="CCR: analyses of its parts", curves={}, lead=lead, pictures=12
    )


def _maps_table(
    data: Dataset,
    folders: Mapping[str, Path],
    records: Mapping[str, dict[str, Any]],
    titles: Mapping[str, str],
) -> str:
    """HTML table of the maps of each variant."""
    groups = _by_class_count(data)
    rows = []
    for name, title in titles.items():
        values = records[name]
        rows.append(
            [
                title,
                at_best(values),
                "" if name == "cam" else difference(values, records["cam"]),
                _class_mean(values["recall"]),
                _class_mean(values["precision"]),
                *(
                    _miou_at(data.only(ids), folders[name], values["best_threshold"])
                    for ids in groups.values()
                ),
            ]
        )
    return report.table(["maps", "mIoU", "to CAM", "recall", "precision", *groups], rows)


def _by_class_count(data: Dataset) -> dict[str, list[str]]:
    """Ids with a mask, by the number of classes in the image; without empty groups."""
    groups: dict[str, list[str]] = {"1 class": [], "2 classes": [], "3 or more": []}
    for id in data.ids:
        count = int(data.tags_of(id).sum())
        if id in data.masks and count > 0:
            groups["1 class" if count == 1 else "2 classes" if count == 2 else "3 or more"] += [id]
    return {f"{name} ({len(ids)})": ids for name, ids in groups.items() if ids}


def _networks_section(records: Mapping[str, dict[str, Any]]) -> list[str]:
    """HTML of the segmentation networks; empty if they were not trained."""
    names = [name for name in _NETWORKS if name in records]
    if not names:
        return []
    body = [
        [
            name.removeprefix("seg-"),
            percent(records[name]["miou"]),
            _class_mean(records[name]["recall"]),
        ]
        for name in names
        if "miou" in records[name]
    ]
    return [
        "<h2>Saliency in the segmentation training</h2>",
        "<p>Segmentation networks trained on the same pseudo-masks, in %: without saliency, with "
        "saliency everywhere, and with saliency only where the response maps do not contradict it "
        "(AAMR). Recall: mean over the classes.</p>",
        report.table(["saliency", "mIoU", "recall"], body),
    ]


_MASKINGS = {"joint": "all classes masked together", "class": "each class masked on its own"}
_UNITS = {
    "crop": "maps divided by their maximum in the crop",
    "image": "maps divided by their maximum in the image",
}
_EXPLANATION = (
    "All values in %, for the maps at the threshold with their best mIoU; also by the number of "
    "classes in an image, at the same threshold, with the number of such images in brackets. "
    "Recall and precision: mean over the classes; recall is the covered share of the objects. CCR "
    "has {masking}, {unit}; the other rows have fewer rounds or change one of these."
)


def _order(name: str) -> tuple[int, str]:
    """Key that sorts variants: CAM, after each round, the complete CCR, other options."""
    rank = {"cam": 0, "ccr": 2}.get(name, 1 if name.startswith("after-") else 3)
    return rank, name


def _title(name: str, erasing: ErasingOptions) -> str:
    """Title of a variant on the page."""
    kind, _, value = name.partition("-")
    if kind == "after":
        return f"{value} round" + ("s" if value != "1" else "")
    return {
        "cam": "CAM",
        "ccr": f"CCR, {erasing.rounds} rounds",
        "masking": _MASKINGS.get(value, ""),
        "unit": _UNITS.get(value, ""),
    }[kind]


def _miou_at(data: Dataset, folder: Path, threshold: float) -> str:
    return percent(threshold_curve(folder, data, thresholds=(threshold,)).metrics.miou)


def _class_mean(by_class: Mapping[str, float | None]) -> str:
    """Mean in % over the classes, without background and without undefined values."""
    values = [
        v
        for name, v in by_class.items()
        if name != "background" and v is not None and np.isfinite(v)
    ]
    return percent(float(np.mean(values))) if values else ""
