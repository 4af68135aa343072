"""Reports of runs: report.html, and the stage table as text.

The page has the protocol, the stage table, curves and a grid of pictures, and loads nothing from
elsewhere.
"""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import distributed
from wsss_fast.engine.files import atomic_write
from wsss_fast.engine.progress import duration, rate
from wsss_fast.engine.run_folder import read_records
from wsss_fast.evaluation import energy_table, protocol_text, stage_times
from wsss_fast.evaluation.html_page import page, table
from wsss_fast.evaluation.pictures import (
    Panel,
    colours,
    heat,
    labels,
    legend,
    over,
    photo,
    pick,
    picture_grid,
    salient,
    sheet,
    truth,
    truth_column,
)
from wsss_fast.readers.label_maps import IGNORE

__all__ = [
    "Panel",
    "colours",
    "heat",
    "labels",
    "legend",
    "lines",
    "over",
    "photo",
    "pick",
    "picture_grid",
    "rows",
    "salient",
    "sheet",
    "table",
    "text_table",
    "truth",
    "truth_column",
    "write",
]

_INK = {"CAM": "#b45309", "AMN": "#1d4ed8", "EPS": "#1d4ed8"}


def rows(out: Path) -> list[dict[str, str]]:
    """The stage table: one row per record of metrics.json, text by column.

    Columns without any entry are left out: mIoU where there are no true masks.
    """
    found = [
        {
            "stage": name,
            "mIoU at fixed": _percent(values.get("miou_at_fixed"))
            + _at(values.get("fixed_threshold")),
            "mIoU at best": _percent(values.get("miou")) + _at(values.get("best_threshold")),
            "also": _also(values),
            "time": _time(values.get("seconds")),
            "speed": rate(values.get("images_per_second") or 0.0, 1.0, "img"),
        }
        for name, values in read_records(out).items()
    ]
    empty = {column for column in (found[0] if found else ()) if not any(r[column] for r in found)}
    return [{column: text for column, text in row.items() if column not in empty} for row in found]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _time(seconds: float | None) -> str:
    if not seconds:
        return ""
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _at(threshold: float | None) -> str:
    return "" if threshold is None else f" @ {threshold:.2f}"


def _also(values: Mapping[str, Any]) -> str:
    parts = [
        f"mAP {values['mean_ap']:.3f}" if values.get("mean_ap") is not None else "",
        f"AP50 {100 * values['ap50']:.1f}" if values.get("ap50") is not None else "",
        f"{100 * values['coverage']:.0f} % labelled" if values.get("coverage") is not None else "",
        f"{_percent(values['miou_as_background'])} with 255 as background"
        if values.get("miou_as_background") is not None
        else "",
        f"energy loss {values['energy']:g}" if values.get("energy") else "",
        *(
            f"{pair} confused {_number(ratio)}"
            for pair, ratio in values.get("confusion_ratios", {}).items()
        ),
    ]
    return ", ".join(p for p in parts if p)


def text_table(out: Path) -> Table:
    """The stage table for a terminal."""
    content = rows(out)
    scored = any("mIoU" in column for column in (content[0] if content else ()))
    title = f"mIoU (%) of the stages of {out}" if scored else f"stages of {out}"
    table = Table(title=Text(title), title_justify="left")
    for column in content[0] if content else ():
        table.add_column(
            column,
            justify="left" if column in ("stage", "also") else "right",
            no_wrap=column == "stage",
        )
    for row in content:
        table.add_row(*map(Text, row.values()))  # Text: rich must not read names as markup
    return table


def write(
    out: Path,
    data: Dataset,
    panels: Mapping[str, Panel],
    *,
    title: str,
    curves: Mapping[str, str],
    pictures: int = 18,
    lead: Sequence[str] = (),
    sections: Sequence[str] = (),
    ids: Sequence[str] | None = None,
) -> Path:
    """Write `<out>/report.html` from metrics.json and the artefacts.

    Collective: the main process writes.

    Args:
        out: run folder.
        data: images of the run.
        panels: column title -> function from an id to a picture.
        title: title of the page.
        curves: name in the plot -> record whose threshold curve is drawn.
        pictures: number of rows of the grid.
        lead: introduction above the stage table, as escaped HTML.
        sections: more sections between curves and pictures, as escaped HTML.
        ids: images of the grid; default: evenly spread over the data set.

    Returns:
        Path of the page. It loads nothing from elsewhere, and text that comes from the data is
        escaped.
    """

    def write_page() -> Path:
        chosen = pick(data, pictures) if ids is None else ids
        parts = [
            f"<h1>{html.escape(title)}</h1>",
            f"<p><small>{html.escape(data.name)}, split {html.escape(data.split)}: "
            f"{len(data)} images, {len(data.classes)} classes, {_true_masks(data)}</small></p>",
            protocol_text.html_section(out),
            *lead,
            "<h2>Stages</h2>",
            _stage_table(out),
            _time_table(out),
            _energy_table(out),
            _class_table(out, data),
            _curve_figure(out, curves),
            *sections,
            "<h2>Pictures</h2>",
            _legend(data),
            _grid(data, panels, chosen),
        ]
        with atomic_write(out / "report.html") as temporary:
            temporary.write_text(page(title, parts), encoding="utf-8")
        return out / "report.html"

    return distributed.run_on_main(write_page)


def _true_masks(data: Dataset) -> str:
    if not data.masks:
        return "no true masks, so nothing is scored"
    return f"{len(data.masks)} true masks (used for scores only)"


def _stage_table(out: Path) -> str:
    content = rows(out)
    if not content:
        return ""
    shown = table(list(content[0]), [list(row.values()) for row in content])
    if not any("mIoU" in column for column in content[0]):
        return shown
    return (
        f"{shown}<p><small>mIoU in %, over background and classes, on the images with a true mask. "
        "Fixed: at the threshold of the recipe. Best: at the threshold with the highest mIoU. "
        "+crf: after CRF refinement of the argmax.</small></p>"
    )


def _time_table(out: Path) -> str:
    times = stage_times.of_run(out)
    if not any(time.host is not None for time in times):
        return ""
    shown = table(*stage_times.rows(times))
    note = f"<p><small>{html.escape(stage_times.EXPLANATION)}</small></p>"
    return f"<h2>Where the time goes</h2>{shown}{note}"


def _energy_table(out: Path) -> str:
    head, body = energy_table.rows(out)
    if not body:
        return ""
    note = f"<p><small>{html.escape(energy_table.EXPLANATION)}</small></p>"
    return f"<h2>Energy loss</h2>{table(head, body)}{note}"


def _class_table(out: Path, data: Dataset) -> str:
    records = {name: r["iou"] for name, r in read_records(out).items() if r.get("iou")}
    if not records:
        return ""
    body = [
        [name, *(_percent(iou.get(name)) for iou in records.values())]
        for name in ("background", *data.classes)
    ]
    return f"<h2>IoU of each class (%)</h2>{table(['', *records], body)}"


def _curve_figure(out: Path, curves: Mapping[str, str]) -> str:
    records = read_records(out)
    drawn = {
        name: records[key]["curve"]
        for name, key in curves.items()
        if records.get(key, {}).get("curve")
    }
    if not drawn:
        return ""
    points = {
        name: list(zip(curve["thresholds"], curve["miou"], strict=True))
        for name, curve in drawn.items()
    }
    return (
        "<h2>mIoU over the threshold</h2>"
        "<p>The flatter a curve, the less the choice of the threshold matters.</p>"
        + lines(points, "background threshold", "mIoU (%)")
    )


def lines(curves: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str) -> str:
    """HTML of a plot of shares (0..1, shown in %) over `x`: a line per name, its maximum marked."""
    import matplotlib  # imported here, since it takes 0.2 s that only a report needs
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        places, shares = np.array(points).T
        best = int(shares.argmax())
        (line,) = axes.plot(places, 100 * shares, label=name, color=_INK.get(name))
        axes.plot(places[best], 100 * shares[best], "o", color=line.get_color())
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axes.legend(frameon=False)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "wsss-fast", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawing = buffer.getvalue()
    return f"<figure>{drawing[drawing.index('<svg') :]}</figure>"


def _legend(data: Dataset) -> str:
    return legend([*enumerate(data.classes, 1), (IGNORE, "255: unsure")])


def _grid(data: Dataset, panels: Mapping[str, Panel], ids: Sequence[str]) -> str:
    captions = {
        id: ", ".join(data.classes[c] for c in np.flatnonzero(data.tags_of(id))) for id in ids
    }
    return picture_grid(panels, captions)
