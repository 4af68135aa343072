"""Every inference and label stage from files to files, on synthetic photos of VOC's size."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from wsss_fast.bench.harness.run import machine
from wsss_fast.bench.harness.synthetic_voc import make
from wsss_fast.bench.pipeline.networks import Kind
from wsss_fast.bench.pipeline.steps import STEPS, Setting, measure, warm_up
from wsss_fast.engine.files import write_json
from wsss_fast.engine.progress import Bar
from wsss_fast.engine.runtime import resolve_runtime
from wsss_fast.errors import InputError, RunError
from wsss_fast.evaluation.stage_times import StageTime

_SIZE, _QUICK_SIZE, _QUICK_IMAGES = (375, 500), (94, 125), 4
_ODD = 8  # every n-th photo has a size of its own
HEADS = (
    ("stage", ""),
    ("images", ""),
    ("images/s", ""),
    ("host", "ms/image"),
    ("device", "ms/image"),
    ("busy", "%"),
    ("waiting", "%"),
    ("memory", "MB"),
    ("GPU", "MB"),
)
_EXPLANATION = """\
host: CPU time of all threads, without the network; device: time of the network and of kernels (on a
CPU: of the network's calls); busy, waiting: share of the stage's seconds in which the device
computed, and in which the main thread waited for files to be read or results to be written; memory:
peak of the process. Rows without a device are timed from outside: all CPU time counts as host."""


@dataclasses.dataclass(frozen=True)
class PipelineReport:
    """Result of `run`.

    Attributes:
        title: what was measured, and where.
        times: the stages.
        json: file of the results.
    """

    title: str
    times: tuple[StageTime, ...]
    json: Path

    def __str__(self) -> str:
        return "\n".join([self.title, "", *table(self.times), "", _EXPLANATION, str(self.json)])


def run(
    out: Path = Path("bench"),
    *,
    images: int = 16,
    network: Literal["auto", "none", "small", "published"] = "auto",
    device: str = "auto",
    precision: str = "auto",
    quick: bool = False,
) -> PipelineReport:
    """Measure every inference and label stage from files to files, on synthetic photos.

    Photos have the size of VOC's (500x375, 375x500 and others) and one to three classes. Recipes
    are the published ones, weights random. What each stage wrote is checked. With
    `--network none` ready maps replace the networks, so that the rest of the work can be compared
    before and after a change, on any machine.

    Args:
        out: folder for pipeline.json.
        images: number of photos, at least 2; EPS uses at most 64 of them, CCR at most 4.
        network: published: ResNet-50, EPS' and CCR's ResNet-38, DeepLab's ResNet-101; small: a
            small network for all; none: ready maps that cost nothing; auto: published on a GPU,
            small on a CPU.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.
        quick: four small photos, to see that all stages work.

    Raises:
        InputError: an argument cannot be used.
        RunError: a stage wrote nothing, or wrong values.
    """
    if images < 2:
        raise InputError(f"bench pipeline: images must be >= 2, got {images}")
    where = resolve_runtime(device, 0, 0, precision, prefer_bf16=False).device
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, must be a directory")
    kind: Kind = network if network != "auto" else "small" if where.type == "cpu" else "published"
    count, size = (_QUICK_IMAGES, _QUICK_SIZE) if quick else (images, _SIZE)
    found: list[StageTime] = []
    with tempfile.TemporaryDirectory(prefix="wsss-fast-") as folder:
        setting = prepare(Path(folder), count, size, kind, str(where), precision)
        with Bar("bench pipeline", len(STEPS), unit="stage") as bar:
            for step in STEPS:
                try:
                    if not quick:
                        warm_up(step, setting)
                    found += measure(step, setting)
                except RunError as error:
                    raise RunError(f"bench pipeline: {step.name}: {error}") from None
                bar.advance(note=step.name)
    facts = machine(where)
    title = (
        f"{count} photos of {size[1]}x{size[0]}, network: {kind}, {facts['device']}, "
        f"{facts['cpu']}, {facts['threads']} threads of torch, {facts['date']}"
    )
    report = PipelineReport(title, tuple(found), out / "pipeline.json")
    write_json(report.json, record(report, {"images": count, "network": kind, **facts}))
    return report


def prepare(
    folder: Path,
    images: int,
    size: tuple[int, int],
    kind: Kind,
    device: str,
    precision: str = "auto",
    root: Path | None = None,
) -> Setting:
    """What all stages share; writes the photos.

    Args:
        folder: folder to write photos, weights and artefacts to.
        images: number of photos.
        size: height and width of most of them, in pixels.
        kind: which networks.
        device: cpu, cuda or cuda:N.
        precision: fp32, bf16 or auto.
        root: folder in VOC layout to use instead of new photos.
    """
    (folder / "weights").mkdir(parents=True)
    root = root or make(folder / "voc", images, 0, size, odd=_ODD)
    return Setting(root, folder / "weights", folder / "run", kind, device, precision)


def record(report: PipelineReport, facts: dict[str, Any]) -> dict[str, Any]:
    """What the JSON file holds."""
    return {
        "benchmark": "pipeline",
        **facts,
        "rows": [dataclasses.asdict(time) for time in report.times],
    }


def table(times: Sequence[StageTime], heads: bool = True) -> list[str]:
    """Lines of a text table."""
    rows = [
        (
            time.stage,
            "" if time.images is None else str(time.images),
            _number(time.rate),
            _number(time.per_image(time.host)),
            _number(time.per_image(time.device)),
            _percent(time.share(time.device)),
            _percent(time.share(time.wait)),
            _megabytes(time.peak_memory),
            _megabytes(time.peak_device_memory),
        )
        for time in times
    ]
    top = list(zip(*HEADS, strict=True)) if heads else []
    return [
        "".join(f"{cell:<18}" if n == 0 else f"{cell:>10}" for n, cell in enumerate(row)).rstrip()
        for row in (*top, *rows)
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.0f}"
