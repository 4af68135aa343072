"""The energy loss on Shapes: AMN and the segmentation network with and without it.

The classifier, the seeds and the pseudo-masks are those of `wsss-fast demo --seed N`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from wsss_fast import amn, data, evaluate, nets, seg
from wsss_fast.amn import training as amn_training
from wsss_fast.engine import fit
from wsss_fast.engine.ddp import TrainStepModule
from wsss_fast.engine.files import write_json
from wsss_fast.engine.run_folder import read_records
from wsss_fast.engine.runtime import resolve_runtime
from wsss_fast.evaluation import run_scores
from wsss_fast.seg import training as seg_training

Row = dict[str, float]  # of a training: mIoU (%) by what was scored

_SMALL = {"backbone": "small"}
_UPDATES = 8  # timed ones


def main(argv: list[str]) -> None:
    """The command line of `measure`."""
    tyro.cli(measure, args=argv, prog="python -m benchmarks energy")


def measure(
    runs: tuple[Path, ...],
    out: Path = Path("bench-energy"),
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    amn_weights: tuple[float, ...] = (0.0, 1e-5),
    seg_weights: tuple[float, ...] = (0.0, 1e-6),
) -> None:
    """Train with every weight on every seed, and print tables; writes `<out>/energy.json`.

    Finished stages are not run again.

    Args:
        runs: run folders of `wsss-fast demo`, one per seed.
        out: folder for the trainings.
        seeds: of the runs.
        amn_weights: weights of AMN's energy loss; 0 for none.
        seg_weights: the same of the segmentation network.
    """
    found: dict[str, dict[str, list[Row]]] = {}
    for name, one, weights in (("amn", _amn, amn_weights), ("seg", _seg, seg_weights)):
        found[name] = {
            f"{weight:g}": [
                one(run, out / f"seed{seed}", seed, weight)
                for seed, run in zip(seeds, runs, strict=True)
            ]
            for weight in weights
        }
    seconds = {name: _seconds(name, seeds[0]) for name in found}
    write_json(out / "energy.json", {"miou": found, "seconds per update": seconds})
    for name, rows in found.items():
        print(f"{name}: {seconds[name]} seconds of processor time per update\n{table(rows)}")


def _amn(run: Path, out: Path, seed: int, weight: float) -> Row:
    """mIoU of AMN's maps of the training images."""
    train, numbers = data.load(f"shapes:{seed}"), amn.PIPELINES["small"]
    recipe, name = _with_energy(numbers.amn, weight), f"amn-{weight:g}"
    start, seeds = run / "cam/weights.pth", run / "seeds"
    options: dict[str, Any] = {"seeds": seeds, "recipe": recipe, **_SMALL}
    trained = amn.train(train, out, weights=start, name=name, seed=seed, **options)
    maps = amn.infer(train, trained.weights, out, name=f"{name}/maps", **options).maps
    refine = numbers.refine
    run_scores.maps(
        *(out, name, train, maps),
        fixed=numbers.amn_threshold,
        crf=refine.crf,
        fixed_crf=refine.crf_threshold,
    )
    row = {}
    for text, record in (("", name), (" + CRF", f"{name}+crf")):
        scores = read_records(out)[record]
        row[f"best{text}"], row[f"fixed{text}"] = (
            100 * scores[key] for key in ("miou", "miou_at_fixed")
        )
        row[f"best threshold{text}"] = scores["best_threshold"]
    return row


def _seg(run: Path, out: Path, seed: int, weight: float) -> Row:
    """mIoU of the segmentation network on the validation images."""
    train, val = (data.load(f"shapes:{seed}", split=split) for split in ("train", "val"))
    recipe, name = _with_energy(seg.RECIPES["small"], weight), f"seg-{weight:g}"
    options: dict[str, Any] = {"recipe": recipe, **_SMALL}
    start = run / "cam/weights.pth"
    trained = seg.train(
        train, out, masks=run / "masks", weights=start, name=name, seed=seed, **options
    )
    row = {}
    for text, crf in (("plain", False), ("crf", True)):
        folder = f"{name}/{text}"
        found = seg.infer(val, trained.weights, out, crf=crf, name=folder, **options)
        row[text] = 100 * evaluate(found.predictions, val).miou
    return row


def _with_energy(recipe: Any, weight: float) -> Any:
    return dataclasses.replace(recipe, energy=dataclasses.replace(recipe.energy, weight=weight))


def _seconds(name: str, seed: int) -> tuple[float, float]:
    """Processor seconds of one update without and with the loss, the least of a few."""
    train, rng = data.load(f"shapes:{seed}"), np.random.default_rng(0)
    recipe: Any = (amn if name == "amn" else seg).RECIPES["small"]
    ids = train.ids[: recipe.batch_size]
    crops = [recipe.augment(train.photo(id), train.mask(id), rng) for id in ids]
    images, labels = (torch.stack(parts) for parts in zip(*crops, strict=True))
    tags = torch.from_numpy(np.stack([train.tags_of(id) for id in ids])).float()
    if name == "amn":
        make, step, batch = nets.amn_resnet50, amn_training._step, {"seed": labels, "tags": tags}
    else:
        make, step, batch = nets.deeplabv2_resnet101, seg_training._step, {"mask": labels}
    runtime = resolve_runtime("cpu", 0, 0, "auto", prefer_bf16=recipe.prefer_bf16)
    least = []
    updates = []
    for weight in (0.0, 1e-6):
        net = make(len(train.classes), **_SMALL).train()
        module = TrainStepModule(net, step(_with_energy(recipe, weight)))
        updates.append((module, {"image": images, **batch}, torch.optim.AdamW(net.parameters())))
        least.append(float("inf"))
    for _ in range(_UPDATES):
        for place, update in enumerate(updates):
            start = time.process_time()
            fit._update(*update, runtime)
            least[place] = min(least[place], time.process_time() - start)
    return round(least[0], 4), round(least[1], 4)


def table(rows: dict[str, list[Row]]) -> str:
    """A line per weight: the mIoU of the seeds, and its mean ± half the range."""
    columns = [*next(iter(rows.values()))[0]]
    lines = [f"| weight | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for weight, found in rows.items():
        cells = [_cell([row[column] for row in found]) for column in columns]
        lines.append(f"| {weight} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    digits = 2 if max(values) <= 1 else 1
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    half = (max(values) - min(values)) / 2
    return f"{each} ({np.mean(values):.{digits}f} ± {half:.{digits}f})"
