"""What a command prints on stdout: tables and the paths of what it wrote."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from wsss_fast.bench.harness.run import Report
from wsss_fast.bench.harness.show import parts
from wsss_fast.engine.progress import CONSOLE, OutputConsole
from wsss_fast.errors import RunError
from wsss_fast.evaluation import comparison, protocol_text, report, summary
from wsss_fast.reproduce import ReproduceResult
from wsss_fast.runs import AnalysesResult, RunResult

OUTPUT = OutputConsole(highlight=False)
WIDE = OutputConsole(highlight=False, width=200)  # tables whose figures must not be cut


def show(result: Any) -> None:
    """Print the result of a command on stdout."""
    if isinstance(result, RunResult):
        _unwrapped().print(report.text_table(result.out))
        _show_lines(protocol_text.screen(result.out))
        predicted = f"\npredictions: {result.predictions}" if result.predictions else ""
        OUTPUT.print(
            f"masks: {result.masks}{predicted}\nreport: {result.report}",
            soft_wrap=True,
            markup=False,
        )
    elif isinstance(result, AnalysesResult):
        _unwrapped().print(report.text_table(result.out))
        OUTPUT.print(f"report: {result.report}", soft_wrap=True, markup=False)
    elif isinstance(result, ReproduceResult):
        _unwrapped().print(comparison.text_table(result.comparison))
        _show_lines(comparison.lines(result.comparison))
        _show_lines([str(result.page), str(result.file)])
    elif isinstance(result, summary.Evaluation):
        _show_evaluation(result)
    elif isinstance(result, Report):
        _show_benchmarks([result])
    elif isinstance(result, Iterator):
        _show_benchmarks(result)
    elif dataclasses.is_dataclass(result) and type(result).__str__ is object.__str__:
        _show_lines(_described(result))
    elif result is not None:
        OUTPUT.print(str(result), soft_wrap=True, markup=False)


def _show_lines(lines: Iterable[str]) -> None:
    for line in lines:
        OUTPUT.print(line, soft_wrap=True, markup=False)


def _unwrapped() -> OutputConsole:
    """The console of a table: in a file or a pipe, no cell is wrapped."""
    return OUTPUT if OUTPUT.is_terminal else WIDE


def _described(result: Any) -> Iterator[str]:
    """A line for each field of a stage's result."""
    for field in dataclasses.fields(result):
        value, name = getattr(result, field.name), field.name.replace("_", " ")
        if field.name == "losses":
            yield _means("loss", value)
        elif field.name == "parts":
            yield from (_means(f"{part} loss", means) for part, means in value.items())
        elif isinstance(value, float):  # a share
            yield f"{name}: {100 * value:.1f} %"
        elif value is not None:
            yield f"{name}: {value}"


def _means(name: str, means: Sequence[float]) -> str:
    """The mean losses of the first and the last epoch."""
    last = f", {means[-1]:.4f} in the last of {len(means)}" if len(means) > 1 else ""
    return f"mean {name}: {means[0]:.4f} in the first epoch{last}" if means else f"no {name}"


def _show_benchmarks(reports: Iterable[Report]) -> None:
    """Print each report when it is finished; wrong rows fail the command at the end."""
    wrong = []
    for shown in reports:
        for part in parts(shown):
            (OUTPUT if isinstance(part, str) else WIDE).print(part, markup=False)
        OUTPUT.print(f"{shown.json}\n{shown.plot}\n", soft_wrap=True, markup=False)
        wrong += shown.wrong()
    if wrong:
        raise RunError(f"{len(wrong)} rows were wrong, first {wrong[0]}")


def _show_evaluation(found: summary.Evaluation) -> None:
    metrics, curve = found.metrics, found.curve
    at = "" if curve is None else f" at threshold {curve.best:.2f}, the best"
    table = Table(
        title=f"mIoU {100 * metrics.miou:.2f} % over {metrics.counted()}{at}",
        title_justify="left",
    )
    for column in ("class", "IoU", "precision", "recall"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name in metrics.iou:
        table.add_row(
            Text(name),
            *(
                f"{100 * values[name]:.2f}"
                for values in (metrics.iou, metrics.precision, metrics.recall)
            ),
        )
    OUTPUT.print(table)
    if curve is not None:
        table = Table(title="mIoU (%) over the threshold", title_justify="left")
        steps = range(0, len(curve.thresholds), 5)  # all of them are in the JSON file
        for step in steps:
            table.add_column(f"{curve.thresholds[step]:.2f}", justify="right")
        table.add_row(*(f"{100 * curve.miou[step]:.1f}" for step in steps))
        OUTPUT.print(table)
    for pair, ratio in found.confusion_ratios.items():
        OUTPUT.print(f"confusion ratio {pair}: {ratio:.3f}", markup=False)
    _show_lines(protocol_text.text_lines(found.facts()))
    for path in found.files:
        OUTPUT.print(str(path), soft_wrap=True, markup=False)


if CONSOLE.is_dumb_terminal:
    CONSOLE.no_color = True
