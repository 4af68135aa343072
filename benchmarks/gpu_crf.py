"""Throughput of dense_crf on a GPU: images per second of direct calls and of CUDA graph replays.

    python benchmarks/gpu_crf.py [--device cuda] [--quick] [--json FILE]

All images of a batch have the same size. Inputs are those of `wsss-fast bench dense_crf`, which
measures the time of one call. Rows whose results differ from the CPU kernel's, or between repeated
calls, are not timed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import gpu_goals  # noqa: E402
from wsss_fast import ops  # noqa: E402
from wsss_fast.bench import dense_crf  # noqa: E402
from wsss_fast.bench.harness.photos import source  # noqa: E402

HEIGHT, WIDTH, ITERATIONS = 375, 500, dense_crf.ITERATIONS
ROWS = {
    "2 labels": dense_crf.Problem(2, images=32),
    "seed pair of 3 labels": dense_crf.Problem(3, sets=2, images=32),
    "21 labels": dense_crf.Problem(21, images=16),
    "21 labels, 4 present": dense_crf.Problem(21, images=16, present=4),
    "81 labels": dense_crf.Problem(81, images=4),
    "one image, 21 labels": dense_crf.Problem(21),
}


def row_input(name: str, quick: bool, number: int = 0, images: int = 32) -> tuple[Tensor, Tensor]:
    """Images uint8 [B, 3, H, W] of different photos, and energies of soft maps.

    B is at most `images`; `quick` makes two small ones.
    """
    height, width = (75, 100) if quick else (HEIGHT, WIDTH)
    count = min(ROWS[name].images, 2 if quick else images)
    problem = dataclasses.replace(ROWS[name], images=count)
    return dense_crf.problem(problem, number, "soft", height, width)


def call(image: Tensor, unary: Tensor, iterations: int = ITERATIONS, **options: Any) -> Tensor:
    """The op, which inspects the energies (a device sync) unless a graph is being recorded."""
    return ops.dense_crf(image, unary, iterations=iterations, **options)


def median_seconds(run: Callable[[], object], device: torch.device, budget: float) -> float:
    """Median time of a run, by events on a GPU; repeats until `budget` seconds have passed."""
    times, start = [], time.perf_counter()
    run()
    while len(times) < 3 or time.perf_counter() - start < budget:
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        else:
            before = time.perf_counter()
            run()
            times.append(time.perf_counter() - before)
    return statistics.median(times)


def as_graph(image: Tensor, unary: Tensor) -> Callable[[], object]:
    """Records the call as a CUDA graph; returns its replay."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        call(image, unary)
    return graph.replay


def target(name: str) -> float | None:
    """Images per second in gpu_goals.json."""
    goal = gpu_goals.read().get(f"dense_crf {name}")
    return goal.target.get("images_per_s") if goal else None


def measure(name: str, device: torch.device, quick: bool) -> dict[str, Any]:
    image, unary = row_input(name, quick)
    count, sets, labels, height, width = unary.shape
    inputs = image.to(device), unary.to(device)
    q, expected = call(*inputs).cpu(), call(image[:1], unary[:1])
    row = {
        "name": name,
        "sets": sets,
        "labels": labels,
        "images": count,
        "height": height,
        "width": width,
        "target": target(name),
        **dense_crf.compare([q[:1]], [expected]),
        "repeats": torch.equal(q, call(*inputs).cpu()),
    }
    accurate = all(row[figure] <= limit for figure, limit in dense_crf.LIMITS.items())
    if not row["repeats"] or not accurate:
        return row
    budget = 0.1 if quick else 1.0
    row["images_per_s"] = count / median_seconds(lambda: call(*inputs), device, budget)
    if device.type == "cuda":
        row["graph_images_per_s"] = count / median_seconds(as_graph(*inputs), device, budget)
        row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
    return row


def table_line(row: dict[str, Any]) -> str:
    """A row of the table; one that is not timed says why."""
    rates = [f"{row[k]:.0f}" if k in row else "-" for k in ("images_per_s", "graph_images_per_s")]
    wrong = "" if "images_per_s" in row else "  WRONG" if row["repeats"] else "  NOT REPEATABLE"
    return (
        f"| {row['name']:<24}{row['images']:>7}{rates[0]:>10}{rates[1]:>10}"
        f"{row['target'] or '-':>7}{row.get('peak_mib', 0):>8.0f}"
        + "".join(f"{row[figure]:>15.1e}" for figure in dense_crf.LIMITS)
        + wrong
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", type=torch.device)
    parser.add_argument("--quick", action="store_true", help="small images, to test this script")
    parser.add_argument("--json", help="file for the results")
    options = parser.parse_args()
    print(
        f"| {'case':<24}{'images':>7}{'images/s':>10}{'graph':>10}{'target':>7}{'MiB':>8}"
        + "".join(f"{figure:>15}" for figure in dense_crf.LIMITS)
    )
    rows = []
    for name in ROWS:
        row = measure(name, options.device, options.quick)
        rows.append(row)
        print(table_line(row), flush=True)
    print(f"{HEIGHT}x{WIDTH} unless --quick, {ITERATIONS} iterations, {source()}")
    if options.json:
        about = {"torch": torch.__version__, "device": str(options.device)}
        Path(options.json).write_text(json.dumps({**about, "rows": rows}, indent=1))
    return int(any("images_per_s" not in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
