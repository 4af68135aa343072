"""What every benchmark shares: contenders are compared with a judge, then timed on inputs that change from call to call."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsss_fast import _native
from wsss_fast.bench import memory as peak
from wsss_fast.bench import show
from wsss_fast.errors import InputError, RunError
from wsss_fast.progress import Bar, say
from wsss_fast.run import runtime, write_json

OURS = "ours"
_ENOUGH_SECONDS = 10.0  # a contender that used so much on a row is not asked again (it was timed at least once)

Input = tuple[Tensor | None, ...]


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to compute an op.

    Attributes:
        call: (*input) -> its results, a tensor or several.
        slow: left out by `quick`.
        on_cpu: it has no other device; its input stays on the CPU.
    """

    call: Callable[..., Tensor | Sequence[Tensor]]
    slow: bool = False
    on_cpu: bool = False


@dataclasses.dataclass(frozen=True)
class Suite:
    """What is measured for an op.

    Attributes:
        name: of the module `wsss_fast.bench.<name>`, whose `suite(**options)` makes this again in another process.
        stem: of the files that are written.
        title: one line over the table.
        options: keyword arguments this suite was made with.
        small: options of a tiny version, which loads libraries before memory is measured.
        rows: key of each row and what the table calls it.
        make: (row, which) -> an input on the CPU; another one for another `which`.
        contenders: row -> contenders by name; one of them is "ours".
        judges: names whose results are the expected ones and whose time is the ratio's numerator; the first there counts.
        compare: (results, expected) -> figures, larger is worse.
        limits: the largest value of each figure that is still right.
        notes: what a reader of the table must know, such as a peer that is not installed.
    """

    name: str
    stem: str
    title: str
    options: Mapping[str, Any]
    small: Mapping[str, Any]
    rows: Mapping[str, str]
    make: Callable[[str, int], Input]
    contenders: Callable[[str], dict[str, Contender]]
    judges: tuple[str, ...]
    compare: Callable[[list[Tensor], list[Tensor]], dict[str, float]]
    limits: Mapping[str, float]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass
class Row:
    """Figures of one row; a contender that was wrong, failed or was left out has no times and no bytes.

    Attributes:
        key: of the row.
        case: what the table calls it.
        judge: the contender whose results were expected.
        times: seconds of every timed call.
        bytes: peak memory of one call beyond its input and its results.
        figures: the worst of each figure over all inputs, by contender.
        problems: what went wrong, by contender.
    """

    key: str
    case: str
    judge: str
    times: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    figures: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    problems: dict[str, str] = dataclasses.field(default_factory=dict)

    def seconds(self, name: str) -> float | None:
        """Median time of a contender."""
        return statistics.median(self.times[name]) if self.times.get(name) else None

    def ratio(self) -> float | None:
        """Median time of the judge over ours, on the inputs that both were timed on."""
        ours, judge = self.times.get(OURS), self.times.get(self.judge)
        if not ours or not judge:
            return None
        common = min(len(ours), len(judge))
        return statistics.median(judge[:common]) / statistics.median(ours[:common])


@dataclasses.dataclass(frozen=True)
class Report:
    """A finished benchmark: its rows, where it ran, and the files it left."""

    suite: Suite
    rows: list[Row]
    machine: dict[str, Any]
    json: Path
    plot: Path

    def columns(self) -> list[str]:
        """Contenders that have a time in some row, ours first and the judge last."""
        names = dict.fromkeys(name for row in self.rows for name in row.times if row.times[name])
        return sorted(names, key=lambda n: (n != OURS, n == self.rows[0].judge))

    def check(self) -> None:
        """Raise RunError if our results were wrong or missing in some row."""
        wrong = [f"{row.case}: {row.problems[OURS]}" for row in self.rows if OURS in row.problems]
        if wrong:
            raise RunError(f"{self.suite.name}: {len(wrong)} of {len(self.rows)} rows were wrong, first {wrong[0]}")


def run_suite(suite: Suite, out: Path, *, rows: Sequence[str] = (), device: str = "auto", threads: int = 0, repeats: int = 5,
              quick: bool = False, memory: bool = True) -> Report:
    """Measure a suite and leave `<out>/<stem>.json`, written anew after every row, and `<out>/<stem>.png`.

    Every call's results are compared with the judge's for the same input; a contender that was wrong has no time.

    Args:
        suite: what to measure.
        out: folder of the two files.
        rows: keys of the rows to measure; none: all.
        device: auto, cpu, cuda or cuda:N; contenders that know only the CPU stay there.
        threads: CPU threads of torch and our kernels; 0: torch's default.
        repeats: timed inputs of each row, after one that warms up.
        quick: leave out the slow contenders, unless one of them has to be the judge.
        memory: measure peak memory too, each call in a process of its own.

    Raises:
        InputError: an unknown row, device or an argument out of range.
    """
    where = runtime(device, 0, 0, "fp32", prefer_bf16=False).device
    if threads < 0 or repeats < 1:
        raise InputError(f"bench: needs threads >= 0 and repeats >= 1, got threads={threads}, repeats={repeats}")
    if unknown := [row for row in rows if row not in suite.rows]:
        raise InputError(f"bench {suite.name}: no row {unknown[0]!r}; there are {', '.join(suite.rows)}")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, must be a folder")
    for note in suite.notes:
        say(f"bench {suite.name}: {note}")
    chosen = list(rows) or list(suite.rows)
    with _threads(threads), Bar(f"bench {suite.name}", len(chosen), unit="row") as bar:
        report = Report(suite, [], machine(where), out / f"{suite.stem}.json", out / f"{suite.stem}.png")
        for key in chosen:
            row = _measure(suite, key, where, repeats, quick)
            if memory:
                _measure_memory(suite, row, where)
            report.rows.append(row)
            _write(report)
            bar.advance(note=row.case)
    show.plot(report)
    return report


def machine(device: torch.device) -> dict[str, Any]:
    """Names of the processor and the device, threads, and what `wsss_fast.info()` says."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"cpu": f"{len(models)} x {models[0]}" if models else platform.processor() or platform.machine(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(), "date": time.strftime("%Y-%m-%d"), "info": _native.info()}


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _contenders(suite: Suite, row: str, quick: bool) -> tuple[dict[str, Contender], str]:
    """Contenders of a row with the judge first, and the judge's name."""
    there = suite.contenders(row)
    judge = next(name for name in suite.judges if name in there)
    rest = {name: c for name, c in there.items() if name != judge and not (quick and c.slow)}
    return {judge: there[judge], **rest}, judge


def _measure(suite: Suite, key: str, device: torch.device, repeats: int, quick: bool) -> Row:
    """Time the contenders in turn on each input, so that the machine's moods meet all of them."""
    contenders, judge = _contenders(suite, key, quick)
    row = Row(key, suite.rows[key], judge, times={name: [] for name in contenders})
    running = dict(contenders)
    for which in range(repeats + 1):
        given = {"cpu": suite.make(key, which)}
        given["device"] = to_device(given["cpu"], device)
        expected: list[Tensor] = []
        for name, contender in list(running.items()):
            place = torch.device("cpu") if contender.on_cpu else device
            try:
                results, seconds = timed(contender.call, given["cpu" if contender.on_cpu else "device"], place)
            except Exception as error:
                if name == judge:
                    raise
                problem = f"{type(error).__name__}: {error}"
            else:
                problem = "" if name == judge else _disagreement(suite, row, name, results, expected)
                expected = results if name == judge else expected
            if problem:
                row.problems[name] = problem
                del row.times[name], running[name]
                say(f"bench {suite.name}: {row.case}: {name} is out: {problem}")
            elif which:  # the first input is the warm-up
                row.times[name].append(seconds)
                if sum(row.times[name]) > _ENOUGH_SECONDS:
                    del running[name]
        if judge not in running:
            break
    return row


def timed(call: Callable[..., Tensor | Sequence[Tensor]], given: Input, device: torch.device) -> tuple[list[Tensor], float]:
    """Results of a call, on the CPU, and the wall time it took until the device was done."""
    synchronise(device)
    start = time.perf_counter()
    results = call(*given)
    synchronise(device)
    seconds = time.perf_counter() - start
    return [r.detach().cpu() for r in as_list(results)], seconds


def synchronise(device: torch.device) -> None:
    """Wait for a CUDA device; nothing for the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def as_list(results: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """A call's results as a list."""
    return [results] if isinstance(results, Tensor) else list(results)


def to_device(given: Input, device: torch.device) -> Input:
    """An input on a device."""
    return tuple(t if t is None else t.to(device) for t in given)


def _disagreement(suite: Suite, row: Row, name: str, results: list[Tensor], expected: list[Tensor]) -> str:
    """Note the worst figures so far; what is wrong, or "". A NaN is larger than any limit."""
    worst = row.figures.setdefault(name, {})
    for figure, value in suite.compare(results, expected).items():
        if figure not in worst or not value <= worst[figure]:
            worst[figure] = value
    wrong = [f"{figure} is {worst[figure]:.3g}, allowed {limit:g}" for figure, limit in suite.limits.items()
             if not worst[figure] <= limit]
    return f"disagrees with {row.judge}: {', '.join(wrong)}" if wrong else ""


def _measure_memory(suite: Suite, row: Row, device: torch.device) -> None:
    for name in row.times:
        place = torch.device("cpu") if suite.contenders(row.key)[name].on_cpu else device
        try:
            size = peak.of_one_call(suite.name, dict(suite.options), row.key, name, str(place), torch.get_num_threads())
        except RunError as error:
            say(f"bench {suite.name}: {row.case}: {error}")
            continue
        if size is not None:
            row.bytes[name] = size


def _write(report: Report) -> None:
    suite = report.suite
    rows = [{**dataclasses.asdict(row), "seconds": {n: row.seconds(n) for n in row.times}, "ratio": row.ratio()}
            for row in report.rows]
    write_json(report.json, {"benchmark": suite.name, "title": suite.title, "options": dict(suite.options),
                             "limits": dict(suite.limits), "notes": suite.notes, **report.machine, "rows": rows})
