"""The one list of commands: those of the methods, and those of what the methods share."""

from __future__ import annotations

import importlib

from wsss_fast.command import Command
from wsss_fast.methods import METHODS

_SHARED = (
    Command("seeds", "wsss_fast.stages.seeds:make"),
    Command("saliency", "wsss_fast.stages.saliency:make"),
    Command(
        "crf",
        "wsss_fast.stages.crf_files:refine_files",
        positional=("image", "labels"),
        short={"out": "-o"},
    ),
    Command(
        "convert from-pickles",
        "wsss_fast.convert:maps_from_pickles",
        positional=("source", "out"),
        main_process_only=True,
    ),
    Command(
        "convert to-pickles",
        "wsss_fast.convert:maps_to_pickles",
        positional=("source", "out"),
        main_process_only=True,
    ),
    Command("eval", "wsss_fast.cli.functions:evaluate"),
    Command("shapes", "wsss_fast.cli.functions:shapes", main_process_only=True),
    Command("info", "wsss_fast.cli.functions:info", main_process_only=True),
)


def _commands() -> dict[str, Command]:
    found = [Command("demo", "wsss_fast.cli.functions:demo")]
    for method in METHODS:
        found += importlib.import_module(f"wsss_fast.{method}.commands").COMMANDS
    return {command.name: command for command in [*found, *_SHARED]}


COMMANDS: dict[str, Command] = _commands()
