"""The EPS pipeline: classifier baseline, EPS, pseudo-masks, segmentation network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from wsss_fast import cam, nets, seg
from wsss_fast.data import Source, opened_for, validation_for
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import ranges
from wsss_fast.engine.fit import check_lengths
from wsss_fast.engine.run_folder import check_out
from wsss_fast.eps.inference import infer, pseudo_masks
from wsss_fast.eps.presets import PIPELINES, PRESETS, Pipeline
from wsss_fast.eps.recipe import check_recipe
from wsss_fast.eps.training import train
from wsss_fast.errors import InputError
from wsss_fast.evaluation import report, run_scores
from wsss_fast.evaluation.confusion_ratio import named_pairs
from wsss_fast.evaluation.protocol import Protocol
from wsss_fast.pipeline import (
    SEGMENT_STAGES,
    choose,
    segment,
    segment_plan,
)
from wsss_fast.runs import Compute, RunResult, run_arguments, started
from wsss_fast.stages import saliency
from wsss_fast.stages.estimate import Network, Plan, say_disk, say_time

STAGES = (
    *("cam", "cam/maps", "cam/masks", "cam/crf-masks"),
    *("eps", "eps/maps", "eps/masks", "eps/crf-masks"),
    *SEGMENT_STAGES,
)


def run(
    data: Source,
    out: str | Path,
    *,
    preset: Literal["eps-voc", "eps-coco", "shapes", "voc", "coco"] | None = None,
    backbone: str | None = None,
    weights: str | Path | None = None,
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
    """Run the EPS pipeline: from tags and saliency to pseudo-masks and a segmentation network.

    The stages are classifier baseline, EPS, EPS maps, pseudo-masks and DeepLabV2. Every stage is
    scored where true masks exist. Finished stages are skipped, and an interrupted run resumes in
    the stage it was in. Collective.

    Args:
        data: images, tags and a saliency map for every id: a data set, or a path or name as in
            `data.load`, which is opened with the lists of the preset's row if it has its layout.
            Its masks are only used to score.
        out: run folder; gets cam/, eps/, seg/, config.json, metrics.json and report.html.
        preset: name of a published setting, "eps-voc" or "eps-coco", or "shapes" (the built-in
            benchmark), which sets `backbone` and `pipeline`.
        backbone: "resnet38" (the published recipe) or "small" (trained from scratch, for laptops
            and small images); default: the preset's, or "resnet38".
        weights: initial weights of EPS and of its baseline: ImageNet's ResNet-38, as published.
        seg_weights: initial weights of the segmentation network, as the preset's row names them;
            without them, "small" starts from EPS.
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
        seed: seed of initialisation, shuffling, augmentation and dropout.
        workers: number of loader processes; 0 loads in the training process.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used, a saliency map is missing, or `out` holds
            stages that were run with other arguments.
        RunError: a loss is not finite.

    Source: Lee, Lee, Lee and Shim, CVPR 2021.
    """
    chosen = choose("eps run", PRESETS, PIPELINES, preset, backbone, seg_preset, pipeline)
    backbone, numbers = chosen.backbone, chosen.numbers
    unseen = validation_for(val, data, chosen.row)
    data, out = opened_for(data, chosen.row), check_out(out)
    with chosen.checking("weights"):
        nets.check(backbone, weights, nets.SALIENCY_BACKBONES)
    ranges.check(numbers, "pipeline")
    check_recipe(numbers.eps, data)
    lengths = {"eps": numbers.eps.length()}
    if numbers.baseline:
        lengths["cam"] = numbers.cam.length()
    if until == "seg":
        lengths["seg"] = numbers.seg.length()
        with chosen.checking("seg_weights"):
            seg.check_weights(data, numbers.seg_backbone, numbers.seg, seg_weights)
    numbers = with_known_pairs(data, numbers)
    data.check_masks()
    if unseen is not None:
        unseen.check_masks()
    compute = Compute(backbone, device, seed, workers, precision)
    compute.resolved_device()  # raises for an unknown device before anything is written
    saliency.check(data)
    check_lengths(len(data), **lengths)
    arguments = run_arguments(
        out,
        data,
        unseen,
        compute,
        {
            "weights": weights,
            "seg_weights": seg_weights,
            "preset": chosen.name,
            "seg_preset": seg_preset,
            "pipeline": numbers,
            "until": until,
        },
        saliency=True,
    )
    needed = {"seg_weights": seg_weights} if until == "seg" else {}
    chosen.say_missing("eps run", weights=weights, **needed)
    card = Protocol.of("eps run", arguments, data, unseen, chosen.name, chosen.preset)
    with started(
        *(out, "eps run", STAGES, arguments), redo=redo, from_stage=from_stage, protocol=card
    ):
        return _run_stages(
            data,
            out,
            backbone,
            numbers,
            unseen,
            compute,
            weights=weights,
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
    seg_weights: str | Path | None,
    until: str,
) -> RunResult:
    """All stages in order, their scores and the report."""
    plan, cams = _plan(data, numbers, compute, until), None
    say_disk(data, out, plan)
    if numbers.baseline:
        cams = _make_baseline(data, out, numbers, weights, unseen, compute)
        say_time(out, plan)
    trained = train(data, out, maps=cams, weights=weights, recipe=numbers.eps, **compute.train())
    result = infer(
        data, trained.weights, out, recipe=numbers.eps, crf=numbers.crf, **compute.infer()
    )
    threshold, pairs = numbers.eps.threshold, numbers.pairs
    run_scores.maps(out, "eps", data, result.maps, fixed=threshold, crf=None, pairs=pairs)
    metrics = run_scores.masks(out, "masks", data, result.masks, pairs=pairs)
    predictions = seg_metrics = None
    if until == "seg":
        predictions, seg_metrics = segment(
            data,
            out,
            result.masks,
            data if unseen is None else unseen,
            numbers.seg,
            backbone=numbers.seg_backbone,
            weights=seg_weights,
            own=trained.weights,
            compute=compute,
        )
    page = report.write(
        out,
        data,
        panels(data, out, result.masks),
        title="EPS: from image tags and saliency to masks",
        curves={**({"CAM": "cam"} if numbers.baseline else {}), "EPS": "eps"},
    )
    return RunResult(out, result.masks, metrics, page, predictions, seg_metrics)


def _plan(data: Dataset, numbers: Pipeline, compute: Compute, until: str) -> Plan:
    """What the pipeline will write and train."""
    backbone = nets.SALIENCY_BACKBONES[compute.backbone]
    names = ["cam", "eps"] if numbers.baseline else ["eps"]
    kind = "crf-masks" if numbers.crf else "masks"
    own = Plan(
        {f"{name}/maps": 0 for name in names},
        [f"{name}/{kind}" for name in names],
        {name: Network.of(backbone, getattr(numbers, name), data) for name in names},
    )
    return own + segment_plan(numbers.seg, numbers.seg_backbone, data, until)


def _make_baseline(
    data: Dataset,
    out: Path,
    numbers: Pipeline,
    weights: str | Path | None,
    val: Dataset | None,
    compute: Compute,
) -> Path:
    """Folder of the maps of the classifier without saliency; scored, with its pseudo-masks."""
    classifier = cam.train(
        data, out, weights=weights, recipe=numbers.cam, val=val, **compute.train()
    )
    cams = cam.infer(data, classifier.weights, out, recipe=numbers.cam, **compute.infer())
    run_scores.maps(
        out,
        "cam",
        data,
        cams.maps,
        fixed=numbers.cam_threshold,
        crf=None,
        extra={"mean_ap": classifier.mean_ap},
        pairs=numbers.pairs,
        pairs_at=numbers.eps.threshold,
    )
    folder = pseudo_masks(
        data,
        cams.maps,
        out,
        recipe=numbers.eps,
        crf=numbers.crf,
        name="cam",
        device=compute.resolved_device(),
    )
    run_scores.masks(out, "cam masks", data, folder, pairs=numbers.pairs)
    return cams.maps


def with_known_pairs(data: Dataset, numbers: Pipeline) -> Pipeline:
    """`numbers`, without the pairs of the Shapes benchmark if the data set does not know them.

    Args:
        data: the data set.
        numbers: hyper-parameters of the pipeline.

    Raises:
        InputError: other pairs of which the data set has no class or context.
    """
    try:
        named_pairs(data, numbers.pairs)
    except InputError:
        # The defaults of "small" are a new object if they come from a command line.
        if numbers.pairs != PIPELINES["small"].pairs:
            raise
        return dataclasses.replace(numbers, pairs=())
    return numbers


def panels(data: Dataset, out: Path, masks: Path) -> dict[str, report.Panel]:
    """Columns of the report's grid of pictures: title -> function from an id to its picture.

    Args:
        data: images and tags.
        out: run folder.
        masks: folder of the pseudo-masks.
    """
    baseline = {}
    if (out / "cam/maps/done.json").is_file():
        baseline = {"CAM": report.heat(data, out / "cam/maps")}
    return {
        "image": report.photo(data),
        **report.truth_column(data),
        "saliency": report.salient(data),
        **baseline,
        "EPS map": report.heat(data, out / "eps/maps"),
        "mask": report.labels(data, masks),
    }
