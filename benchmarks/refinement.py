"""PAR, PAMR and the dense CRF on the class maps of Shapes: mIoU and seconds per image.

The maps are those of `wsss-fast demo --seed N`. PAR's scale, number of iterations and threshold are
chosen on the first seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
import tyro

from wsss_fast import amn, data, refine
from wsss_fast.engine.files import write_json
from wsss_fast.evaluation.curves import crf_curve, threshold_curve
from wsss_fast.maps import load_maps
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.par import Par
from wsss_fast.thresholds import label_index

_MAPS = {"CAM": "cam/maps", "AMN": "amn/maps"}
_TRIED = tuple(
    Par(iterations=iterations, scale=scale) for scale in (1.0, 0.5) for iterations in (2, 5, 10, 20)
)
_PUBLISHED = (Par(), Par(scale=0.5))
_CRF_THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(2, 13))
_TIMED, _REPEATS = 16, 7


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
    first = data.load(f"shapes:{seeds[0]}")
    if only_time:
        print(time_table(first, runs[0]))
        return
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    for name, folder in _MAPS.items():
        pipeline = amn.PIPELINES["small"]
        crf = pipeline.crf if name == "CAM" else pipeline.refine.crf
        fixed = pipeline.cam_threshold if name == "CAM" else pipeline.amn_threshold
        fixed_crf = pipeline.cam_crf_threshold if name == "CAM" else pipeline.refine.crf_threshold
        tried = {
            (kind, par): curve_after(first, runs[0] / folder, out / f"seed{seeds[0]}", kind, par)
            for kind in ("par", "pamr")
            for par in _TRIED
        }
        for (kind, par), curve in tried.items():
            text = f"{kind}, scale {par.scale:g}, {par.iterations} iterations"
            print(f"{name}: {text}: {100 * max(curve.miou):.1f} at {curve.best:.2f}", flush=True)
        rows: dict[str, list[dict[str, float]]] = {}
        for seed, run in zip(seeds, runs, strict=True):
            source = data.load(f"shapes:{seed}")
            before = threshold_curve(run / folder, source)
            rows.setdefault("before", []).append(scores(before, fixed))
            for kind in ("par", "pamr"):
                chosen = max((par for k, par in tried if k == kind), key=_best_of(tried, kind))
                for text, par in (("published", _PUBLISHED[1]), ("chosen", chosen)):
                    curve = curve_after(source, run / folder, out / f"seed{seed}", kind, par)
                    label = f"{kind} {text}: scale {par.scale:g}, {par.iterations} iterations"
                    rows.setdefault(label, []).append(scores(curve, tried[kind, par].best))
            after = crf_curve(run / folder, source, crf, thresholds=_CRF_THRESHOLDS)
            rows.setdefault("crf", []).append(scores(after, fixed_crf))
            print(name, seed, {key: value[-1] for key, value in rows.items()}, flush=True)
        results[name] = rows
    write_json(out / "refinement.json", results)
    for name, rows in results.items():
        print(table(name, rows))


def _best_of(tried: dict, kind: str) -> Callable[[Par], float]:
    return lambda par: max(tried[kind, par].miou)


def scores(curve: object, fixed: float) -> dict[str, float]:
    """mIoU in % at the best threshold and at the one chosen on the first seed."""
    return {
        "best": 100 * max(curve.miou),
        "at": curve.best,
        "fixed": 100 * curve.at(fixed),
        "threshold": fixed,
    }


def curve_after(source: data.Dataset, maps: Path, out: Path, kind: str, par: Par) -> object:
    """mIoU over the threshold of the maps that `refine` writes."""
    folder = out / f"{maps.parent.name}-{kind}-{par.scale:g}-{par.iterations}"
    photos = source.root / "JPEGImages"
    refine(photos, maps, folder, method=kind, par=par, background=0.3)
    return threshold_curve(folder, source)


def table(name: str, rows: dict[str, list[dict[str, float]]]) -> str:
    """A table of one kind of maps: mean and single values of the seeds."""
    lines = [f"| {name} maps | best threshold | fixed threshold | each seed (fixed) |", "|---|" * 4]
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
    rows = torch.from_numpy(load_maps(run / _MAPS["CAM"], id).high_res)
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call(photo, rows)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
