"""The inference and label stages that are measured, each from files to files."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsss_fast import amn, cam, ccr, eps, irn, seg
from wsss_fast.bench.harness.memory import peak_resident, reset_peak_resident
from wsss_fast.bench.pipeline import checks
from wsss_fast.bench.pipeline.networks import Kind, backbone_of, ready_maps, weights_file
from wsss_fast.data import load
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine.run_folder import read_notes
from wsss_fast.eps.inference import pseudo_masks
from wsss_fast.errors import RunError
from wsss_fast.evaluation import curves, metrics
from wsss_fast.evaluation.stage_times import StageTime, from_notes
from wsss_fast.stages import masks, seeds
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.crf_files import refine_files

FG, BG = 0.30, 0.05  # the published thresholds of CAM's seeds


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all stages share.

    Attributes:
        root: folder of the images.
        weights: folder of the networks' weights.
        out: run folder.
        kind: which networks.
        device: cpu, cuda or cuda:N.
        precision: fp32, bf16 or auto.
    """

    root: Path
    weights: Path
    out: Path
    kind: Kind
    device: str
    precision: str = "auto"

    def network(self, method: str) -> dict[str, Any]:
        """Arguments of `infer` that choose the network; recipes are the published ones."""
        return {
            "weights": weights_file(self.weights, method, self.kind),
            "backbone": backbone_of(method, self.kind),
            "device": self.device,
            "precision": self.precision,
        }


@dataclasses.dataclass(frozen=True)
class Step:
    """One call.

    Attributes:
        name: its name; in the table, those of its stages are shown instead.
        run: function of the setting and the images; writes artefacts, or returns a score.
        check: function of the run folder, the images and the result; raises for wrong results.
        stages: stages whose done.json has the time; none: the call is timed from outside.
        limit: largest number of images.
    """

    name: str
    run: Callable[[Setting, Dataset], Any]
    check: Callable[[Path, Dataset, Any], None]
    stages: tuple[str, ...] = ()
    limit: int = 1 << 30


def _maps_step(name: str, run: Callable[[Setting, Dataset], Any], **options: Any) -> Step:
    background = name.startswith("amn")
    return Step(
        name,
        run,
        lambda out, data, _: checks.maps(out / name, data, background=background),
        (name,),
        **options,
    )


def _labels_step(
    name: str, run: Callable[[Setting, Dataset], Any], limit: int = 1 << 30, **possible: bool
) -> Step:
    return Step(
        name,
        run,
        lambda out, data, _: checks.labels(out / name, data, **possible),
        (name,),
        limit,
    )


def _make_seeds(name: str, crf: Crf | None) -> Step:
    def run(s: Setting, data: Dataset) -> None:
        maps, device = s.out / "cam/maps", s.device
        seeds.make(
            *(data, maps, s.out),
            fg_threshold=FG,
            bg_threshold=BG,
            crf=crf,
            name=name,
            device=device,
        )

    return _labels_step(name, run, unsure=True)


def _make_masks(name: str, crf: Crf | None) -> Step:
    def run(s: Setting, data: Dataset) -> None:
        maps = s.out / "cam/maps"
        masks.make(data, maps, s.out, threshold=FG, crf=crf, name=name, device=s.device)

    return _labels_step(name, run)


def _predict(name: str, crf: bool) -> Step:
    def run(s: Setting, data: Dataset) -> None:
        recipe = seg.RECIPES["resnet101"]
        seg.infer(data, out=s.out, recipe=recipe, crf=crf, name=name, **s.network("seg"))

    return _labels_step(name, run, tags=False)


def _cam(s: Setting, data: Dataset) -> None:
    cam.infer(data, out=s.out, recipe=cam.RECIPES["resnet50"], **s.network("cam"))


def _amn(s: Setting, data: Dataset) -> None:
    recipe = amn.RECIPES["resnet50"]
    amn.infer(data, out=s.out, seeds=s.out / "seeds", recipe=recipe, **s.network("amn"))


def _irn(s: Setting, data: Dataset) -> None:
    recipe = irn.RECIPES["resnet50"]
    irn.infer(data, out=s.out, maps=s.out / "cam/maps", recipe=recipe, **s.network("irn"))


def _eps(s: Setting, data: Dataset) -> None:
    eps.infer(data, out=s.out, recipe=eps.RECIPES["resnet38"], **s.network("eps"))


def _eps_crf(s: Setting, data: Dataset) -> None:
    recipe = eps.RECIPES["resnet38"]
    pseudo_masks(
        *(data, s.out / "eps/maps", s.out), recipe=recipe, crf=True, name="eps", device=s.device
    )


def _ccr(s: Setting, data: Dataset) -> None:
    ccr.infer(data, out=s.out, recipe=ccr.RECIPES["resnet38"], **s.network("ccr"))


def _crf_folder(s: Setting, data: Dataset) -> None:
    refine_files(
        s.root / "JPEGImages", s.root / "SegmentationClass", s.out / "crf", device=s.device
    )


def _curve(s: Setting, data: Dataset) -> curves.Curve:
    return curves.threshold_curve(s.out / "cam/maps", data, device=s.device)


def _score(
    name: str, run: Callable[[Setting, Dataset], Any], check: Callable[..., None] = checks.score
) -> Step:
    return Step(name, run, lambda out, data, found: check(found, data))


def _check_irn(out: Path, data: Dataset, _: Any) -> None:
    checks.maps(out / "irn/maps", data)
    checks.labels(out / "irn/masks", data)


def _check_eps(out: Path, data: Dataset, _: Any) -> None:
    checks.maps(out / "eps/maps", data)
    checks.labels(out / "eps/masks", data)


# EPS' and CCR's ResNet-38 computes 16 to 100 times as much per image as ResNet-50.
_EPS_IMAGES, _CCR_IMAGES = 64, 4
STEPS = (
    _maps_step("cam/maps", _cam),
    _make_seeds("seeds", None),
    _make_seeds("seeds-crf", Crf()),
    _maps_step("amn/maps", _amn),
    _make_masks("masks", None),
    _make_masks("masks-crf", Crf()),
    Step("irn", _irn, _check_irn, ("irn/maps", "irn/masks")),
    _score("score of labels", lambda s, data: metrics.evaluate(s.out / "masks", data)),
    _score(
        "score of seeds",
        lambda s, data: metrics.evaluate_seeds(s.out / "seeds", data),
        lambda found, data: checks.seed_score(found),
    ),
    _score("threshold curve", _curve),
    _predict("predictions", crf=False),
    _predict("predictions-crf", crf=True),
    Step(
        "CRF of a folder",
        _crf_folder,
        lambda out, data, _: checks.labels(out / "crf", data),
    ),
    Step("eps", _eps, _check_eps, ("eps/maps", "eps/masks"), _EPS_IMAGES),
    _labels_step("eps/crf-masks", _eps_crf, _EPS_IMAGES),
    _maps_step("ccr/maps", _ccr, limit=_CCR_IMAGES),
)


def warm_up(step: Step, setting: Setting) -> None:
    """Run a step on the first two images in a folder of its own: libraries load, buffers grow."""
    warm = dataclasses.replace(setting, out=setting.out / ".warm")
    data = load(setting.root)
    with _networks(setting):
        step.run(warm, data.only(data.ids[:2]))


def measure(step: Step, setting: Setting) -> list[StageTime]:
    """Run a step on all images and check what it wrote.

    Returns:
        The times of its stages.

    Raises:
        InputError: an input of the step is missing.
        RunError: a result is missing or wrong, or a stage recorded no time.
    """
    data = load(setting.root)  # a new one, which keeps no decoded images
    data = data.only(data.ids[: step.limit])
    reset_peak_resident()
    wall, cpu = time.perf_counter(), time.process_time()
    with _networks(setting):
        result = step.run(setting, data)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    step.check(setting.out, data, result)
    if not step.stages:
        rate, peak = len(data) / wall, peak_resident()
        return [StageTime(step.name, len(data), rate, wall, host=cpu, peak_memory=peak)]
    found = []
    for stage in step.stages:
        noted = from_notes(stage, read_notes(setting.out, stage), len(data))
        if noted is None:
            raise RunError(f"{stage} recorded no time")
        found.append(noted)
    return found


def _networks(setting: Setting) -> contextlib.AbstractContextManager[None]:
    return ready_maps() if setting.kind == "none" else contextlib.nullcontext()
