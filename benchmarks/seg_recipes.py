"""Segmentation recipes `advcam` and `deeplab-pytorch` on the Shapes benchmark over several seeds.

Transferred to the small network is what they differ in: the number of updates, the sizes that
images are scaled to, and the balance of the loss. The pseudo-masks and initial weights are those of
`wsss-fast demo`; images of the validation split are scored.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import tyro

from wsss_fast import data, evaluate, seg
from wsss_fast.engine.files import write_json

Row = dict[str, float]  # mIoU in % of a recipe and seed

_FACTORS = {  # of the published recipes, in steps of 0.25
    "deeplab-pytorch": tuple(0.25 * n for n in range(2, 7)),
    "advcam": tuple(0.25 * n for n in range(2, 9)),
}


def main(argv: list[str]) -> None:
    """The command line of `measure`."""
    tyro.cli(measure, args=argv, prog="python -m benchmarks seg_recipes")


def measure(
    runs: tuple[Path, ...],
    out: Path = Path("bench-seg-recipes"),
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    updates: int = 800,
) -> None:
    """Train each recipe on every run's masks, and print the table; writes `<out>/recipes.json`.

    Finished trainings are not run again.

    Args:
        runs: run folders of `wsss-fast demo`, one per seed.
        out: folder for the networks and predictions.
        seeds: of the runs.
        updates: of "deeplab-pytorch"; "advcam" has 1.5 times as many.
    """
    rows: dict[str, list[Row]] = {}
    for seed, run in zip(seeds, runs, strict=True):
        for name, recipe in recipes(updates).items():
            rows.setdefault(name, []).append(scores(run, out / f"seed{seed}", seed, name, recipe))
            result = {"date": time.strftime("%Y-%m-%d"), "updates": updates, "rows": rows}
            write_json(out / "recipes.json", result)
    print(table(rows))


def recipes(updates: int) -> dict[str, seg.Recipe]:
    """Recipes of the small network by name."""
    small = seg.RECIPES["small"]

    def changed(row: str, updates: int, balance: str) -> seg.Recipe:
        augment = dataclasses.replace(small.augment, scale=None, factors=_FACTORS[row])
        return dataclasses.replace(small, updates=updates, augment=augment, balance=balance)

    more = updates * 3 // 2
    return {
        "deeplab-pytorch": changed("deeplab-pytorch", updates, "none"),
        **{
            f"advcam, balance {balance}": changed("advcam", more, balance)
            for balance in ("none", "batch", "image")
        },
    }


def scores(run: Path, out: Path, seed: int, name: str, recipe: seg.Recipe) -> Row:
    """mIoU on the validation images before and after CRF refinement, %."""
    train, val = (data.load(f"shapes:{seed}", split=split) for split in ("train", "val"))
    folder = name.replace(", balance ", "-")
    trained = seg.train(
        train,
        out,
        masks=run / "masks",
        backbone="small",
        weights=run / "cam/weights.pth",
        recipe=recipe,
        seed=seed,
        name=folder,
    )
    found = {}
    for key, crf in (("plain", False), ("crf", True)):
        predicted = seg.infer(
            val,
            trained.weights,
            out,
            backbone="small",
            recipe=recipe,
            crf=crf,
            name=f"{folder}/{key}",
        ).predictions
        found[key] = 100 * evaluate(predicted, val).miou
    print(f"seed {seed}, {name}: {found['plain']:.1f}, with CRF {found['crf']:.1f}")
    return found


def table(rows: dict[str, list[Row]]) -> str:
    """Markdown table: mean and half the range over the seeds, and each seed."""
    lines = ["| recipe | mIoU | each seed | +CRF | each seed |", "|---|---|---|---|---|"]
    for name, own in rows.items():
        cells = []
        for key in ("plain", "crf"):
            values = [row[key] for row in own]
            cells.append(f"{np.mean(values):.1f} ± {np.ptp(values) / 2:.1f}")
            cells.append(", ".join(f"{value:.1f}" for value in values))
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)
