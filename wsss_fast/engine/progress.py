"""Progress bars with rates and remaining time for everything that takes longer than two seconds."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.text import Text

from wsss_fast.engine import distributed

T = TypeVar("T")

_QUIET_SECONDS = 2.0  # shorter work finishes before a bar would be read


class OutputError(OSError):
    """Standard output or error cannot be written: `head` has exited, or the disk is full."""


class OutputConsole(Console):
    """A console that raises `OutputError`, where rich would exit without a word."""

    def on_broken_pipe(self) -> None:
        self.quiet = True  # else an enclosing context would print the rest
        raise OutputError(errno.EPIPE, "nobody reads the output")

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OutputError:
            raise
        except OSError as error:
            if self.stderr and error.errno != errno.EPIPE:
                return  # the terminal was closed, a log's disk is full: the run continues
            raise OutputError(error.errno, error.strerror) from None


CONSOLE = OutputConsole(stderr=True, highlight=False)


def duration(seconds: float) -> str:
    """A time in the two largest units that it has: 42 s, 3 min 20 s, 5 h 10 min, 74 d 22 h."""
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if whole < 60:
        return f"{whole} s"
    if minutes < 60:
        return f"{minutes} min {whole % 60} s"
    if hours < 24:
        return f"{hours} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"


def rate(items: float, seconds: float, unit: str) -> str:
    """Items per second; seconds per item where that is below one; "" where nothing is known."""
    if items <= 0 or seconds <= 0:
        return ""
    if items < seconds:
        return f"{seconds / items:.1f} s/{unit}"
    return f"{items / seconds:.1f} {unit}/s"


class _Rate(ProgressColumn):
    """The rate over the whole bar, which is steadier than rich's sliding window."""

    def render(self, task: Task) -> Text:
        done = task.completed - task.fields["before"]
        return Text(rate(done, task.elapsed or 0.0, task.fields["unit"]), style="cyan")


class _Left(ProgressColumn):
    """The remaining time at that rate."""

    def render(self, task: Task) -> Text:
        done = task.completed - task.fields["before"]
        if not done or task.total is None:
            return Text("")
        left = (task.total - task.completed) * (task.elapsed or 0.0) / done
        return Text(f"{duration(left)} left", style="cyan")


class Bar:
    """One labelled bar; it appears after two seconds and ends as one summary line.

    Of several processes only the main one shows its own. Without a terminal (CI, a log file) it
    prints a plain line about every 30 seconds instead of redrawing.

    Args:
        label: what is counted.
        total: number of items.
        unit: of the rate.
        done: items that an earlier, interrupted run finished; they count in no rate.
    """

    def __init__(self, label: str, total: int, unit: str = "img", done: int = 0):
        self.label, self.total, self.unit = label, total, unit
        self._hidden = not distributed.is_main_process()
        self.done, self.note, self._before = done, "", done
        self._start = self._last_line = time.monotonic()
        self._display: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        seconds = time.monotonic() - self._start
        if self._display is not None:
            self._display[0].stop()
        if kind is None and seconds >= _QUIET_SECONDS and not self._hidden:
            CONSOLE.print(self._line(seconds), soft_wrap=True)

    def _line(self, seconds: float) -> str:
        done = self.done - self._before
        parts = [rate(done, seconds, self.unit)]
        if done and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) * seconds / done)} left")
        speed = f" ({', '.join(parts)})" if parts[0] else ""
        note = f"  {self.note}" if self.note else ""
        took = f"{seconds:.1f} s" if seconds < 60 else duration(seconds)
        return f"{self.label}: {self.done}/{self.total} in {took}{speed}{note}"

    def seconds(self) -> float:
        """Seconds since the bar was created."""
        return time.monotonic() - self._start

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` finished items; `note` is shown after the bar (a loss, for instance)."""
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
        if self._display is None:
            self._display = self._open()
        progress, task = self._display
        progress.update(task, completed=self.done, note=self.note)

    def _open(self) -> tuple[Progress, TaskID]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _Rate(),
            _Left(),
            TextColumn("{task.fields[note]}"),
        )
        progress = Progress(*columns, console=CONSOLE, transient=True, refresh_per_second=4)
        task = progress.add_task(
            self.label, total=self.total, unit=self.unit, note="", before=self._before
        )
        progress.tasks[0].start_time = progress.get_time() - self.seconds()
        progress.start()
        return progress, task


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
    """Print one line on stderr, so that stdout stays machine-readable.

    Args:
        message: the line.
        every: print it in every process, with the process' number, instead of in the main one only.
    """
    if every and distributed.world_size() > 1:
        message = f"[process {distributed.rank()}] {message}"
    elif not distributed.is_main_process():
        return
    CONSOLE.print(message, soft_wrap=True, markup=False)
    sys.stderr.flush()
