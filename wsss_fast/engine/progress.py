"""Progress bars with rates and remaining time for everything that takes longer than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from wsss_fast.engine import distributed

T = TypeVar("T")

CONSOLE = Console(stderr=True, highlight=False)
_QUIET_SECONDS = 2.0  # shorter work finishes before a bar would be read


class _Rate(ProgressColumn):
    """Items a second over the whole bar: steadier than rich's sliding window, and what a user plans with."""

    def render(self, task):
        elapsed = task.elapsed or 0.0
        done = task.completed - task.fields["before"]
        if not done or elapsed <= 0:
            return Text("")
        return Text(f"{done / elapsed:.1f} {task.fields['unit']}/s", style="cyan")


class Bar:
    """One labelled bar; it appears after two seconds, and leaves one summary line when the work was long.

    Of several processes the main one shows its own.

    Off a terminal (CI, a log file) it writes a plain line about every 30 seconds instead of redrawing.
    """

    def __init__(self, label: str, total: int, unit: str = "img", done: int = 0):
        self.label, self.total, self.unit = label, total, unit
        self._hidden = not distributed.is_main_process()
        self.done, self.note, self._before = (
            done,
            "",
            done,
        )  # what an interrupted run did counts in no rate
        self._start = self._last_line = time.monotonic()
        self._progress: Progress | None = None
        self._task = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind, *_):
        seconds = time.monotonic() - self._start
        if self._progress is not None:
            self._progress.stop()
        if kind is None and seconds >= _QUIET_SECONDS and not self._hidden:
            CONSOLE.print(self._line(seconds), soft_wrap=True)

    def _line(self, seconds: float) -> str:
        rate = (self.done - self._before) / seconds if seconds > 0 else 0.0
        left = (self.total - self.done) / rate if rate > 0 else 0.0
        tail = f", {left:.0f} s left" if self.done < self.total else ""
        note = f"  {self.note}" if self.note else ""
        return f"{self.label}: {self.done}/{self.total} in {seconds:.1f} s ({rate:.1f} {self.unit}/s{tail}){note}"

    def seconds(self) -> float:
        """Seconds since the bar was made."""
        return time.monotonic() - self._start

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` finished items; `note` is shown behind the bar (a loss, say)."""
        self.done += count
        self.note = note or self.note
        now = time.monotonic()
        if self._hidden or now - self._start < _QUIET_SECONDS:
            return
        if not CONSOLE.is_terminal:
            if now - self._last_line > 30 and self.done < self.total:
                self._last_line = now
                CONSOLE.print(self._line(now - self._start), soft_wrap=True)
            return
        if self._progress is None:
            self._open()
        self._progress.update(self._task, completed=self.done, note=self.note)

    def _open(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=CONSOLE, transient=True, refresh_per_second=4)
        self._task = self._progress.add_task(
            self.label, total=self.total, unit=self.unit, note="", before=self._before
        )
        self._progress.tasks[0].start_time = self._progress.get_time() - (
            time.monotonic() - self._start
        )
        self._progress.start()


def track(
    items: Iterable[T], label: str, total: int | None = None, unit: str = "img"
) -> Iterator[T]:
    """Yield from `items` under a bar; `total` defaults to `len(items)`."""
    total = len(items) if total is None else total  # type: ignore[arg-type]
    with Bar(label, total, unit) as bar:
        for item in items:
            yield item
            bar.advance()


def say(message: str, *, every: bool = False) -> None:
    """One line for the person who watches, on stderr so that stdout stays machine-readable.

    Of several processes only the main one says what they all would; with `every` each does, with its number.
    """
    if every and distributed.world_size() > 1:
        message = f"[process {distributed.rank()}] {message}"
    elif not distributed.is_main_process():
        return
    CONSOLE.print(message, soft_wrap=True, markup=False)
    sys.stderr.flush()
