"""Reports of runs: report.html, and the stage table as text.

The page has the stage table, curves and a grid of pictures, and loads nothing from elsewhere.
"""

from __future__ import annotations

import base64
import colorsys
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table
from rich.text import Text

from wsss_fast.data.dataset import Dataset
from wsss_fast.data.transforms import resize_image
from wsss_fast.engine import distributed
from wsss_fast.engine.files import atomic_write
from wsss_fast.engine.progress import duration, rate
from wsss_fast.engine.run_folder import read_records
from wsss_fast.evaluation import energy_table, stage_times
from wsss_fast.evaluation.html_page import page, table
from wsss_fast.maps import load_maps
from wsss_fast.readers.label_maps import IGNORE, read_labels

Panel = Callable[[str], np.ndarray]  # id -> uint8 RGB [H, W, 3]

# Pixels; the pictures of a wider row are smaller. With the names of the images beside them, a row
# fits into a window of 1200.
_PICTURE_HEIGHT, _GRID_WIDTH = 144, 960
_INK = {"CAM": "#b45309", "AMN": "#1d4ed8", "EPS": "#1d4ed8"}


def colours() -> np.ndarray:
    """Colour of each label in pictures, uint8 [256, 3]; background is black, 255 light gray.

    Hues are a golden ratio apart, so that successive labels differ for any number of classes. Files
    keep VOC's palette, whose first colours are too dark over a photo.
    """
    hues = [
        colorsys.hsv_to_rgb(
            (0.02 + 0.618034 * i) % 1, 0.65 + 0.25 * (i % 2), 1.0 - 0.2 * (i % 3 == 2)
        )
        for i in range(254)
    ]
    return (np.array([(0, 0, 0), *hues, (0.82, 0.82, 0.82)]) * 255).round().astype(np.uint8)


def photo(data: Dataset) -> Panel:
    """The image itself."""
    return data.image


def truth(data: Dataset) -> Panel:
    """The true mask over the image, or an empty picture without one."""

    def draw(id: str) -> np.ndarray:
        if id not in data.masks:
            return np.full_like(data.image(id), 245)
        return over(data.image(id), data.mask(id))

    return draw


def truth_column(data: Dataset) -> dict[str, Panel]:
    """The column of the true masks, if there are any."""
    return {"truth": truth(data)} if data.masks else {}


def labels(data: Dataset, folder: Path) -> Panel:
    """The label map in `folder` over the image; 255 is light gray."""
    return lambda id: over(data.image(id), read_labels(folder / f"{id}.png", len(data.classes)))


def salient(data: Dataset) -> Panel:
    """The saliency map at the size of its photo, white where something is salient."""
    return lambda id: resize_image(data.saliency_levels(id), *data.size(id))


def heat(data: Dataset, folder: Path) -> Panel:
    """Class maps over the image: the colour of a pixel's best class, as strong as its score."""

    def draw(id: str) -> np.ndarray:
        image = data.image(id).astype(float)
        maps = load_maps(folder, id).foreground()
        if not len(maps.keys):
            return (image * 0.35).astype(np.uint8)
        scores = maps.at_size(*image.shape[:2])
        strength = np.clip(scores.max(axis=0), 0, 1)[..., None]
        best = colours()[maps.keys[scores.argmax(axis=0)]]
        return (image * 0.35 * (1 - strength) + best * strength).astype(np.uint8)

    return draw


def over(image: np.ndarray, label_map: np.ndarray) -> np.ndarray:
    """Labels [H, W] in colour over a dimmed image [H, W, 3]."""
    colour = colours()[label_map].astype(float)
    weight = np.where(label_map > 0, 0.8, 0.0)[..., None]
    return (image * 0.35 * (1 - weight) + colour * weight).astype(np.uint8)


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


def pick(data: Dataset, count: int) -> list[str]:
    """Up to `count` ids, evenly spread over the images with a mask (all images if none has one)."""
    ids = [i for i in data.ids if i in data.masks] or list(data.ids)
    places = np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int)
    return [ids[p] for p in places]


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


def sheet(
    panels: Mapping[str, Panel], ids: Sequence[str], path: Path, height: int = 160, gap: int = 4
) -> None:
    """Write the grid as one PNG without text, for a README: a row per id, a column per panel."""
    grid = [[_resized(panel(id), height) for panel in panels.values()] for id in ids]
    widths = [max(row[c].width for row in grid) for c in range(len(panels))]
    canvas = Image.new(
        "RGB", (sum(widths) + gap * (len(widths) - 1), len(grid) * (height + gap) - gap), "white"
    )
    for r, row in enumerate(grid):
        for c, picture in enumerate(row):
            canvas.paste(picture, (sum(widths[:c]) + gap * c, r * (height + gap)))
    with atomic_write(path) as temporary:
        canvas.save(temporary, optimize=True)


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


def legend(names: Sequence[tuple[int, str]]) -> str:
    """HTML that names the colours of labels."""
    palette = colours()
    spans = [
        f"<span><i style='background:rgb({','.join(map(str, palette[label]))})'></i>"
        f"{html.escape(name)}</span>"
        for label, name in names
    ]
    return f"<p class=key>{''.join(spans)}</p>"


def _grid(data: Dataset, panels: Mapping[str, Panel], ids: Sequence[str]) -> str:
    captions = {
        id: ", ".join(data.classes[c] for c in np.flatnonzero(data.tags_of(id))) for id in ids
    }
    return picture_grid(panels, captions)


def picture_grid(panels: Mapping[str, Panel], captions: Mapping[str, str]) -> str:
    """HTML of a table of pictures: a row per id, with its caption, and a column per panel."""
    head = "<th></th>" + "".join(f"<th>{html.escape(name)}</th>" for name in panels)
    lines, widest = [], _GRID_WIDTH // len(panels)
    for id, caption in captions.items():
        cells = "".join(
            f"<td>{_inline(panel(id), f'{name} of {id}', widest)}</td>"
            for name, panel in panels.items()
        )
        lines.append(f"<tr><td>{html.escape(id)}<br>{html.escape(caption)}</td>{cells}</tr>")
    return f"<div class=wide><table class=grid><tr>{head}</tr>{''.join(lines)}</table></div>"


def _resized(picture: np.ndarray, height: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(picture))
    return image.resize(
        (max(1, round(image.width * height / image.height)), height), Image.Resampling.LANCZOS
    )


def _inline(picture: np.ndarray, alt: str, widest: int) -> str:
    height, width = picture.shape[:2]
    image = _resized(picture, max(1, min(_PICTURE_HEIGHT, height * widest // width)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    alt = html.escape(alt, quote=True)
    return f"<img width={image.width} height={image.height} alt='{alt}' src='{source}'>"
