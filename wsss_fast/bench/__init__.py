"""Benchmarks of the ops: one file an op, named as in `wsss-fast bench NAME`; harness, memory and show are shared."""

from __future__ import annotations

from pathlib import Path

from wsss_fast.bench import crf
from wsss_fast.bench.harness import Report, run_suite

# Every op's benchmark: a module with `suite(**options) -> Suite` and the function of its command.
BENCHMARKS = {"crf": crf}


def run_all(out: Path = Path("bench"), *, device: str = "auto", threads: int = 0, repeats: int = 5, quick: bool = False,
            memory: bool = True) -> list[Report]:
    """Measure every op against its reference and its outside peer; `bench NAME` measures one, with its own options.

    Args:
        out: folder for a JSON file and a plot of each op.
        device: auto, cpu, cuda or cuda:N.
        threads: CPU threads; 0: torch's default.
        repeats: timed inputs of each row.
        quick: leave out the slow contenders.
        memory: measure peak memory too, each call in a process of its own.

    Raises:
        InputError: an argument out of range, or a device that is not there.
    """
    return [run_suite(module.suite(), out, device=device, threads=threads, repeats=repeats, quick=quick, memory=memory)
            for module in BENCHMARKS.values()]
