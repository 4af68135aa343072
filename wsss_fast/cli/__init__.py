"""The command line: the functions of the package with their own signatures and docstrings.

What `wsss-fast --help` and `--version` need is imported here, and nothing that imports torch.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import itertools
import os
import sys
from collections.abc import Sequence

from wsss_fast._version import __version__
from wsss_fast.cli import streams
from wsss_fast.cli.catalog import COMMANDS

_HELP = ("--help", "-h", "help")
_VERSION = ("--version", "-V", "version")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit.

    Exit codes: 0 done, 1 a failed run or images left out, 2 bad input, 130 or 143 stopped by a
    signal, 141 nobody reads the output.
    """
    streams.prepare()
    words = sys.argv[1:] if argv is None else list(argv)
    found = _find(words)
    if found is None or "--help" in words or "-h" in words:
        sys.exit(streams.guarded(lambda: run(words)))
    from wsss_fast.engine import distributed, signals  # these import torch

    # A signal during an import would otherwise become the error of what is imported.
    with contextlib.suppress(Exception):  # `run` reports it
        importlib.import_module("wsss_fast.cli.execute")
        COMMANDS[found].load()

    def stoppable() -> int:
        signals.install()
        code = run(words)
        signals.exit_on_signal()
        return code

    code = streams.guarded(stoppable)
    if code > 128:
        os._exit(code)  # while Python cleans up, one more signal would change the code
    distributed.exit_process(code)


def run(argv: Sequence[str]) -> int:
    """As `main`, but returns the exit code."""
    name = _find(argv)
    if name is None:
        return _without_command(argv)
    from wsss_fast.cli.execute import execute  # imports torch

    return execute(COMMANDS[name], argv[len(name.split()) :])


def _without_command(argv: Sequence[str]) -> int:
    """Print the overview, the version or that there is no such command; the exit code."""
    first = argv[0] if argv else "--help"
    if first in _HELP or first in _VERSION:
        if os.environ.get("RANK", "0") == "0":  # of several processes the main one
            print(f"wsss-fast {__version__}" if first in _VERSION else _overview())
        return 0
    print(f"error: {_unknown(argv)}", file=sys.stderr)
    return 2


def _unknown(argv: Sequence[str]) -> str:
    """What is wrong with words that name no command, and what there is."""
    if argv[0].startswith("-"):
        near = difflib.get_close_matches(argv[0].lower(), (*_HELP, *_VERSION), 1, 0.6)
        hint = f"did you mean {near[0]}" if near else "a command comes first, see wsss-fast --help"
        return f"no option {argv[0]!r} before a command; {hint}"
    tried = " ".join(itertools.takewhile(lambda word: not word.startswith("-"), argv[:2]))
    word = argv[0].lower()
    group = [name for name in COMMANDS if name.split()[0] == word]
    if not group:  # a mistyped group
        groups = list(dict.fromkeys(name.split()[0] for name in COMMANDS))
        firsts = difflib.get_close_matches(word, groups, 2, 0.6)
        group = [name for name in COMMANDS if name.split()[0] in firsts]
    # A group without a second word has no nearest command.
    near = difflib.get_close_matches(tried.lower(), group, 1, 0.7) if " " in tried else []
    near = near or group
    hint = f"did you mean {' or '.join(near)}" if near else "see wsss-fast --help"
    return f"no command {tried!r}; {hint}"


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
