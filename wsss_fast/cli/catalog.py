"""The one list of commands: what each package declares in its `commands.py`, and shared stages."""

from __future__ import annotations

import importlib
from pathlib import Path

from wsss_fast.command import Command

_PACKAGE = Path(__file__).parents[1]

_AGAIN = "the same command starts again"

_SHARED = (
    Command("reproduce", "wsss_fast.cli.functions:reproduce", positional=("row",)),
    Command("seeds", "wsss_fast.stages.seeds:make"),
    Command("saliency", "wsss_fast.stages.saliency:make", needs_tags=False),
    Command(
        "crf",
        "wsss_fast.stages.crf_files:refine_files",
        positional=("image", "labels"),
        short={"out": "-o"},
    ),
    Command(
        "refine",
        "wsss_fast.refinement:refine",
        positional=("images", "maps"),
        short={"out": "-o"},
    ),
    Command(
        "convert from-pickles",
        "wsss_fast.convert.pickles:maps_from_pickles",
        positional=("source", "out"),
        main_process_only=True,
        if_stopped=_AGAIN,
    ),
    Command(
        "convert to-pickles",
        "wsss_fast.convert.pickles:maps_to_pickles",
        positional=("source", "out"),
        main_process_only=True,
        if_stopped=_AGAIN,
    ),
    Command(
        "convert from-pngs",
        "wsss_fast.convert.pngs:maps_from_pngs",
        positional=("source", "out"),
        main_process_only=True,
        if_stopped=_AGAIN,
    ),
    Command(
        "convert to-pngs",
        "wsss_fast.convert.pngs:maps_to_pngs",
        positional=("source", "out"),
        main_process_only=True,
        if_stopped=_AGAIN,
    ),
    Command(
        "export",
        "wsss_fast.export.command:export",
        positional=("masks",),
        short={"out": "-o"},
        main_process_only=True,
        if_stopped=_AGAIN,
    ),
    Command(
        "convert model",
        "wsss_fast.deployment.conversion:convert_model",
        positional=("weights", "out"),
        flat=True,
        main_process_only=True,
        if_stopped=_AGAIN,
    ),
    Command(
        "import coco",
        "wsss_fast.data.coco_masks:masks_from_coco",
        positional=("json",),
        short={"out": "-o"},
        main_process_only=True,
        if_stopped=_AGAIN,
    ),
    Command("eval", "wsss_fast.cli.functions:evaluate", needs_tags=False, if_stopped=_AGAIN),
    Command("shapes", "wsss_fast.cli.functions:shapes", main_process_only=True, if_stopped=_AGAIN),
    Command("info", "wsss_fast.cli.functions:info", main_process_only=True, if_stopped=_AGAIN),
)


def _commands() -> dict[str, Command]:
    found = [Command("demo", "wsss_fast.cli.functions:demo")]
    for path in sorted(_PACKAGE.glob("*/commands.py")):
        found += importlib.import_module(f"wsss_fast.{path.parent.name}.commands").COMMANDS
    return {command.name: command for command in [*found, *_SHARED]}


COMMANDS: dict[str, Command] = _commands()
