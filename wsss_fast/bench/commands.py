"""Commands of the command line: one per benchmark of an op, found by its file; `pipeline`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from wsss_fast import bench
from wsss_fast.command import Command


@dataclasses.dataclass(frozen=True)
class BenchCommand(Command):
    """`bench NAME`; its function has the benchmark's own options and those of every benchmark."""

    def load(self) -> Callable[..., Any]:
        """The function; imports the benchmark."""
        return bench.command(self.name.partition(" ")[2])

    def summary(self) -> str:
        """First line of the benchmark's docstring."""
        return bench.summaries()[self.name.partition(" ")[2]]


_ROWS = "the finished rows are in the JSON file"
COMMANDS = (
    Command("bench", "wsss_fast.bench:contents", main_process_only=True),
    Command(
        "bench all",
        "wsss_fast.bench:run_all",
        flat=True,
        main_process_only=True,
        if_stopped=_ROWS,
    ),
    *(
        BenchCommand(
            f"bench {name}",
            f"wsss_fast.bench.{name}:suite",
            flat=True,
            main_process_only=True,
            if_stopped=_ROWS,
        )
        for name in bench.summaries()
    ),
    Command("bench pipeline", "wsss_fast.bench.pipeline:run", flat=True, main_process_only=True),
)
