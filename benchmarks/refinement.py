"""PAR, PAMR and the dense CRF on the class maps of Shapes: mIoU and seconds per image.

The maps are those of `wsss-fast demo --seed N`. PAR's scale, number of iterations and threshold are
chosen on the first seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import tyro

from wsss_fast import amn, data, evaluate, refine
from wsss_fast.engine.files import write_json
from wsss_fast.evaluation.curves import Curve, crf_curve, labels_at, threshold_curve
from wsss_fast.maps import load_maps
from wsss_fast.readers.label_maps import write_labels
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.par import Par
from wsss_fast.thresholds import label_index

Row = dict[str, float]  # of a seed: mIoU at two thresholds

_TRIED = tuple(
    Par(iterations=iterations, scale=scale) for scale in (1.0, 0.5) for iterations in (2, 5, 10, 20)
)
_PUBLISHED = (Par(), Par(scale=0.5))
_CRF_THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(2, 13))
_TIMED, _REPEATS = 8, 40


def main(argv: list[str]) -> None:
    """The command line of `measure`."""
    tyro.cli(measure, args=argv, prog="python -m benchmarks refinement")


def measure(
    runs: tuple[Path, ...],
    out: Path = Path("bench-refinement"),
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    only_time: bool = False,
) -> None:
    """Refine the maps of every run, and print the tables; writes `<out>/refinement.json`.

    Args:
        runs: run folders of `wsss-fast demo`, one per seed.
        out: folder for the refined maps.
        seeds: of the runs.
        only_time: only measure the seconds, on the first run.
    """
    if only_time:
        print(time_table(data.load(f"shapes:{seeds[0]}"), runs[0]))
        return
    sources = [data.load(f"shapes:{seed}") for seed in seeds]
    folders = [out / f"seed{seed}" for seed in seeds]
    small = amn.PIPELINES["small"]
    kinds = {
        "CAM": Maps("cam/maps", small.cam_threshold, small.crf, small.cam_crf_threshold),
        "AMN": Maps("amn/maps", small.amn_threshold, small.refine.crf, small.refine.crf_threshold),
    }
    found = {
        name: rows_of(maps, [run / maps.folder for run in runs], sources, folders)
        for name, maps in kinds.items()
    }
    write_json(out / "refinement.json", found)
    for name, rows in found.items():
        print(table(name, rows))


class Maps(NamedTuple):
    """Class maps of a run, their threshold, and the preset's CRF and its threshold."""

    folder: str
    threshold: float
    crf: Crf
    crf_threshold: float


def rows_of(
    maps: Maps, given: Sequence[Path], sources: Sequence[data.Dataset], out: Sequence[Path]
) -> dict[str, list[Row]]:
    """The figures of every method, a row per seed; parameters are chosen on the first seed."""
    rows: dict[str, list[Row]] = {}
    chosen: dict[str, dict[Par, Curve]] = {}
    for kind in ("par", "pamr"):
        tried = {par: curve_after(sources[0], given[0], out[0], kind, par) for par in _TRIED}
        for par, curve in tried.items():
            best = f"{100 * max(curve.miou):.1f} at {curve.best:.2f}"
            print(f"{maps.folder}, {_named(kind, par)}: {best}", flush=True)
        top = max(tried, key=lambda par: max(tried[par].miou))
        chosen[kind] = {par: tried[par] for par in (_PUBLISHED[1], top)}
    for source, folder, target in zip(sources, given, out, strict=True):

        def add(label: str, row: Row) -> None:
            rows.setdefault(label, []).append(row)

        add("before", scores(threshold_curve(folder, source), maps.threshold))
        for kind, curves in chosen.items():
            for par, first in curves.items():
                curve = curve_after(source, folder, target, kind, par)
                add(_named(kind, par), scores(curve, first.best))
        top = list(chosen["par"])[-1]
        after = labels_refined(source, folder, target, top, maps.crf_threshold)
        add(f"{_named('par', top)}, of labels", after)
        crf = crf_curve(folder, source, maps.crf, thresholds=_CRF_THRESHOLDS)
        add("crf", scores(crf, maps.crf_threshold))
    return rows


def _named(kind: str, par: Par) -> str:
    return f"{kind}, scale {par.scale:g}, {par.iterations} iterations"


def scores(curve: Curve, fixed: float) -> Row:
    """mIoU in % at the best threshold and at the one chosen on the first seed."""
    return {
        "best": 100 * max(curve.miou),
        "at": curve.best,
        "fixed": 100 * curve.at(fixed),
        "threshold": fixed,
    }


def curve_after(source: data.Dataset, maps: Path, out: Path, kind: str, par: Par) -> Curve:
    """mIoU over the threshold of the maps that `refine` writes."""
    folder = out / f"{maps.parent.name}-{kind}-{par.scale:g}-{par.iterations}"
    photos = source.root / "JPEGImages"
    refine(photos, maps, folder, method=kind, par=par, background=0.3)
    return threshold_curve(folder, source)


def labels_refined(source: data.Dataset, maps: Path, out: Path, par: Par, threshold: float) -> Row:
    """mIoU in % after PAR of the labels at a threshold, without the scores."""
    given = out / f"{maps.parent.name}-labels"
    label_of = labels_at(maps, source, threshold)
    for id in source.ids:
        write_labels(given / f"{id}.png", label_of(id))
    folder = out / f"{given.name}-par-{par.scale:g}-{par.iterations}"
    refine(source.root / "JPEGImages", given, folder, par=par)
    miou = 100 * evaluate(folder, source).miou
    return {"best": miou, "at": threshold, "fixed": miou, "threshold": threshold}


def table(name: str, rows: dict[str, list[Row]]) -> str:
    """A table of one kind of maps: mean and single values of the seeds."""
    lines = [
        f"| {name} maps | best threshold | fixed threshold | each seed (fixed) |",
        "|---" * 4 + "|",
    ]
    for label, values in rows.items():
        best, fixed = ([one[key] for one in values] for key in ("best", "fixed"))
        each = ", ".join(f"{value:.1f}" for value in fixed)
        mean = [sum(column) / len(column) for column in (best, fixed)]
        at = f"{values[0]['threshold']:.2f}"
        lines.append(f"| {label} | {mean[0]:.1f} | {mean[1]:.1f} ({at}) | {each} |")
    return "\n".join(lines)


def time_table(source: data.Dataset, run: Path) -> str:
    """Milliseconds per image: the fastest of several calls, mean over some images."""
    crf = amn.PIPELINES["small"].crf
    lines = ["| method | ms per image |", "|---|---|"]
    for label, call in (
        *((f"PAR, scale {par.scale:g}", _par_call(par, "par")) for par in _PUBLISHED),
        *((f"PAMR, scale {par.scale:g}", _par_call(par, "pamr")) for par in _PUBLISHED),
        ("dense CRF", _crf_call(crf)),
    ):
        seconds = [fastest(call, source, run, id) for id in source.ids[:_TIMED]]
        lines.append(f"| {label} | {1e3 * sum(seconds) / len(seconds):.2f} |")
    return "\n".join(lines)


Call = Callable[[torch.Tensor, torch.Tensor], object]


def _par_call(par: Par, kind: str) -> Call:
    return lambda photo, rows: par.apply(photo, rows, kind)


def _crf_call(crf: Crf) -> Call:
    def call(photo: torch.Tensor, rows: torch.Tensor) -> object:
        labels = label_index(rows, (0.3,))
        return crf.refine_labels(photo[None], labels[None], len(rows) + 1)

    return call


def fastest(call: Call, source: data.Dataset, run: Path, id: str) -> float:
    """Seconds of the fastest of several calls on one image."""
    photo = torch.from_numpy(source.image(id).copy())
    rows = torch.from_numpy(load_maps(run / "cam/maps", id).high_res)
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call(photo, rows)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
