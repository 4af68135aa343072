"""CCR's whole pipeline: from a classifier over response maps and IRN to pseudo-masks and a segmentation network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from wsss_fast import amn, cam, irn, nets
from wsss_fast.ccr.method import RECIPES, Recipe, infer
from wsss_fast.ccr.refinement import REFINEMENTS, Refinement, train
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine.run_folder import write_config
from wsss_fast.engine.runtime import runtime
from wsss_fast.evaluation import report, run_scores
from wsss_fast.pipeline import Preset, RunResult, resolve_preset, segment
from wsss_fast.stages import masks, saliency
from wsss_fast.stages import seeds as seed_stage
from wsss_fast.stages.crf import Crf


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Every number of the whole pipeline; the defaults are published for VOC, with IRN in the place of PSA's random walk.

    Attributes:
        cam: of the classifier, for its maps, and for its training where no weights are given.
        cam_threshold: background score at which CAM is reported beside its best one.
        ccr: of the response maps.
        ccr_threshold: background score at which they are reported beside their best one.
        cam_crf_threshold: the same for CAM behind the CRF.
        ccr_crf_threshold: the same for response maps behind the CRF; makes the masks where `refine` is "crf".
        crf: of the seeds and behind maps.
        irn_fg_threshold: of the seeds from response maps that IRN learns from.
        irn_bg_threshold: likewise.
        irn: of IRN, whose `threshold` makes the pseudo-masks.
        irn_mask_threshold: background score of IRN's maps behind the CRF.
        refine: what makes the pseudo-masks of response maps: "irn", "irn+crf", or "crf", which leaves IRN out.
        seg: of the segmentation network and the saliency beside its masks.
    """

    cam: cam.Recipe = cam.RECIPES["resnet38"]
    cam_threshold: float = 0.20
    ccr: Recipe = RECIPES["resnet38"]
    ccr_threshold: float = 0.25
    cam_crf_threshold: float = 0.25
    ccr_crf_threshold: float = 0.25
    crf: Crf = Crf()
    irn_fg_threshold: float = 0.45
    irn_bg_threshold: float = 0.15
    irn: irn.Recipe = irn.RECIPES["resnet50"]
    irn_mask_threshold: float = 0.25
    refine: Literal["irn", "irn+crf", "crf"] = "irn"
    seg: Refinement = REFINEMENTS["resnet101"]


_SMALL = amn.PIPELINES["small"]
PIPELINES = {
    "resnet38": Pipeline(),
    "resnet50": Pipeline(cam=cam.RECIPES["resnet50"], ccr=RECIPES["resnet50"]),
    "small": Pipeline(
        cam=_SMALL.cam,
        cam_threshold=_SMALL.cam_threshold,
        cam_crf_threshold=_SMALL.cam_crf_threshold,
        ccr=RECIPES["small"],
        ccr_threshold=0.74,
        ccr_crf_threshold=0.62,
        crf=_SMALL.crf,
        irn_fg_threshold=0.80,
        irn_bg_threshold=0.50,
        irn=_SMALL.irn,
        irn_mask_threshold=_SMALL.irn_mask_threshold,
        refine="irn+crf",
        seg=REFINEMENTS["small"],
    ),
}
PRESETS = {
    "voc": Preset("resnet38", PIPELINES["resnet38"]),
    "shapes": Preset("small", PIPELINES["small"]),
}


def run(
    data: Source,
    out: str | Path,
    *,
    preset: Literal["voc", "shapes"] | None = None,
    backbone: str | None = None,
    weights: str | Path | None = None,
    irn_weights: str | Path | None = None,
    seg_weights: str | Path | None = None,
    pipeline: Pipeline | None = None,
    until: Literal["masks", "seg"] = "seg",
    val: Source | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> RunResult:
    """From a classifier to a segmentation network: CAM, response maps, IRN, pseudo-masks, DeepLabV2 with saliency.

    Every stage is scored where masks exist. Finished stages and figures are skipped, so a killed run goes on when repeated.

    Args:
        data: images, tags and, unless `pipeline.seg.weight` is 0 or `until` "masks", a saliency map for every id; a data set or
            what `data.load` opens. Masks, where there are any, are only used to score.
        out: run folder; gets cam/, ccr/, irn/, masks/ (those behind a CRF), seg/, config.json, metrics.json and report.html.
        preset: a published setting: "voc" or "shapes" (the embedded benchmark); gives `backbone` and `pipeline`.
        backbone: of the classifier: "resnet38" (published), "resnet50" or "small"; default: the preset's, or "resnet38".
        weights: of the trained classifier; without it one is trained from random weights.
        irn_weights: where IRN's backbone starts, ImageNet's ResNet-50; without it "resnet50" and "small" start from the
            classifier.
        seg_weights: where the segmentation network starts, DeepLab's COCO initialisation; "small" starts from the classifier
            without it.
        pipeline: every number of the pipeline; default: the preset's, or the backbone's.
        until: "seg" for the whole pipeline, "masks" to end with the pseudo-masks.
        val: images that the segmentation network predicts; without it that predicts `data`.
        device: auto, cpu, cuda or cuda:N.
        seed: of initialisation, shuffling and augmentation.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used, a missing saliency map, or `out` holds stages made with other
            arguments.
        RunError: a loss became infinite.

    Source: Sun, Zhang and Barnes, WACV 2022.
    """
    data, out = opened(data), Path(out)
    backbone, pipeline = resolve_preset("ccr.run", PRESETS, PIPELINES, preset, backbone, pipeline)
    nets.check(backbone, weights, {**nets.BACKBONES, **nets.SALIENCY_BACKBONES})
    data.check_masks()
    if until == "seg" and pipeline.seg.weight:
        saliency.check(data)
    shared = {"backbone": backbone, "device": device, "precision": precision}
    where = runtime(device, seed, workers, precision, prefer_bf16=False)
    write_config(
        out,
        "ccr.run",
        {
            "data": data.fingerprint(),
            "weights": weights,
            "irn_weights": irn_weights,
            "seg_weights": seg_weights,
            "pipeline": pipeline,
            "until": until,
            "seed": seed,
            "workers": workers,
            **shared,
        },
    )
    crf_device, extra = str(where.device), {}
    if weights is None:
        trained = cam.train(
            data, out, recipe=pipeline.cam, val=val, seed=seed, workers=workers, **shared
        )
        weights, extra = trained.weights, {"mean_ap": trained.mean_ap}
    cams = cam.infer(data, weights, out, recipe=pipeline.cam, **shared)
    run_scores.maps(
        out,
        "cam",
        data,
        cams.maps,
        fixed=pipeline.cam_threshold,
        crf=pipeline.crf,
        fixed_crf=pipeline.cam_crf_threshold,
        device=crf_device,
        extra=extra,
    )
    responses = infer(data, weights, out, recipe=pipeline.ccr, **shared)
    run_scores.maps(
        out,
        "ccr",
        data,
        responses.maps,
        fixed=pipeline.ccr_threshold,
        crf=pipeline.crf,
        fixed_crf=pipeline.ccr_crf_threshold,
        device=crf_device,
    )
    made = _pseudo_masks(
        data,
        out,
        responses.maps,
        pipeline,
        irn_weights or (weights if backbone != "resnet38" else None),
        seed,
        workers,
        {**shared, "backbone": "small" if backbone == "small" else "resnet50"},
        crf_device,
    )
    metrics = run_scores.masks(out, "masks", data, made)

    predictions = seg_metrics = None
    if until == "seg":
        predictions, seg_metrics = segment(
            data,
            out,
            made,
            opened(val) if val is not None else data,
            pipeline.seg.seg,
            small=backbone == "small",
            weights=seg_weights or (weights if backbone == "small" else None),
            seed=seed,
            workers=workers,
            device=device,
            precision=precision,
            train=lambda *args, **options: train(
                *args, **{**options, "recipe": pipeline.seg}, maps=responses.maps
            ),
        )
    page = report.write(
        out,
        data,
        panels(data, out, made),
        title="CCR: from a classifier to masks",
        curves={"CAM": "cam", "CCR": "ccr", **({} if pipeline.refine == "crf" else {"IRN": "irn"})},
    )
    return RunResult(out, made, metrics, page, predictions, seg_metrics)


def _pseudo_masks(
    data: Dataset,
    out: Path,
    maps: Path,
    pipeline: Pipeline,
    weights: str | Path | None,
    seed: int,
    workers: int,
    shared: dict[str, str],
    crf_device: str,
) -> Path:
    """Response maps through IRN and, or, the CRF, as `pipeline.refine` says; the folder of masks."""
    threshold = pipeline.ccr_crf_threshold
    if pipeline.refine != "crf":
        learned = seed_stage.make(
            data,
            maps,
            out,
            fg_threshold=pipeline.irn_fg_threshold,
            bg_threshold=pipeline.irn_bg_threshold,
            crf=pipeline.crf,
            name="irn/seeds",
            device=crf_device,
        )
        run_scores.seeds(out, "irn/seeds", data, learned.folder)
        boundaries = irn.train(
            data,
            out,
            seeds=learned.folder,
            weights=weights,
            recipe=pipeline.irn,
            seed=seed,
            workers=workers,
            **shared,
        )
        refined = irn.infer(data, boundaries.weights, out, maps=maps, recipe=pipeline.irn, **shared)
        run_scores.maps(
            out,
            "irn",
            data,
            refined.maps,
            fixed=pipeline.irn.threshold,
            crf=pipeline.crf,
            fixed_crf=pipeline.irn_mask_threshold,
            device=crf_device,
        )
        if pipeline.refine == "irn":
            return refined.masks
        maps, threshold = refined.maps, pipeline.irn_mask_threshold
    return masks.make(
        data, maps, out, threshold=threshold, crf=pipeline.crf, device=crf_device
    ).folder


def panels(data: Dataset, out: Path, made: Path) -> dict[str, report.Panel]:
    """The columns of the picture grid of a run whose pseudo-masks are in `made`: title -> picture of an id."""
    saliency_column = (
        {"saliency": report.salient(data)} if all(i in data.saliencies for i in data.ids) else {}
    )
    return {
        "image": report.photo(data),
        "truth": report.truth(data),
        **saliency_column,
        "CAM": report.heat(data, out / "cam/maps"),
        "CCR map": report.heat(data, out / "ccr/maps"),
        "mask": report.labels(data, made),
    }
