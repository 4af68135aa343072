"""EPS' analyses of its parts, on any data set with masks.

They compare selection strategies, values of lam and tau and sources of saliency maps, by mIoU, mIoU
near boundaries and confusion ratios.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wsss_fast import nets
from wsss_fast.data import Source, opened_for
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine.run_folder import check_out, read_records
from wsss_fast.engine.run_lock import with_exclusive_out
from wsss_fast.engine.runtime import resolve_runtime
from wsss_fast.eps.inference import infer
from wsss_fast.eps.pipeline import PIPELINES, PRESETS, Pipeline, run, with_known_pairs
from wsss_fast.eps.recipe import Recipe
from wsss_fast.eps.training import train
from wsss_fast.errors import InputError
from wsss_fast.evaluation import report, run_scores
from wsss_fast.evaluation.confusion_ratio import confusion_ratios
from wsss_fast.evaluation.curves import labels_at
from wsss_fast.evaluation.trimap import trimap_miou
from wsss_fast.evaluation.variants_page import at_best, difference, percent
from wsss_fast.runs import AnalysesResult, check_parts, resolve_preset
from wsss_fast.stages import saliency

Part = Literal["strategies", "lam", "tau", "saliency"]
_PARTS: tuple[Part, ...] = ("strategies", "lam", "tau", "saliency")
_PICTURED = ("cam", "naive", "eps", "saliency-degraded", "saliency-classical")


@dataclasses.dataclass(frozen=True)
class _Variant:
    """One training of an analysis.

    Attributes:
        recipe: hyper-parameters.
        saliencies: saliency file of each id, or None for the data set's own.
    """

    recipe: Recipe
    saliencies: dict[str, Path] | None = None


@with_exclusive_out
def analyse(
    data: Source,
    out: str | Path,
    *,
    preset: Literal["eps-voc", "eps-coco", "shapes", "voc", "coco"] | None = None,
    backbone: str | None = None,
    weights: str | Path | None = None,
    pipeline: Pipeline | None = None,
    parts: tuple[Part, ...] = _PARTS,
    lams: tuple[float, ...] = (0.1, 0.3, 0.7, 0.9),
    taus: tuple[float, ...] = (0.2, 0.6, 0.8),
    background_classes: tuple[int, ...] = (),
    val: Source | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> AnalysesResult:
    """Run EPS and the paper's analyses: each variant is trained, scored and shown on one page.

    First comes `eps.run` until its masks, in `out`; then the variants in
    `<out>/analyses/<variant>/`, and the page `<out>/analyses/report.html`. Finished variants are
    skipped, so an interrupted call resumes when it is repeated. In addition to the mIoU at its best
    threshold, each variant has its mIoU near boundaries (trimap) and the confusion ratios of the
    pipeline's pairs. Collective.

    Args:
        data: images, tags, masks and a saliency map for every id: a data set, or an argument of
            `data.load`.
        out: run folder of `eps.run`.
        preset: name of a published setting, as in `eps.run`.
        backbone: backbone of EPS, as in `eps.run`.
        weights: initial weights of EPS, as in `eps.run`.
        pipeline: hyper-parameters of all stages, as in `eps.run`.
        parts: analyses to run: "strategies" (naive and, with `background_classes`, predefined
            selection in addition to adaptive), "lam", "tau", "saliency" (degraded and classical
            maps in addition to the given ones).
        lams: values of lam in addition to the pipeline's own, 0..1.
        taus: values of tau in addition to the pipeline's own, 0..1.
        background_classes: labels 1..C that the paper's predefined selection assigns to the
            background; without them, this variant is omitted.
        val: tagged images, as in `eps.run`.
        device: auto, cpu, cuda or cuda:N.
        seed: seed of every training.
        workers: number of loader processes; 0 loads in the training process.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used, or there are no masks.
        RunError: a loss is not finite.

    Source: EPS, sections 4.2 and 4.3.
    """
    chosen = resolve_preset("eps.analyse", PRESETS, PIPELINES, preset, backbone, pipeline)
    data, out = opened_for(data, chosen.row), check_out(out)
    backbone, numbers = chosen.backbone, chosen.numbers
    nets.check(backbone, weights, nets.SALIENCY_BACKBONES)
    data.with_masks()
    _check(parts, lams, taus)
    numbers = with_known_pairs(data, numbers)
    resolve_runtime(device, seed, workers, precision, prefer_bf16=False)  # raises for wrong ones
    inference: dict[str, Any] = {"backbone": backbone, "device": device, "precision": precision}
    training: dict[str, Any] = {**inference, "seed": seed, "workers": workers}
    run(
        data,
        out,
        preset=preset,
        weights=weights,
        pipeline=numbers,
        until="masks",
        val=val,
        **training,
    )

    own = {"cam": out / "cam/maps"} if numbers.baseline else {}
    own["eps"] = out / "eps/maps"
    side, folders = out / "analyses", dict(own)
    variants = _variants(data, side, numbers.eps, parts, lams, taus, background_classes)
    for name, variant in variants.items():
        changed, recipe = data, variant.recipe
        if variant.saliencies is not None:
            changed = dataclasses.replace(data, saliencies=variant.saliencies)
        trained = train(changed, side, weights=weights, recipe=recipe, name=name, **training)
        maps = infer(data, trained.weights, side, recipe=recipe, name=name, **inference).maps
        run_scores.maps(
            side, name, data, maps, fixed=recipe.threshold, crf=None, pairs=numbers.pairs
        )
        folders[name] = maps
    for name, folder in folders.items():
        _record_trimap(out if name in own else side, name, data, folder)
    records = {**read_records(out), **read_records(side)}
    page = _write_page(side, data, folders, records, numbers)
    return AnalysesResult(side, page, {name: records[name]["miou"] for name in folders})


def _check(parts: Sequence[str], lams: Sequence[float], taus: Sequence[float]) -> None:
    check_parts("eps.analyse", parts, _PARTS)
    for name, values in (("lams", lams), ("taus", taus)):
        if any(not 0 <= v <= 1 for v in values):
            raise InputError(f"eps.analyse: {name} must be in 0..1, got {tuple(values)}")


def _variants(
    data: Dataset,
    out: Path,
    recipe: Recipe,
    parts: Sequence[str],
    lams: Sequence[float],
    taus: Sequence[float],
    background_classes: tuple[int, ...],
) -> dict[str, _Variant]:
    """Trainings in addition to the pipeline's own, by name; writes their saliency maps."""

    def changed(**fields: Any) -> _Variant:
        return _Variant(dataclasses.replace(recipe, **fields))

    variants: dict[str, _Variant] = {}
    if "strategies" in parts:
        variants["naive"] = changed(strategy="naive")
        if background_classes:
            variants["predefined"] = changed(
                strategy="predefined", background_classes=background_classes
            )
    if "lam" in parts:
        variants.update({f"lam-{lam:g}": changed(lam=lam) for lam in lams if lam != recipe.lam})
    if "tau" in parts:
        variants.update({f"tau-{tau:g}": changed(tau=tau) for tau in taus if tau != recipe.tau})
    if "saliency" in parts:
        for name, result in (
            ("saliency-degraded", saliency.degrade(data, out, name="degraded")),
            ("saliency-classical", saliency.make(data, out, name="classical")),
        ):
            files = {id: result.folder / f"{id}.png" for id in data.ids}
            variants[name] = _Variant(recipe, files)
    return variants


def _record_trimap(out: Path, name: str, data: Dataset, folder: Path) -> None:
    """Add the mIoU near boundaries to the record."""

    def measure(best: float) -> dict[int, float]:
        return trimap_miou(data, labels_at(folder, data, best))

    run_scores.further(out, name, "trimap", measure)


def _write_page(
    out: Path,
    data: Dataset,
    folders: Mapping[str, Path],
    records: Mapping[str, dict[str, Any]],
    numbers: Pipeline,
) -> Path:
    """Write the page: table of the variants, sweeps of lam and tau, pictures.

    The pictures are those where the baseline confuses the context with the class most.
    """
    panels = {
        "image": report.photo(data),
        **report.truth_column(data),
        "saliency": report.salient(data),
        **{name: report.heat(data, folders[name]) for name in folders if name in _PICTURED},
    }
    ids = None
    if numbers.baseline and numbers.pairs:
        ids = _most_confused(data, folders["cam"], records["cam"], numbers.pairs)
    return report.write(
        out,
        data,
        panels,
        title="EPS: the paper's analyses",
        curves={},
        sections=[
            "<h2>Variants</h2>",
            _explanation(numbers.eps),
            _table(list(folders), records, numbers.pairs),
            *_sweep("lam", numbers.eps.lam, list(folders), records),
            *_sweep("tau", numbers.eps.tau, list(folders), records),
        ],
        ids=ids,
    )


def _explanation(recipe: Recipe) -> str:
    """HTML above the table of the variants."""
    return (
        "<p>mIoU in % of the maps at each variant's best threshold, and its difference to EPS; "
        "trimap r: mIoU of the pixels within r pixels of true boundaries; and the confusion ratio "
        f"of each pair at the common threshold {recipe.threshold:g}: pixels of the second class "
        "that are predicted as the first, per correctly predicted pixel of the first. "
        f"eps: strategy {html.escape(recipe.strategy)}, tau {recipe.tau:g}, lam {recipe.lam:g}, "
        "the data's own saliency; cam: the classifier without saliency.</p>"
    )


def _table(
    names: Sequence[str], records: Mapping[str, dict[str, Any]], pairs: Sequence[str]
) -> str:
    """HTML table of the variants."""
    eps = records["eps"]
    radii = list(eps["trimap"])
    head = ["variant", "mIoU", "to EPS", *(f"trimap {r}" for r in radii), *pairs]
    body = []
    for name in names:
        values = records[name]
        body.append(
            [
                name,
                at_best(values),
                difference(values, eps),
                *(percent(values["trimap"][r]) for r in radii),
                *(_ratio(values["confusion_ratios"][p]) for p in pairs),
            ]
        )
    return report.table(head, body)


def _sweep(
    symbol: str, own: float, names: Sequence[str], records: Mapping[str, dict[str, Any]]
) -> list[str]:
    """HTML of the curve of mIoU over a hyper-parameter; empty if it has one value only."""
    points = [
        (float(name.split("-")[1]), records[name]["miou"])
        for name in names
        if name.startswith(f"{symbol}-")
    ]
    if not points:
        return []
    title = f"mIoU over {symbol}"
    curve = sorted([*points, (own, records["eps"]["miou"])])
    return [f"<h2>{title}</h2>", report.lines({title: curve}, symbol, "mIoU (%)")]


def _ratio(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _most_confused(
    data: Dataset,
    maps: Path,
    values: Mapping[str, Any],
    pairs: Sequence[str],
    count: int = 8,
) -> list[str]:
    """Ids tagged with a pair's class, by decreasing confusion ratio; up to `count` for each pair.

    Args:
        data: data set with masks.
        maps: folder of the baseline's maps.
        values: record of the baseline.
        pairs: pairs "target/coincident".
        count: number of ids for each pair.
    """
    labels = labels_at(maps, data, values["best_threshold"])
    ids: list[str] = []
    for pair in pairs:
        target = data.classes.index(pair.split("/")[0])
        tagged = [i for i in data.ids if i in data.masks and data.tags_of(i)[target]]
        ratios = {i: confusion_ratios(data.only([i]), [pair], labels)[pair] for i in tagged}
        finite = [i for i in tagged if np.isfinite(ratios[i])]
        ranked = sorted(finite, key=ratios.__getitem__, reverse=True)
        ids += [i for i in ranked if i not in ids][:count]
    return ids
