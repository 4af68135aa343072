"""The report of a refinement: refine.html, with what changed and pictures of it."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wsss_fast.engine.files import atomic_write
from wsss_fast.evaluation.changes import Changes
from wsss_fast.evaluation.html_page import page, table
from wsss_fast.evaluation.metrics import Metrics
from wsss_fast.evaluation.report import Panel, legend, over, picture_grid
from wsss_fast.readers.label_maps import IGNORE

_PICTURES, _LISTED = 8, 12


@dataclasses.dataclass(frozen=True)
class Shown:
    """What the page says of a refinement.

    Attributes:
        method: its name, such as "PAR".
        parameters: its numbers, by name.
        seconds: per map, or None if no map was refined by this call.
        changes: what it changed.
        names: of labels, by label.
    """

    method: str
    parameters: Mapping[str, object]
    seconds: float | None
    changes: Changes
    names: Mapping[int, str]


def write(
    path: Path,
    shown: Shown,
    photo: Panel,
    before: Panel,
    after: Panel,
    truth: Panel | None,
) -> None:
    """Write the page.

    Args:
        path: file to write.
        shown: the figures.
        photo: name of a map -> its photo, uint8 RGB [H, W, 3].
        before: -> its labels before, uint8 [H, W].
        after: -> its labels after.
        truth: -> its true labels, or None if there are no true masks.
    """
    changes = shown.changes
    chosen = _chosen(changes)

    def coloured(labels: Panel) -> Panel:
        return lambda name: over(photo(name), labels(name))

    def changed(name: str) -> np.ndarray:
        differs = before(name) != after(name)
        return over(photo(name), np.where(differs, np.uint8(IGNORE), np.uint8(0)))

    panels = {"photo": photo, "before": coloured(before), "after": coloured(after)}
    panels |= {"changed pixels": changed} | ({} if truth is None else {"truth": coloured(truth)})
    captions = {name: f"{_percent(changes.changed[name])} changed" for name in chosen}
    labels = set().union(*(np.unique(side(name)) for name in chosen for side in (before, after)))
    named = [(label, _name(shown.names, label)) for label in sorted(labels - {0, IGNORE})]
    title = f"Refinement by {shown.method}"
    numbers = ", ".join(
        f"{name} {_text(value)}" for name, value in shown.parameters.items() if value is not None
    )
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p><small>{html.escape(numbers)}</small></p>",
        "<h2>What changed</h2>",
        table(["", ""], figures(shown)),
        _class_table(changes.before, changes.after),
        "<h2>Most changed maps</h2>",
        table(["map", "changed pixels"], _listed(changes)),
        "<h2>Pictures</h2>",
        "<p><small>The maps that changed most, and others in equal steps.</small></p>",
        legend([*named, (IGNORE, "unsure; in the fourth column: changed")]),
        picture_grid(panels, captions) if captions else "",
    ]
    with atomic_write(path) as temporary:
        # Names of files may be bytes that are no text.
        temporary.write_text(page(title, parts), encoding="utf-8", errors="backslashreplace")


def figures(shown: Shown) -> list[list[str]]:
    """What changed, as rows of a table."""
    changes = shown.changes
    rows = [["maps", f"{len(changes.changed)}"]]
    if shown.seconds is not None:
        rows.append(["seconds per map, without reading and writing", f"{shown.seconds:.3f}"])
    rows.append(["pixels whose label changed, mean over the maps", _percent(changes.mean())])
    if changes.filled:
        rows.append(["pixels that were unsure and have a label now", _percent(changes.filled)])
    for name, metrics in (
        ("mIoU before", changes.before),
        ("mIoU after", changes.after),
        ("mIoU after, with pixels that were unsure before", changes.everywhere),
    ):
        if metrics is not None:
            rows.append([f"{name} ({metrics.counted()} with a true mask)", _percent(metrics.miou)])
    return rows


def _chosen(changes: Changes) -> list[str]:
    """Half of the pictures are of the maps that changed most, the others evenly spread."""
    most = changes.most_changed()
    first, rest = most[: _PICTURES // 2], most[_PICTURES // 2 :]
    places = np.linspace(0, len(rest) - 1, min(_PICTURES - len(first), len(rest)))
    return [*first, *(rest[place] for place in places.round().astype(int))]


def _listed(changes: Changes) -> Sequence[Sequence[str]]:
    names = changes.most_changed()[:_LISTED]
    return [[name, _percent(changes.changed[name])] for name in names]


def _class_table(before: Metrics | None, after: Metrics | None) -> str:
    if before is None or after is None:
        return ""
    body = [
        [name, _percent(before.iou[name]), _percent(after.iou[name])]
        for name in before.iou
        if np.isfinite([before.iou[name], after.iou[name]]).any()
    ]
    return f"<h2>IoU of each class</h2>{table(['', 'before', 'after'], body)}"


def _name(names: Mapping[int, str], label: int) -> str:
    return names.get(label, f"label {label}")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if np.isfinite(share) else ""


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
