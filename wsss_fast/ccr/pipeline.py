"""The CCR pipeline: classifier, response maps, refinement, pseudo-masks, segmentation network."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

from wsss_fast import cam, irn, nets
from wsss_fast.ccr.method import RECIPES, Recipe, infer
from wsss_fast.ccr.refinement import REFINEMENTS, Refinement, train
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.evaluation import report, run_scores
from wsss_fast.pipeline import (
    Compute,
    Preset,
    RefineOptions,
    RunResult,
    refine_maps,
    resolve_preset,
    segment,
    write_run_config,
)
from wsss_fast.stages import saliency
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.training import TrainResult


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """All numbers of the pipeline; the defaults are published for VOC, with IRN in place of PSA.

    Attributes:
        cam: recipe of the classifier's maps, and of its training where no weights are given.
        cam_threshold: background score at which CAM is reported, next to its best one.
        cam_crf_threshold: the same for CAM after CRF refinement.
        ccr: recipe of the response maps.
        ccr_threshold: background score at which they are reported, next to their best one.
        refine: from response maps to pseudo-masks.
        seg: recipe of the segmentation network and of the saliency loss added to its own.
    """

    cam: cam.Recipe = cam.RECIPES["resnet38"]
    cam_threshold: float = 0.20
    cam_crf_threshold: float = 0.25
    ccr: Recipe = RECIPES["resnet38"]
    ccr_threshold: float = 0.25
    refine: RefineOptions = RefineOptions()
    seg: Refinement = REFINEMENTS["resnet101"]


PIPELINES = {
    "resnet38": Pipeline(),
    "resnet50": Pipeline(cam=cam.RECIPES["resnet50"], ccr=RECIPES["resnet50"]),
    "small": Pipeline(
        cam=cam.RECIPES["small"],
        cam_threshold=0.42,
        cam_crf_threshold=0.30,
        ccr=RECIPES["small"],
        ccr_threshold=0.74,
        refine=RefineOptions(
            kind="irn+crf",
            fg_threshold=0.80,
            bg_threshold=0.50,
            irn=irn.RECIPES["small"],
            crf=Crf(bilateral=(25.0, 13.0, 10.0)),  # for 128-pixel images
            crf_threshold=0.62,
            irn_crf_threshold=0.30,
        ),
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
    """Run the whole CCR pipeline: from a classifier to pseudo-masks and a segmentation network.

    CAM, response maps, IRN, pseudo-masks, DeepLabV2 with a saliency loss. Every stage is scored
    where true masks exist. Finished stages are skipped; a killed run resumes. Collective.

    Args:
        data: images, tags and, unless `pipeline.seg.weight` is 0 or `until` is "masks", a saliency
            map for every id: a data set or what `data.load` opens. Masks are only used to score.
        out: run folder; gets cam/, ccr/, irn/, masks/ (after CRF refinement), seg/, config.json,
            metrics.json and report.html.
        preset: a published setting, "voc" or "shapes" (the embedded benchmark); sets `backbone` and
            `pipeline`.
        backbone: of the classifier, "resnet38" (published), "resnet50" or "small"; default: the
            preset's, or "resnet38".
        weights: of the trained classifier; without it one is trained from random weights.
        irn_weights: where IRN's backbone starts, ImageNet's ResNet-50; without it "resnet50" and
            "small" start from the classifier.
        seg_weights: where the segmentation network starts, DeepLab's COCO initialisation; without
            it "small" starts from the classifier.
        pipeline: all numbers; default: the preset's, or the backbone's.
        until: "seg" for the whole pipeline, "masks" to end with the pseudo-masks.
        val: images that the segmentation network predicts; without it, that predicts `data`.
        device: auto, cpu, cuda or cuda:N.
        seed: of initialisation, shuffling and augmentation.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used, a missing saliency map, or `out` holds
            stages run with other arguments.
        RunError: a loss is not finite.

    Source: Sun, Zhang and Barnes, WACV 2022.
    """
    data, out = opened(data), Path(out)
    unseen = None if val is None else opened(val)
    backbone, pipeline = resolve_preset("ccr run", PRESETS, PIPELINES, preset, backbone, pipeline)
    nets.check(backbone, weights, {**nets.BACKBONES, **nets.SALIENCY_BACKBONES})
    data.check_masks()
    if until == "seg" and pipeline.seg.weight:
        saliency.check(data)
    compute = Compute(backbone, device, seed, workers, precision)
    crf_device = compute.resolved_device()
    write_run_config(
        out,
        "ccr run",
        data,
        unseen,
        compute,
        {
            "weights": weights,
            "irn_weights": irn_weights,
            "seg_weights": seg_weights,
            "pipeline": pipeline,
            "until": until,
        },
        saliency=True,
    )
    crf: dict[str, Any] = {"crf": pipeline.refine.crf, "device": crf_device}
    extra = {}
    if weights is None:
        trained = cam.train(data, out, recipe=pipeline.cam, val=unseen, **compute.train())
        weights, extra = trained.weights, {"mean_ap": trained.mean_ap}
    cams = cam.infer(data, weights, out, recipe=pipeline.cam, **compute.infer())
    run_scores.maps(
        out,
        "cam",
        data,
        cams.maps,
        fixed=pipeline.cam_threshold,
        fixed_crf=pipeline.cam_crf_threshold,
        extra=extra,
        **crf,
    )
    responses = infer(data, weights, out, recipe=pipeline.ccr, **compute.infer())
    run_scores.maps(
        out,
        "ccr",
        data,
        responses.maps,
        fixed=pipeline.ccr_threshold,
        fixed_crf=pipeline.refine.crf_threshold,
        **crf,
    )
    start = irn_weights or (None if backbone == "resnet38" else weights)
    masks, metrics = refine_maps(
        data, out, responses.maps, pipeline.refine, weights=start, compute=compute
    )

    predictions = seg_metrics = None
    if until == "seg":
        predictions, seg_metrics = segment(
            data,
            out,
            masks,
            data if unseen is None else unseen,
            pipeline.seg.seg,
            weights=seg_weights or (weights if backbone == "small" else None),
            compute=compute,
            train=functools.partial(_train_refined, pipeline.seg, responses.maps),
        )
    curves = {"CAM": "cam", "CCR": "ccr"}
    if pipeline.refine.kind != "crf":
        curves["IRN"] = "irn"
    page = report.write(
        out, data, panels(data, out, masks), title="CCR: from a classifier to masks", curves=curves
    )
    return RunResult(out, masks, metrics, page, predictions, seg_metrics)


def _train_refined(refinement: Refinement, maps: Path, *args: Any, **options: Any) -> TrainResult:
    """`ccr.train` with the arguments of `seg.train`."""
    return train(*args, **{**options, "recipe": refinement}, maps=maps)


def panels(data: Dataset, out: Path, masks: Path) -> dict[str, report.Panel]:
    """Columns of the report's picture grid, title -> picture of an id; pseudo-masks are in `masks`."""
    saliency_column = {}
    if all(i in data.saliencies for i in data.ids):
        saliency_column = {"saliency": report.salient(data)}
    return {
        "image": report.photo(data),
        "truth": report.truth(data),
        **saliency_column,
        "CAM": report.heat(data, out / "cam/maps"),
        "CCR map": report.heat(data, out / "ccr/maps"),
        "mask": report.labels(data, masks),
    }
