"""Sphinx extension: `generated/recipes.inc`, the published rows, written from all `PRESETS`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands import code, prose, write

from wsss_fast import seg
from wsss_fast.cli.catalog import COMMANDS
from wsss_fast.presets import Preset, Published, Row, Start
from wsss_fast.seg import Recipe
from wsss_fast.stages.energy import Energy

if TYPE_CHECKING:  # the tests write the page without Sphinx
    from sphinx.application import Sphinx

# What changes speed only.
SPEED = {"compile", "prefer_bf16", "infer_batch"}
OPTIONAL = {"jitter", "hue", "hsv"}  # shown where they are not 0


def tables() -> dict[tuple[str, ...], dict[str, Preset[Any]]]:
    """The presets of each group of commands that share them, by the names of the commands."""
    found: dict[int, tuple[list[str], dict[str, Preset[Any]]]] = {}
    for name, command in COMMANDS.items():
        if command.presets is not None:
            presets = command.table(command.presets)
            found.setdefault(id(presets), ([], dict(presets)))[0].append(name)
    return {tuple(names): presets for names, presets in found.values()}


def published(presets: dict[str, Preset[Any]]) -> dict[str, tuple[Preset[Any], Row]]:
    """The presets that have a row, each under its first name."""
    seen: dict[int, str] = {}
    for name, preset in presets.items():
        seen.setdefault(id(preset), name)
    return {
        name: (preset, preset.row)
        for name, preset in presets.items()
        if preset.row is not None and seen[id(preset)] == name
    }


def value(given: Any) -> str:
    """A number or a choice as it is written in Python, without the module of a function."""
    if isinstance(given, tuple):
        return f"({', '.join(map(value, given))})"
    if callable(given) and not dataclasses.is_dataclass(given):
        return given.__name__
    return repr(given)


def parts(numbers: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every dataclass in a recipe or pipeline: its place, and its own numbers."""
    if name and name.rpartition(".")[2] == "seg" and isinstance(numbers, Recipe):
        known = [key for key, one in seg.PRESETS.items() if one.numbers == numbers]
        if known:
            yield name, f"[{known[0]}](#{known[0]})"
            return
    own, inner = [], []
    for field in dataclasses.fields(numbers):
        given = getattr(numbers, field.name)
        if isinstance(given, Energy) and not given.on:
            continue
        if dataclasses.is_dataclass(given):
            inner.append((given, f"{name}.{field.name}" if name else field.name))
        elif (
            field.name not in SPEED and given is not None and (given or field.name not in OPTIONAL)
        ):
            own.append(code(f"{field.name}={value(given)}"))
    kind = type(numbers).__name__
    what = [kind] if name.endswith(("optimizer", "schedule")) else []
    if own or what:
        yield name, ": ".join([*what, *filter(None, [", ".join(own)])])
    for given, place in inner:
        yield from parts(given, place)


def start_text(start: Start) -> str:
    option = code(f"--{start.argument.replace('_', '-')}")
    doubt = "" if start.sure else "; *not named by the source*"
    return f"- {option}: {prose(start.what)} ({prose(start.where)}){doubt}"


def published_text(one: Published) -> str:
    doubt = "" if one.sure else "; *not seen there*"
    return f"| {prose(one.what)} | {one.value:g} | {prose(one.source)}{doubt} |"


def section(name: str, preset: Preset[Any], row: Row) -> list[str]:
    """The text of one row."""
    lines = [
        f"### {name}",
        "",
        f"Source: {prose(row.source)}. Backbone {code(preset.backbone)}.",
        "",
    ]
    lists = f"trained on {code(row.split)}, maps and masks scored on {code(row.score_on)}"
    if row.val_split is not None:
        lists += f", segmentation on {code(row.val_split)}"
    lines += [f"Data: {row.layout.upper()}, {lists}; true masks {code(row.truth)}.", ""]
    if row.starts:
        lines += ["Starts from:", "", *map(start_text, row.starts), ""]
    if row.published:
        lines += ["| measured | in % | printed in |", "|---|---|---|"]
        lines += [*map(published_text, row.published), ""]
    if row.unsure:
        lines += ["Unsure:", "", *(f"- {prose(text)}" for text in row.unsure), ""]
    lines += ["| part | numbers |", "|---|---|"]
    lines += [f"| {code(place)} | {text} |" for place, text in parts(preset.numbers)]
    return [*lines, ""]


def overview(rows: dict[str, tuple[Preset[Recipe], Row]]) -> list[str]:
    """Segmentation recipes side by side."""
    lines = [
        "| preset | network | start | updates x images | rate | scales | crop | loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (preset, row) in rows.items():
        one, augment = preset.numbers, preset.numbers.augment
        first, *_, last = augment.factors or augment.scale or (1.0, 1.0)
        kind = {"none": "CE"}.get(one.balance, f"balanced, {one.balance}")
        start = row.starts[0].what.partition(", ")[0]
        cells = [
            f"[{name}](#{name})",
            f"{preset.backbone}, {one.head}",
            prose(start),
            f"{one.updates:,} x {one.batch_size}",
            f"{one.lr:g}",
            f"{first:g}-{last:g}",
            str(augment.crop),
            kind,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def page() -> str:
    lines: list[str] = []
    for names, presets in tables().items():
        rows = published(presets)
        if not rows:
            continue
        title = " and ".join(code(f"wsss-fast {name}") for name in names)
        lines += [f"## {title}", ""]
        if "seg train" in names:
            lines += overview(rows)
        for name, (preset, row) in rows.items():
            lines += section(name, preset, row)
    return "\n".join(lines)


def write_page(app: Sphinx) -> None:
    write(Path(app.srcdir) / "generated/recipes.inc", page())


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_page)
    return {"parallel_read_safe": True}
