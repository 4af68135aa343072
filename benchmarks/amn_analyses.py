"""AMN's ablations on the Shapes benchmark over several seeds, standard and uneven.

The pseudo-masks are those of `wsss-fast demo`, without IRN. The thresholds of the recipes were
chosen on seed 0 of the standard benchmark.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from wsss_fast import amn, data
from wsss_fast.amn.analyses import PARTS, Part
from wsss_fast.engine.files import write_json
from wsss_fast.engine.run_folder import read_records
from wsss_fast.evaluation.curves import width_of_top

Row = dict[str, float]  # figures of a variant of one seed
_COLUMNS = {
    "miou": ("mIoU, best", 1),
    "fixed": ("fixed", 1),
    "crf": ("+CRF, best", 1),
    "crf_fixed": ("fixed", 1),
    "width": ("width of the top", 2),
    "spread": ("spread", 2),
    "own": ("own thresholds", 1),
    "maps": ("look-alikes, maps", 1),
    "unfiltered": ("all classes", 1),
}


def main(argv: list[str]) -> None:
    """The command line of `measure`."""
    tyro.cli(measure, args=argv, prog="python -m benchmarks amn_analyses")


def measure(
    out: Path = Path("bench-amn-analyses"),
    *,
    benchmark: Literal["shapes", "shapes-uneven"] = "shapes-uneven",
    seeds: tuple[int, ...] = (0, 1, 2),
    parts: tuple[Part, ...] = PARTS,
) -> None:
    """Run `amn analyse` for every seed, and print the tables; writes `<out>/<benchmark>.json`.

    Finished stages are not run again.

    Args:
        out: folder for the runs, `<out>/<benchmark>-seed<N>`.
        benchmark: preset of the Shapes benchmark.
        seeds: seeds of the benchmark and of the trainings.
        parts: analyses to run, as in `amn analyse`.
    """
    small = amn.PIPELINES["small"]
    pipeline = dataclasses.replace(small, refine=dataclasses.replace(small.refine, kind="crf"))
    found: dict[int, dict[str, Row]] = {}
    for seed in seeds:
        train, val = (data.load(f"{benchmark}:{seed}", split=s) for s in ("train", "val"))
        folder = out / f"{benchmark}-seed{seed}"
        result = amn.analyse(
            train, folder, preset="shapes", pipeline=pipeline, parts=parts, val=val, seed=seed
        )
        records = {**read_records(folder), **read_records(result.out)}
        found[seed] = {name: row(records, name) for name in result.miou}
        mean_ap, masks = 100 * records["cam"]["mean_ap"], 100 * records["masks"]["miou"]
        print(f"seed {seed}: classifier mAP {mean_ap:.1f} %, masks {masks:.1f}")
        write_json(out / f"{benchmark}.json", {"date": time.strftime("%Y-%m-%d"), "seeds": found})
    print(table(list(found.values())))


def row(records: dict[str, Any], name: str) -> Row:
    """Figures of a variant: shares in %, widths and spreads as shares of the threshold's range."""
    plain, crf = records[name], records[f"{name}+crf"]
    curve, own = plain["curve"], plain["own_thresholds"]
    unfiltered = plain.get("look_alikes_unfiltered", {"all": float("nan")})
    return {
        "miou": 100 * plain["miou"],
        "fixed": 100 * plain["miou_at_fixed"],
        "crf": 100 * crf["miou"],
        "crf_fixed": 100 * crf["miou_at_fixed"],
        "width": width_of_top(curve["thresholds"], curve["miou"]),
        "spread": own["spread"],
        "own": 100 * (own["miou"] - plain["miou"]),
        "maps": 100 * plain["look_alikes"]["all"],
        "unfiltered": 100 * unfiltered["all"],
    }


def table(seeds: list[dict[str, Row]]) -> str:
    """Markdown tables: mean and half the range over the seeds, and differences to AMN."""
    head = ["variant", *(title for title, _ in _COLUMNS.values()), "to AMN", "to AMN, +CRF"]
    lines = [head, ["---"] * len(head)]
    for name in seeds[0]:
        cells = [
            spread([rows[name][key] for rows in seeds], digits)
            for key, (_, digits) in _COLUMNS.items()
        ]
        gains = [
            signed([rows[name][key] - rows["amn"][key] for rows in seeds])
            for key in ("miou", "crf")
        ]
        lines.append([name, *cells, *(gains if name != "amn" else ("", ""))])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def spread(values: list[float], digits: int) -> str:
    """Mean and half the range; empty without values."""
    if np.isnan(values).any():
        return ""
    return f"{np.mean(values):.{digits}f} ± {np.ptp(values) / 2:.{digits}f}"


def signed(values: list[float]) -> str:
    """Mean difference, and that of each seed."""
    return f"{np.mean(values):+.1f} ({', '.join(f'{v:+.1f}' for v in values)})"
