"""What `--help` says of presets: how a published result was made, and what no source settles."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from wsss_fast import seg
from wsss_fast.command import Command
from wsss_fast.pipeline import network_row, with_seg_preset
from wsss_fast.presets import Preset, Published, Row, Start
from wsss_fast.runs import resolve_preset

_LAYOUTS = {"voc": "VOC12", "coco": "COCO14"}


def with_presets(
    text: str,
    command: Command,
    function: Callable[..., Any],
    names: Mapping[str, str | None],
) -> str:
    """A docstring with all about the presets that are given, or with one line for each there is.

    Args:
        text: docstring, with its arguments.
        command: the command.
        function: of the command.
        names: given names by option.
    """
    tables = {"preset": command.table(command.presets), "seg_preset": seg.PRESETS}
    parts, parameters = [], inspect.signature(function).parameters
    for option in [name for name in parameters if tables.get(name)]:
        name, presets = names[option], tables[option]
        if name is None or name not in presets:
            parts.append(_listing(presets, option))
        elif option == "preset":
            network = names["seg_preset"] if "seg_preset" in parameters else None
            parts.append(_describe_pipeline(command.name, presets, name, network))
        else:
            parts.append(_describe(name, _network(presets[name])))
    summary, title, arguments = text.partition("\nArgs:\n")
    return "\n\n".join([summary.rstrip(), *parts, title.lstrip() + arguments])


def _describe_pipeline(
    command: str, presets: Mapping[str, Preset[Any]], name: str, network: str | None
) -> str:
    """A preset as text, with the segmentation recipe of another name if one is given."""
    found = resolve_preset(command, presets, {}, name, None, None)
    chosen = with_seg_preset(command, found, network)
    assert chosen.label is not None and chosen.preset is not None  # since the preset is known
    return _describe(chosen.label, chosen.preset)


def _describe(name: str, preset: Preset[Any]) -> str:
    """A preset as text."""
    lines = [f"Preset {name} (backbone {preset.backbone})"]
    if preset.row is None:
        lines.append("- nothing was published with it")
    else:
        lines += [f"- {text}" for text in _facts(preset.row)]
    return "\n".join(lines)


def _network(preset: Preset[Any]) -> Preset[Any]:
    """A segmentation preset with the names of a pipeline's arguments."""
    return dataclasses.replace(preset, row=network_row(preset.row))


def _listing(presets: Mapping[str, Preset[Any]], parameter: str) -> str:
    """All presets that a parameter takes the name of, one per line."""
    first: dict[int, str] = {}
    option = f"--{parameter.replace('_', '-')}"
    lines = [f"Values of {option}, which {option} NAME --help shows with their numbers"]
    for name, preset in presets.items():
        same = first.setdefault(id(preset), name)
        lines.append(f"- {name}: {_line(preset) if same == name else f'the same as {same}'}")
    return "\n".join(lines)


def _facts(row: Row) -> Iterator[str]:
    yield f"source: {row.source}"
    yield f"{_LAYOUTS[row.layout]}: trained on {row.split}; maps and masks scored on {row.score_on}"
    if row.val_split is not None:
        yield f"the segmentation network predicts {row.val_split}"
    yield f"true masks: {row.truth}"
    yield from (_start(start) for start in row.starts)
    yield from (_published(one) for one in row.published)
    yield from (f"unsure: {text}" for text in row.unsure)


def _start(start: Start) -> str:
    option = start.argument.replace("_", "-")
    return f"--{option}: {start.what} ({start.where}){'' if start.sure else ', unsure'}"


def _published(one: Published) -> str:
    return f"published: {one.value:g} {one.what} ({one.source}){'' if one.sure else ', unsure'}"


def _line(preset: Preset[Any]) -> str:
    """A preset in one line."""
    row = preset.row
    if row is None:
        return f"backbone {preset.backbone}, nothing was published with it"
    sure = [f"{one.value:g} {one.what}" for one in row.published if one.sure]
    unsure = [f"{one.value:g} {one.what} (unsure)" for one in row.published]
    scores = "; ".join(sure or unsure)
    text = f"backbone {preset.backbone}, {_LAYOUTS[row.layout]} {row.split}"
    return f"{text}; published: {scores}" if scores else text
