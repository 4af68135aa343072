"""Options that all benchmarks share."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Where and how often a benchmark is run.

    Attributes:
        device: auto, cpu, cuda or cuda:N; implementations without a GPU version run on the CPU.
        threads: CPU threads of torch and of our kernels; 0: torch's default.
        repeats: timed inputs of each row, after one for warming up.
        quick: only a few short rows unless rows are named, without slow implementations and
            without memory.
        memory: also measure peak memory, each call in a process of its own.
    """

    device: str = "auto"
    threads: int = 0
    repeats: int = 5
    quick: bool = False
    memory: bool = True
