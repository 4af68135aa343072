"""What every benchmark shares: implementations are compared with a baseline and timed on inputs that change from call to call."""

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
from wsss_fast.bench import memory as peak
from wsss_fast.bench import show
from wsss_fast.bench.roofline import synchronise
from wsss_fast.bench.suite import OURS, Implementation, Input, Suite, as_list
from wsss_fast.engine.files import write_json
from wsss_fast.engine.progress import Bar, say
from wsss_fast.engine.runtime import runtime
from wsss_fast.errors import InputError, RunError
from wsss_fast.ops._library import has_native_kernel

_ENOUGH_SECONDS = 10.0  # a implementation that used so much on a row is not asked again (it was timed at least once)
_EVICTING = (
    128 << 20
)  # bytes written before a timed call, so that no implementation finds its input in a cache


@dataclasses.dataclass
class Row:
    """Figures of one row; a implementation that was wrong, failed or was left out has no times and no bytes.

    Attributes:
        key: of the row.
        case: what the table calls it.
        baseline: the implementation whose results were expected.
        times: seconds of every timed call.
        bytes: peak memory of one call beyond its input and its results.
        unmeasured: why a implementation has no bytes, though they were asked for.
        figures: the worst of each figure over all inputs, by implementation.
        problems: what went wrong, by implementation.
        roofline: where the suite has one: `unit`, the `work` in 1e9 of it, `plain` call and `plain_rate` that it reached.
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
        """Median time of a implementation."""
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
    """A finished benchmark: its rows, where it ran, and the files it left."""

    suite: Suite
    rows: list[Row]
    machine: dict[str, Any]
    notes: list[str]
    json: Path
    plot: Path

    def columns(self) -> list[str]:
        """Contenders that have a time in some row, ours first and the baseline last."""
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
    suite: Suite,
    out: Path,
    *,
    rows: Sequence[str] = (),
    device: str = "auto",
    threads: int = 0,
    repeats: int = 5,
    quick: bool = False,
    memory: bool = True,
) -> Report:
    """Measure a suite and leave a JSON file, written anew after every row, and a plot.

    Every call's results are compared with the baseline's for the same input; a implementation that was wrong has no time.

    Args:
        suite: what to measure.
        out: folder of the JSON file and the plot, NAME.json and NAME.png (other options than the usual: NAME-OPTIONS).
        rows: rows to measure; none: all.
        device: auto, cpu, cuda or cuda:N; implementations that know only the CPU stay there.
        threads: CPU threads of torch and our kernels; 0: torch's default.
        repeats: timed inputs of each row, after one that warms up.
        quick: a first look: a few short rows unless some are named, without slow implementations and without memory.
        memory: measure peak memory too, each call in a process of its own.

    Raises:
        InputError: an unknown row, device or an argument out of range.
    """
    where = runtime(device, 0, 0, "fp32", prefer_bf16=False).device
    if threads < 0 or repeats < 1:
        raise InputError(
            f"bench: needs threads >= 0 and repeats >= 1, got threads={threads}, repeats={repeats}"
        )
    if unknown := [row for row in rows if row not in suite.rows]:
        raise InputError(
            f"bench {suite.name}: no row {unknown[0]!r}; there are {', '.join(suite.rows)}"
        )
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, must be a folder")
    chosen = list(rows) or list(quick and suite.quick or suite.rows)
    stem = "-".join(filter(None, (suite.name, suite.variant)))
    with _threads(threads), Bar(f"bench {suite.name}", len(chosen), unit="row") as bar:
        report = Report(
            suite, [], machine(where), list(suite.notes), out / f"{stem}.json", out / f"{stem}.png"
        )
        if not has_native_kernel(suite.op, where):
            report.notes.append(
                f"{suite.op} has no native kernel for {where.type} here: ours is the PyTorch reference."
            )
        for key in chosen:
            row = _measure(suite, key, where, repeats, quick)
            if memory and not quick:
                _measure_memory(suite, row, where)
            report.rows.append(row)
            _write(report)
            bar.advance(note=row.case)
    show.plot(report)
    return report


def machine(device: torch.device) -> dict[str, Any]:
    """Names of the processor and the device, threads, load of the machine now, and what `wsss_fast.info()` says."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": f"{len(models)} x {models[0]}"
        if models
        else platform.processor() or platform.machine(),
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
    """Contenders of a row with the baseline first, and the baseline's name."""
    there = suite.implementations(row)
    baseline = next(name for name in suite.baselines if name in there)
    rest = {name: c for name, c in there.items() if name != baseline and not (quick and c.slow)}
    return {baseline: there[baseline], **rest}, baseline


def _measure(suite: Suite, key: str, device: torch.device, repeats: int, quick: bool) -> Row:
    """Time the implementations in turn on each input, so that the machine's moods meet all of them."""
    implementations, baseline = _implementations(suite, key, quick)
    if any(c.compiles for c in implementations.values()):
        torch.compiler.reset()  # every row compiles the same function anew; torch gives up after eight
    row = Row(key, suite.rows[key], baseline, times={name: [] for name in implementations})
    running = dict(implementations)
    for which in range(repeats + 1):
        given = {"cpu": suite.make(key, which)}
        given["device"] = peak.moved(given["cpu"], device)
        expected: list[Tensor] = []
        for name, implementation in list(running.items()):
            place = torch.device("cpu") if implementation.on_cpu else device
            try:
                results, seconds = timed(
                    implementation.call, given["cpu" if implementation.on_cpu else "device"], place
                )
            except Exception as error:
                if name == baseline:
                    raise
                problem = f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"
            else:
                problem = (
                    "" if name == baseline else _disagreement(suite, row, name, results, expected)
                )
                expected = results if name == baseline else expected
            if problem:
                row.problems[name] = problem
                del row.times[name], running[name]
                say(f"bench {suite.name}: {row.case}: {name} is out: {problem}")
            elif which:  # the first input is the warm-up
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
    call: Callable[..., Tensor | Sequence[Tensor]], given: Input, device: torch.device
) -> tuple[list[Tensor], float]:
    """Results of a call, on the CPU, and the wall time it took until the device was done."""
    torch.empty(_EVICTING, dtype=torch.uint8, device=device).fill_(1)
    synchronise(device)
    start = time.perf_counter()
    results = call(*given)
    synchronise(device)
    seconds = time.perf_counter() - start
    return [r.detach().cpu() for r in as_list(results)], seconds


def _disagreement(
    suite: Suite, row: Row, name: str, results: list[Tensor], expected: list[Tensor]
) -> str:
    """Note the worst figures so far; what is wrong, or "". A NaN is larger than any limit."""
    worst = row.figures.setdefault(name, {})
    for figure, value in suite.compare(results, expected).items():
        if figure not in worst or not value <= worst[figure]:
            worst[figure] = value
    wrong = [
        f"{figure} is {worst[figure]:.3g}, allowed {limit:g}"
        for figure, limit in suite.limits.items()
        if not worst[figure] <= limit
    ]
    return f"disagrees with {row.baseline}: {', '.join(wrong)}" if wrong else ""


def _measure_memory(suite: Suite, row: Row, device: torch.device) -> None:
    for name in row.times:
        place = torch.device("cpu") if suite.implementations(row.key)[name].on_cpu else device
        try:
            size = peak.of_one_call(
                suite.name, dict(suite.options), row.key, name, str(place), torch.get_num_threads()
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
