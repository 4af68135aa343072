"""The protocol of a run as text: in reports, and on the screen after the stage table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsss_fast.engine.run_folder import read_protocol
from wsss_fast.errors import InputError
from wsss_fast.evaluation.html_page import table

_SHOWN = 20  # differences on the screen; the report lists all


def facts(found: Mapping[str, Any], *, most: int | None = None) -> list[tuple[str, str]]:
    """A protocol of metrics.json as (name, text) pairs.

    Args:
        found: of `read_protocol`.
        most: number of differences that are listed; None for all.

    Raises:
        InputError: it is not a protocol.
    """
    try:
        return [(name, _printable(text)) for name, text in _facts(found, most)]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"metrics.json: its protocol is not one of this package ({error!r}); repeat the run"
        ) from None


def _facts(found: Mapping[str, Any], most: int | None) -> Iterator[tuple[str, str]]:
    preset, source = found["preset"], found["source"]
    row = "nothing was published with it" if source is None else source
    yield "run", found["command"]
    yield "preset", "none" if preset is None else f"{preset}: {row}"
    if found["seg_preset"] is not None:
        yield "seg_preset", found["seg_preset"]
    own, last = found["backbone"], found["seg_backbone"]
    yield "networks", own if last is None else f"{own}, segmentation {last}"
    compared = preset is None or source is not None
    yield from image_facts(found["data"], compared)
    if found["validation"] is not None:
        facts = image_facts(found["validation"], compared)
        yield from ((f"val {name}", text) for name, text in facts)
    if found["masks"] is not None:
        yield "trained on", f"masks of {found['masks']}"
    for start in found["starts"]:
        file = "no file" if start["file"] is None else f"{Path(start['file']).name} {start['hash']}"
        yield start["argument"], file + ("" if start["row"] is None else f"; row: {start['row']}")
    if preset is not None:
        yield from _difference_facts(found["differences"], source is not None, most)
    yield from (("unsure", text) for text in found["unsure"])
    for place, crf in found["crf"].items():
        yield "CRF", f"{place}: {_crf_text(crf)}"
    for place, scales in found["scales"].items():
        yield "scales", f"{place.removesuffix('.scales')}: {value(scales)}"
    count = found["processes"]
    yield (
        "computed",
        (
            f"seed {found['seed']}, {count} process{'es' * (count > 1)}, {found['device']}, "
            f"{_precision_text(found['precision'])}, operators {found['backend']}"
        ),
    )
    yield "versions", ", ".join(f"{k} {v}" for k, v in found["versions"].items() if v)


def _difference_facts(
    found: Sequence[Mapping[str, Any]], published: bool, most: int | None
) -> Iterator[tuple[str, str]]:
    owner = "row" if published else "preset"
    if not found:
        yield "differs", f"nothing: every number is the {owner}'s"
    for one in found[:most]:
        yield "differs", f"{one['name']} {value(one['value'])} ({owner} {value(one['preset'])})"
    if most is not None and len(found) > most:
        yield "differs", f"and {len(found) - most} more, which report.html lists"


def image_facts(found: Mapping[str, Any], compared: bool = True) -> Iterator[tuple[str, str]]:
    """A list of images as (name, text) pairs.

    Args:
        found: an `Images` as JSON.
        compared: whether it is compared with the published lists.
    """
    yield "data", f"{found['data']}, list {found['list']}: {value(found['images'])} images"
    if found["scored"]:
        yield (
            "scored",
            (
                f"list {found['score_on']}: {value(found['scored'])} images, true masks of "
                f"{found['truth']}"
            ),
        )
    else:
        yield "scored", "nothing, there are no true masks"
    if compared:
        yield "as published", "yes" if found["is_real"] else f"no: {found['why_not']}"


def _crf_text(found: Mapping[str, Any]) -> str:
    """Parameters of a dense CRF with their units."""
    (near, near_weight), (far, levels, far_weight) = found["gaussian"], found["bilateral"]
    more = "".join(
        f", {name} {value(one)}"
        for name, one in found.items()
        if name not in ("gaussian", "bilateral", "iterations")
    )
    return (
        f"spatial {near:g} pixels (weight {near_weight:g}), appearance {far:g} pixels and "
        f"{levels:g} levels (weight {far_weight:g}), {found['iterations']} iterations{more}"
    )


def _precision_text(found: Mapping[str, str]) -> str:
    kinds = sorted(set(found.values()))
    if len(kinds) < 2:
        return "".join(kinds)
    return ", ".join(
        f"{kind} ({', '.join(place for place, own in found.items() if own == kind)})"
        for kind in kinds
    )


def value(found: Any) -> str:
    """A number, list or part of a recipe of metrics.json as text."""
    if found is None:
        return "none"
    if isinstance(found, bool):
        return str(found)
    if isinstance(found, int):
        return f"{found:,}"
    if isinstance(found, float):
        return f"{found:g}"
    if isinstance(found, list):
        return " ".join(map(value, found)) or "none"
    if isinstance(found, dict):
        inner = ", ".join(f"{k} {value(v)}" for k, v in found.items() if k != "class")
        kind = str(found.get("class", "")).rpartition(".")[2]
        return f"{kind}({inner})"
    return str(found)


def _printable(text: str) -> str:
    """On one line, without control characters and bytes that are not text."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def text_lines(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Facts as lines for a terminal; a repeated name is written once."""
    width = max((len(name) for name, _ in pairs), default=0)
    names = [name for name, _ in pairs]
    shown = ["" if n and name == names[n - 1] else name for n, name in enumerate(names)]
    return [f"  {name:{width}}  {text}" for name, (_, text) in zip(shown, pairs, strict=True)]


def screen(out: Path) -> list[str]:
    """The protocol of a run folder as lines for a terminal; empty if it has none."""
    found = read_protocol(out)
    return [] if found is None else ["protocol", *text_lines(facts(found, most=_SHOWN))]


def html_section(out: Path) -> str:
    """The protocol of a run folder as a section of a page; "" if it has none."""
    found = read_protocol(out)
    if found is None:
        return ""
    return f"<h2>Protocol</h2>{html_table(facts(found))}"


def html_table(pairs: Sequence[tuple[str, str]]) -> str:
    """HTML of facts; the text is escaped here."""
    return table(["", ""], pairs, text=True)
