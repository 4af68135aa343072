"""A benchmark's report as a table and as a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from wsss_fast.run import atomic_write

if TYPE_CHECKING:
    from wsss_fast.bench.harness import Report, Row

_INK = {"ours": "#1b6ca8", "eager": "#b8b8b8", "compiled": "#7fb069"}
_OTHER_INK = "#e07a3f"


def table(report: Report) -> Table:
    """Milliseconds and megabytes of every contender, the ratio, and how far ours is from the judge's results."""
    names, machine, sizes = report.columns(), report.machine, _measured(report)
    info = machine["info"]
    where = machine["cpu"] if machine["device"] == "cpu" else f"{machine['device']}, {machine['cpu']}"
    caption = (f"{where}; {_threads(machine)}; backend {info['backend']}, simd {info['simd']}, torch {info['torch']}; "
               f"{machine['date']}. Medians." + (" MB: peak of one call beyond its input and results." if sizes else ""))
    out = Table(title=report.suite.title, caption="\n".join([caption, *report.suite.notes]), title_justify="left",
                caption_justify="left", box=box.SIMPLE_HEAD)
    out.add_column("case", no_wrap=True)
    heads = [f"{n}\nms" for n in names] + ["ratio"] + [f"{n}\nMB" for n in sizes]
    for head in (*heads, *(f.replace(" ", "\n", 1) for f in report.suite.limits)):
        out.add_column(head, justify="right", no_wrap=True)
    for row in report.rows:
        out.add_row(row.case, *_cells(report, row, names, sizes))
    return out


def _measured(report: Report) -> list[str]:
    """Contenders whose memory is known in some row."""
    return [name for name in report.columns() if any(name in row.bytes for row in report.rows)]


def _cells(report: Report, row: Row, names: list[str], sizes: list[str]) -> list[str]:
    seconds = [row.seconds(n) for n in names]
    times = ["-" if s is None else f"{1e3 * s:.1f}" for s in seconds]
    ratio = row.ratio()
    said = "WRONG" if "ours" in row.problems else "-" if ratio is None else f"{ratio:.1f}x"
    memory = [f"{row.bytes[n] / 1e6:.1f}" if n in row.bytes else "-" for n in sizes]
    figures = row.figures.get("ours", {})
    return [*times, said, *memory, *(f"{figures[f]:.1e}" if f in figures else "-" for f in report.suite.limits)]


def plot(report: Report) -> None:
    """Write `report.plot`: bars of time and of peak memory for every row, logarithmic, the ratio behind ours."""
    from matplotlib.figure import Figure  # 0.2 s of import that nothing else here needs

    names, rows = report.columns(), report.rows
    measures = [("time (ms, logarithmic)", lambda row, n: None if row.seconds(n) is None else 1e3 * row.seconds(n))]
    if _measured(report):
        measures.append(("peak memory beyond input and results (MB, logarithmic)", lambda row, n: _megabytes(row, n)))
    figure = Figure(figsize=(5.2 * len(measures) + 1.4, 0.9 + 0.24 * len(rows) * (len(names) + 1)), layout="constrained")
    for place, (label, value) in enumerate(measures):
        axes = figure.add_subplot(1, len(measures), place + 1)
        for i, name in enumerate(names):
            drawn = [(r, value(row, name)) for r, row in enumerate(rows) if value(row, name) is not None]
            where = [r + (i - (len(names) - 1) / 2) * 0.8 / len(names) for r, _ in drawn]
            bars = axes.barh(where, [v for _, v in drawn], 0.8 / len(names), label=name, color=_INK.get(name, _OTHER_INK))
            ratios = [rows[r].ratio() if name == "ours" and place == 0 else None for r, _ in drawn]
            axes.bar_label(bars, [_number(v) + (f"  ({x:.1f}x)" if x else "") for (_, v), x in zip(drawn, ratios, strict=True)],
                           padding=2, fontsize=7)
        axes.set(xscale="log", xlabel=label)
        axes.margins(x=0.25)
        axes.set_yticks(range(len(rows)), [row.case for row in rows] if place == 0 else [""] * len(rows))
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(names), frameon=False)
    machine = report.machine
    where = machine["cpu"] if machine["device"] == "cpu" else machine["device"]
    figure.suptitle(f"{report.suite.title}\n{where}, {_threads(machine)}", fontsize=8)
    with atomic_write(report.plot) as temporary:
        figure.savefig(temporary, dpi=150)


def _threads(machine: dict[str, Any]) -> str:
    return "1 CPU thread" if machine["threads"] == 1 else f"{machine['threads']} CPU threads"


def _megabytes(row: Row, name: str) -> float | None:
    return max(row.bytes[name] / 1e6, 0.1) if name in row.bytes else None  # a logarithmic axis has no 0


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
