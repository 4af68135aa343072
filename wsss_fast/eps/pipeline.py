"""The EPS pipeline: classifier baseline, EPS, pseudo-masks, segmentation network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from wsss_fast import cam, nets, seg
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.eps.method import COCO, RECIPES, Recipe, infer, pseudo_masks, train
from wsss_fast.errors import InputError
from wsss_fast.evaluation import report, run_scores
from wsss_fast.evaluation.confusion_ratio import named_pairs
from wsss_fast.pipeline import (
    Compute,
    Preset,
    RunResult,
    resolve_preset,
    segment,
    write_run_config,
)
from wsss_fast.stages import saliency


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """All numbers of the pipeline; the defaults are the published ones for VOC.

    Attributes:
        baseline: also train the paper's baseline, a classifier without saliency. Its maps show the
            gain of EPS and reveal inverted saliency maps; it costs as much time as EPS itself.
        cam: recipe of the baseline.
        cam_threshold: background score at which its maps are reported, next to their best one.
        eps: recipe of EPS; its `threshold` gives the pseudo-masks.
        crf: whether the dense CRF with alpha gives the pseudo-masks instead; published without.
        pairs: "target/coincident" class names whose confusion ratio is recorded where true masks
            exist, for maps at `eps.threshold` and for pseudo-masks; see `confusion_ratios`.
        seg: recipe of the segmentation network.
    """

    baseline: bool = True
    cam: cam.Recipe = cam.RECIPES["resnet38"]
    cam_threshold: float = 0.20
    eps: Recipe = RECIPES["resnet38"]
    crf: bool = False
    pairs: tuple[str, ...] = ()
    seg: seg.Recipe = seg.RECIPES["resnet101"]


PIPELINES = {
    "resnet38": Pipeline(),
    "small": Pipeline(
        cam=cam.RECIPES["small"],
        cam_threshold=0.42,
        eps=RECIPES["small"],
        crf=True,
        pairs=("train/rails", "boat/water"),
        seg=seg.RECIPES["small"],
    ),
}
PRESETS = {
    "voc": Preset("resnet38", PIPELINES["resnet38"]),
    "coco": Preset(
        "resnet38",
        Pipeline(
            eps=COCO,
            cam=dataclasses.replace(
                cam.RECIPES["resnet38"],
                updates=COCO.updates,
                batch_size=COCO.batch_size,
                augment=COCO.augment,
            ),
        ),
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
    """Run the whole EPS pipeline: from tags and saliency to pseudo-masks and a segmentation network.

    Classifier baseline, EPS, EPS maps, pseudo-masks, DeepLabV2. Every stage is scored where true
    masks exist. Finished stages are skipped; a killed run resumes. Collective.

    Args:
        data: images, tags and a saliency map for every id: a data set or what `data.load` opens;
            masks are only used to score.
        out: run folder; gets cam/, eps/, seg/, config.json, metrics.json and report.html.
        preset: a published setting, "voc", "coco" or "shapes" (the embedded benchmark); sets
            `backbone` and `pipeline`.
        backbone: "resnet38" (the published recipe) or "small" (from scratch, for laptops and small
            images); default: the preset's, or "resnet38".
        weights: where EPS and its baseline start, ImageNet's ResNet-38 as published.
        seg_weights: where the segmentation network starts, DeepLab's COCO initialisation as
            published; without it "small" starts from EPS.
        pipeline: all numbers; default: the preset's, or the backbone's.
        until: "seg" for the whole pipeline, "masks" to end with the pseudo-masks.
        val: images that the segmentation network predicts; without it, that predicts `data`.
        device: auto, cpu, cuda or cuda:N.
        seed: of initialisation, shuffling, augmentation and dropout.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used, a missing saliency map, or `out` holds
            stages run with other arguments.
        RunError: a loss is not finite.

    Source: Lee, Lee, Lee and Shim, CVPR 2021.
    """
    data, out = opened(data), Path(out)
    unseen = None if val is None else opened(val)
    backbone, pipeline = resolve_preset("eps run", PRESETS, PIPELINES, preset, backbone, pipeline)
    nets.check(backbone, weights, nets.SALIENCY_BACKBONES)
    own = preset == "shapes" or pipeline is PIPELINES["small"]
    pairs = pairs_of(data, pipeline.pairs, requested=not own)
    pipeline = dataclasses.replace(pipeline, pairs=pairs)
    data.check_masks()
    compute = Compute(backbone, device, seed, workers, precision)
    crf_device = compute.resolved_device()
    saliency.check(data)
    write_run_config(
        out,
        "eps run",
        data,
        unseen,
        compute,
        {
            "weights": weights,
            "seg_weights": seg_weights,
            "pipeline": pipeline,
            "until": until,
        },
        saliency=True,
    )

    cams = None
    if pipeline.baseline:
        classifier = cam.train(
            data, out, weights=weights, recipe=pipeline.cam, val=unseen, **compute.train()
        )
        found = cam.infer(data, classifier.weights, out, recipe=pipeline.cam, **compute.infer())
        cams = found.maps
        run_scores.maps(
            out,
            "cam",
            data,
            cams,
            fixed=pipeline.cam_threshold,
            crf=None,
            extra={"mean_ap": classifier.mean_ap},
            pairs=pairs,
            pairs_at=pipeline.eps.threshold,
        )
        compared = pseudo_masks(
            data,
            cams,
            out,
            recipe=pipeline.eps,
            crf=pipeline.crf,
            name="cam",
            device=crf_device,
        )
        run_scores.masks(out, "cam masks", data, compared, pairs=pairs)

    trained = train(data, out, maps=cams, weights=weights, recipe=pipeline.eps, **compute.train())
    result = infer(
        data, trained.weights, out, recipe=pipeline.eps, crf=pipeline.crf, **compute.infer()
    )
    run_scores.maps(
        out, "eps", data, result.maps, fixed=pipeline.eps.threshold, crf=None, pairs=pairs
    )
    metrics = run_scores.masks(out, "masks", data, result.masks, pairs=pairs)

    predictions = seg_metrics = None
    if until == "seg":
        predictions, seg_metrics = segment(
            data,
            out,
            result.masks,
            data if unseen is None else unseen,
            pipeline.seg,
            weights=seg_weights or (trained.weights if backbone == "small" else None),
            compute=compute,
        )
    page = report.write(
        out,
        data,
        panels(data, out, result.masks),
        title="EPS: from image tags and saliency to masks",
        curves={**({"CAM": "cam"} if pipeline.baseline else {}), "EPS": "eps"},
    )
    return RunResult(out, result.masks, metrics, page, predictions, seg_metrics)


def pairs_of(data: Dataset, pairs: tuple[str, ...], *, requested: bool) -> tuple[str, ...]:
    """`pairs` if the data has classes and contexts of these names, else none.

    Args:
        data: the data set.
        pairs: "target/coincident" names.
        requested: whether the user named them; otherwise they are a preset's for other data.

    Raises:
        InputError: the user named something that the data does not have.
    """
    try:
        named_pairs(data, pairs)
    except InputError:
        if requested:
            raise
        return ()
    return pairs


def panels(data: Dataset, out: Path, masks: Path) -> dict[str, report.Panel]:
    """Columns of the report's picture grid, title -> picture of an id; pseudo-masks are in `masks`."""
    baseline = {}
    if (out / "cam/maps/done.json").is_file():
        baseline = {"CAM": report.heat(data, out / "cam/maps")}
    return {
        "image": report.photo(data),
        "truth": report.truth(data),
        "saliency": report.salient(data),
        **baseline,
        "EPS map": report.heat(data, out / "eps/maps"),
        "mask": report.labels(data, masks),
    }
