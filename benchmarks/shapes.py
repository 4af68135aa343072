"""The AMN pipeline on the Shapes benchmark over several seeds.

With IRN and segmentation, with and without label conditioning. The seed determines the images and
the training. The thresholds of the recipes were chosen on seed 0.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from wsss_fast import amn, cam, data, evaluate, irn
from wsss_fast.amn.look_alikes import unfiltered_confusion
from wsss_fast.engine.files import write_json
from wsss_fast.engine.run_folder import read_records
from wsss_fast.evaluation import report, run_scores
from wsss_fast.evaluation.curves import width_of_top
from wsss_fast.evaluation.pair_confusion import class_pairs, pair_confusion
from wsss_fast.stages import masks
from wsss_fast.stages import seeds as seed_stage

_SHOWN = ("cam", "cam+crf", "amn", "amn+crf", "irn", "irn+crf", "amn-plain", "amn-plain+crf")


def main(argv: list[str]) -> None:
    """The command line of `measure`."""
    tyro.cli(measure, args=argv, prog="python -m benchmarks shapes")


def measure(out: Path = Path("bench-shapes"), *, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Run every seed and print the table; writes `<out>/shapes.json` and `<out>/pictures.png`.

    Finished stages are not run again.

    Args:
        out: folder for the runs.
        seeds: seeds of the benchmark and of the training.
    """
    rows = [one_seed(out / f"seed{seed}", seed) for seed in seeds]
    result = {"date": time.strftime("%Y-%m-%d"), "seeds": seeds, "rows": rows}
    write_json(out / "shapes.json", result)
    first = data.load(f"shapes:{seeds[0]}")
    folder = out / f"seed{seeds[0]}"
    report.sheet(
        amn.panels(first, folder, folder / "masks"),
        report.pick(first, 8),
        out / "pictures.png",
        height=128,
    )
    print(table(rows))


def one_seed(out: Path, seed: int) -> dict[str, float]:
    """Figures of one seed: mAP, mIoU at the best and the fixed threshold (%), confusion, time."""
    train, val = (data.load(f"shapes:{seed}", split=split) for split in ("train", "val"))
    start = time.monotonic()
    amn.run(train, out, preset="shapes", val=val, seed=seed)
    timing = out / "seconds.json"
    if not timing.exists():
        write_json(timing, time.monotonic() - start)
    pipeline = amn.PIPELINES["small"]
    plain = dataclasses.replace(pipeline.amn, condition_at=None)
    trained = amn.train(
        train,
        out,
        seeds=out / "seeds",
        backbone="small",
        weights=out / "cam/weights.pth",
        recipe=plain,
        seed=seed,
        name="amn-plain",
    )
    maps = amn.infer(
        train,
        trained.weights,
        out,
        seeds=out / "seeds",
        backbone="small",
        recipe=plain,
        name="amn-plain/maps",
    )
    run_scores.maps(
        out,
        "amn-plain",
        train,
        maps.maps,
        fixed=pipeline.amn_threshold,
        crf=pipeline.refine.crf,
        fixed_crf=pipeline.refine.crf_threshold,
    )
    records = read_records(out)
    row = {"mAP": 100 * records["cam"]["mean_ap"], "seconds": json.loads(timing.read_text())}
    for name in _SHOWN:
        row[name] = 100 * records[name]["miou"]
        row[f"{name} fixed"] = 100 * records[name]["miou_at_fixed"]
        row[f"{name} flat"] = top_width(records[name])
    row["masks"], row["seg"] = (
        100 * records[name]["miou"] for name in ("masks", f"seg on {val.split}")
    )
    row["masks of val"] = 100 * miou_of_val_masks(out, val)
    row["pair confusion"] = confusion(train, out / "amn/weights.pth", pipeline.amn)
    row["pair confusion, plain"] = confusion(train, trained.weights, plain)
    return row


def miou_of_val_masks(out: Path, val: data.Dataset) -> float:
    """mIoU of pseudo-masks of the validation images, from their tags and the trained networks."""
    pipeline, small, unseen = amn.PIPELINES["small"], {"backbone": "small"}, out / "unseen"
    cams = cam.infer(val, out / "cam/weights.pth", unseen, recipe=pipeline.cam, **small)
    seeds = seed_stage.make(
        val,
        cams.maps,
        unseen,
        fg_threshold=pipeline.fg_threshold,
        bg_threshold=pipeline.bg_threshold,
        crf=pipeline.crf,
    )
    amns = amn.infer(
        val, out / "amn/weights.pth", unseen, seeds=seeds.folder, recipe=pipeline.amn, **small
    )
    refined = irn.infer(
        val, out / "irn/weights.pth", unseen, maps=amns.maps, recipe=pipeline.refine.irn, **small
    )
    pseudo_masks = masks.make(
        val,
        refined.maps,
        unseen,
        threshold=pipeline.refine.irn_crf_threshold,
        crf=pipeline.refine.crf,
    )
    return evaluate(pseudo_masks.folder, val).miou


def top_width(record: dict[str, Any]) -> float:
    """Width of the top of a record's threshold curve; NaN without a curve."""
    curve = record.get("curve")
    return width_of_top(curve["thresholds"], curve["miou"]) if curve else float("nan")


def confusion(train: data.Dataset, weights: Path, recipe: amn.Recipe) -> float:
    """Share of confusions of look-alikes by the argmax over all classes, see `pair_confusion`."""
    found = unfiltered_confusion(train, weights, recipe, backbone="small", device="cpu")
    return pair_confusion(found, list(class_pairs(train, ()).values()))[0]


def table(rows: list[dict[str, float]]) -> str:
    """Markdown tables: mean and half the range over the seeds."""

    def cell(key: str, digits: int = 1) -> str:
        values = [row[key] for row in rows]
        if np.isnan(values).any():
            return ""
        return f"{np.mean(values):.{digits}f} ± {np.ptp(values) / 2:.{digits}f}"

    lines = [
        "| map | mIoU, best threshold | mIoU, fixed threshold | width of the curve's top |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {cell(name)} | {cell(f'{name} fixed')} | {cell(f'{name} flat', 2)} |"
        for name in _SHOWN
    ]
    effects = (
        ("CAM+CRF over CAM", "cam+crf", "cam"),
        ("AMN over CAM", "amn", "cam"),
        ("AMN+CRF over CAM+CRF", "amn+crf", "cam+crf"),
        ("AMN+IRN over AMN", "irn", "amn"),
        ("AMN+IRN+CRF over AMN+CRF", "irn+crf", "amn+crf"),
        ("segmentation over pseudo-masks, unseen images", "seg", "masks of val"),
        ("label conditioning, AMN", "amn", "amn-plain"),
        ("label conditioning, AMN+CRF", "amn+crf", "amn-plain+crf"),
    )
    lines += ["", "| effect | points |", "|---|---|"]
    for title, more, less in effects:
        gains = [row[more] - row[less] for row in rows]
        values = ", ".join(f"{gain:+.1f}" for gain in gains)
        lines.append(f"| {title} | {np.mean(gains):+.1f} ({values}) |")
    lines += [
        "",
        f"pseudo-masks {cell('masks')}; unseen images: segmentation {cell('seg')}, "
        f"pseudo-masks {cell('masks of val')}",
    ]
    lines += [
        "",
        f"classifier mAP {cell('mAP')} %; pair confusion {cell('pair confusion', 3)} with label "
        f"conditioning, {cell('pair confusion, plain', 3)} without; "
        f"{cell('seconds', 0)} s per pipeline",
    ]
    return "\n".join(lines)
