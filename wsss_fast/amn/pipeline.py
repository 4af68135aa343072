"""The AMN pipeline: classifier, seeds, AMN, refinement, pseudo-masks, segmentation network."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from wsss_fast import cam, nets, seg
from wsss_fast.amn.inference import infer
from wsss_fast.amn.presets import PIPELINES, PRESETS, Pipeline
from wsss_fast.amn.training import train
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
from wsss_fast.stages import seeds as seed_stage
from wsss_fast.stages.estimate import Network, Plan, say_disk, say_time

STAGES = (
    *("cam", "cam/maps", "seeds", "amn", "amn/maps"),
    *REFINE_STAGES,
    *SEGMENT_STAGES,
)


def run(
    data: Source,
    out: str | Path,
    *,
    preset: Literal["amn-voc", "amn-coco", "shapes", "voc", "coco"] | None = None,
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
    """Run the AMN pipeline: from image tags to pseudo-masks and a segmentation network.

    The stages are classifier, CAM, seeds, AMN, AMN maps, IRN, pseudo-masks and DeepLabV2. Every
    stage is scored where true masks exist. Finished stages are skipped: a second call only reads
    the true masks and writes the report again, and an interrupted run resumes in the stage it was
    in. Collective.

    Args:
        data: images and tags: a data set, or a path or name as in `data.load`, which is opened with
            the lists of the preset's row if it has its layout. Its masks are only used to score.
        out: run folder; gets cam/, seeds/, amn/, irn/, masks/ (after CRF refinement), seg/,
            config.json, metrics.json and report.html.
        preset: name of a published setting, "amn-voc" or "amn-coco", or "shapes" (the built-in
            benchmark), which sets `backbone` and `pipeline`.
        backbone: "resnet50" (the published recipe) or "small" (trained from scratch, for laptops
            and small images); default: the preset's, or "resnet50".
        weights: initial weights of classifier, AMN and IRN: ImageNet's ResNet-50, as published;
            without them, AMN and IRN start from the classifier.
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
        val: tagged images on which the classifier's mean average precision is measured, and which
            the segmentation network predicts; default: those of the preset's row if `data` is
            opened here, else it predicts `data`.
        device: auto, cpu, cuda or cuda:N.
        seed: seed of initialisation, shuffling, augmentation and dropout.
        workers: number of loader processes; 0 loads in the training process.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used, or `out` holds stages that were run with
            other arguments.
        RunError: a loss is not finite.

    Source: Lee, Kim and Shim, CVPR 2022.
    """
    chosen = choose("amn run", PRESETS, PIPELINES, preset, backbone, seg_preset, pipeline)
    backbone, numbers = chosen.backbone, chosen.numbers
    unseen = validation_for(val, data, chosen.row)
    data, out = opened_for(data, chosen.row), check_out(out)
    with chosen.checking("weights"):
        nets.check(backbone, weights)
    ranges.check(numbers, "pipeline")
    lengths = {"cam": numbers.cam.length(), "amn": numbers.amn.length()}
    if numbers.refine.kind != "crf":
        lengths["irn"] = numbers.refine.irn.length()
    if until == "seg":
        lengths["seg"] = numbers.seg.length()
        with chosen.checking("seg_weights"):
            seg.check_weights(data, numbers.seg_backbone, numbers.seg, seg_weights)
    data.check_masks()
    if unseen is not None:
        unseen.check_masks()
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
            "seg_weights": seg_weights,
            "preset": chosen.name,
            "seg_preset": seg_preset,
            "pipeline": numbers,
            "until": until,
        },
    )
    needed = {"seg_weights": seg_weights} if until == "seg" else {}
    chosen.say_missing("amn run", weights=weights, **needed)
    card = Protocol.of("amn run", arguments, data, unseen, chosen.name, chosen.preset)
    with started(
        *(out, "amn run", STAGES, arguments), redo=redo, from_stage=from_stage, protocol=card
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
    plan = _plan(data, numbers, compute, until)
    say_disk(data, out, plan)
    start, seeds = _make_seeds(data, out, numbers, weights, unseen, compute)
    say_time(out, plan)
    maps = _make_maps(data, out, numbers, start, seeds, compute)
    masks, metrics = refine_maps(data, out, maps, numbers.refine, weights=start, compute=compute)
    predictions = seg_metrics = None
    if until == "seg":
        predictions, seg_metrics = segment(
            data,
            out,
            masks,
            data if unseen is None else unseen,
            numbers.seg,
            backbone=numbers.seg_backbone,
            weights=seg_weights,
            own=start,
            compute=compute,
        )
    curves = {"CAM": "cam", "AMN": "amn"}
    if numbers.refine.kind != "crf":
        curves["IRN"] = "irn"
    page = report.write(
        out, data, panels(data, out, masks), title="AMN: from image tags to masks", curves=curves
    )
    return RunResult(out, masks, metrics, page, predictions, seg_metrics)


def _plan(data: Dataset, numbers: Pipeline, compute: Compute, until: str) -> Plan:
    """What the pipeline will write and train."""
    backbone = nets.BACKBONES[compute.backbone]
    trained = {
        "cam": Network.of(backbone, numbers.cam, data),
        "amn": Network.of(backbone, numbers.amn, data),
    }
    own = Plan({"cam/maps": 0, "amn/maps": 1}, ("seeds",), trained)
    rest = refine_plan(numbers.refine, compute, data)
    return own + rest + segment_plan(numbers.seg, numbers.seg_backbone, data, until)


def _make_seeds(
    data: Dataset,
    out: Path,
    numbers: Pipeline,
    weights: str | Path | None,
    val: Dataset | None,
    compute: Compute,
) -> tuple[str | Path, Path]:
    """Initial weights of the next networks, and the folder of the seeds from CAM."""
    classifier = cam.train(
        data, out, weights=weights, recipe=numbers.cam, val=val, **compute.train()
    )
    cams = cam.infer(data, classifier.weights, out, recipe=numbers.cam, **compute.infer())
    device = compute.resolved_device()
    run_scores.maps(
        out,
        "cam",
        data,
        cams.maps,
        fixed=numbers.cam_threshold,
        crf=numbers.crf,
        fixed_crf=numbers.cam_crf_threshold,
        device=device,
        extra={"mean_ap": classifier.mean_ap},
    )
    seeds = seed_stage.make(
        data,
        cams.maps,
        out,
        fg_threshold=numbers.fg_threshold,
        bg_threshold=numbers.bg_threshold,
        crf=numbers.crf,
        device=device,
    )
    run_scores.seeds(out, "seeds", data, seeds.folder)
    return weights or classifier.weights, seeds.folder


def _make_maps(
    data: Dataset,
    out: Path,
    numbers: Pipeline,
    weights: str | Path,
    seeds: Path,
    compute: Compute,
) -> Path:
    """Folder of the AMN maps."""
    recipe = numbers.amn
    trained = train(data, out, seeds=seeds, weights=weights, recipe=recipe, **compute.train())
    inferred = infer(data, trained.weights, out, seeds=seeds, recipe=recipe, **compute.infer())
    run_scores.maps(
        out,
        "amn",
        data,
        inferred.maps,
        fixed=numbers.amn_threshold,
        crf=numbers.refine.crf,
        fixed_crf=numbers.refine.crf_threshold,
        device=compute.resolved_device(),
    )
    return inferred.maps


def panels(data: Dataset, out: Path, masks: Path) -> dict[str, report.Panel]:
    """Columns of the report's grid of pictures: title -> function from an id to its picture.

    Args:
        data: images and tags.
        out: run folder.
        masks: folder of the pseudo-masks.
    """
    refined = {}
    if (out / "irn/maps/done.json").is_file():
        refined = {"IRN map": report.heat(data, out / "irn/maps")}
    return {
        "image": report.photo(data),
        **report.truth_column(data),
        "CAM": report.heat(data, out / "cam/maps"),
        "seed": report.labels(data, out / "seeds"),
        "AMN map": report.heat(data, out / "amn/maps"),
        **refined,
        "mask": report.labels(data, masks),
    }
