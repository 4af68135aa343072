"""What the pipelines of all methods share: named settings, the segmentation network behind the pseudo-masks, the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wsss_fast import seg
from wsss_fast.data.dataset import Dataset
from wsss_fast.errors import InputError
from wsss_fast.evaluation import run_scores
from wsss_fast.evaluation.metrics import Metrics
from wsss_fast.stages.training import TrainResult


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published setting by name: the networks' backbone and every number."""

    backbone: str
    pipeline: Any


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a whole pipeline left.

    Attributes:
        out: the run folder.
        masks: folder of pseudo-masks.
        metrics: of the pseudo-masks on the ids that have a true mask; None if there are none.
        report: the page of pictures.
        predictions: folder of the segmentation network's masks; None if it was left out.
        seg_metrics: of these; None without true masks.
    """

    out: Path
    masks: Path
    metrics: Metrics | None
    report: Path
    predictions: Path | None = None
    seg_metrics: Metrics | None = None


@dataclasses.dataclass(frozen=True)
class AnalysesResult:
    """What the analyses left.

    Attributes:
        out: `<run folder>/analyses`; its metrics.json has a record for each variant.
        report: the page.
        miou: of each variant, 0..1, by record; of maps at their best threshold.
    """

    out: Path
    report: Path
    miou: dict[str, float]


def resolve_preset(
    command: str,
    presets: Mapping[str, Preset],
    pipelines: Mapping[str, Any],
    preset: str | None,
    backbone: str | None,
    pipeline: Any,
) -> tuple[str, Any]:
    """Backbone and numbers of a run: the caller's own where given, else the preset's, else the backbone's.

    Args:
        command: named in errors.
        presets: settings by name; the first one's backbone is the usual one.
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


def segment(
    data: Dataset,
    out: Path,
    masks: Path,
    unseen: Dataset,
    recipe: seg.Recipe,
    *,
    small: bool,
    weights: str | Path | None,
    seed: int,
    workers: int,
    device: str,
    precision: str,
    train: Callable[..., TrainResult] = seg.train,
) -> tuple[Path, Metrics | None]:
    """Train the segmentation network on pseudo-masks, predict and score.

    Args:
        data: images that the masks belong to.
        out: run folder; gets seg/.
        masks: folder of pseudo-masks.
        unseen: images to predict.
        recipe: of the network.
        small: its backbone is "small" instead of "resnet101".
        weights: where the net starts.
        seed: of initialisation, shuffling and augmentation.
        workers: loader processes.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16, or auto.
        train: takes what `seg.train` takes.

    Returns:
        Folder of predictions, and their metrics; None without true masks.
    """
    shared = {
        "backbone": "small" if small else "resnet101",
        "recipe": recipe,
        "device": device,
        "precision": precision,
    }
    trained = train(data, out, masks=masks, weights=weights, seed=seed, workers=workers, **shared)
    predictions = seg.infer(unseen, trained.weights, out, **shared).predictions
    return predictions, run_scores.masks(out, f"seg on {unseen.split}", unseen, predictions)
