"""Remarks: what was unusual about accepted inputs, counted and printed once at the end.

An input that may give a wrong result without an error is either rejected (`InputError`) or accepted
with a remark. Remarks with the same text are one line: "constant saliency map: 3 files, first
a.png".
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator

import torch

from wsss_fast.engine import distributed
from wsss_fast.engine.progress import say


@dataclasses.dataclass
class _Counted:
    """The subjects of one remark: files, image ids, lines."""

    first: str
    subjects: set[str]
    unit: str
    of: int | None


class _State:
    lock = threading.Lock()
    blocks = 0  # nested `collected` blocks
    found: dict[str, _Counted] = {}


def add(text: str, subject: object, *, unit: str = "file", of: int | None = None) -> None:
    """Count a remark; it is printed when the outermost `collected` block ends, else at once.

    Loader processes drop it: the main process has read the same files before.

    Args:
        text: what is unusual and what was done, without the subject: "constant saliency map".
        subject: the file, id or line; the same one is counted once.
        unit: what a subject is, in the singular.
        of: number of subjects that were inspected, if it is known.
    """
    if torch.utils.data.get_worker_info() is not None:
        return
    with _State.lock:
        new = _Counted(str(subject), set(), unit, of)
        counted = _State.found.setdefault(text, new)
        counted.subjects.add(str(subject))
        counted.of = of if of is not None else counted.of
    if not _State.blocks:
        _print_all()


@contextlib.contextmanager
def collected() -> Iterator[None]:
    """Count the remarks of this block, and print each of them once at its end.

    Blocks may be nested: the outermost one prints, also if it ends with an error.
    """
    _State.blocks += 1
    try:
        yield
    finally:
        _State.blocks -= 1
        if not _State.blocks:
            _print_all()


def forget() -> None:
    """Drop the remarks counted so far: an error makes them pointless."""
    with _State.lock:
        _State.found.clear()


def gather() -> None:
    """Add the other processes' remarks to those of this process. Collective."""
    if distributed.world_size() == 1:
        return
    for part in distributed.all_gather_objects(dict(_State.found)):
        for text, counted in part.items():
            for subject in (counted.first, *sorted(counted.subjects)):
                add(text, subject, unit=counted.unit, of=counted.of)


def lines() -> list[str]:
    """The remarks counted so far, a line for each text."""
    with _State.lock:
        return [_line(text, counted) for text, counted in _State.found.items()]


def _line(text: str, counted: _Counted) -> str:
    count = len(counted.subjects)
    number = f"{count} of {counted.of}" if counted.of is not None else f"{count}"
    ending = "es" if counted.unit.endswith("s") else "s"
    plural = "" if count == 1 and counted.of is None else ending
    first = f", first {counted.first}" if count > 1 else f": {counted.first}"
    return f"remark: {text}: {number} {counted.unit}{plural}{first}"


def _print_all() -> None:
    """Print and forget."""
    found = lines()
    with _State.lock:
        _State.found.clear()
    for line in found:
        say(line)
