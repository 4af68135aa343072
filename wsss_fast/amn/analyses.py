"""AMN's analyses of its parts, on any data set with masks.

They compare places of the label conditioning, the balance and smoothing of the loss, and softmaxes,
by mIoU, dependence on the threshold and confusion of look-alike classes.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from wsss_fast import nets
from wsss_fast.amn.inference import infer
from wsss_fast.amn.look_alikes import unfiltered_confusion
from wsss_fast.amn.pipeline import PIPELINES, PRESETS, Pipeline, run
from wsss_fast.amn.recipe import Recipe
from wsss_fast.amn.training import train
from wsss_fast.data import Source, opened_for
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine.run_folder import check_out, read_records
from wsss_fast.engine.run_lock import with_exclusive_out
from wsss_fast.evaluation import report, run_scores
from wsss_fast.evaluation.curves import threshold_curve, width_of_top
from wsss_fast.evaluation.image_thresholds import image_thresholds
from wsss_fast.evaluation.pair_confusion import class_pairs, pair_confusion
from wsss_fast.evaluation.variants_page import at_best, at_fixed, curve_points, difference, percent
from wsss_fast.runs import AnalysesResult, Compute, check_parts, resolve_preset

Part = Literal["conditioning", "balance", "smoothing", "softmax"]
PARTS: tuple[Part, ...] = ("conditioning", "balance", "smoothing", "softmax")


@with_exclusive_out
def analyse(
    data: Source,
    out: str | Path,
    *,
    preset: Literal["amn-voc", "amn-coco", "shapes", "voc", "coco"] | None = None,
    backbone: str | None = None,
    weights: str | Path | None = None,
    pipeline: Pipeline | None = None,
    parts: tuple[Part, ...] = PARTS,
    pairs: tuple[str, ...] = (),
    val: Source | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> AnalysesResult:
    """Run AMN and the paper's ablations: each variant is scored and shown on one page.

    First comes `amn.run` until its masks, in `out`; then the variants in
    `<out>/analyses/<variant>/`, trained on the same seeds, and the page
    `<out>/analyses/report.html`. Finished variants are skipped, so an interrupted call resumes when
    it is repeated. In addition to the mIoU before and after CRF refinement, each variant has the
    width of its threshold curve's top, the spread of the images' own best thresholds, and the
    confusion of look-alike classes. Collective.

    Args:
        data: images, tags and masks: a data set, or an argument of `data.load`.
        out: run folder of `amn.run`.
        preset: name of a published setting, as in `amn.run`.
        backbone: backbone of classifier and AMN, as in `amn.run`.
        weights: initial weights of classifier, AMN and IRN, as in `amn.run`.
        pipeline: hyper-parameters of all stages, as in `amn.run`.
        parts: analyses to run: "conditioning" (off, and at the two stages of the backbone before
            the last one), "balance" (without it), "smoothing" (without it), "softmax" (over
            background and present classes, at inference only).
        pairs: look-alike classes "class/class" whose confusion is measured; default: those of the
            Shapes benchmark, for other data none.
        val: tagged images, as in `amn.run`.
        device: auto, cpu, cuda or cuda:N.
        seed: seed of every training.
        workers: number of loader processes; 0 loads in the training process.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used, or there are no masks.
        RunError: a loss is not finite.

    Source: Lee, Kim and Shim, CVPR 2022, section 4.
    """
    chosen = resolve_preset("amn.analyse", PRESETS, PIPELINES, preset, backbone, pipeline)
    data, out = opened_for(data, chosen.row), check_out(out)
    backbone, numbers = chosen.backbone, chosen.numbers
    nets.check(backbone, weights)
    data.with_masks()
    check_parts("amn.analyse", parts, PARTS)
    labels = class_pairs(data, pairs)
    compute = Compute(backbone, device, seed, workers, precision)
    compute.resolved_device()  # raises for an unknown device before anything is written
    run(
        data,
        out,
        preset=preset,
        weights=weights,
        pipeline=numbers,
        until="masks",
        val=val,
        **compute.train(),
    )

    side, own = out / "analyses", {"cam": out / "cam/maps", "amn": out / "amn/maps"}
    folders, networks = dict(own), {"amn": (out / "amn/weights.pth", numbers.amn)}
    for name, recipe in _variants(numbers.amn, backbone, parts).items():
        networks[name] = _network(data, out, name, recipe, numbers.amn, weights, compute)
        folders[name] = _maps(data, out, name, *networks[name], numbers, compute)
    for name, folder in folders.items():
        place = out if name in own else side
        _measure_thresholds(place, name, data, folder)
        if labels:
            _measure_confusion(place, name, data, folder, labels, networks.get(name), compute)
    records = {**read_records(out), **read_records(side)}
    page = _write_page(side, data, folders, records, numbers, list(labels))
    return AnalysesResult(side, page, {name: records[name]["miou"] for name in folders})


def _variants(recipe: Recipe, backbone: str, parts: Sequence[str]) -> dict[str, Recipe]:
    """Recipes in addition to the pipeline's own, by name."""
    changes: dict[str, dict[str, Any]] = {}
    if "conditioning" in parts:
        with torch.device("meta"):
            stages = list(nets.BACKBONES[backbone]().stage_channels)
        changes["unconditioned"] = {"condition_at": None}
        changes.update({f"condition-{s}": {"condition_at": s} for s in reversed(stages[-3:-1])})
    if "balance" in parts:
        changes["unbalanced"] = {"balance": False}
    if "smoothing" in parts:
        changes["unsmoothed"] = {"smoothing": 0.0}
    if "softmax" in parts:
        changes["present-only"] = {"present_only": True}
    variants = {name: dataclasses.replace(recipe, **fields) for name, fields in changes.items()}
    return {name: variant for name, variant in variants.items() if variant != recipe}


def _network(
    data: Dataset,
    out: Path,
    name: str,
    recipe: Recipe,
    own: Recipe,
    weights: str | Path | None,
    compute: Compute,
) -> tuple[Path, Recipe]:
    """Weights and recipe of a variant; trained unless it differs from AMN at inference only."""
    if dataclasses.replace(recipe, present_only=own.present_only) == own:
        return out / "amn/weights.pth", recipe
    trained = train(
        data,
        out / "analyses",
        seeds=out / "seeds",
        weights=weights or out / "cam/weights.pth",
        recipe=recipe,
        name=name,
        **compute.train(),
    )
    return trained.weights, recipe


def _maps(
    data: Dataset,
    out: Path,
    name: str,
    weights: Path,
    recipe: Recipe,
    numbers: Pipeline,
    compute: Compute,
) -> Path:
    """Folder of a variant's maps, which are scored as AMN's own."""
    maps = infer(
        data,
        weights,
        out / "analyses",
        seeds=out / "seeds",
        recipe=recipe,
        name=f"{name}/maps",
        **compute.infer(),
    ).maps
    run_scores.maps(
        out / "analyses",
        name,
        data,
        maps,
        fixed=numbers.amn_threshold,
        crf=numbers.refine.crf,
        fixed_crf=numbers.refine.crf_threshold,
        device=compute.resolved_device(),
    )
    return maps


def _measure_thresholds(out: Path, name: str, data: Dataset, folder: Path) -> None:
    """Add to the record what the images' own best thresholds are, and what they would gain."""

    def measure(best: float) -> dict[str, float]:
        found = image_thresholds(folder, data, around=best)
        return {"spread": found.spread, "miou": found.metrics.miou}

    run_scores.further(out, name, "own_thresholds", measure)


def _measure_confusion(
    out: Path,
    name: str,
    data: Dataset,
    folder: Path,
    labels: Mapping[str, tuple[int, int]],
    network: tuple[Path, Recipe] | None,
    compute: Compute,
) -> None:
    """Add the confusion of look-alikes to the record: in the maps, and among all classes."""
    both, pairs = list(labels.values()), list(labels)

    def shares(confusion: Any) -> dict[str, Any]:
        together, each = pair_confusion(confusion, both)
        return {"all": together, **dict(zip(pairs, each, strict=True))}

    def in_maps(best: float) -> dict[str, Any]:
        found = threshold_curve(folder, data, thresholds=(best,)).metrics
        return shares(found.confusion)

    run_scores.further(out, name, "look_alikes", in_maps, pairs)
    if network is not None:
        weights, recipe = network
        run_scores.further(
            out,
            name,
            "look_alikes_unfiltered",
            lambda _: shares(unfiltered_confusion(data, weights, recipe, **compute.infer())),
            pairs,
        )


def _write_page(
    out: Path,
    data: Dataset,
    folders: Mapping[str, Path],
    records: Mapping[str, dict[str, Any]],
    numbers: Pipeline,
    pairs: Sequence[str],
) -> Path:
    """Write the page: table and threshold curves of the variants, pictures."""
    titles = {name: _title(name, numbers.amn) for name in folders}
    panels = {
        "image": report.photo(data),
        **report.truth_column(data),
        **{titles[name]: report.heat(data, folders[name]) for name in folders},
    }
    return report.write(
        out,
        data,
        panels,
        title="AMN: the paper's ablations",
        curves={},
        lead=[
            "<h2>Variants</h2>",
            _explanation(numbers.amn, pairs),
            _table(titles, records, pairs),
            "<h2>mIoU over the threshold</h2>",
            "<p>The flatter a curve, the less the choice of the threshold matters.</p>",
            report.lines(
                {title: curve_points(records[name]) for name, title in titles.items()},
                "background threshold",
                "mIoU (%)",
            ),
        ],
        pictures=12,
    )


def _title(name: str, recipe: Recipe) -> str:
    """Title of a variant on the page."""
    titles = {
        "cam": "CAM",
        "amn": "AMN",
        "unconditioned": "no conditioning",
        "unbalanced": "no balance",
        "unsmoothed": "no smoothing",
        "present-only": "softmax over present classes",
    }
    stage = name.removeprefix("condition-")
    return titles.get(name, f"conditioned at {stage}")


def _explanation(recipe: Recipe, pairs: Sequence[str]) -> str:
    """HTML above the table of the variants."""
    where = "not conditioned" if recipe.condition_at is None else f"at {recipe.condition_at}"
    text = (
        "mIoU in % at the best threshold of each row, its difference to AMN, and at the threshold "
        "of the recipe; the same after CRF refinement. Width: of the range of thresholds within 2 "
        "points of the best. Spread: standard deviation of the best thresholds of single images; "
        "own thresholds: points gained if each image had its own best threshold. "
    )
    if pairs:
        text += (
            "Look-alikes: share of confusions within the pairs "
            f"{', '.join(pairs)}, in % of the pixels of a pair that are predicted as one of its "
            "classes: in the maps, which hold the classes of the image's tags only, and by the "
            "argmax over all classes. "
        )
    text += (
        f"AMN: label conditioning {where}, smoothing {recipe.smoothing:g}, "
        f"{'without balance' if recipe.balance is False else 'balanced'}; CAM: the classifier."
    )
    return f"<p>{html.escape(text)}</p>"


def _table(
    titles: Mapping[str, str], records: Mapping[str, dict[str, Any]], pairs: Sequence[str]
) -> str:
    """HTML table of the variants."""
    head = ["variant", "mIoU", "to AMN", "fixed", "+CRF", "to AMN", "fixed", "width", "spread"]
    head += ["own thresholds", *(("look-alikes, maps", "all classes") if pairs else ())]
    body = []
    for name, title in titles.items():
        values, refined = records[name], records[f"{name}+crf"]
        cells = [title]
        for record, base in ((values, "amn"), (refined, "amn+crf")):
            gain = "" if name == "amn" else difference(record, records[base])
            cells += [at_best(record), gain, at_fixed(record)]
        own, curve = values["own_thresholds"], values["curve"]
        cells += [
            f"{width_of_top(curve['thresholds'], curve['miou']):.2f}",
            f"{own['spread']:.2f}",
            f"{100 * (own['miou'] - values['miou']):+.1f}",
        ]
        if pairs:
            cells += [
                percent(values.get(key, {}).get("all"))
                for key in ("look_alikes", "look_alikes_unfiltered")
            ]
        body.append(cells)
    return report.table(head, body)
