"""The AMN pipeline: classifier, seeds, AMN, refinement, pseudo-masks, segmentation network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from wsss_fast import cam, irn, nets, seg
from wsss_fast.amn.method import RECIPES, Recipe, infer, train
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
from wsss_fast.stages import seeds as seed_stage
from wsss_fast.stages.crf import Crf


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """All numbers of the pipeline; the defaults are the published ones for VOC.

    Attributes:
        cam: recipe of the classifier.
        cam_threshold: background score at which CAM is reported, next to its best one.
        cam_crf_threshold: the same for CAM after CRF refinement.
        fg_threshold: background score of the foreground of the seeds.
        bg_threshold: background score of the background of the seeds.
        crf: dense CRF of the seeds.
        amn: recipe of the AMN.
        amn_threshold: background score at which AMN maps are reported, next to their best one.
        refine: from AMN maps to pseudo-masks.
        seg: recipe of the segmentation network.
    """

    cam: cam.Recipe = cam.RECIPES["resnet50"]
    cam_threshold: float = 0.25
    cam_crf_threshold: float = 0.25
    fg_threshold: float = 0.30
    bg_threshold: float = 0.05
    crf: Crf = Crf()
    amn: Recipe = RECIPES["resnet50"]
    amn_threshold: float = 0.25
    refine: RefineOptions = RefineOptions()
    seg: seg.Recipe = seg.RECIPES["resnet101"]


# For 128-pixel images: the appearance kernel scales with the image, and tolerates more noise.
_SMALL_CRF = Crf(bilateral=(25.0, 13.0, 10.0))

PIPELINES = {
    "resnet50": Pipeline(),
    "small": Pipeline(
        cam=cam.RECIPES["small"],
        cam_threshold=0.42,
        cam_crf_threshold=0.30,
        fg_threshold=0.40,
        bg_threshold=0.12,
        crf=_SMALL_CRF,
        amn=RECIPES["small"],
        amn_threshold=0.56,
        refine=RefineOptions(
            kind="irn+crf",
            fg_threshold=0.55,
            bg_threshold=0.30,
            irn=irn.RECIPES["small"],
            crf=_SMALL_CRF,
            crf_threshold=0.50,
            irn_crf_threshold=0.30,
        ),
        seg=seg.RECIPES["small"],
    ),
}


_COCO_IRN = dataclasses.replace(irn.RECIPES["resnet50"], threshold=0.22, pad=1)

PRESETS = {
    "voc": Preset("resnet50", PIPELINES["resnet50"]),
    "coco": Preset("resnet50", Pipeline(refine=RefineOptions(irn=_COCO_IRN))),
    "shapes": Preset("small", PIPELINES["small"]),
}


def run(
    data: Source,
    out: str | Path,
    *,
    preset: Literal["voc", "coco", "shapes"] | None = None,
    backbone: str | None = None,
    weights: str | Path | None = None,
    seg_weights: str | Path | None = None,
    pipeline: Pipeline | None = None,
    until: Literal["masks", "seg"] = "seg",
    val: Source | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> RunResult:
    """Run the whole AMN pipeline: from image tags to pseudo-masks and a segmentation network.

    Classifier, CAM, seeds, AMN, AMN maps, IRN, pseudo-masks, DeepLabV2. Every stage is scored where
    true masks exist. Finished stages are skipped: a second call only reads the true masks and
    writes the report again, and a killed one resumes in the stage it was in. Collective.

    Args:
        data: images and tags: a data set, or what `data.load` opens; masks are only used to score.
        out: run folder; gets cam/, seeds/, amn/, irn/, masks/ (after CRF refinement), seg/,
            config.json, metrics.json and report.html.
        preset: a published setting, "voc", "coco" or "shapes" (the embedded benchmark); sets
            `backbone` and `pipeline`.
        backbone: "resnet50" (the published recipe) or "small" (from scratch, for laptops and small
            images); default: the preset's, or "resnet50".
        weights: where classifier, AMN and IRN start, ImageNet's ResNet-50 as published; without it
            AMN and IRN start from the classifier.
        seg_weights: where the segmentation network starts, DeepLab's COCO initialisation as
            published; without it "small" starts from the classifier.
        pipeline: all numbers; default: the preset's, or the backbone's.
        until: "seg" for the whole pipeline, "masks" to end with the pseudo-masks.
        val: tagged images on which the classifier's mean average precision is measured, and which
            the segmentation network predicts; without it, that predicts `data`.
        device: auto, cpu, cuda or cuda:N.
        seed: of initialisation, shuffling, augmentation and dropout.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used, or `out` holds stages run with other
            arguments.
        RunError: a loss is not finite.

    Source: Lee, Kim and Shim, CVPR 2022.
    """
    data, out = opened(data), Path(out)
    unseen = None if val is None else opened(val)
    backbone, pipeline = resolve_preset("amn run", PRESETS, PIPELINES, preset, backbone, pipeline)
    nets.check(backbone, weights)
    data.check_masks()
    compute = Compute(backbone, device, seed, workers, precision)
    crf_device = compute.resolved_device()
    write_run_config(
        out,
        "amn run",
        data,
        unseen,
        compute,
        {
            "weights": weights,
            "seg_weights": seg_weights,
            "pipeline": pipeline,
            "until": until,
        },
    )

    classifier = cam.train(
        data, out, weights=weights, recipe=pipeline.cam, val=unseen, **compute.train()
    )
    start = weights or classifier.weights
    cams = cam.infer(data, classifier.weights, out, recipe=pipeline.cam, **compute.infer())
    run_scores.maps(
        out,
        "cam",
        data,
        cams.maps,
        fixed=pipeline.cam_threshold,
        crf=pipeline.crf,
        fixed_crf=pipeline.cam_crf_threshold,
        device=crf_device,
        extra={"mean_ap": classifier.mean_ap},
    )

    seeds = seed_stage.make(
        data,
        cams.maps,
        out,
        fg_threshold=pipeline.fg_threshold,
        bg_threshold=pipeline.bg_threshold,
        crf=pipeline.crf,
        device=crf_device,
    )
    run_scores.seeds(out, "seeds", data, seeds.folder)

    recipe = pipeline.amn
    trained = train(data, out, seeds=seeds.folder, weights=start, recipe=recipe, **compute.train())
    found = infer(data, trained.weights, out, seeds=seeds.folder, recipe=recipe, **compute.infer())
    run_scores.maps(
        out,
        "amn",
        data,
        found.maps,
        fixed=pipeline.amn_threshold,
        crf=pipeline.refine.crf,
        fixed_crf=pipeline.refine.crf_threshold,
        device=crf_device,
    )
    masks, metrics = refine_maps(
        data, out, found.maps, pipeline.refine, weights=start, compute=compute
    )

    predictions = seg_metrics = None
    if until == "seg":
        predictions, seg_metrics = segment(
            data,
            out,
            masks,
            data if unseen is None else unseen,
            pipeline.seg,
            weights=seg_weights or (start if backbone == "small" else None),
            compute=compute,
        )
    curves = {"CAM": "cam", "AMN": "amn"}
    if pipeline.refine.kind != "crf":
        curves["IRN"] = "irn"
    page = report.write(
        out, data, panels(data, out, masks), title="AMN: from image tags to masks", curves=curves
    )
    return RunResult(out, masks, metrics, page, predictions, seg_metrics)


def panels(data: Dataset, out: Path, masks: Path) -> dict[str, report.Panel]:
    """Columns of the report's picture grid, title -> picture of an id; pseudo-masks are in `masks`."""
    refined = {}
    if (out / "irn/maps/done.json").is_file():
        refined = {"IRN map": report.heat(data, out / "irn/maps")}
    return {
        "image": report.photo(data),
        "truth": report.truth(data),
        "CAM": report.heat(data, out / "cam/maps"),
        "seed": report.labels(data, out / "seeds"),
        "AMN map": report.heat(data, out / "amn/maps"),
        **refined,
        "mask": report.labels(data, masks),
    }
