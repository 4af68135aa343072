"""What is known to be wrong before a command starts: empty words, numbers, folders."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsss_fast.engine import ranges
from wsss_fast.engine.run_lock import check_out
from wsss_fast.errors import InputError

_BACKENDS = ("auto", "native", "reference")
_LAUNCHER_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
# All that this package reads.
_VARIABLES = (
    "WSSS_FAST_BACKEND",
    "WSSS_FAST_CACHE",
    "WSSS_FAST_DATA",
    "WSSS_FAST_TRACEBACK",
    "WSSS_FAST_WARNED",
    "WSSS_FAST_EMULATE_CUDA",
)


def check_words(argv: Sequence[str]) -> None:
    """Raise InputError for an empty value, such as "$FOLDER" of a variable that is not set.

    An empty path would otherwise be the current folder.
    """
    for place, word in enumerate(argv):
        option, equals, value = word.partition("=")
        if word == "":
            before = argv[place - 1] if place else ""
            name = f"{before}: " if before.startswith("-") else ""
            raise InputError(f"{name}is empty; give a value, or leave the option out")
        if option.startswith("--") and equals and not value:
            raise InputError(f"{option}: is empty; give a value, or leave the option out")


def check_environment() -> None:
    """Raise InputError for an environment variable whose value has no meaning."""
    backend = os.environ.get("WSSS_FAST_BACKEND", "auto")
    if backend not in _BACKENDS:
        raise InputError(f"WSSS_FAST_BACKEND: is {backend!r}, must be {' or '.join(_BACKENDS)}")
    for name in ("WSSS_FAST_CACHE", "WSSS_FAST_DATA"):
        folder = Path(os.environ.get(name) or ".")
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise InputError(f"{name}: {there} is not a folder")
    for name in os.environ:
        if name.startswith("WSSS_FAST_") and name not in _VARIABLES:
            near = difflib.get_close_matches(name, _VARIABLES, 1, 0.8)
            if near:
                raise InputError(f"{name}: no such variable; did you mean {near[0]}")
    for name in _LAUNCHER_NUMBERS:
        number = os.environ.get(name, "0")
        if not (number.isascii() and number.isdigit()):
            raise InputError(f"{name}: is {number!r}, must be a number, as torchrun sets it")


def check_arguments(arguments: dict[str, Any]) -> None:
    """Raise InputError for numbers outside of their ranges, and an output that cannot be written.

    Args:
        arguments: of a command's function, by name.
    """
    for name, value in arguments.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            try:
                ranges.check(value, f"--{name}")
            except InputError as error:
                option, colon, what = str(error).partition(": ")
                raise InputError(f"{option.replace('_', '-')}{colon}{what}") from None
    out = arguments.get("out")
    if isinstance(out, Path):
        # `crf`, `refine` and `export` write one file, or a folder.
        is_file = out.suffix.lower() in (".png", ".npy", ".npz", ".json", ".zip", ".tgz", ".gz")
        check_out(out.parent if is_file else out)
