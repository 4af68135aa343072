"""AMN's whole pipeline: from image tags over classifier, seeds, AMN and IRN to pseudo-masks and a segmentation network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from wsss_fast import cam, irn, nets, seg
from wsss_fast.amn.method import RECIPES, Recipe, infer, train
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine.run_folder import write_config
from wsss_fast.engine.runtime import runtime
from wsss_fast.evaluation import report, run_scores
from wsss_fast.pipeline import Preset, RunResult, resolve_preset, segment
from wsss_fast.stages import masks
from wsss_fast.stages import seeds as seed_stage
from wsss_fast.stages.crf import Crf


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Every number of the whole pipeline, from the classifier to the segmentation network; the defaults are published for VOC.

    Attributes:
        cam: of the classifier.
        cam_threshold: background score at which CAM is reported beside its best one.
        cam_crf_threshold: the same for CAM behind the CRF.
        fg_threshold: of the seeds.
        bg_threshold: of the seeds.
        crf: of the seeds.
        amn: of the AMN.
        amn_threshold: background score at which AMN maps are reported beside their best one.
        mask_threshold: background score of AMN maps behind the CRF.
        mask_crf: of AMN maps.
        irn_fg_threshold: of the seeds from AMN maps that IRN learns from.
        irn_bg_threshold: likewise.
        irn: of IRN, whose `threshold` makes the pseudo-masks.
        irn_mask_threshold: background score of IRN's maps behind the CRF.
        refine: what makes the pseudo-masks of AMN maps: "irn" as published, "irn+crf", or "crf", which leaves IRN out.
        seg: of the segmentation network.
    """

    cam: cam.Recipe = cam.RECIPES["resnet50"]
    cam_threshold: float = 0.25
    cam_crf_threshold: float = 0.25
    fg_threshold: float = 0.30
    bg_threshold: float = 0.05
    crf: Crf = Crf()
    amn: Recipe = RECIPES["resnet50"]
    amn_threshold: float = 0.25
    mask_threshold: float = 0.25
    mask_crf: Crf = Crf()
    irn_fg_threshold: float = 0.45
    irn_bg_threshold: float = 0.15
    irn: irn.Recipe = irn.RECIPES["resnet50"]
    irn_mask_threshold: float = 0.25
    refine: Literal["irn", "irn+crf", "crf"] = "irn"
    seg: seg.Recipe = seg.RECIPES["resnet101"]


# 128 px images: appearance kernel scaled with the image, wider colour tolerance for its noise
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
        mask_threshold=0.50,
        mask_crf=_SMALL_CRF,
        irn_fg_threshold=0.55,
        irn_bg_threshold=0.30,
        irn=irn.RECIPES["small"],
        irn_mask_threshold=0.30,
        refine="irn+crf",
        seg=seg.RECIPES["small"],
    ),
}


PRESETS = {
    "voc": Preset("resnet50", PIPELINES["resnet50"]),
    "coco": Preset(
        "resnet50",
        Pipeline(irn=dataclasses.replace(irn.RECIPES["resnet50"], threshold=0.22, pad=1)),
    ),
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
    """From image tags to a segmentation network: classifier, CAM, seeds, AMN, AMN maps, IRN, pseudo-masks, DeepLabV2.

    Every stage is scored where masks exist. Finished stages and figures are skipped: a second call only reads the true masks
    and writes the page again, and a killed one goes on at the stage it was in (at the image, where that stage makes maps).

    Args:
        data: images and tags, a data set or what `data.load` opens; masks, where there are any, are only used to score.
        out: run folder; gets cam/, seeds/, amn/, irn/, masks/ (those behind a CRF), seg/, config.json, metrics.json
            and report.html.
        preset: a published setting: "voc", "coco" or "shapes" (the embedded benchmark); gives `backbone` and `pipeline`.
        backbone: "resnet50" (the published recipe) or "small" (from scratch, for laptops and small images); default: the
            preset's, or "resnet50".
        weights: where classifier, AMN and IRN start, ImageNet's ResNet-50 as published; without it AMN and IRN start from the
            classifier.
        seg_weights: where the segmentation network starts, DeepLab's COCO initialisation as published; "small" starts from
            the classifier without it.
        pipeline: every number of the pipeline; default: the preset's, or the backbone's.
        until: "seg" for the whole pipeline, "masks" to end with the pseudo-masks.
        val: tagged images on which the classifier's mean average precision is measured, and which the segmentation network
            predicts; without it that predicts `data`.
        device: auto, cpu, cuda or cuda:N.
        seed: of initialisation, shuffling, augmentation and dropout.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used, or `out` holds stages made with other arguments.
        RunError: a loss became infinite.

    Source: Lee, Kim and Shim, CVPR 2022.
    """
    data, out = opened(data), Path(out)
    backbone, pipeline = resolve_preset("amn.run", PRESETS, PIPELINES, preset, backbone, pipeline)
    nets.check(backbone, weights)
    data.check_masks()
    shared = {"backbone": backbone, "device": device, "precision": precision}
    where = runtime(device, seed, workers, precision, prefer_bf16=False)
    write_config(
        out,
        "amn.run",
        {
            "data": data.fingerprint(),
            "weights": weights,
            "seg_weights": seg_weights,
            "pipeline": pipeline,
            "until": until,
            "seed": seed,
            "workers": workers,
            **shared,
        },
    )
    crf_device = str(where.device)

    classifier = cam.train(
        data,
        out,
        weights=weights,
        recipe=pipeline.cam,
        val=val,
        seed=seed,
        workers=workers,
        **shared,
    )
    start = weights or classifier.weights
    cams = cam.infer(data, classifier.weights, out, recipe=pipeline.cam, **shared)
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

    manipulated = train(
        data,
        out,
        seeds=seeds.folder,
        weights=start,
        recipe=pipeline.amn,
        seed=seed,
        workers=workers,
        **shared,
    )
    amns = infer(data, manipulated.weights, out, seeds=seeds.folder, recipe=pipeline.amn, **shared)
    run_scores.maps(
        out,
        "amn",
        data,
        amns.maps,
        fixed=pipeline.amn_threshold,
        crf=pipeline.mask_crf,
        fixed_crf=pipeline.mask_threshold,
        device=crf_device,
    )

    final, threshold = amns.maps, pipeline.mask_threshold
    if pipeline.refine != "crf":
        learned = seed_stage.make(
            data,
            amns.maps,
            out,
            fg_threshold=pipeline.irn_fg_threshold,
            bg_threshold=pipeline.irn_bg_threshold,
            crf=pipeline.mask_crf,
            name="irn/seeds",
            device=crf_device,
        )
        run_scores.seeds(out, "irn/seeds", data, learned.folder)
        boundaries = irn.train(
            data,
            out,
            seeds=learned.folder,
            weights=start,
            recipe=pipeline.irn,
            seed=seed,
            workers=workers,
            **shared,
        )
        refined = irn.infer(
            data, boundaries.weights, out, maps=amns.maps, recipe=pipeline.irn, **shared
        )
        run_scores.maps(
            out,
            "irn",
            data,
            refined.maps,
            fixed=pipeline.irn.threshold,
            crf=pipeline.mask_crf,
            fixed_crf=pipeline.irn_mask_threshold,
            device=crf_device,
        )
        final, threshold = refined.maps, pipeline.irn_mask_threshold
    if pipeline.refine == "irn":
        made = refined.masks
    else:
        made = masks.make(
            data, final, out, threshold=threshold, crf=pipeline.mask_crf, device=crf_device
        ).folder
    metrics = run_scores.masks(out, "masks", data, made)

    predictions = seg_metrics = None
    if until == "seg":
        predictions, seg_metrics = segment(
            data,
            out,
            made,
            opened(val) if val is not None else data,
            pipeline.seg,
            small=backbone == "small",
            weights=seg_weights or (start if backbone == "small" else None),
            seed=seed,
            workers=workers,
            device=device,
            precision=precision,
        )
    page = report.write(
        out,
        data,
        panels(data, out, made),
        title="AMN: from image tags to masks",
        curves={"CAM": "cam", "AMN": "amn", **({} if pipeline.refine == "crf" else {"IRN": "irn"})},
    )
    return RunResult(out, made, metrics, page, predictions, seg_metrics)


def panels(data: Dataset, out: Path, made: Path) -> dict[str, report.Panel]:
    """The columns of the picture grid of a run whose pseudo-masks are in `made`: title -> picture of an id."""
    refined = (
        {"IRN map": report.heat(data, out / "irn/maps")}
        if (out / "irn/maps/done.json").is_file()
        else {}
    )
    return {
        "image": report.photo(data),
        "truth": report.truth(data),
        "CAM": report.heat(data, out / "cam/maps"),
        "seed": report.labels(data, out / "seeds"),
        "AMN map": report.heat(data, out / "amn/maps"),
        **refined,
        "mask": report.labels(data, made),
    }
