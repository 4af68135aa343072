"""A benchmark's report as tables and as a plot."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from wsss_fast.engine.files import atomic_write

if TYPE_CHECKING:
    from wsss_fast.bench.harness import Report, Row

_INK = {"ours": "#1b6ca8", "eager": "#b8b8b8", "compiled": "#7fb069"}
_OTHER_INK = "#e07a3f"


# Of every benchmark's help.
COLUMNS = """Times are medians in ms. ratio: the baseline's time over ours; the baseline is the last of the implementations, whose
results are the expected ones. GFLOP/s or GB/s: the least work that any implementation has to do over our time, beside what
a plain matrix product of that size, or a plain copy, reached right after. The last columns: how far our results were off,
at worst. MB: peak memory of one call beyond its input and its results; less: eager's over ours."""


def parts(report: Report) -> list[str | Table]:
    """What is printed of a report: title, times, memory where it was measured, and what a reader has to know."""
    machine, info = report.machine, report.machine["info"]
    where = (
        machine["cpu"] if machine["device"] == "cpu" else f"{machine['device']}, {machine['cpu']}"
    )
    problems = [
        f"{row.case}: {name}: {problem}"
        for row in report.rows
        for name, problem in (*row.problems.items(), *row.unmeasured.items())
    ]
    # Two threads wait for each other: what else computes meanwhile costs more than its share.
    load = "" if machine["load"] is None else f"load {machine['load']} before; "
    facts = (
        f"{where}; {_threads(machine)}; {load}backend {info['backend']}, simd {info['simd']}, torch {info['torch']}; "
        f"{machine['date']}"
    )
    tables = [times(report), memory(report)] if _measured(report) else [times(report)]
    return [report.suite.title, *tables, facts, *report.notes, *problems]


def _grid(heads: list[str], rows: list[list[str]]) -> Table:
    """A table whose first column is text, as narrow as it can be."""
    out = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for place, head in enumerate(heads):
        out.add_column(head, justify="right" if place else "left", no_wrap=True, vertical="bottom")
    for row in rows:
        out.add_row(*row)
    return out


def times(report: Report) -> Table:
    """Milliseconds of every implementation, the ratio, the rate beside the roofline's, and how far ours is from the baseline."""
    names, limits = report.columns(), list(report.suite.limits)
    rooflines = [row.roofline for row in report.rows if row.roofline]
    heads = ["case", *(f"{n}\nms" for n in names), "\nratio"]
    heads += [f"{rooflines[0]['unit']}\nours", f"\n{rooflines[0]['plain']}"] if rooflines else []
    return _grid(
        [*heads, *(limit.replace(" ", "\n", 1) for limit in limits)],
        [[row.case, *_cells(row, names, limits, bool(rooflines))] for row in report.rows],
    )


def _cells(row: Row, names: list[str], limits: list[str], rooflines: bool) -> list[str]:
    ratio, rate, figures = row.ratio(), row.rate(), row.figures.get("ours", {})
    said = "WRONG" if "ours" in row.problems else "-" if ratio is None else f"{ratio:.1f}x"
    rates = (
        ["-" if rate is None else _short(rate), _short(row.roofline["plain_rate"])]
        if row.roofline
        else ["-", "-"]
    )
    milliseconds = [
        "failed"
        if n in row.problems and n != "ours"
        else "-"
        if (s := row.seconds(n)) is None
        else _short(1e3 * s)
        for n in names
    ]
    return [
        *milliseconds,
        said,
        *(rates if rooflines else []),
        *(_scientific(figures[f]) if f in figures else "-" for f in limits),
    ]


def memory(report: Report) -> Table:
    """Megabytes of every implementation, and how much less ours needs than the eager reference."""
    names, rows = _measured(report), []
    for row in report.rows:
        sizes = [
            "failed"
            if n in row.unmeasured
            else _short(row.bytes[n] / 1e6)
            if n in row.bytes
            else "-"
            for n in names
        ]
        pair = row.bytes.get("eager"), row.bytes.get("ours")
        rows.append(
            [row.case, *sizes, "-" if None in pair else f"{pair[0] / max(pair[1], 1e5):.1f}x"]
        )
    return _grid(["case", *(f"{n}\nMB" for n in names), "\nless"], rows)


def _measured(report: Report) -> list[str]:
    """Contenders whose memory is known, or should have been, in some row."""
    return [
        name
        for name in report.columns()
        if any(name in row.bytes or name in row.unmeasured for row in report.rows)
    ]


def _scientific(value: float) -> str:
    """2.1e-05 as 2e-5."""
    if value == 0 or value != value or value == float("inf"):
        return f"{value:g}"
    digits, _, exponent = f"{value:.0e}".partition("e")
    return f"{digits}e{int(exponent)}"


def plot(report: Report) -> None:
    """Write `report.plot`: bars of time and of peak memory for every row, logarithmic, the ratio behind ours."""
    from matplotlib.figure import Figure  # 0.2 s of import that nothing else here needs

    names, rows = report.columns(), report.rows
    measures = [
        (
            "time (ms, logarithmic)",
            lambda row, n: None if row.seconds(n) is None else 1e3 * row.seconds(n),
        )
    ]
    if _measured(report):
        measures.append(
            (
                "peak memory beyond input and results (MB, logarithmic)",
                lambda row, n: _megabytes(row, n),
            )
        )
    figure = Figure(
        figsize=(5.2 * len(measures) + 1.4, 1.8 + 0.24 * len(rows) * (len(names) + 1)),
        layout="constrained",
    )
    for place, (label, value) in enumerate(measures):
        axes = figure.add_subplot(1, len(measures), place + 1)
        for i, name in enumerate(names):
            drawn = [
                (r, value(row, name)) for r, row in enumerate(rows) if value(row, name) is not None
            ]
            where = [r + (i - (len(names) - 1) / 2) * 0.8 / len(names) for r, _ in drawn]
            bars = axes.barh(
                where,
                [v for _, v in drawn],
                0.8 / len(names),
                label=name,
                color=_INK.get(name, _OTHER_INK),
            )
            ratios = [rows[r].ratio() if name == "ours" and place == 0 else None for r, _ in drawn]
            axes.bar_label(
                bars,
                [
                    _short(v) + (f"  ({x:.1f}x)" if x else "")
                    for (_, v), x in zip(drawn, ratios, strict=True)
                ],
                padding=2,
                fontsize=7,
            )
        axes.set(xscale="log", xlabel=label)
        axes.margins(x=0.25)
        values = [
            value(row, name) for row in rows for name in names if value(row, name) is not None
        ]
        if (
            values
        ):  # bars from a whole power of ten on, or their lengths would depend on the least of them
            axes.set_xlim(left=10.0 ** math.floor(math.log10(min(values)) - 0.3))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set_yticks(
            range(len(rows)), [row.case for row in rows] if place == 0 else [""] * len(rows)
        )
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


def _threads(machine: dict[str, Any]) -> str:
    return "1 CPU thread" if machine["threads"] == 1 else f"{machine['threads']} CPU threads"


def _megabytes(row: Row, name: str) -> float | None:
    return (
        max(row.bytes[name] / 1e6, 0.1) if name in row.bytes else None
    )  # a logarithmic axis has no 0


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
