"""Runs a suite: compares implementations with the baseline and times them on changing inputs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsss_fast import _native
from wsss_fast.bench.harness import memory as peak
from wsss_fast.bench.harness import show
from wsss_fast.bench.harness.roofline import synchronise
from wsss_fast.bench.harness.suite import OURS, Implementation, Input, Results, Suite, as_list
from wsss_fast.bench.options import RunOptions
from wsss_fast.engine.files import write_json
from wsss_fast.engine.progress import Bar, say
from wsss_fast.engine.runtime import resolve_runtime
from wsss_fast.errors import InputError, RunError
from wsss_fast.ops._library import has_native_kernel

# An implementation that has used as much time on a row is not called again (after one timed call).
_ENOUGH_SECONDS = 10.0
# Bytes written before a timed call, so that no implementation finds its input in a cache.
_EVICTING = 128 << 20


@dataclasses.dataclass
class Row:
    """Measurements of one row.

    An implementation with wrong results, that failed or was skipped has no times and no bytes.

    Attributes:
        key: key of the row.
        case: name of the row in the tables.
        baseline: implementation whose results are the expected ones.
        times: seconds of every timed call, by implementation.
        bytes: peak memory of one call in addition to its input and its results.
        unmeasured: why memory could not be measured, by implementation.
        figures: the largest value of each error over all inputs, by implementation.
        problems: what went wrong, by implementation.
        roofline: if the suite has one: `unit`, the `work` in 1e9 of it, the `plain` call and its
            `plain_rate`.
    """

    key: str
    case: str
    baseline: str
    times: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    unmeasured: dict[str, str] = dataclasses.field(default_factory=dict)
    figures: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    problems: dict[str, str] = dataclasses.field(default_factory=dict)
    roofline: dict[str, Any] | None = None

    def seconds(self, name: str) -> float | None:
        """Median time of an implementation."""
        return statistics.median(self.times[name]) if self.times.get(name) else None

    def ratio(self) -> float | None:
        """Median time of the baseline over ours, on the inputs that both were timed on."""
        ours, baseline = self.times.get(OURS), self.times.get(self.baseline)
        if not ours or not baseline:
            return None
        common = min(len(ours), len(baseline))
        return statistics.median(baseline[:common]) / statistics.median(ours[:common])

    def rate(self) -> float | None:
        """The least work over our median time, in the roofline's unit."""
        seconds = self.seconds(OURS)
        return None if self.roofline is None or seconds is None else self.roofline["work"] / seconds


@dataclasses.dataclass(frozen=True)
class Report:
    """The results of a benchmark.

    Attributes:
        suite: what was measured.
        rows: the measurements.
        machine: where it was measured.
        notes: remarks below the tables.
        json: file of the results.
        plot: file of the plot.
    """

    suite: Suite
    rows: list[Row]
    machine: dict[str, Any]
    notes: list[str]
    json: Path
    plot: Path

    def columns(self) -> list[str]:
        """Implementations with a time in any row, ours first and the baseline last."""
        names = dict.fromkeys(name for row in self.rows for name in row.times if row.times[name])
        return sorted(names, key=lambda n: (n != OURS, n == self.rows[0].baseline))

    def wrong(self) -> list[str]:
        """Rows in which our results were wrong or missing, and why."""
        return [
            f"{self.suite.name}, {row.case}: {row.problems[OURS]}"
            for row in self.rows
            if OURS in row.problems
        ]


def run_suite(
    suite: Suite, out: Path, options: RunOptions = RunOptions(), rows: Sequence[str] = ()
) -> Report:
    """Measure a suite; write a JSON file, updated after every row, and a plot.

    The results of every call are compared with the baseline's for the same input; implementations
    with wrong results are not timed.

    Args:
        suite: what to measure.
        out: folder for the JSON file and the plot, NAME.json and NAME.png (NAME-VARIANT for options
            other than the defaults).
        options: where and how often.
        rows: keys of the rows to measure; none: all.

    Raises:
        InputError: an unknown row or device, or a number out of range.
    """
    where = resolve_runtime(options.device, 0, 0, "fp32", prefer_bf16=False).device
    if options.threads < 0 or options.repeats < 1:
        raise InputError(
            "bench: threads must be >= 0 and repeats >= 1, "
            f"got threads={options.threads}, repeats={options.repeats}"
        )
    if unknown := [row for row in rows if row not in suite.rows]:
        raise InputError(
            f"bench {suite.name}: unknown row {unknown[0]!r}, "
            f"must be one of {', '.join(suite.rows)}"
        )
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, must be a directory")
    chosen = list(rows) or list(options.quick and suite.quick or suite.rows)
    stem = "-".join(filter(None, (suite.name, suite.variant)))
    with _threads(options.threads), Bar(f"bench {suite.name}", len(chosen), unit="row") as bar:
        report = Report(
            suite, [], machine(where), list(suite.notes), out / f"{stem}.json", out / f"{stem}.png"
        )
        if not has_native_kernel(suite.op, where):
            report.notes.append(
                f"{suite.op} has no native kernel for {where.type} here: "
                "ours is the PyTorch reference."
            )
        for key in chosen:
            row = _measure(suite, key, where, options.repeats, options.quick)
            if options.memory and not options.quick:
                _measure_memory(suite, row, where)
            report.rows.append(row)
            _write(report)
            bar.advance(note=row.case)
    show.plot(report)
    return report


def machine(device: torch.device) -> dict[str, Any]:
    """Names of the processor and the device, threads, current load, and `wsss_fast.info()`."""
    models = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = f"{len(models)} x {models[0]}" if models else platform.processor()
    return {
        "cpu": cpu or platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "date": time.strftime("%Y-%m-%d"),
        "info": _native.info(),
    }


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _implementations(suite: Suite, row: str, quick: bool) -> tuple[dict[str, Implementation], str]:
    """Implementations of a row with the baseline first, and the baseline's name."""
    available = suite.implementations(row)
    baseline = next(name for name in suite.baselines if name in available)
    others = {
        name: implementation
        for name, implementation in available.items()
        if name != baseline and not (quick and implementation.slow)
    }
    return {baseline: available[baseline], **others}, baseline


def _measure(suite: Suite, key: str, device: torch.device, repeats: int, quick: bool) -> Row:
    """Time all implementations on one input after the other, so that changes of load affect all."""
    implementations, baseline = _implementations(suite, key, quick)
    if any(implementation.compiles for implementation in implementations.values()):
        # Every row compiles the same function again, and torch gives up after eight times.
        torch.compiler.reset()
    row = Row(key, suite.rows[key], baseline, times={name: [] for name in implementations})
    running = dict(implementations)
    for number in range(repeats + 1):
        on_cpu = suite.make(key, number)
        on_device = peak.to_device(on_cpu, device)
        expected: list[Tensor] = []
        for name, implementation in list(running.items()):
            if implementation.on_cpu:
                tensors, place = on_cpu, torch.device("cpu")
            else:
                tensors, place = on_device, device
            try:
                results, seconds = timed(implementation.call, tensors, place)
            except Exception as error:
                if name == baseline:
                    raise
                problem = f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"
            else:
                expected = results if name == baseline else expected
                problem = "" if name == baseline else _errors(suite, row, name, results, expected)
            if problem:
                row.problems[name] = problem
                del row.times[name], running[name]
                say(f"bench {suite.name}: {row.case}: {name} is excluded: {problem}")
            elif number:  # the first input is the warm-up
                row.times[name].append(seconds)
                if sum(row.times[name]) > _ENOUGH_SECONDS:
                    del running[name]
        if baseline not in running:
            break
    if roofline := suite.roofline(key):
        row.roofline = {
            "unit": roofline.unit,
            "work": roofline.work / 1e9,
            "plain": roofline.plain,
            "plain_rate": roofline.plain_rate(device),
        }
    return row


def timed(
    call: Callable[..., Results], tensors: Input, device: torch.device
) -> tuple[list[Tensor], float]:
    """Results of a call, on the CPU, and its wall time until the device has finished."""
    torch.empty(_EVICTING, dtype=torch.uint8, device=device).fill_(1)
    synchronise(device)
    start = time.perf_counter()
    results = call(*tensors)
    synchronise(device)
    seconds = time.perf_counter() - start
    return [r.detach().cpu() for r in as_list(results)], seconds


def _errors(
    suite: Suite, row: Row, name: str, results: list[Tensor], expected: list[Tensor]
) -> str:
    """Update the largest errors of an implementation; returns which exceed their limits, or ""."""
    largest = row.figures.setdefault(name, {})
    for figure, value in suite.compare(results, expected).items():
        if figure not in largest or not value <= largest[figure]:  # a NaN exceeds any limit
            largest[figure] = value
    wrong = [
        f"{figure} is {largest[figure]:.3g}, allowed {limit:g}"
        for figure, limit in suite.limits.items()
        if not largest[figure] <= limit
    ]
    return f"disagrees with {row.baseline}: {', '.join(wrong)}" if wrong else ""


def _measure_memory(suite: Suite, row: Row, device: torch.device) -> None:
    for name in row.times:
        place = torch.device("cpu") if suite.implementations(row.key)[name].on_cpu else device
        try:
            size = peak.peak_of_one_call(
                suite.name, suite.options, row.key, name, str(place), torch.get_num_threads()
            )
        except RunError as error:
            row.unmeasured[name] = str(error)
            continue
        if size is not None:
            row.bytes[name] = size


def _write(report: Report) -> None:
    suite = report.suite
    rows = [
        {
            **dataclasses.asdict(row),
            "seconds": {n: row.seconds(n) for n in row.times},
            "ratio": row.ratio(),
            "rate": row.rate(),
        }
        for row in report.rows
    ]
    write_json(
        report.json,
        {
            "benchmark": suite.name,
            "title": suite.title,
            "options": dict(suite.options),
            "limits": dict(suite.limits),
            "notes": report.notes,
            **report.machine,
            "rows": rows,
        },
    )
