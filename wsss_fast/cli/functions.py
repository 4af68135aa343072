"""Functions that exist as commands only; all other commands are functions of their packages."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from wsss_fast import _native, amn, data
from wsss_fast.cli.output import OUTPUT
from wsss_fast.evaluation import summary
from wsss_fast.evaluation.metrics import Ignored


def demo(
    out: Path = Path("wsss-demo"),
    *,
    quick: bool = False,
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> amn.RunResult:
    """Generate the Shapes benchmark, run the AMN pipeline on it, and write masks and a report.

    The networks are small. IRN and the segmentation network are part of
    `wsss-fast amn run --preset shapes --data shapes --out DIR`.

    Args:
        out: run folder.
        quick: a quarter of the images, for a look in about a minute; the masks are worse.
        device: auto, cpu, cuda or cuda:N.
        seed: of the benchmark and of the training.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.
    """
    name = f"shapes:{seed}"
    train, val = data.load(name), data.load(name, split="val")
    if quick:
        train = data.load(name, ids=train.ids[: len(train) // 4])
    small = amn.PIPELINES["small"]
    # CRF refinement alone is as good as IRN on these small pictures, and three minutes faster.
    pipeline = dataclasses.replace(small, refine=dataclasses.replace(small.refine, kind="crf"))
    return amn.run(
        train,
        out,
        preset="shapes",
        pipeline=pipeline,
        until="masks",
        val=val,
        device=device,
        seed=seed,
        workers=workers,
        precision=precision,
    )


def shapes(
    out: Path,
    *,
    seed: int = 0,
    train: int = 800,
    val: int = 200,
    size: int = 128,
    preset: Literal["standard", "sparse", "uneven"] = "standard",
) -> Path:
    """Write the Shapes benchmark in VOC12 layout.

    Args:
        out: folder to create.
        seed: of everything in it.
        train: number of training images.
        val: number of validation images.
        size: side length of the images in pixels.
        preset: in "sparse" the part that tells two classes apart is small in a large object; in
            "uneven" its size and contrast, and those of the object, differ strongly.
    """
    return data.make_shapes(out, seed=seed, train=train, val=val, size=size, preset=preset)


def info() -> None:
    """Print the kernels in use and why, with versions, compiler, SIMD level and cache folder."""
    for key, value in _native.info().items():
        # Whole paths and reasons, however narrow the terminal.
        OUTPUT.print(f"{key:<20}{value}", soft_wrap=True, markup=False, highlight=False)


def evaluate(
    data: data.Source,
    *,
    predictions: Path | None = None,
    maps: Path | None = None,
    pairs: tuple[str, ...] = (),
    ignored: Ignored = "error",
    out: Path | None = None,
) -> summary.Evaluation:
    """Score label PNGs, or class maps at every threshold, against the masks of a data set.

    Args:
        predictions: folder of <id>.png, labels 0..C.
        maps: folder of <id>.npz maps, instead; all figures but the curve are at the best threshold.
        pairs: target/coincident names whose confusion ratio is reported, as in train/rails.
        ignored: what predictions of 255 count as: error; background, as in public code of IRN and
            AMN; leave-out to score the other pixels only, as in that of EPS.
        out: folder for evaluation.json and evaluation.png.
    """
    return summary.summarize(
        data, predictions=predictions, maps=maps, pairs=pairs, ignored=ignored, out=out
    )
