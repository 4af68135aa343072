"""A benchmark's report as tables and as a plot."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from wsss_fast.engine.files import atomic_write

if TYPE_CHECKING:
    from wsss_fast.bench.harness.run import Report, Row

_COLOURS = {"ours": "#1b6ca8", "eager": "#b8b8b8", "compiled": "#7fb069"}
_OTHER_COLOUR = "#e07a3f"

Measure = Callable[["Row", str], "float | None"]  # of an implementation, None if not measured


def parts(report: Report) -> list[str | Table]:
    """What is printed of a report: title, times, memory if measured, machine, notes, problems."""
    machine, info = report.machine, report.machine["info"]
    where = (
        machine["cpu"] if machine["device"] == "cpu" else f"{machine['device']}, {machine['cpu']}"
    )
    problems = [
        f"{row.case}: {name}: {problem}"
        for row in report.rows
        for name, problem in (*row.problems.items(), *row.unmeasured.items())
    ]
    # Other processes cost more than their share of the cores: threads wait for the slowest one.
    load = "" if machine["load"] is None else f"load {machine['load']} before; "
    facts = (
        f"{where}; {_threads(machine)}; {load}backend {info['backend']}, simd {info['simd']}, "
        f"torch {info['torch']}; {machine['date']}"
    )
    tables = [times(report), memory(report)] if _measured(report) else [times(report)]
    return [report.suite.title, *tables, facts, *report.notes, *problems]


def _grid(heads: list[str], rows: list[list[str]]) -> Table:
    """A table of minimal width whose first column is text."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for number, head in enumerate(heads):
        table.add_column(
            head, justify="right" if number else "left", no_wrap=True, vertical="bottom"
        )
    for row in rows:
        table.add_row(*row)
    return table


def times(report: Report) -> Table:
    """Milliseconds of every implementation, the ratio, our rate, the plain call's, our errors."""
    names, limits = report.columns(), list(report.suite.limits)
    rooflines = [row.roofline for row in report.rows if row.roofline]
    heads = ["case", *(f"{n}\nms" for n in names), "\nratio"]
    heads += [f"{rooflines[0]['unit']}\nours", f"\n{rooflines[0]['plain']}"] if rooflines else []
    return _grid(
        [*heads, *(limit.replace(" ", "\n", 1) for limit in limits)],
        [[row.case, *_cells(row, names, limits, bool(rooflines))] for row in report.rows],
    )


def _cells(row: Row, names: list[str], limits: list[str], with_rates: bool) -> list[str]:
    ratio, rate, figures = row.ratio(), row.rate(), row.figures.get("ours", {})
    shown = "-" if ratio is None else f"{ratio:.1f}x"
    rates = ["-", "-"]
    if row.roofline:
        rates = ["-" if rate is None else _short(rate), _short(row.roofline["plain_rate"])]
    return [
        *(_milliseconds(row, name) for name in names),
        "WRONG" if "ours" in row.problems else shown,
        *(rates if with_rates else []),
        *(_scientific(figures[f]) if f in figures else "-" for f in limits),
    ]


def _milliseconds(row: Row, name: str) -> str:
    if name in row.problems and name != "ours":
        return "failed"
    seconds = row.seconds(name)
    return "-" if seconds is None else _short(1e3 * seconds)


def memory(report: Report) -> Table:
    """Megabytes of every implementation, and the eager reference's over ours."""
    names, rows = _measured(report), []
    for row in report.rows:
        eager, ours = row.bytes.get("eager"), row.bytes.get("ours")
        ratio = "-" if eager is None or ours is None else f"{eager / max(ours, 1e5):.1f}x"
        rows.append([row.case, *(_size(row, name) for name in names), ratio])
    return _grid(["case", *(f"{n}\nMB" for n in names), "\nratio"], rows)


def _size(row: Row, name: str) -> str:
    if name in row.unmeasured:
        return "failed"
    return _short(row.bytes[name] / 1e6) if name in row.bytes else "-"


def _measured(report: Report) -> list[str]:
    """Implementations whose memory was measured, or should have been, in any row."""
    return [
        name
        for name in report.columns()
        if any(name in row.bytes or name in row.unmeasured for row in report.rows)
    ]


def _scientific(value: float) -> str:
    """2.1e-05 as 2e-5."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits, _, exponent = f"{value:.0e}".partition("e")
    return f"{digits}e{int(exponent)}"


def plot(report: Report) -> None:
    """Write `report.plot`: logarithmic bars of time and memory for every row, with the ratio."""
    from matplotlib.figure import Figure  # 0.2 s that only plots need

    names, rows = report.columns(), report.rows
    measures: list[tuple[str, Measure]] = [("time (ms, logarithmic)", _plotted_milliseconds)]
    if _measured(report):
        label = "peak memory in addition to input and results (MB, logarithmic)"
        measures.append((label, _plotted_megabytes))
    figure = Figure(
        figsize=(5.2 * len(measures) + 1.4, 1.8 + 0.24 * len(rows) * (len(names) + 1)),
        layout="constrained",
    )
    for number, (label, measure) in enumerate(measures):
        axes = figure.add_subplot(1, len(measures), number + 1)
        _draw_bars(axes, rows, names, measure, with_ratio=number == 0)
        axes.set(xscale="log", xlabel=label)
        axes.margins(x=0.25)
        values = [v for row in rows for name in names if (v := measure(row, name)) is not None]
        if values:
            # From a power of ten, so that the smallest value does not determine all lengths.
            axes.set_xlim(left=10.0 ** math.floor(math.log10(min(values)) - 0.3))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        cases = [row.case if number == 0 else "" for row in rows]
        axes.set_yticks(range(len(rows)), cases)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(names), frameon=False)
    machine = report.machine
    where = machine["cpu"] if machine["device"] == "cpu" else machine["device"]
    title = textwrap.fill(report.suite.title, int(14 * figure.get_figwidth()))
    figure.suptitle(f"{title}\n{where}, {_threads(machine)}", fontsize=8)
    with atomic_write(report.plot) as temporary:
        figure.savefig(temporary, dpi=150)


def _draw_bars(
    axes: Any, rows: list[Row], names: list[str], measure: Measure, *, with_ratio: bool
) -> None:
    for i, name in enumerate(names):
        drawn = [(r, v) for r, row in enumerate(rows) if (v := measure(row, name)) is not None]
        bars = axes.barh(
            [r + (i - (len(names) - 1) / 2) * 0.8 / len(names) for r, _ in drawn],
            [v for _, v in drawn],
            0.8 / len(names),
            label=name,
            color=_COLOURS.get(name, _OTHER_COLOUR),
        )
        texts = []
        for r, v in drawn:
            ratio = rows[r].ratio() if with_ratio and name == "ours" else None
            texts.append(_short(v) + (f"  ({ratio:.1f}x)" if ratio else ""))
        axes.bar_label(bars, texts, padding=2, fontsize=7)


def _plotted_milliseconds(row: Row, name: str) -> float | None:
    seconds = row.seconds(name)
    return None if seconds is None else 1e3 * seconds


def _plotted_megabytes(row: Row, name: str) -> float | None:
    # At least 0.1, since a logarithmic axis has no 0.
    return max(row.bytes[name] / 1e6, 0.1) if name in row.bytes else None


def _threads(machine: dict[str, Any]) -> str:
    return "1 CPU thread" if machine["threads"] == 1 else f"{machine['threads']} CPU threads"


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
