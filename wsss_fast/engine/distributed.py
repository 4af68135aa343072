"""The processes of one run, as `torchrun` or `accelerate launch` start them: who this one is, and what they do together.

Every function of this package is called by all processes alike. What belongs to single images is divided among them
(`shard`), what belongs to the run is done by the main one (`run_on_main`). Alone, all of this does nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from wsss_fast.errors import InputError, RunError

T = TypeVar("T")

# A process that has died is the launcher's to notice; what the main one does alone may take as long as it takes.
COLLECTIVE_TIMEOUT = datetime.timedelta(days=2)
_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class PeerExited(RunError):
    """Another process of this run has ended, so that this one cannot go on; that one said why."""


def world_size() -> int:
    """Processes of this run; 1 if no launcher started it."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in _LAUNCHED) else 1


def rank() -> int:
    """Which of them this one is, 0 .. count - 1."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def is_main_process() -> bool:
    """Whether this process speaks, and writes what belongs to the run as a whole."""
    return rank() == 0


def process_device(asked: str) -> str:
    """The device of this process, "cuda:N" or "cpu", where `asked` is what the user said.

    Raises:
        InputError: one device for several processes, or the CPU where they meet on GPUs.
    """
    if world_size() == 1:
        return asked if asked != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    own = _join_group().device
    if asked.startswith("cuda:"):
        raise InputError(
            f"device: got {asked!r} for {world_size()} processes; each takes its own, say cuda"
        )
    if asked == "cpu" and own.type != "cpu":
        raise InputError(
            "device: got 'cpu' for several processes on a machine with GPUs; hide them with CUDA_VISIBLE_DEVICES="
        )
    return str(own)


@functools.cache
def _join_group() -> Any:
    """accelerate's view of the process group, which is joined at the first call."""
    try:
        from accelerate import PartialState  # takes a second to import, and most runs are alone
    except ImportError:
        raise InputError("several processes need accelerate: pip install accelerate") from None
    with translate_errors():
        return PartialState(cpu=not torch.cuda.is_available(), timeout=COLLECTIVE_TIMEOUT)


def leave_group() -> None:
    """Wait for the others and part from them, at the end of a command."""
    if world_size() > 1 and dist.is_initialized():
        with translate_errors():
            dist.barrier()
        dist.destroy_process_group()


def exit_process(code: int) -> NoReturn:
    """End this process with an exit code. One of several processes ends without Python's and C++'s last clean-up.

    Seen twice on a busy machine: a finished process aborted there ("terminate called without an active exception"), and the
    whole run counted as failed. The likely cause is a thread of torch's process group, which has nothing left to do by then.
    """
    if world_size() > 1:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


def shard(items: Sequence[T]) -> list[T]:
    """The items that are this process' to do: every `world_size`-th. All processes must ask for the same items."""
    return list(items[rank() :: world_size()])


def all_gather_objects(value: T) -> list[T]:
    """What each process has, in the order of their distributed."""
    if world_size() == 1:
        return [value]
    _join_group()
    values: list[Any] = [None] * world_size()
    with translate_errors():
        dist.all_gather_object(values, value)
    return values


def all_reduce_sum(values: np.ndarray) -> np.ndarray:
    """Sum over all processes."""
    return sum(all_gather_objects(values))


def run_on_main(work: Callable[[], T]) -> T:
    """Let the main process do `work` while the others wait; all get what it returns."""
    if world_size() == 1:
        return work()
    _join_group()
    result = [work() if is_main_process() else None]
    with translate_errors():
        dist.broadcast_object_list(result, src=0)
    return result[0]


def all_reduce_mean(values: torch.Tensor) -> torch.Tensor:
    """Mean over all processes, elementwise; not differentiable."""
    if world_size() == 1:
        return values
    _join_group()
    total = values.detach().clone()
    with translate_errors():
        dist.all_reduce(total)
    return total / world_size()


def all_gather_tensor(values: torch.Tensor) -> torch.Tensor:
    """What each process has, [count, ...]; not differentiable."""
    if world_size() == 1:
        return values[None]
    _join_group()
    found = [torch.empty_like(values) for _ in range(world_size())]
    with translate_errors():
        dist.all_gather(found, values.contiguous())
    return torch.stack(found)


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Around what needs all processes: raises `PeerExited` where another one is gone."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not re.search(
            "gloo|nccl|connection", str(error), re.IGNORECASE
        ):
            raise  # gloo's errors are of no class of their own
        raise PeerExited(
            f"process {rank()} of {world_size()} cannot reach the others, one of which has ended; see its message "
            f"({str(error).splitlines()[0][:120]})"
        ) from None
