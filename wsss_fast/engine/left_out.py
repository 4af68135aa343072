"""Files that a command leaves out: it names them when it has done the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsss_fast.engine.progress import say
from wsss_fast.errors import InputError, RunError

_LISTED = 20  # problems are printed one by one up to this many


def list_problems(problems: Sequence[str], what: str = "left out") -> str:
    """Print the first problems, a line each.

    Args:
        problems: why files are left out, each with its file.
        what: first words of each line.

    Returns:
        ", 5 of them not listed here", or "" if all are printed.
    """
    for problem in problems[:_LISTED]:
        say(" ".join(f"{what}: {problem}".split()))
    more = len(problems) - _LISTED
    return f", {more} of them not listed here" if more > 0 else ""


def check_left_out(
    command: str, problems: Sequence[str], of: int, out: Path, *, unit: str = "files"
) -> None:
    """Name the files that were left out, once the others are written.

    Args:
        command: name of the command, for the message.
        problems: why files are left out, each with its file.
        of: number of all files.
        out: what was written.
        unit: what the files are.

    Raises:
        InputError: all are left out.
        RunError: some are.
    """
    if not problems:
        return
    if len(problems) == of:
        raise InputError(problems[0] + (f"; none of {of} {unit} can be used" if of > 1 else ""))
    more = list_problems(problems)
    raise RunError(
        f"{command}: {len(problems)} of {of} {unit} were left out{more}; the others are in {out}"
    )
