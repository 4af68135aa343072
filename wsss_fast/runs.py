"""Runs of a pipeline: preset, shared options, config.json, the result."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from wsss_fast.data.dataset import Dataset
from wsss_fast.data.tagging import tags_for_validation
from wsss_fast.engine.progress import say
from wsss_fast.engine.redo import repeated
from wsss_fast.engine.run_folder import config_of
from wsss_fast.engine.run_lock import exclusive
from wsss_fast.engine.runtime import resolve_runtime
from wsss_fast.errors import InputError
from wsss_fast.evaluation.metrics import Metrics
from wsss_fast.evaluation.protocol import Protocol
from wsss_fast.presets import Preset, Row

P = TypeVar("P")


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


def check_parts(command: str, parts: Sequence[str], known: Sequence[str]) -> None:
    """Raise InputError, with the name of the command, if one of the analyses is unknown."""
    for part in parts:
        if part not in known:
            raise InputError(f"{command}: parts holds {part!r}; must be of {', '.join(known)}")


class Chosen(NamedTuple, Generic[P]):
    """Backbone and numbers of a run.

    Attributes:
        backbone: backbone of the method's networks.
        numbers: hyper-parameters of all stages.
        name: name of the preset, or None.
        preset: the preset, or None.
        seg_preset: name of the segmentation recipe that replaces the preset's, or None.
    """

    backbone: str
    numbers: P
    name: str | None = None
    preset: Preset[P] | None = None
    seg_preset: str | None = None

    @property
    def label(self) -> str | None:
        """Name of the preset, and of the segmentation recipe that replaces its own, or None."""
        if self.name is None or self.seg_preset is None:
            return self.name
        return f"{self.name} with {self.seg_preset}"

    @property
    def row(self) -> Row | None:
        """How the published result of the preset was made; None if nothing was published."""
        return None if self.preset is None else self.preset.row

    @contextlib.contextmanager
    def checking(self, argument: str) -> Iterator[None]:
        """Around the check of a weights file: errors name the argument, and the row's file.

        Args:
            argument: "weights", "irn_weights" or "seg_weights".

        Raises:
            InputError: the one that is raised inside, with more text.
        """
        try:
            yield
        except InputError as error:
            text = str(error)
            if not text.startswith((f"{argument}:", "backbone:")):
                text = f"{argument}: {text}"
            raise InputError(f"{text}{self._start_of(argument, '; ')}") from None

    def say_missing(self, command: str, **weights: Any) -> None:
        """Print which of the row's initial weights are not given, and what they are.

        Args:
            command: the words typed after `wsss-fast`.
            weights: the given files by argument; None for none.
        """
        for argument, given in weights.items():
            start = self._start_of(argument, "")
            if given is None and start:
                say(f"{command}: no {argument} given; {start}")

    def _start_of(self, argument: str, before: str) -> str:
        """What the row starts from, as text; "" if it does not say."""
        for start in () if self.row is None else self.row.starts:
            if start.argument == argument:
                return f"{before}row {self.label} starts from {start.what} ({start.where})"
        return ""


def resolve_preset(
    command: str,
    presets: Mapping[str, Preset[P]],
    pipelines: Mapping[str, P],
    preset: str | None,
    backbone: str | None,
    pipeline: P | None,
) -> Chosen[P]:
    """Backbone and numbers of a run: the given ones, else the preset's, else the backbone's.

    Args:
        command: named in errors.
        presets: by name; the first one has the usual backbone. A later name of the same preset is
            an older one, which is reported.
        pipelines: numbers by backbone.
        preset: name, or None.
        backbone: name, or None.
        pipeline: numbers, or None.

    Raises:
        InputError: an unknown preset, or one for another backbone.
    """
    names = {id(one): name for name, one in reversed([*presets.items()])}
    if preset is not None and preset not in presets:
        known = ", ".join(name for name in presets if name in names.values())
        raise InputError(f"{command}: preset is {preset!r}; must be one of {known}")
    usual = next(iter(presets.values()))
    if preset is None:
        backbone = backbone or usual.backbone
        return Chosen(backbone, pipeline or pipelines.get(backbone, usual.numbers))
    chosen = presets[preset]
    name = names[id(chosen)]
    if name != preset:
        say(f"{command}: preset {preset!r} is {name!r} now")
    if backbone not in (None, chosen.backbone):
        raise InputError(
            f"{command}: preset {name!r} is for backbone {chosen.backbone!r}, got {backbone!r}"
        )
    return Chosen(chosen.backbone, pipeline or chosen.numbers, name, chosen)


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
        tags = None if given.get("tags") is None else str(given["tags"])
        # Other validation sets have no option; `--config` rejects "val" by name.
        same = (
            bool(source)
            and all(source.get(name) == given.get(name) for name in ("data", "truth"))
            and source.get("tags") == tags_for_validation(tags)
            and source.get("ids") is source.get("score_on") is None
        )
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
    protocol: Protocol | None = None,
) -> Iterator[None]:
    """Around the stages of a pipeline: lock, config.json, protocol, repeated stages.

    Collective.

    Args:
        out: run folder.
        command: the words typed after `wsss-fast`.
        stages: names of the stages, in order.
        arguments: of `run_arguments`.
        redo: stage whose results are removed first, so that it is repeated.
        from_stage: the same for a stage and all later ones.
        protocol: of the run, for metrics.json.

    Raises:
        InputError: another process works on the run folder, or there is no such stage.
    """
    with (
        exclusive(out),
        config_of(out, command, arguments, None if protocol is None else protocol.as_json()),
        repeated(out, command, stages, redo, from_stage),
    ):
        yield


def _absolute(name: str, value: Any) -> Any:
    """The path of a weights file from anywhere; other values as they are."""
    return Path(value).absolute() if name.endswith("weights") and value is not None else value
