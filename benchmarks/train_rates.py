"""Images per second of the training step alone, and training samples per second of the loader.

    python benchmarks/train_rates.py [--device cuda] [--quick] [--seconds 2] [--json FILE]
        [--only step loader compiled] [--limit 60]

Prints its essential figures on lines that start with "| " and writes all of them as JSON. The step
is measured on one random batch that stays on the device; a loss that is not finite is an error.
Figures that would begin after `--limit` seconds are left out, and so is a compiled step, whose
first update takes the compiler a minute, if less than a third of them is left.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.synthetic_voc import picture  # noqa: E402
from wsss_fast import amn, cam, nets, seg  # noqa: E402
from wsss_fast.amn import training as amn_training  # noqa: E402
from wsss_fast.cam import training as cam_training  # noqa: E402
from wsss_fast.data.transforms import Augment  # noqa: E402
from wsss_fast.engine import fit, transfer  # noqa: E402
from wsss_fast.engine.ddp import TrainStepModule  # noqa: E402
from wsss_fast.engine.optimizers import backbone_and_head  # noqa: E402
from wsss_fast.engine.runtime import Runtime, tuned_convolutions  # noqa: E402
from wsss_fast.engine.samples import Batch, EpochBatches, Samples  # noqa: E402
from wsss_fast.readers.photos import read_image  # noqa: E402
from wsss_fast.seg import training as seg_training  # noqa: E402

CLASSES = 20
PHOTOS = 32
VARIANTS = {  # of a step: dtype, torch.compile, cuDNN's choice of algorithms
    "fp32": (torch.float32, False, False),
    "fp32 tuned": (torch.float32, False, True),
    "bf16": (torch.bfloat16, False, False),
    "bf16 tuned": (torch.bfloat16, False, True),
    "bf16 tuned compiled": (torch.bfloat16, True, True),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A training: its network, step and optimizer, and the parts of its batches."""

    network: Callable[[str], nn.Module]
    step: Callable[[nn.Module, Batch], torch.Tensor]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    backbone: str
    side: int
    images: int
    parts: tuple[str, ...]
    augment: Augment
    accumulate: int = 1


def cases() -> dict[str, Case]:
    cams, amns = cam.RECIPES["resnet50"], amn.RECIPES["resnet50"]
    segs = seg.RECIPES["resnet101"]
    return {
        "cam resnet50": Case(
            lambda backbone: nets.cam_resnet50(CLASSES, backbone=backbone),
            cam_training._step,
            lambda net: cams.optimizer(backbone_and_head(net, 1e-4, 1.0)),
            "resnet50",
            cams.augment.crop,
            cams.batch_size,
            ("tags",),
            cams.augment,
        ),
        "amn resnet50": Case(
            lambda backbone: nets.amn_resnet50(CLASSES, backbone=backbone),
            amn_training._step(amns),
            lambda net: amns.optimizer(amn.parameter_groups(net, amns)),
            "resnet50",
            amns.augment.crop,
            amns.batch_size,
            ("tags", "seed"),
            amns.augment,
        ),
        "seg resnet101": Case(
            lambda backbone: nets.deeplabv2_resnet101(
                CLASSES, backbone=backbone, scales=segs.scales
            ),
            seg_training._step(segs),
            lambda net: segs.optimizer(backbone_and_head(net, 1e-6, 1.0)),
            "resnet101",
            segs.augment.crop,
            segs.batch_size,
            ("mask",),
            segs.augment,
            segs.accumulate,
        ),
    }


def make_batch(case: Case, side: int, images: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    parts = {
        "image": torch.randn(images, 3, side, side),
        "tags": (torch.rand(images, CLASSES) < 0.1).float(),
        "seed": torch.randint(0, CLASSES + 1, (images, side, side), dtype=torch.uint8),
    }
    parts["mask"] = parts["seed"]
    return {name: parts[name] for name in ("image", *case.parts)}


@contextlib.contextmanager
def untuned() -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step_rate(
    case: Case, variant: str, device: torch.device, quick: bool, seconds: float
) -> dict[str, Any]:
    """Images per second, milliseconds of the host per update, peak memory, losses."""
    dtype, compiled, tuned = VARIANTS[variant]
    side, images = (64, 4) if quick else (case.side, case.images)
    runtime = Runtime(device, 0, 0, dtype)
    torch.manual_seed(0)
    net = transfer.move_to_device(case.network("small" if quick else case.backbone), device)
    state = fit.TrainingState(net.train(), case.optimizer(net), device)
    module = TrainStepModule(net, case.step)
    batch = transfer.to_device(make_batch(case, side, images), device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    begin = time.perf_counter()
    if compiled:
        net.compile()
    with tuned_convolutions(device) if tuned else untuned():
        for _ in range(3):
            state.update(module, batch, runtime, case.accumulate)
        synchronize(device)
        warm_up = time.perf_counter() - begin
        start, updates, host = time.perf_counter(), 0, 0.0
        while updates < 3 or time.perf_counter() - start < seconds:
            for _ in range(3):  # few, so that the host is not far ahead of the device
                before = time.perf_counter()
                state.update(module, batch, runtime, case.accumulate)
                host += time.perf_counter() - before
            updates += 3
            synchronize(device)
        took = time.perf_counter() - start
    loss = state.loss_sum.item() / state.done
    if not np.isfinite(loss):
        raise ValueError(f"the loss is {loss}")
    return {
        "images_per_second": updates * images / took,
        "ms": 1e3 * took / updates,
        "host_ms": 1e3 * host / updates,
        "warm_up_s": warm_up,
        "peak_mib": torch.cuda.max_memory_allocated(device) / 2**20
        if device.type == "cuda"
        else None,
        "loss": loss,
    }


@dataclasses.dataclass(frozen=True)
class LoadSample:
    """(id, generator) -> a training sample of a made-up photo and its mask."""

    folder: Path
    augment: Augment
    labelled: bool

    def __call__(self, id: str, rng: np.random.Generator) -> Batch:
        photo = read_image(self.folder / f"{id}.jpg")
        if not self.labelled:
            return {"image": self.augment(photo, None, rng)[0]}
        image, labels = self.augment(photo, np.asarray(Image.open(self.folder / f"{id}.png")), rng)
        assert labels is not None  # since labels are given
        return {"image": image, "labels": labels}


def write_photos(folder: Path, quick: bool) -> tuple[str, ...]:
    """Photos of VOC's size with noise, since smooth ones are decoded faster than real ones."""
    rng = np.random.default_rng(0)
    ids = tuple(str(number) for number in range(8 if quick else PHOTOS))
    height, width = (60, 80) if quick else (375, 500)
    for id in ids:
        photo, mask, _ = picture([1, 2], height, width, rng)
        noisy = np.clip(photo + rng.normal(0, 12, photo.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{id}.jpg", quality=95)
        Image.fromarray(mask).save(folder / f"{id}.png")
    return ids


def loader_rate(samples: Samples, runtime: Runtime, batch_size: int, seconds: float) -> float:
    """Samples per second once the loader processes run, as batches arrive on the device."""
    batches = EpochBatches(len(samples), batch_size, 0, 1)
    # The ids are repeated, so that one epoch is long enough.
    found, start, checked = 0, 0.0, torch.zeros((), device=runtime.device)
    iterator = transfer.on_device(fit._loader(samples, batches, runtime), runtime.device)
    for number, batch in enumerate(iterator):
        checked += batch["image"].mean().abs()
        if number == 2 * max(1, runtime.workers):  # those were prepared while processes started
            start, found = time.perf_counter(), 0
        found += len(batch["image"])
        if start and time.perf_counter() - start > seconds:
            break
    took = time.perf_counter() - start
    if not (start and torch.isfinite(checked)):
        raise ValueError("too few samples, or values that are not finite")
    return found / took


def step_rates(
    device: torch.device, quick: bool, seconds: float, titles: list[tuple[str, str]], end: float
) -> dict[str, Any]:
    """Rates of trainings by "NAME VARIANT"; those that would begin after `end` are left out."""
    found: dict[str, Any] = {}
    print(f"| {'training step':<36}{'images/s':>10}{'ms':>9}{'host ms':>9}{'MiB':>8}{'first s':>9}")
    for name, variant in titles:
        title = f"{name} {variant}"
        if time.perf_counter() > end:
            print(f"| {title:<36} left out: no time")
            continue
        try:
            row = step_rate(cases()[name], variant, device, quick, seconds)
        except Exception as error:
            found[title] = {"problem": f"{type(error).__name__}: {str(error)[:300]}"}
            print(f"| {title:<36} {found[title]['problem'][:120]}", flush=True)
            continue
        found[title] = row
        cells = row["images_per_second"], row["ms"], row["host_ms"], row["peak_mib"] or 0
        first, text = row["warm_up_s"], "{:>10.1f}{:>9.1f}{:>9.1f}{:>8.0f}".format(*cells)
        print(f"| {title:<36}{text}{first:>9.1f}", flush=True)
        torch._dynamo.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return found


def loader_rates(device: torch.device, quick: bool, seconds: float, end: float) -> dict[str, Any]:
    """Samples per second by "NAME PROCESSES"."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        ids = write_photos(Path(folder), quick) * (8 if quick else 1000)
        for name, case in cases().items():
            load = LoadSample(Path(folder), case.augment, "tags" not in case.parts[-1])
            numbers = (0, 2) if quick else (4, 8, 14) if name.startswith("cam") else (14,)
            for workers in numbers:
                if time.perf_counter() > end:
                    continue
                runtime = Runtime(device, 0, workers, torch.float32)
                size = 4 if quick else case.images
                rate = loader_rate(Samples(ids, load, 0), runtime, size, seconds)
                found[f"{name} {workers}"] = rate
                print(
                    f"| loader of {name}, {workers:>2} processes: {rate:.0f} samples/s", flush=True
                )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", type=torch.device)
    parser.add_argument("--quick", action="store_true", help="tiny inputs, to test this script")
    parser.add_argument("--seconds", type=float, default=0.8, help="time of each figure")
    parts = ("step", "loader", "compiled")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of all figures together")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    device, quick, seconds = options.device, options.quick, options.seconds
    start = time.perf_counter()
    end = start + options.limit
    found: dict[str, Any] = {"device": str(device), "torch": torch.__version__, "step": {}}
    eager = [
        (name, variant) for name in cases() for variant in VARIANTS if not VARIANTS[variant][1]
    ]
    compiled = [("cam resnet50", variant) for variant in VARIANTS if VARIANTS[variant][1]]
    if "step" in options.only:
        found["step"] |= step_rates(device, quick, seconds, eager, end)
    if "loader" in options.only:
        found["loader"] = loader_rates(device, quick, seconds, end)
    if "compiled" in options.only:
        last = start + options.limit * 2 / 3
        found["step"] |= step_rates(device, quick, seconds, compiled, last)
    found["seconds"] = time.perf_counter() - start
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return int(any("problem" in row for row in found["step"].values()))


if __name__ == "__main__":
    sys.exit(main())
