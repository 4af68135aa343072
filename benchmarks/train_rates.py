"""Rates of trainings on a device: the update alone, and the loader alone.

    python benchmarks/train_rates.py [--device cuda] [--data FOLDER] [--workers 4 8 14]
        [--seconds 70] [--quick] [--json FILE]

An update is that of the published recipe with its network, from random weights and at a low
learning rate, on a batch of random numbers that lies on the device; its loss must be finite.
"tuned": with cuDNN's choice of algorithms by their measured time. The loader reads CAM's
training samples of a folder in VOC layout. A row that fails does not stop the others. Lines that
start with "| " are printed as soon as a row has ended; the JSON file has all figures.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.gpu_timing import synchronize, timed  # noqa: E402
from wsss_fast import amn, cam, eps, nets, seg  # noqa: E402
from wsss_fast.amn import training as amn_training  # noqa: E402
from wsss_fast.bench.harness import synthetic_voc  # noqa: E402
from wsss_fast.bench.harness.run import machine  # noqa: E402
from wsss_fast.cam import training as cam_training  # noqa: E402
from wsss_fast.data import load  # noqa: E402
from wsss_fast.data.transforms import Augment  # noqa: E402
from wsss_fast.engine import fit, transfer  # noqa: E402
from wsss_fast.engine.ddp import TrainStepModule  # noqa: E402
from wsss_fast.engine.optimizers import backbone_and_head  # noqa: E402
from wsss_fast.engine.runtime import Runtime, compiled  # noqa: E402
from wsss_fast.engine.samples import EpochBatches, Samples  # noqa: E402
from wsss_fast.eps import training as eps_training  # noqa: E402
from wsss_fast.seg import training as seg_training  # noqa: E402

CLASSES = 20
LOW = 1e-6  # random weights with frozen batch-norm would diverge at the published learning rates
QUICK_CROP, QUICK_BATCH = 64, 4


class Mode(NamedTuple):
    """How an update is computed."""

    dtype: torch.dtype
    tuned: bool = False
    compiled: bool = False


MODES = {
    "fp32": Mode(torch.float32),
    "bf16": Mode(torch.bfloat16),
    "fp32 tuned": Mode(torch.float32, tuned=True),
    "bf16 tuned": Mode(torch.bfloat16, tuned=True),
    "bf16 compiled": Mode(torch.bfloat16, compiled=True),
}


@dataclasses.dataclass(frozen=True)
class Training:
    """A method's training.

    Attributes:
        recipe: hyper-parameters.
        network: function without arguments that makes the network.
        step: function of the network and a batch that returns the loss.
        labels: what a batch has besides images and tags.
    """

    recipe: Any
    network: Callable[[], nn.Module]
    step: Callable[[nn.Module, Any], torch.Tensor]
    labels: str | None = None

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        groups = amn.parameter_groups if self.labels == "seed" else _groups
        return self.recipe.optimizer(groups(net, self.recipe))

    def batch(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Random images, tags and labels."""
        size, side = self.recipe.batch_size, self.recipe.augment.crop
        generator = torch.Generator().manual_seed(0)
        found = {
            "image": torch.randn(size, 3, side, side, generator=generator),
            "tags": torch.randint(0, 2, (size, CLASSES), generator=generator).float(),
        }
        if self.labels == "saliency":
            found["saliency"] = torch.rand(size, 1, side, side, generator=generator)
        elif self.labels:
            shape = (size, side, side)
            values = torch.randint(0, CLASSES + 1, shape, generator=generator)
            found[self.labels] = values.to(torch.uint8)
        return transfer.to_device(found, device)


def _groups(net: nn.Module, recipe: Any) -> list[Any]:
    return backbone_and_head(net, recipe.lr, recipe.head_lr_scale)


def trainings(quick: bool) -> dict[str, Training]:
    """The published trainings; at tiny sizes with the small network if `quick`."""
    fifty, wide, deep = ["small"] * 3 if quick else ("resnet50", "resnet38", "resnet101")
    found = {"cam": cam.RECIPES[fifty], "amn": amn.RECIPES[fifty]}
    found |= {"seg": seg.RECIPES[deep], "eps": eps.RECIPES[wide]}
    for name, recipe in found.items():
        rates = {"head_lr": LOW} if name == "amn" else {"head_lr_scale": 1.0}
        if quick:
            rates["augment"] = dataclasses.replace(recipe.augment, crop=QUICK_CROP)
            rates["batch_size"] = QUICK_BATCH
        found[name] = dataclasses.replace(recipe, lr=LOW, **rates)

    def network(function: Callable[..., nn.Module], backbone: str, **options: Any) -> Any:
        return functools.partial(function, CLASSES, backbone=backbone, **options)

    return {
        "cam": Training(found["cam"], network(nets.cam_resnet50, fifty), cam_training._step),
        "amn": Training(
            found["amn"],
            network(nets.amn_resnet50, fifty),
            amn_training._step(found["amn"]),
            "seed",
        ),
        "seg": Training(
            found["seg"],
            network(nets.deeplabv2_resnet101, deep, scales=found["seg"].scales),
            seg_training._step(found["seg"]),
            "mask",
        ),
        "eps": Training(
            found["eps"],
            network(nets.eps_resnet38, wide),
            eps_training._step(found["eps"]),
            "saliency",
        ),
    }


def measure_update(
    training: Training, mode: Mode, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Rate of the update, its first call's time, its peak memory and its last loss."""
    torch.manual_seed(0)
    with device:  # random initial weights are made faster there
        net = training.network()
    transfer.move_to_device(net, device).train()
    state = fit.TrainingState(net, training.optimizer(net), device)
    network = compiled(net) if mode.compiled else net
    module, batch = TrainStepModule(network, training.step), training.batch(device)
    runtime, parts = Runtime(device, 0, 0, mode.dtype), training.recipe.length().accumulate

    def update() -> None:
        state.loss_sum.zero_()
        state.update(module, batch, runtime, parts)

    torch.backends.cudnn.benchmark = mode.tuned
    start = time.perf_counter()
    update()
    synchronize(device)
    first = time.perf_counter() - start
    figures = timed(update, device, seconds)
    loss = state.loss_sum.item()
    if not math.isfinite(loss):
        raise AssertionError(f"WRONG: the loss is {loss}")
    images = training.recipe.batch_size
    row = {"rate": 1e3 * images / figures["ms"], "first_s": first, "loss": loss, **figures}
    if device.type == "cuda":
        row["peak_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return row


def measure_loader(
    folder: Path, workers: int, augment: Augment, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Samples per second of CAM's loader, after an epoch that starts its processes."""
    data = load(folder)
    samples = Samples(data.ids, cam_training._LoadSample(data, augment), 0)
    size = min(16, len(data))
    batches = EpochBatches(len(samples), size, 0, 1)
    runtime = Runtime(device, 0, workers, torch.float32)
    loader = fit._loader(samples, batches, runtime)
    count, begin = 0, 0.0
    for epoch in range(1000):
        if epoch == 1:
            begin = time.perf_counter()
        batches.epoch = epoch
        for batch in fit._started(loader, runtime):
            count += len(batch["image"]) if epoch else 0
            assert batch["image"].shape[2:] == (augment.crop, augment.crop)
        passed = time.perf_counter() - begin
        if epoch and passed > seconds:
            break
    if not batch["image"].isfinite().all():
        raise AssertionError("WRONG: a sample is not finite")
    return {"rate": count / passed, "samples": count}


class NoTimeLeft(Exception):
    """The time for all rows is over."""


@contextlib.contextmanager
def time_limit(end: float) -> Iterator[None]:
    """Raise NoTimeLeft in the block at `end`, seconds of the monotonic clock."""

    def stop(number: int, frame: Any) -> None:
        raise NoTimeLeft

    if end <= time.monotonic():
        raise NoTimeLeft
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, end - time.monotonic())
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def line_of(row: dict[str, Any]) -> str:
    parts = [f"| {row['row']:<19}{row['rate']:>8.1f} images/s"]
    if "ms" in row:
        parts.append(f"{row['ms']:>8.1f} ms, of the host {row['host_ms']:.1f}")
        parts.append(f"first {row['first_s']:.1f} s, loss {row['loss']:.3f}")
    if "peak_mib" in row:
        parts.append(f"peak {row['peak_mib'] / 1024:.1f} GiB")
    return ", ".join(parts)


def run_row(name: str, measure: Callable[[], dict[str, Any]], end: float) -> dict[str, Any]:
    """The row of one measurement, printed; a failure is noted in it."""
    try:
        with time_limit(end):
            row = {"row": name, **measure()}
        print(line_of(row), flush=True)
        return row
    except Exception as error:
        problem = f"{type(error).__name__}: {str(error)[:300]}"
        late = isinstance(error, NoTimeLeft) or time.monotonic() >= end
        shown = "no time left" if late else f"FAILED {problem}"
        print(f"| {name:<19}{shown}", flush=True)
        return {"row": name, "problem": shown, "failed": not late}


def plan_rows(
    options: argparse.Namespace, folder: Path, device: torch.device
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name and measurement of every row, the slow compiler last."""
    known, seconds = trainings(options.quick), 0.1 if options.quick else 1.0
    on_cuda = device.type == "cuda"
    modes = options.modes or [m for m in MODES if on_cuda or not m.endswith(("tuned", "led"))]

    def updates(compiled: bool) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        for name, training in known.items():
            for mode in modes:
                if MODES[mode].compiled == compiled:
                    call = functools.partial(measure_update, training, MODES[mode], device)
                    yield f"{name} {mode}", functools.partial(call, seconds)

    yield from updates(compiled=False)
    augment = known["cam"].recipe.augment
    for workers in options.workers or ([0, 2] if options.quick else [4, 8, 14]):
        call = functools.partial(measure_loader, folder, workers, augment, device)
        yield f"loader, {workers} workers", functools.partial(call, 2 * seconds)
    yield from updates(compiled=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", type=torch.device)
    parser.add_argument("--data", type=Path, help="folder in VOC layout, instead of new photos")
    parser.add_argument("--modes", nargs="*", choices=MODES, help="of the updates; none: all")
    parser.add_argument("--workers", nargs="*", type=int, help="numbers of loader processes")
    parser.add_argument("--seconds", type=float, default=70.0, help="for all rows together")
    parser.add_argument("--quick", action="store_true", help="small networks and images")
    parser.add_argument("--json", type=Path, help="file for all figures")
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    end, device, rows = time.monotonic() + options.seconds, options.device, []
    facts = {**machine(device), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="train_rates-", ignore_cleanup_errors=True) as folder:
        data = options.data
        if data is None:
            data, size = Path(folder) / "voc", (60, 80) if options.quick else (375, 500)
            synthetic_voc.make(data, 8 if options.quick else 64, 0, size)
        for name, measure in plan_rows(options, data, device):
            if device.type == "cuda":
                torch.cuda.empty_cache()
            rows.append(run_row(name, measure, end))
            if options.json:  # after every row, since the process may be stopped
                options.json.write_text(json.dumps({**facts, "rows": rows}, indent=1, default=str))
    return int(any(row.get("failed") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
