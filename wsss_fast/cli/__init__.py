"""The command line: the functions of the package with their own signatures and docstrings.

What `wsss-fast --help` and `--version` need is imported here, and nothing that imports torch.
"""

from __future__ import annotations

import difflib
import io
import os
import sys
from collections.abc import Sequence

from wsss_fast._version import __version__
from wsss_fast.cli.catalog import COMMANDS


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit.

    Exit codes: 0 done, 1 a failed run or images left out, 2 bad input, 130 or 143 stopped by a
    signal.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a class name must not end a run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if argv is None else list(argv)
    if (code := _without_command(words)) is not None:
        sys.exit(code)
    from wsss_fast.engine import distributed, signals  # these import torch

    signals.install()
    distributed.exit_process(run(words))


def run(argv: Sequence[str]) -> int:
    """As `main`, but returns the exit code."""
    if (code := _without_command(argv)) is not None:
        return code
    from wsss_fast.cli.execute import execute  # imports torch

    name = _find(argv)
    assert name is not None  # _without_command handles unknown commands
    return execute(COMMANDS[name], argv[len(name.split()) :])


def _without_command(argv: Sequence[str]) -> int | None:
    """The exit code after overview, version or an unknown command; None for a command."""
    if not argv or argv[0] in ("-h", "--help", "--version"):
        if os.environ.get("RANK", "0") == "0":  # of several processes the main one
            print(f"wsss-fast {__version__}" if argv and argv[0] == "--version" else _overview())
        return 0
    if _find(argv) is not None:
        return None
    tried = " ".join(word for word in argv[:2] if not word.startswith("-"))
    group = [name for name in COMMANDS if name.split()[0] == argv[0]]
    near = (
        difflib.get_close_matches(tried, group, 1, 0.7)
        or group
        or difflib.get_close_matches(tried, COMMANDS, 3, 0.5)
        or difflib.get_close_matches(argv[0], COMMANDS, 3, 0.5)
    )
    hint = f"did you mean {' or '.join(near)}" if near else "see wsss-fast --help"
    print(f"error: no command {tried!r}; {hint}", file=sys.stderr)
    return 2


def _find(argv: Sequence[str]) -> str | None:
    """The name of the command that `argv` begins with."""
    for words in (2, 1):
        name = " ".join(argv[:words])
        rest = argv[words:]
        # "bench typo": the group is a command, but the second word is not an option of it.
        is_group = any(other.startswith(f"{name} ") for other in COMMANDS)
        mistyped = bool(rest) and not rest[0].startswith("-") and is_group
        if name in COMMANDS and len(argv) >= words and not mistyped:
            return name
    return None


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary()}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "wsss-fast: pixel masks from image tags",
            "",
            "usage: wsss-fast COMMAND [--help], wsss-fast --version",
            "",
            *lines,
        ]
    )
