"""What pipelines share: refinement of class maps, segmentation network and its recipes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from wsss_fast import irn, nets, seg
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine.ranges import SHARE, check_order
from wsss_fast.errors import InputError
from wsss_fast.evaluation import run_scores
from wsss_fast.evaluation.metrics import Metrics
from wsss_fast.presets import Preset, Row, Start
from wsss_fast.runs import Chosen, Compute, resolve_preset
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


def segment_plan(recipe: seg.Recipe, seg_backbone: str, data: Dataset, until: str) -> Plan:
    """What `segment` will write and train, if the pipeline gets there."""
    if until != "seg":
        return Plan({}, (), {})
    backbone = nets.SEGMENTATION_BACKBONES[seg_backbone]
    return Plan({}, ("seg/predictions",), {"seg": Network.of(backbone, recipe, data)})


def segment(
    data: Dataset,
    out: Path,
    masks: Path,
    unseen: Dataset,
    recipe: seg.Recipe,
    *,
    backbone: str,
    weights: str | Path | None,
    own: str | Path | None,
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
        backbone: of the network.
        weights: where the network starts, or None.
        own: weights of the pipeline's own network, from which "small" starts without `weights`.
        compute: shared options.
        train: takes the arguments of `seg.train`.

    Returns:
        Folder of predictions, and their metrics; None without true masks.
    """
    if weights is None and backbone == compute.backbone == "small":
        weights = own
    network = dataclasses.replace(compute, backbone=backbone)
    trained = train(data, out, masks=masks, weights=weights, recipe=recipe, **network.train())
    found = seg.infer(unseen, trained.weights, out, recipe=recipe, **network.infer())
    name = f"seg on {unseen.split}"
    return found.predictions, run_scores.masks(out, name, unseen, found.predictions)


def choose(
    command: str,
    presets: Mapping[str, Preset[Any]],
    pipelines: Mapping[str, Any],
    preset: str | None,
    backbone: str | None,
    seg_preset: str | None,
    pipeline: Any,
) -> Chosen[Any]:
    """`resolve_preset` for pipelines with a segmentation network, whose recipe has its own name.

    Args:
        command: named in errors.
        presets: by name.
        pipelines: numbers by backbone.
        preset: name, or None.
        backbone: name, or None.
        seg_preset: name in `seg.PRESETS`: its recipe and network replace those of the preset or
            backbone. None to keep them.
        pipeline: numbers, or None. Given numbers are used as they are.

    Raises:
        InputError: an unknown preset, or one for another backbone.
    """
    chosen = with_seg_preset(
        command, resolve_preset(command, presets, pipelines, preset, backbone, None), seg_preset
    )
    if pipeline is None:
        return chosen
    wanted = chosen.numbers.seg_backbone
    if seg_preset is not None and pipeline.seg_backbone != wanted:
        raise InputError(
            f"{command}: seg_preset {seg_preset!r} is for seg_backbone {wanted!r}, but the "
            f"pipeline has {pipeline.seg_backbone!r}"
        )
    return chosen._replace(numbers=pipeline)


def with_seg_preset(command: str, chosen: Chosen[Any], seg_preset: str | None) -> Chosen[Any]:
    """`chosen` with the recipe and the network of another segmentation preset.

    Args:
        command: named in errors.
        chosen: backbone and numbers of a pipeline.
        seg_preset: name in `seg.PRESETS`, or None.

    Raises:
        InputError: an unknown name.
    """
    if seg_preset is None:
        return chosen
    if seg_preset not in seg.PRESETS:
        known = ", ".join(seg.PRESETS)
        raise InputError(f"{command}: seg_preset is {seg_preset!r}; must be one of {known}")
    network = seg.PRESETS[seg_preset]
    preset = chosen.preset
    if preset is not None:
        row = None if preset.row is None else _row_with(preset.row, network.row)
        preset = Preset(preset.backbone, _numbers_with(preset.numbers, network), row)
    return chosen._replace(
        numbers=_numbers_with(chosen.numbers, network), preset=preset, seg_preset=seg_preset
    )


def _numbers_with(numbers: Any, network: Preset[seg.Recipe]) -> Any:
    """A pipeline with the recipe and the backbone of a segmentation preset."""
    own: Any = network.numbers
    if not isinstance(numbers.seg, seg.Recipe):  # a recipe with the loss of a method around it
        own = dataclasses.replace(numbers.seg, seg=own)
    return dataclasses.replace(numbers, seg=own, seg_backbone=network.backbone)


def _row_with(row: Row, network: Row | None) -> Row:
    """A row whose segmentation network is another one, so that its scores are not published."""
    others = {text for one in seg.PRESETS.values() if one.row for text in one.row.unsure}
    own = network_row(network)
    return dataclasses.replace(
        row,
        starts=(
            *(start for start in row.starts if start.argument != "seg_weights"),
            *(() if own is None else own.starts),
        ),
        published=tuple(one for one in row.published if not one.record.startswith("seg")),
        unsure=(
            *(text for text in row.unsure if text not in others),
            *(() if own is None else own.unsure),
        ),
    )


def network_row(row: Row | None) -> Row | None:
    """The row of a segmentation preset with the names of a pipeline's arguments."""
    if row is None:
        return None
    starts = [dataclasses.replace(start, argument="seg_weights") for start in row.starts]
    return dataclasses.replace(row, starts=tuple(starts))


def seg_starts(name: str, *, sure: bool = True) -> tuple[Start, ...]:
    """Initial weights of a recipe in `seg.PRESETS`, for the row of a pipeline.

    Args:
        name: of the recipe.
        sure: whether the pipeline's source names them.
    """
    row = network_row(seg.PRESETS[name].row)
    return tuple(dataclasses.replace(one, sure=sure) for one in (row.starts if row else ()))


def seg_unsure(name: str) -> tuple[str, ...]:
    """What no source settles of a recipe in `seg.PRESETS`, for the row of a pipeline."""
    row = seg.PRESETS[name].row
    return () if row is None else row.unsure
