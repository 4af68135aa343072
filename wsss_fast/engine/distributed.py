"""The processes of one run, as `torchrun` or `accelerate launch` start them.

All processes call the same public functions. Work on single images is divided among them (`shard`);
work that belongs to the run as a whole is done by the main process (`run_on_main`). A function that
every process must call is marked "Collective". In a single process all of this does nothing.
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

# The launcher notices a process that died, and the main process may work alone for hours, so no
# collective call needs to time out.
COLLECTIVE_TIMEOUT = datetime.timedelta(days=2)
_LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class PeerExited(RunError):
    """Another process of this run has exited, so this one cannot continue."""


def world_size() -> int:
    """Number of processes of this run; 1 if no launcher started it."""
    launched = all(name in os.environ for name in _LAUNCHER_VARIABLES)
    return int(os.environ["WORLD_SIZE"]) if launched else 1


def rank() -> int:
    """Number of this process, 0 .. world_size - 1."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def is_main_process() -> bool:
    """Whether this process prints messages and writes the files of the run as a whole."""
    return rank() == 0


def process_device(requested: str) -> str:
    """The device of this process, "cuda:N" or "cpu". Collective.

    Args:
        requested: auto, cpu, cuda or cuda:N.

    Raises:
        InputError: one device for several processes, or the CPU where the processes use GPUs.
    """
    if world_size() == 1:
        if requested != "auto":
            return requested
        return "cuda" if torch.cuda.is_available() else "cpu"
    own = _join_group().device
    if requested.startswith("cuda:"):
        raise InputError(
            f"device: got {requested!r} for {world_size()} processes; each needs its own, use cuda"
        )
    if requested == "cpu" and own.type != "cpu":
        raise InputError(
            "device: got 'cpu' for several processes on a machine with GPUs; "
            "hide the GPUs with CUDA_VISIBLE_DEVICES="
        )
    return str(own)


@functools.cache
def _join_group() -> Any:
    """accelerate's PartialState; the first call joins the process group."""
    try:
        # Takes a second to import, and most runs have a single process.
        from accelerate import PartialState
    except ImportError:
        raise InputError("several processes need accelerate: pip install accelerate") from None
    with translate_errors():
        return PartialState(cpu=not torch.cuda.is_available(), timeout=COLLECTIVE_TIMEOUT)


def leave_group() -> None:
    """Wait for all processes and leave the process group, at the end of a command. Collective."""
    if world_size() > 1 and dist.is_initialized():
        with translate_errors():
            dist.barrier()
        dist.destroy_process_group()


def exit_process(code: int) -> NoReturn:
    """Exit with a code; one of several processes skips Python's and C++'s final clean-up.

    Seen twice on a busy machine: a finished process aborted during clean-up ("terminate called
    without an active exception"), and the whole run counted as failed. The likely cause is a thread
    of torch's process group.
    """
    if world_size() > 1:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


def shard(items: Sequence[T]) -> list[T]:
    """The items of this process: every `world_size`-th. All processes must pass the same items."""
    return list(items[rank() :: world_size()])


def all_gather_objects(value: T) -> list[T]:
    """The value of each process, ordered by rank. Collective."""
    if world_size() == 1:
        return [value]
    _join_group()
    values: list[Any] = [None] * world_size()
    with translate_errors():
        dist.all_gather_object(values, value)
    return values


def all_reduce_sum(values: np.ndarray) -> np.ndarray:
    """Sum over all processes, elementwise. Collective."""
    parts = all_gather_objects(values)
    return sum(parts[1:], start=parts[0])


def run_on_main(work: Callable[[], T]) -> T:
    """Run `work` in the main process while the others wait; all get its result. Collective."""
    if world_size() == 1:
        return work()
    _join_group()
    result: list[Any] = [work() if is_main_process() else None]
    with translate_errors():
        dist.broadcast_object_list(result, src=0)
    return result[0]


def all_reduce_mean(values: torch.Tensor) -> torch.Tensor:
    """Mean over all processes, elementwise; not differentiable. Collective."""
    if world_size() == 1:
        return values
    _join_group()
    total = values.detach().clone()
    with translate_errors():
        dist.all_reduce(total)
    return total / world_size()


def all_gather_tensor(values: torch.Tensor) -> torch.Tensor:
    """The tensors of all processes, [world_size, ...]; not differentiable. Collective."""
    if world_size() == 1:
        return values[None]
    _join_group()
    found = [torch.empty_like(values) for _ in range(world_size())]
    with translate_errors():
        dist.all_gather(found, values.contiguous())
    return torch.stack(found)


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Around collective calls of torch: raises `PeerExited` where another process has exited."""
    try:
        yield
    except RuntimeError as error:
        # gloo raises plain RuntimeErrors
        from_backend = re.search("gloo|nccl|connection", str(error), re.IGNORECASE)
        if not isinstance(error, dist.DistError) and not from_backend:
            raise
        raise PeerExited(
            f"process {rank()} of {world_size()} cannot reach the others, one of which has exited; "
            f"see its message ({str(error).splitlines()[0][:120]})"
        ) from None
