"""EPS' own analyses on any data set with masks: strategies, lam, tau, the source of the saliency, boundaries, co-occurrence."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from wsss_fast import nets
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import distributed
from wsss_fast.engine.run_folder import read_records, record
from wsss_fast.engine.runtime import runtime
from wsss_fast.eps.method import Recipe, infer, train
from wsss_fast.eps.pipeline import PIPELINES, PRESETS, Pipeline, pairs_of, run
from wsss_fast.errors import InputError
from wsss_fast.evaluation import report, run_scores
from wsss_fast.evaluation.confusion_ratio import confusion_ratios
from wsss_fast.evaluation.curves import labels_at
from wsss_fast.evaluation.trimap import trimap_miou
from wsss_fast.pipeline import AnalysesResult, resolve_preset
from wsss_fast.stages import saliency

Part = Literal["strategies", "lam", "tau", "saliency"]


def analyse(
    data: Source,
    out: str | Path,
    *,
    preset: Literal["voc", "coco", "shapes"] | None = None,
    backbone: str | None = None,
    weights: str | Path | None = None,
    pipeline: Pipeline | None = None,
    parts: tuple[Part, ...] = ("strategies", "lam", "tau", "saliency"),
    lams: tuple[float, ...] = (0.1, 0.3, 0.7, 0.9),
    taus: tuple[float, ...] = (0.2, 0.6, 0.8),
    background_classes: tuple[int, ...] = (),
    val: Source | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> AnalysesResult:
    """The paper's analyses as one page: EPS is trained again for each variant, and all are scored alike.

    The run itself comes first (`eps.run` until its masks, in `out`), then `<out>/analyses/<variant>/` and, with the page,
    `<out>/analyses/report.html`. Every variant that
    is finished is skipped, so a killed call goes on when repeated. ExtraLoss mIoU at the best threshold each variant has its
    mIoU near boundaries (trimap) and the confusion ratio of the pipeline's pairs.

    Args:
        data: images, tags, a saliency map for every id, and masks; a data set, or what `data.load` opens.
        out: run folder of `eps.run`.
        preset: as in `eps.run`.
        backbone: as in `eps.run`.
        weights: as in `eps.run`.
        pipeline: as in `eps.run`.
        parts: which: "strategies" (naive and, with `background_classes`, predefined selection beside adaptive), "lam",
            "tau", "saliency" (degraded and classical maps beside the given ones).
        lams: values of lam beside the pipeline's own, 0..1.
        taus: values of tau beside the pipeline's own, 0..1.
        background_classes: labels, 1..C, of the paper's predefined selection; it is left out without them.
        val: as in `eps.run`.
        device: auto, cpu, cuda or cuda:N.
        seed: of every training.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used, no masks.
        RunError: a loss became infinite.

    Source: EPS, sections 4.2 and 4.3.
    """
    data, out = opened(data), Path(out)
    backbone, pipeline = resolve_preset(
        "eps.analyse", PRESETS, PIPELINES, preset, backbone, pipeline
    )
    nets.check(backbone, weights, nets.SALIENCY_BACKBONES)
    data.with_masks()
    _check(parts, lams, taus)
    pairs = pairs_of(
        data, pipeline.pairs, requested=preset != "shapes" and pipeline is not PIPELINES["small"]
    )
    runtime(device, seed, workers, precision, prefer_bf16=False)
    shared = {"backbone": backbone, "device": device, "precision": precision}
    run(
        data,
        out,
        weights=weights,
        pipeline=dataclasses.replace(pipeline, pairs=pairs),
        until="masks",
        val=val,
        seed=seed,
        workers=workers,
        **shared,
    )

    own, side = (
        {**({"cam": out / "cam/maps"} if pipeline.baseline else {}), "eps": out / "eps/maps"},
        out / "analyses",
    )
    folders = dict(own)
    for name, (changed, source) in _variants(
        data, side, pipeline.eps, parts, lams, taus, background_classes
    ).items():
        variant = dataclasses.replace(data, saliencies=source) if source else data
        trained = train(
            variant,
            side,
            weights=weights,
            recipe=changed,
            name=name,
            seed=seed,
            workers=workers,
            **shared,
        )
        folders[name] = infer(data, trained.weights, side, recipe=changed, name=name, **shared).maps
        run_scores.maps(
            side, name, data, folders[name], fixed=changed.threshold, crf=None, pairs=pairs
        )
    for name, folder in folders.items():
        _boundaries(out if name in own else side, name, data, folder)
    records = {**read_records(out), **read_records(side)}
    page = _write(side, data, folders, records, pipeline, pairs)
    return AnalysesResult(side, page, {name: records[name]["miou"] for name in folders})


def _check(parts: Sequence[str], lams: Sequence[float], taus: Sequence[float]) -> None:
    wrong = [p for p in parts if p not in ("strategies", "lam", "tau", "saliency")]
    if wrong:
        raise InputError(
            f"eps.analyse: parts holds {wrong[0]!r}; must be of strategies, lam, tau, saliency"
        )
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
) -> dict[str, tuple[Recipe, dict[str, Path] | None]]:
    """Name -> recipe, and saliency files where they are not the data set's own."""

    def plain(**change: object) -> tuple[Recipe, None]:
        return dataclasses.replace(recipe, **change), None

    found: dict[str, tuple[Recipe, dict[str, Path] | None]] = {}
    if "strategies" in parts:
        found["naive"] = plain(strategy="naive")
        if background_classes:
            found["predefined"] = plain(
                strategy="predefined", background_classes=background_classes
            )
    if "lam" in parts:
        found.update({f"lam-{lam:g}": plain(lam=lam) for lam in lams if lam != recipe.lam})
    if "tau" in parts:
        found.update({f"tau-{tau:g}": plain(tau=tau) for tau in taus if tau != recipe.tau})
    if "saliency" in parts:
        for name, made in (
            ("saliency-degraded", saliency.degrade(data, out, name="degraded")),
            ("saliency-classical", saliency.make(data, out, name="classical")),
        ):
            found[name] = recipe, {id: made.folder / f"{id}.png" for id in data.ids}
    return found


def _boundaries(out: Path, name: str, data: Dataset, folder: Path) -> None:
    """Put the mIoU near boundaries into the record, unless it is there for these maps."""
    kept = distributed.run_on_main(lambda: read_records(out)[name])
    best = kept["best_threshold"]
    if kept.get("trimap_source") != [kept["source"]["made_from"], best]:
        near = trimap_miou(data, labels_at(folder, data, best))
        distributed.run_on_main(
            lambda: record(
                out, name, {"trimap": near, "trimap_source": [kept["source"]["made_from"], best]}
            )
        )


def _write(
    out: Path,
    data: Dataset,
    folders: dict[str, Path],
    records: dict[str, dict],
    pipeline: Pipeline,
    pairs: Sequence[str],
) -> Path:
    """The page: one table of all variants, the two sweeps, and images where the baseline takes the context for the class."""
    radii = list(records["eps"]["trimap"])
    head = ["variant", "mIoU", "to EPS", *(f"{r} px" for r in radii), *pairs]
    body = []
    for name in folders:
        values = records[name]
        body.append(
            [
                name,
                f"{100 * values['miou']:.1f} @ {values['best_threshold']:.2f}",
                f"{100 * (values['miou'] - records['eps']['miou']):+.1f}",
                *(_percent(values["trimap"][r]) for r in radii),
                *(_ratio(values["confusion_ratios"][p]) for p in pairs),
            ]
        )
    text = (
        "<p>mIoU in % of the maps at each variant's best threshold; within a few pixels of true boundaries (trimap); and "
        "the confusion ratio of each pair, of all at the same threshold "
        f"{pipeline.eps.threshold:g}: pixels of the second taken for the first, for each true positive of it. "
        f"eps: strategy {html.escape(pipeline.eps.strategy)}, tau {pipeline.eps.tau:g}, lam {pipeline.eps.lam:g}, the data's own "
        "saliency; cam: the classifier without saliency.</p>"
    )
    sections = ["<h2>Variants</h2>", text, report.table(head, body)]
    for symbol, own in (("lam", pipeline.eps.lam), ("tau", pipeline.eps.tau)):
        sweep = sorted(
            [
                (float(name.split("-")[1]), records[name]["miou"])
                for name in folders
                if name.startswith(f"{symbol}-")
            ]
            + [(own, records["eps"]["miou"])]
        )
        if len(sweep) > 1:
            title = f"mIoU over {symbol}"
            sections += [f"<h2>{title}</h2>", report.lines({title: sweep}, symbol, "mIoU (%)")]
    shown = {
        "image": report.photo(data),
        "truth": report.truth(data),
        "saliency": report.salient(data),
        **{
            name: report.heat(data, folder)
            for name, folder in folders.items()
            if name in ("cam", "naive", "eps", "saliency-degraded", "saliency-classical")
        },
    }
    ids = _most_confused(data, folders, records, pairs) if pipeline.baseline and pairs else None
    return report.write(
        out, data, shown, title="EPS: the paper's analyses", curves={}, sections=sections, ids=ids
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _ratio(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _most_confused(
    data: Dataset,
    folders: dict[str, Path],
    records: dict[str, dict],
    pairs: Sequence[str],
    count: int = 8,
) -> list[str]:
    """Ids whose context the baseline takes for the class most, those of each pair in turn, where the class is tagged."""
    labels = labels_at(folders["cam"], data, records["cam"]["best_threshold"])
    ids: list[str] = []
    for pair in pairs:
        target = data.classes.index(pair.split("/")[0])
        tagged = [i for i in data.ids if i in data.masks and data.tags_of(i)[target]]
        ratios = {i: confusion_ratios(data.only([i]), [pair], labels)[pair] for i in tagged}
        finite = [i for i in tagged if np.isfinite(ratios[i])]
        ids += [i for i in sorted(finite, key=ratios.__getitem__, reverse=True) if i not in ids][
            :count
        ]
    return ids
