"""The CCR pipeline: classifier, response maps, refinement, pseudo-masks, segmentation network."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

from wsss_fast import cam, nets, seg
from wsss_fast.ccr.inference import infer
from wsss_fast.ccr.presets import PIPELINES, PRESETS, Pipeline
from wsss_fast.ccr.recipe import Refinement
from wsss_fast.ccr.training import train
from wsss_fast.data import Source, opened_for, validation_for
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import ranges
from wsss_fast.engine.fit import check_lengths
from wsss_fast.engine.run_folder import check_out
from wsss_fast.evaluation import report, run_scores
from wsss_fast.evaluation.protocol import Protocol
from wsss_fast.pipeline import (
    REFINE_STAGES,
    SEGMENT_STAGES,
    choose,
    refine_maps,
    refine_plan,
    segment,
    segment_plan,
)
from wsss_fast.runs import Compute, RunResult, run_arguments, started
from wsss_fast.stages import saliency
from wsss_fast.stages.estimate import Network, Plan, say_disk, say_time
from wsss_fast.stages.training import TrainResult

STAGES = ("cam", "cam/maps", "ccr/maps", *REFINE_STAGES, *SEGMENT_STAGES)


def run(
    data: Source,
    out: str | Path,
    *,
    preset: Literal["ccr-voc", "shapes", "voc"] | None = None,
    backbone: str | None = None,
    weights: str | Path | None = None,
    irn_weights: str | Path | None = None,
    seg_weights: str | Path | None = None,
    seg_preset: str | None = None,
    pipeline: Pipeline | None = None,
    until: Literal["masks", "seg"] = "seg",
    redo: str | None = None,
    from_stage: str | None = None,
    val: Source | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> RunResult:
    """Run the CCR pipeline: from a classifier to pseudo-masks and a segmentation network.

    The stages are CAM, response maps, IRN, pseudo-masks and DeepLabV2 with a saliency loss. Every
    stage is scored where true masks exist. Finished stages are skipped, and an interrupted run
    resumes in the stage it was in. Collective.

    Args:
        data: images, tags and, unless `pipeline.seg.weight` is 0 or `until` is "masks", a saliency
            map for every id: a data set, or a path or name as in `data.load`, which is opened with
            the lists of the preset's row if it has its layout. Its masks are only used to score.
        out: run folder; gets cam/, ccr/, irn/, masks/ (after CRF refinement), seg/, config.json,
            metrics.json and report.html.
        preset: name of a published setting, "ccr-voc", or "shapes" (the built-in benchmark), which
            sets `backbone` and `pipeline`.
        backbone: backbone of the classifier: "resnet38" (published), "resnet50" or "small";
            default: the preset's, or "resnet38".
        weights: weights of a trained classifier; without them, one is trained from random weights.
        irn_weights: weights of IRN's backbone: ImageNet's ResNet-50; without them, "resnet50" and
            "small" start from the classifier.
        seg_weights: initial weights of the segmentation network, as the preset's row names them;
            without them, "small" starts from the classifier.
        seg_preset: name of a segmentation recipe, a key of `seg.PRESETS`, which replaces `seg` and
            `seg_backbone` in the numbers of the preset or backbone; default: none.
        pipeline: hyper-parameters of all stages, used as they are; default: those of the preset, or
            of the backbone, with those of `seg_preset`.
        until: last stage: "seg" for the whole pipeline, "masks" to end with the pseudo-masks.
        redo: finished stage to repeat, to change one of its numbers for instance: cam, cam/maps and
            so on, as the folders in `out` are called; stages that depend on it follow.
        from_stage: repeat this stage and all later ones.
        val: images that the segmentation network predicts; default: those of the preset's row if
            `data` is opened here, else it predicts `data`.
        device: auto, cpu, cuda or cuda:N.
        seed: seed of initialisation, shuffling and augmentation.
        workers: number of loader processes; 0 loads in the training process.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used, a saliency map is missing, or `out` holds
            stages that were run with other arguments.
        RunError: a loss is not finite.

    Source: Sun, Zhang and Barnes, WACV 2022.
    """
    chosen = choose("ccr run", PRESETS, PIPELINES, preset, backbone, seg_preset, pipeline)
    backbone, numbers = chosen.backbone, chosen.numbers
    unseen = validation_for(val, data, chosen.row)
    data, out = opened_for(data, chosen.row), check_out(out)
    with chosen.checking("weights"):
        nets.check(backbone, weights, {**nets.BACKBONES, **nets.SALIENCY_BACKBONES})
    ranges.check(numbers, "pipeline")
    lengths = {} if weights is not None else {"cam": numbers.cam.length()}
    if numbers.refine.kind != "crf":
        lengths["irn"] = numbers.refine.irn.length()
        with chosen.checking("irn_weights"):
            nets.check_file("irn_weights", irn_weights)
            nets.check("small" if backbone == "small" else "resnet50", irn_weights)
    if until == "seg":
        lengths["seg"] = numbers.seg.seg.length()
        with chosen.checking("seg_weights"):
            seg.check_weights(data, numbers.seg_backbone, numbers.seg.seg, seg_weights)
    data.check_masks()
    if unseen is not None:
        unseen.check_masks()
    if until == "seg" and numbers.seg.weight:
        saliency.check(data)
    compute = Compute(backbone, device, seed, workers, precision)
    compute.resolved_device()  # raises for an unknown device before anything is written
    check_lengths(len(data), **lengths)
    arguments = run_arguments(
        out,
        data,
        unseen,
        compute,
        {
            "weights": weights,
            "irn_weights": irn_weights,
            "seg_weights": seg_weights,
            "preset": chosen.name,
            "seg_preset": seg_preset,
            "pipeline": numbers,
            "until": until,
        },
        saliency=True,
    )
    needed = {"irn_weights": irn_weights} if "irn" in lengths else {}
    needed |= {"seg_weights": seg_weights} if until == "seg" else {}
    chosen.say_missing("ccr run", weights=weights, **needed)
    card = Protocol.of("ccr run", arguments, data, unseen, chosen.name, chosen.preset)
    with started(
        *(out, "ccr run", STAGES, arguments), redo=redo, from_stage=from_stage, protocol=card
    ):
        return _run_stages(
            data,
            out,
            backbone,
            numbers,
            unseen,
            compute,
            weights=weights,
            irn_weights=irn_weights,
            seg_weights=seg_weights,
            until=until,
        )


def _run_stages(
    data: Dataset,
    out: Path,
    backbone: str,
    numbers: Pipeline,
    unseen: Dataset | None,
    compute: Compute,
    *,
    weights: str | Path | None,
    irn_weights: str | Path | None,
    seg_weights: str | Path | None,
    until: str,
) -> RunResult:
    """All stages in order, their scores and the report."""
    plan = _plan(data, numbers, compute, until, trained=weights is None)
    say_disk(data, out, plan)
    classifier, maps = _make_maps(data, out, numbers, weights, unseen, compute)
    say_time(out, plan)
    start = irn_weights or (None if backbone == "resnet38" else classifier)
    masks, metrics = refine_maps(data, out, maps, numbers.refine, weights=start, compute=compute)
    predictions = seg_metrics = None
    if until == "seg":
        predictions, seg_metrics = segment(
            data,
            out,
            masks,
            data if unseen is None else unseen,
            numbers.seg.seg,
            backbone=numbers.seg_backbone,
            weights=seg_weights,
            own=classifier,
            compute=compute,
            train=functools.partial(_train_refined, numbers.seg, maps),
        )
    curves = {"CAM": "cam", "CCR": "ccr"}
    if numbers.refine.kind != "crf":
        curves["IRN"] = "irn"
    page = report.write(
        out, data, panels(data, out, masks), title="CCR: from a classifier to masks", curves=curves
    )
    return RunResult(out, masks, metrics, page, predictions, seg_metrics)


def _plan(data: Dataset, numbers: Pipeline, compute: Compute, until: str, *, trained: bool) -> Plan:
    """What the pipeline will write and train."""
    backbone = {**nets.BACKBONES, **nets.SALIENCY_BACKBONES}[compute.backbone]
    networks = {"cam": Network.of(backbone, numbers.cam, data)} if trained else {}
    own = Plan({"cam/maps": 0, "ccr/maps": 0}, (), networks)
    rest = refine_plan(numbers.refine, compute, data)
    return own + rest + segment_plan(numbers.seg.seg, numbers.seg_backbone, data, until)


def _make_maps(
    data: Dataset,
    out: Path,
    numbers: Pipeline,
    weights: str | Path | None,
    val: Dataset | None,
    compute: Compute,
) -> tuple[str | Path, Path]:
    """Weights of the classifier, which is trained if None is given, and folder of response maps."""
    crf: dict[str, Any] = {"crf": numbers.refine.crf, "device": compute.resolved_device()}
    extra = {}
    if weights is None:
        trained = cam.train(data, out, recipe=numbers.cam, val=val, **compute.train())
        weights, extra = trained.weights, {"mean_ap": trained.mean_ap}
    cams = cam.infer(data, weights, out, recipe=numbers.cam, **compute.infer())
    run_scores.maps(
        out,
        "cam",
        data,
        cams.maps,
        fixed=numbers.cam_threshold,
        fixed_crf=numbers.cam_crf_threshold,
        extra=extra,
        **crf,
    )
    responses = infer(data, weights, out, recipe=numbers.ccr, **compute.infer())
    run_scores.maps(
        out,
        "ccr",
        data,
        responses.maps,
        fixed=numbers.ccr_threshold,
        fixed_crf=numbers.refine.crf_threshold,
        **crf,
    )
    return weights, responses.maps


def _train_refined(refinement: Refinement, maps: Path, *args: Any, **options: Any) -> TrainResult:
    """`ccr.train` with the arguments of `seg.train`."""
    return train(*args, **{**options, "recipe": refinement}, maps=maps)


def panels(data: Dataset, out: Path, masks: Path) -> dict[str, report.Panel]:
    """Columns of the report's grid of pictures: title -> function from an id to its picture.

    Args:
        data: images and tags.
        out: run folder.
        masks: folder of the pseudo-masks.
    """
    saliency_column = {}
    if all(i in data.saliencies for i in data.ids):
        saliency_column = {"saliency": report.salient(data)}
    return {
        "image": report.photo(data),
        **report.truth_column(data),
        **saliency_column,
        "CAM": report.heat(data, out / "cam/maps"),
        "CCR map": report.heat(data, out / "ccr/maps"),
        "mask": report.labels(data, masks),
    }
