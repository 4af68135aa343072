"""Stages that pipelines share: refinement of class maps, segmentation network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

from wsss_fast import irn, nets, seg
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine.ranges import SHARE, check_order
from wsss_fast.evaluation import run_scores
from wsss_fast.evaluation.metrics import Metrics
from wsss_fast.runs import Compute
from wsss_fast.stages import masks
from wsss_fast.stages import seeds as seed_stage
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.estimate import Network, Plan
from wsss_fast.stages.training import TrainResult


@dataclasses.dataclass(frozen=True)
class RefineOptions:
    """From class maps to pseudo-masks; the defaults are the published ones for AMN on VOC.

    Attributes:
        kind: "irn" as published, "irn+crf", or "crf", which leaves IRN out.
        fg_threshold: background score of the foreground of the seeds that IRN is trained on.
        bg_threshold: background score of the background of these seeds.
        irn: recipe of IRN; its `threshold` gives the pseudo-masks of "irn".
        crf: dense CRF of these seeds, of the pseudo-masks, and of the reported "+crf" figures.
        crf_threshold: background score of the method's maps before CRF refinement.
        irn_crf_threshold: background score of IRN's maps before CRF refinement.
    """

    ranges: ClassVar = dict.fromkeys(
        ("fg_threshold", "bg_threshold", "crf_threshold", "irn_crf_threshold"), SHARE
    )

    kind: Literal["irn", "irn+crf", "crf"] = "irn"
    fg_threshold: float = 0.45
    bg_threshold: float = 0.15
    irn: irn.Recipe = irn.RECIPES["resnet50"]
    crf: Crf = Crf()
    crf_threshold: float = 0.25
    irn_crf_threshold: float = 0.25

    def unused(self) -> tuple[str, ...]:
        """Numbers that a run does not use."""
        own = ("irn", "fg_threshold", "bg_threshold", "irn_crf_threshold")
        return own if self.kind == "crf" else ()

    def check_together(self, name: str) -> None:
        """Raise InputError where the thresholds of the seeds overlap."""
        check_order(self, name, "bg_threshold", "fg_threshold")


REFINE_STAGES = ("irn/seeds", "irn", "irn/maps", "irn/masks", "masks")
SEGMENT_STAGES = ("seg", "seg/predictions")


def refine_maps(
    data: Dataset,
    out: Path,
    maps: Path,
    options: RefineOptions,
    *,
    weights: str | Path | None,
    compute: Compute,
) -> tuple[Path, Metrics | None]:
    """Pseudo-masks from class maps by IRN, by the dense CRF, or by both; scored. Collective.

    Args:
        data: images and tags.
        out: run folder; gets irn/ and, where the CRF is used, masks/.
        maps: folder of class maps.
        options: which refinement, and its numbers.
        weights: where IRN's backbone starts.
        compute: shared options.

    Returns:
        The folder of pseudo-masks, and their metrics; None without true masks.
    """
    device = compute.resolved_device()
    threshold = options.crf_threshold
    if options.kind != "crf":
        network = compute.with_backbone("resnet50")
        seeds = seed_stage.make(
            data,
            maps,
            out,
            fg_threshold=options.fg_threshold,
            bg_threshold=options.bg_threshold,
            crf=options.crf,
            name="irn/seeds",
            device=device,
        )
        run_scores.seeds(out, "irn/seeds", data, seeds.folder)
        recipe = options.irn
        trained = irn.train(
            data, out, seeds=seeds.folder, weights=weights, recipe=recipe, **network.train()
        )
        refined = irn.infer(data, trained.weights, out, maps=maps, recipe=recipe, **network.infer())
        run_scores.maps(
            out,
            "irn",
            data,
            refined.maps,
            fixed=recipe.threshold,
            crf=options.crf,
            fixed_crf=options.irn_crf_threshold,
            device=device,
        )
        maps, threshold = refined.maps, options.irn_crf_threshold
    if options.kind == "irn":
        folder = refined.masks
    else:
        folder = masks.make(
            data, maps, out, threshold=threshold, crf=options.crf, device=device
        ).folder
    return folder, run_scores.masks(out, "masks", data, folder)


def refine_plan(options: RefineOptions, compute: Compute, data: Dataset) -> Plan:
    """What `refine_maps` will write and train."""
    labels = () if options.kind == "irn" else ("masks",)
    if options.kind == "crf":
        return Plan({}, labels, {})
    backbone = nets.BACKBONES[compute.with_backbone("resnet50").backbone]
    trained = {"irn": Network.of(backbone, options.irn, data)}
    return Plan({"irn/maps": 0}, ("irn/seeds", "irn/masks", *labels), trained)


def segment_plan(recipe: seg.Recipe, compute: Compute, data: Dataset, until: str) -> Plan:
    """What `segment` will write and train, if the pipeline gets there."""
    if until != "seg":
        return Plan({}, (), {})
    backbone = nets.SEGMENTATION_BACKBONES[compute.with_backbone("resnet101").backbone]
    return Plan({}, ("seg/predictions",), {"seg": Network.of(backbone, recipe, data)})


def segment(
    data: Dataset,
    out: Path,
    masks: Path,
    unseen: Dataset,
    recipe: seg.Recipe,
    *,
    weights: str | Path | None,
    compute: Compute,
    train: Callable[..., TrainResult] = seg.train,
) -> tuple[Path, Metrics | None]:
    """Train the segmentation network on pseudo-masks, predict and score. Collective.

    Args:
        data: images that the masks belong to.
        out: run folder; gets seg/.
        masks: folder of pseudo-masks.
        unseen: images to predict.
        recipe: of the network.
        weights: where the network starts.
        compute: shared options.
        train: takes the arguments of `seg.train`.

    Returns:
        Folder of predictions, and their metrics; None without true masks.
    """
    network = compute.with_backbone("resnet101")
    trained = train(data, out, masks=masks, weights=weights, recipe=recipe, **network.train())
    found = seg.infer(unseen, trained.weights, out, recipe=recipe, **network.infer())
    name = f"seg on {unseen.split}"
    return found.predictions, run_scores.masks(out, name, unseen, found.predictions)
