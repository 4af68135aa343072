"""What the pipelines of all methods share: presets, refinement, segmentation, the result."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from wsss_fast import irn, nets, seg
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine.ranges import SHARE, check_order
from wsss_fast.engine.redo import repeated
from wsss_fast.engine.run_folder import config_of
from wsss_fast.engine.run_lock import exclusive
from wsss_fast.engine.runtime import resolve_runtime
from wsss_fast.errors import InputError
from wsss_fast.evaluation import run_scores
from wsss_fast.evaluation.metrics import Metrics
from wsss_fast.stages import masks
from wsss_fast.stages import seeds as seed_stage
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.estimate import Network, Plan
from wsss_fast.stages.training import TrainResult

P = TypeVar("P")


@dataclasses.dataclass(frozen=True)
class Preset(Generic[P]):
    """A published setting: backbone of the networks, and all numbers of the pipeline."""

    backbone: str
    pipeline: P


@dataclasses.dataclass(frozen=True)
class Compute:
    """Options that every stage of a pipeline shares.

    Attributes:
        backbone: of the method's networks.
        device: auto, cpu, cuda or cuda:N.
        seed: of initialisation, shuffling, augmentation and dropout.
        workers: loader processes; 0 loads in the training process.
        precision: fp32, bf16 (autocast), or auto.
    """

    backbone: str
    device: str
    seed: int
    workers: int
    precision: str

    def infer(self) -> dict[str, Any]:
        """Arguments of an `infer` function."""
        return {"backbone": self.backbone, "device": self.device, "precision": self.precision}

    def train(self) -> dict[str, Any]:
        """Arguments of a `train` function."""
        return {**self.infer(), "seed": self.seed, "workers": self.workers}

    def with_backbone(self, large: str) -> Compute:
        """The same for another network: "small" stays, other backbones become `large`."""
        return self if self.backbone == "small" else dataclasses.replace(self, backbone=large)

    def resolved_device(self) -> str:
        """The device that "auto" stands for. Collective.

        Raises:
            InputError: an option that cannot be used.
        """
        found = resolve_runtime(
            self.device, self.seed, self.workers, self.precision, prefer_bf16=False
        )
        return str(found.device)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """Result of a whole pipeline.

    Attributes:
        out: the run folder.
        masks: folder of pseudo-masks.
        metrics: of the pseudo-masks on the ids that have a true mask; None if there are none.
        report: the HTML page with pictures and curves.
        predictions: folder of the segmentation network's masks; None if it was left out.
        seg_metrics: of the predictions; None without true masks.
    """

    out: Path
    masks: Path
    metrics: Metrics | None
    report: Path
    predictions: Path | None = None
    seg_metrics: Metrics | None = None


@dataclasses.dataclass(frozen=True)
class AnalysesResult:
    """Result of a method's analyses.

    Attributes:
        out: `<run folder>/analyses`; its metrics.json has a record of each variant.
        report: the HTML page.
        miou: mIoU of each variant, 0..1, by record; of maps at their best threshold.
    """

    out: Path
    report: Path
    miou: dict[str, float]


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

    def check_together(self, name: str) -> None:
        """Raise InputError where the thresholds of the seeds overlap."""
        check_order(self, name, "bg_threshold", "fg_threshold")


def resolve_preset(
    command: str,
    presets: Mapping[str, Preset[P]],
    pipelines: Mapping[str, P],
    preset: str | None,
    backbone: str | None,
    pipeline: P | None,
) -> tuple[str, P]:
    """Backbone and numbers of a run: the given ones, else the preset's, else the backbone's.

    Args:
        command: named in errors.
        presets: by name; the first one has the usual backbone.
        pipelines: numbers by backbone.
        preset: name, or None.
        backbone: name, or None.
        pipeline: numbers, or None.

    Raises:
        InputError: an unknown preset, or one for another backbone.
    """
    if preset is not None and preset not in presets:
        raise InputError(f"{command}: preset is {preset!r}; must be one of {', '.join(presets)}")
    usual = next(iter(presets.values()))
    if preset is None:
        backbone = backbone or usual.backbone
        return backbone, pipeline or pipelines.get(backbone, usual.pipeline)
    chosen = presets[preset]
    if backbone not in (None, chosen.backbone):
        raise InputError(
            f"{command}: preset {preset!r} is for backbone {chosen.backbone!r}, got {backbone!r}"
        )
    return chosen.backbone, pipeline or chosen.pipeline


REFINE_STAGES = ("irn/seeds", "irn", "irn/maps", "irn/masks", "masks")
SEGMENT_STAGES = ("seg", "seg/predictions")


def run_arguments(
    out: Path,
    data: Dataset,
    val: Dataset | None,
    compute: Compute,
    arguments: dict[str, Any],
    *,
    saliency: bool = False,
) -> dict[str, Any]:
    """The arguments of a pipeline for `config.json`, from which `--config` makes the same run.

    Args:
        out: run folder.
        data: the images of the run.
        val: the validation images, or None.
        compute: shared options.
        arguments: the command's other arguments.
        saliency: whether the method reads saliency maps.
    """
    # Only commands of methods that read saliency maps have the option.
    given = {
        name: value
        for name, value in (data.source or {"data": None}).items()
        if saliency or name != "saliency"
    }
    validation: dict[str, Any] = {"val_split": None}
    if val is not None:
        source = val.source or {}
        # Other validation sets have no option; `--config` rejects "val" by name.
        same = source.get("data") == given["data"] and source.get("ids") is None
        validation = {"val_split": source["split"]} if same else {"val": val.source}
    return {
        **given,
        **validation,
        "out": out.absolute(),
        **{name: _absolute(name, value) for name, value in arguments.items()},
        **dataclasses.asdict(compute),
    }


@contextlib.contextmanager
def started(
    out: Path,
    command: str,
    stages: Sequence[str],
    arguments: dict[str, Any],
    *,
    redo: str | None,
    from_stage: str | None,
) -> Iterator[None]:
    """Around the stages of a pipeline: lock of the run folder, config.json, repeated stages.

    Collective.

    Args:
        out: run folder.
        command: the words typed after `wsss-fast`.
        stages: names of the stages, in order.
        arguments: of `run_arguments`.
        redo: stage whose results are removed first, so that it is repeated.
        from_stage: the same for a stage and all later ones.

    Raises:
        InputError: another process works on the run folder, or there is no such stage.
    """
    with (
        exclusive(out),
        config_of(out, command, arguments),
        repeated(out, command, stages, redo, from_stage),
    ):
        yield


def _absolute(name: str, value: Any) -> Any:
    """The path of a weights file from anywhere; other values as they are."""
    return Path(value).absolute() if name.endswith("weights") and value is not None else value


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
