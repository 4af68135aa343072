"""Functions that exist as commands only; all other commands are functions of their packages."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from wsss_fast import _native, amn, data
from wsss_fast import reproduce as rows
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


def reproduce(
    row: str,
    *,
    data: str | None = None,
    out: Path | None = None,
    weights: Path | None = None,
    irn_weights: Path | None = None,
    seg_weights: Path | None = None,
    masks: Path | None = None,
    saliency: Path | None = None,
    seeds: int = 3,
    until: Literal["masks"] | None = None,
    numbers: Path | None = None,
    device: str = "auto",
    workers: int = 0,
    precision: str = "auto",
) -> rows.ReproduceResult:
    """Run a published row with several seeds, and compare with its published numbers.

    A row is a preset with published numbers, such as amn-voc, or a segmentation recipe, such as
    deeplab-pytorch, which is trained on masks; an unknown name lists them all. Finished stages are
    skipped. On other data than the row's it runs, too, and says that the comparison means nothing.

    Args:
        row: name of the row.
        data: folder of the data set, which every row needs; its lists and true masks are chosen as
            the row has them.
        out: folder; gets seed-0/, seed-1/ and so on, reproduce.json and reproduce.html; default:
            wsss-ROW.
        weights: initial weights of the method's networks, or of a segmentation recipe's.
        irn_weights: initial weights of IRN's backbone, for CCR.
        seg_weights: initial weights of the segmentation network.
        masks: folder of label PNGs that a segmentation recipe is trained on; default: the true
            masks.
        saliency: folder of <id>.png saliency maps; default: saliency/ in the data's folder.
        seeds: number of runs; their seeds are 0, 1 and so on.
        until: masks to end with the pseudo-masks.
        numbers: YAML or JSON file with numbers instead of the row's, as in seg: {updates: 100};
            the protocol names them.
        device: auto, cpu, cuda or cuda:N.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.
    """
    return rows.reproduce(
        row,
        data,
        Path(f"wsss-{row}") if out is None else out,
        weights=weights,
        irn_weights=irn_weights,
        seg_weights=seg_weights,
        masks=masks,
        saliency=saliency,
        seeds=seeds,
        until=until,
        pipeline=None if numbers is None else rows.changed_numbers(row, numbers),
        device=device,
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
            "uneven" its size and contrast differ strongly, and look-alikes share pictures.
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
