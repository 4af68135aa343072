"""The IRN pipeline: classifier, CAM, seeds, IRN, pseudo-masks, object masks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from wsss_fast import cam, nets
from wsss_fast.data import Source, opened_for, validation_for
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import ranges
from wsss_fast.engine.fit import check_lengths
from wsss_fast.engine.ranges import SHARE
from wsss_fast.engine.run_folder import check_out
from wsss_fast.evaluation import report, run_scores
from wsss_fast.evaluation.protocol import Protocol
from wsss_fast.irn.inference import infer
from wsss_fast.irn.instances import find_instances
from wsss_fast.irn.recipe import (
    INSTANCE_RECIPES,
    OWN_RECIPES,
    InstanceOptions,
    InstanceRecipe,
    Recipe,
)
from wsss_fast.irn.training import train
from wsss_fast.presets import Preset, Published, Row, Start
from wsss_fast.readers.instances import load_instances
from wsss_fast.runs import Compute, RunResult, resolve_preset, run_arguments, started
from wsss_fast.stages import seeds as seed_stage
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.estimate import Network, Plan, say_disk, say_time


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Hyper-parameters of all stages; the defaults are IRN's own for VOC.

    Attributes:
        cam: recipe of the classifier.
        cam_threshold: background threshold at which the mIoU of CAM is reported, in addition to its
            best threshold, 0..1.
        fg_threshold: foreground threshold of the seeds before CRF refinement: score above which a
            pixel is labelled with its class, 0..1.
        bg_threshold: background threshold of the seeds before CRF refinement: score up to which a
            pixel is background, 0..1; pixels between both thresholds are ignored.
        crf: dense CRF of the seeds.
        irn: recipe of IRN; its `threshold` gives the pseudo-masks.
        instances: how the objects of a class are told apart.
    """

    ranges: ClassVar = dict.fromkeys(("cam_threshold", "fg_threshold", "bg_threshold"), SHARE)

    # jiwoon-ahn/irn, run_sample.py: cam_eval_thres, conf_fg_thres, conf_bg_thres
    cam: cam.Recipe = cam.RECIPES["resnet50"]
    cam_threshold: float = 0.15
    fg_threshold: float = 0.30
    bg_threshold: float = 0.05
    crf: Crf = Crf()
    irn: Recipe = OWN_RECIPES["resnet50"]
    instances: InstanceOptions = InstanceOptions()

    def check_together(self, name: str) -> None:
        """Raise InputError where the thresholds of the seeds overlap."""
        ranges.check_order(self, name, "bg_threshold", "fg_threshold")


PIPELINES = {
    "resnet50": Pipeline(),
    "small": Pipeline(
        cam=cam.RECIPES["small"],
        cam_threshold=0.42,
        fg_threshold=0.40,
        bg_threshold=0.12,
        # For 128-pixel images: the appearance kernel scales with the image.
        crf=Crf(bilateral=(25.0, 13.0, 10.0)),
        irn=OWN_RECIPES["small"],
        instances=INSTANCE_RECIPES["small"].objects,
    ),
}

_ISSUE = "jiwoon-ahn/irn, issue 4"
_LIST = "gyguo/awesome-weakly-supervised-semantic-segmentation-image"
_NETWORK = "DeepLabV2 on ResNet-50, trained in Detectron: not in this package; mIoU on"

PRESETS = {
    "irn-voc": Preset(
        "resnet50",
        PIPELINES["resnet50"],
        Row(
            layout="voc",
            split="trainaug",  # run_sample.py: train_list is train_aug.txt, infer_list train.txt
            score_on="train",
            truth="SegmentationClass",  # chainercv's VOCSemanticSegmentationDataset
            starts=(
                Start(
                    "weights", "ImageNet's ResNet-50, resnet50-19c8e357.pth", "torchvision's models"
                ),
            ),
            published=(
                Published("cam", 48.3, "CAM at threshold 0.15, mIoU on train", _ISSUE),
                Published("masks", 66.5, "pseudo-masks, mIoU on train", _ISSUE),
                Published("irn/instances", 37.7, "object masks, chainercv's AP50 on train", _ISSUE),
                Published("seg on val", 63.5, f"{_NETWORK} val", _LIST, sure=False),
                Published("seg on test", 64.8, f"{_NETWORK} test", _LIST, sure=False),
            ),
            source="jiwoon-ahn/irn, run_sample.py",
            unsure=(
                "Users of the public code got CAM 48.1, pseudo-masks 64.9 and AP50 32.4 (issue 4), "
                "or 66.0 and 35.7 (issue 26); the authors did not settle why.",
                "With DataParallel on several GPUs, the public code gave 46.4 and 8.3 (issue 13): "
                "the published numbers are those of one.",
            ),
        ),
    ),
    "shapes": Preset("small", PIPELINES["small"]),
}

STAGES = ("cam", "cam/maps", "seeds", "irn", "irn/maps", "irn/masks", "irn/instances")


def run(
    data: Source,
    out: str | Path,
    *,
    preset: Literal["irn-voc", "shapes"] | None = None,
    backbone: str | None = None,
    weights: str | Path | None = None,
    pipeline: Pipeline | None = None,
    until: Literal["masks", "instances"] = "instances",
    redo: str | None = None,
    from_stage: str | None = None,
    val: Source | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> RunResult:
    """Run the IRN pipeline: from image tags to pseudo-masks and masks of single objects.

    The stages are classifier, CAM, seeds, IRN, its maps and pseudo-masks, and object masks. Every
    stage is scored where true masks exist; object masks where true objects do, if pycocotools is
    installed. Finished stages are skipped: a second call only reads the true masks and writes the
    report again, and an interrupted run resumes in the stage it was in. Collective.

    Args:
        data: images and tags: a data set, or an argument of `data.load`. Its masks are only used to
            score.
        out: run folder; gets cam/, seeds/, irn/, config.json, metrics.json and report.html.
        preset: name of a published setting, "irn-voc", or "shapes" (the built-in benchmark), which
            sets `backbone` and `pipeline`.
        backbone: "resnet50" (the published recipe) or "small" (trained from scratch, for laptops
            and small images); default: the preset's, or "resnet50".
        weights: initial weights of classifier and IRN: ImageNet's ResNet-50, as published; without
            them, IRN starts from the classifier.
        pipeline: hyper-parameters of all stages; default: those of the preset, or of the backbone.
        until: last stage: "instances" for the whole pipeline, "masks" to end with the pseudo-masks.
        redo: finished stage to repeat, to change one of its numbers for instance: cam, cam/maps and
            so on, as the folders in `out` are called; stages that depend on it follow.
        from_stage: repeat this stage and all later ones.
        val: tagged images on which the classifier's mean average precision is measured.
        device: auto, cpu, cuda or cuda:N.
        seed: seed of initialisation, shuffling and augmentation.
        workers: number of loader processes; 0 loads in the training process.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used, or `out` holds stages that were run with
            other arguments.
        RunError: a loss is not finite.

    Source: Ahn, Cho and Kwak, CVPR 2019.
    """
    chosen = resolve_preset("irn run", PRESETS, PIPELINES, preset, backbone, pipeline)
    backbone, numbers = chosen.backbone, chosen.numbers
    unseen = validation_for(val, data, chosen.row)
    data, out = opened_for(data, chosen.row), check_out(out)
    with chosen.checking("weights"):
        nets.check(backbone, weights)
    ranges.check(numbers, "pipeline")
    data.check_masks()
    compute = Compute(backbone, device, seed, workers, precision)
    compute.resolved_device()  # raises for an unknown device before anything is written
    check_lengths(len(data), cam=numbers.cam.length(), irn=numbers.irn.length())
    given = {"weights": weights, "preset": chosen.name, "pipeline": numbers, "until": until}
    arguments = run_arguments(out, data, unseen, compute, given)
    chosen.say_missing("irn run", weights=weights)
    card = Protocol.of("irn run", arguments, data, unseen, chosen.name, chosen.preset)
    with started(
        *(out, "irn run", STAGES, arguments), redo=redo, from_stage=from_stage, protocol=card
    ):
        return _run_stages(data, out, numbers, weights, unseen, compute, until)


def _run_stages(
    data: Dataset,
    out: Path,
    numbers: Pipeline,
    weights: str | Path | None,
    unseen: Dataset | None,
    compute: Compute,
    until: str,
) -> RunResult:
    """All stages in order, their scores and the report."""
    plan = _plan(data, numbers, compute)
    say_disk(data, out, plan)
    classifier = cam.train(
        data, out, weights=weights, recipe=numbers.cam, val=unseen, **compute.train()
    )
    cams = cam.infer(data, classifier.weights, out, recipe=numbers.cam, **compute.infer())
    extra = {"mean_ap": classifier.mean_ap}
    run_scores.maps(out, "cam", data, cams.maps, fixed=numbers.cam_threshold, crf=None, extra=extra)
    seeds = seed_stage.make(
        data,
        cams.maps,
        out,
        fg_threshold=numbers.fg_threshold,
        bg_threshold=numbers.bg_threshold,
        crf=numbers.crf,
        device=compute.resolved_device(),
    )
    run_scores.seeds(out, "seeds", data, seeds.folder)
    say_time(out, plan)
    start = weights or classifier.weights
    trained = train(
        data, out, seeds=seeds.folder, weights=start, recipe=numbers.irn, **compute.train()
    )
    refined = infer(
        data, trained.weights, out, maps=cams.maps, recipe=numbers.irn, **compute.infer()
    )
    run_scores.maps(out, "irn", data, refined.maps, fixed=numbers.irn.threshold, crf=None)
    metrics = run_scores.masks(out, "masks", data, refined.masks)
    found = None
    if until == "instances":
        recipe = InstanceRecipe(numbers.irn, numbers.instances)
        found = find_instances(
            data, trained.weights, out, maps=cams.maps, recipe=recipe, **compute.infer()
        ).folder
        run_scores.instances(out, "irn/instances", data, found)
    page = report.write(
        out,
        data,
        panels(data, out, found),
        title="IRN: from image tags to masks of single objects",
        curves={"CAM": "cam", "IRN": "irn"},
    )
    return RunResult(out, refined.masks, metrics, page)


def _plan(data: Dataset, numbers: Pipeline, compute: Compute) -> Plan:
    """What the pipeline will write and train; object masks are small."""
    backbone = nets.BACKBONES[compute.backbone]
    trained = {
        "cam": Network.of(backbone, numbers.cam, data),
        "irn": Network.of(backbone, numbers.irn, data),
    }
    return Plan({"cam/maps": 0, "irn/maps": 0}, ("seeds", "irn/masks"), trained)


def panels(data: Dataset, out: Path, found: Path | None) -> dict[str, report.Panel]:
    """Columns of the report's grid of pictures: title -> function from an id to its picture.

    Args:
        data: images and tags.
        out: run folder.
        found: folder of the object masks, or None.
    """
    columns = {
        "image": report.photo(data),
        **report.truth_column(data),
        "CAM": report.heat(data, out / "cam/maps"),
        "seed": report.labels(data, out / "seeds"),
        "IRN map": report.heat(data, out / "irn/maps"),
        "mask": report.labels(data, out / "irn/masks"),
    }
    return columns if found is None else {**columns, "objects": _objects(data, found)}


def _objects(data: Dataset, folder: Path) -> report.Panel:
    """Objects over the image, in colours that do not stand for classes; those of score 0 are not
    shown."""

    def draw(id: str) -> np.ndarray:
        found = load_instances(folder, id, len(data.classes), data.size(id))
        shown = found.numbers <= int((found.scores > 0).sum())  # the scores are descending
        numbers = np.minimum(found.numbers, 254).astype(np.uint8)
        return report.over(data.image(id), np.where(shown, numbers, 0))

    return draw
