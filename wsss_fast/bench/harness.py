"""What benchmarks share: median times, peak memory of a fresh process, the table, the JSON file, the plot."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from wsss_fast import _native
from wsss_fast.run import atomic_write, write_json

_OUTPUT = Console(highlight=False)
Row = dict[str, Any]  # "name", and per contender NAME: "NAME_ms", "NAME_mib" where measured, "wrong" if results disagree


def median_ms(calls: Sequence[Callable[[], Any]], device: torch.device, budget: float = 3.0) -> float:
    """Median milliseconds of one call, after one warm-up each.

    Args:
        calls: the same work on different inputs, taken in turn: the next call does not find its input in cache.
        device: waited for when it is a GPU.
        budget: seconds, after which (and at least three calls) it ends.
    """
    def timed(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    for call in calls:
        timed(call)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < budget and len(times) < 50):
        times.append(timed(calls[len(times) % len(calls)]))
    return 1e3 * statistics.median(times)


def peak_mib(module: str, *arguments: str, threads: int) -> float | None:
    """Peak memory that one call adds to a fresh process, MiB: `python -m module arguments` prints it (see `added_mib`)."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    try:
        return float(done.stdout.split()[-1])
    except (IndexError, ValueError):
        return None


def added_mib(call: Callable[[], Any]) -> float:
    """By how much `call` raises the highest resident memory of this process above what it holds now, MiB (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts again here
    before = _status_kib("VmRSS")
    call()
    return (_status_kib("VmHWM") - before) / 1024


def _status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def machine(device: torch.device, threads: int) -> dict[str, Any]:
    """What a figure means nothing without."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    info = _native.info()
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"date": time.strftime("%Y-%m-%d"), "cpu": cpu, "cores": os.cpu_count(), "gpu": gpu, "threads": threads,
            "backend": info["backend"], "simd": info["simd"], "torch": torch.__version__}


def report(title: str, about: dict[str, Any], rows: Sequence[Row], contenders: Sequence[str], out: Path | None) -> None:
    """Print the table; with `out`, also write `<title>.json` and `<title>.png` there. The first contender is ours."""
    table = Table(title=f"{title}: " + ", ".join(f"{k} {v}" for k, v in about.items() if v is not None), title_justify="left")
    table.add_column("case")
    for name in contenders:
        table.add_column(f"{name} ms", justify="right")
    for name in contenders[1:]:
        table.add_column(f"x {name}", justify="right")
    for name in contenders:
        if any(f"{name}_mib" in row for row in rows):
            table.add_column(f"{name} MiB", justify="right")
    table.add_column("agreement")
    for row in rows:
        table.add_row(*_cells(row, contenders, rows))
    _OUTPUT.print(table)
    if out is not None:
        stem = title.replace(" ", "_")
        write_json(out / f"{stem}.json", {"about": about, "rows": list(rows)})
        _plot(out / f"{stem}.png", title, rows, contenders)
        _OUTPUT.print(f"written: {out / stem}.json, {out / stem}.png", soft_wrap=True)


def _cells(row: Row, contenders: Sequence[str], rows: Sequence[Row]) -> list[str]:
    ours = row.get(f"{contenders[0]}_ms")
    cells = [row["name"]]
    cells += [f"{row[f'{name}_ms']:.1f}" if f"{name}_ms" in row else "-" for name in contenders]
    cells += [f"{row[f'{name}_ms'] / ours:.1f}" if ours and f"{name}_ms" in row else "-" for name in contenders[1:]]
    for name in contenders:
        if any(f"{name}_mib" in other for other in rows):
            value = row.get(f"{name}_mib")
            cells.append("-" if value is None else f"{value:.0f}")
    return [*cells, ("WRONG: " if row.get("wrong") else "") + row.get("agreement", "")]


def _plot(path: Path, title: str, rows: Sequence[Row], contenders: Sequence[str]) -> None:
    import matplotlib  # only a plot needs it, and it is slow to import

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.55 * len(rows)), layout="constrained")
    height = 0.8 / len(contenders)
    for place, name in enumerate(contenders):
        at = [(i + place * height, row[f"{name}_ms"]) for i, row in enumerate(rows) if f"{name}_ms" in row]
        if at:
            bars = axes.barh([y for y, _ in at], [x for _, x in at], height, label=name)
            axes.bar_label(bars, fmt="%.0f", padding=2, fontsize=8)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(rows))], [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds, logarithmic")
    axes.set_title(title)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    axes.margins(x=0.1)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)


