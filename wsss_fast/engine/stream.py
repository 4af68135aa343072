"""A stage as a stream: threads read its inputs ahead and write its results behind.

The main thread only launches the device's work. Inputs are computed, and their results reported, in
the order of the items.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from wsss_fast.engine import distributed
from wsss_fast.engine.progress import Bar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Result = TypeVar("Result")
Written = TypeVar("Written")

# Bytes of inputs and results that may wait in memory, besides the item that is computed.
LARGEST_WAITING = 512 << 20
_MOST_THREADS = 4  # of each kind; more only contend for the interpreter lock
_SUMMED = ("load", "write", "device", "wait")
_SWITCH = 2e-4  # seconds
_AHEAD = 2  # items per thread that may be loaded ahead, and written behind


class Times:
    """Where the time of a stage goes, summed over its threads.

    Args:
        device: that the stage computes on.

    Attributes:
        load: CPU seconds of the threads that read and decode.
        write: CPU seconds of the threads that encode and write.
        main: CPU seconds of the main thread outside of `computing`.
        device: seconds that the device computed: those between the first and the last kernel of
            each item on CUDA, those of the blocks `computing` on a CPU.
        wait: seconds that the main thread waited for a file to be read or written.
        wall: seconds of the whole stream.
    """

    def __init__(self, device: torch.device):
        self.where = device
        self.load = self.write = self.main = self.device = self.wait = self.wall = 0.0
        self._lock = threading.Lock()
        self._computing = 0.0  # CPU seconds of the main thread in `computing`

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Around the network or the kernels of an item."""
        if self.where.type == "cuda":
            yield
            return
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self.device += time.perf_counter() - wall
            self._computing += time.thread_time() - cpu

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Around the whole stream, in the main thread."""
        if self.where.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.where)
        wall, cpu, computing = time.perf_counter(), time.thread_time(), self._computing
        try:
            yield
        finally:
            self.wall += time.perf_counter() - wall
            self.main += time.thread_time() - cpu - (self._computing - computing)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.wait += time.perf_counter() - start

    @contextlib.contextmanager
    def _in_thread(self, kind: str) -> Iterator[None]:
        start = time.thread_time()
        try:
            yield
        finally:
            with self._lock:
                setattr(self, kind, getattr(self, kind) + time.thread_time() - start)

    def _add_device(self, seconds: float) -> None:
        with self._lock:
            self.device += seconds

    def notes(self) -> dict[str, Any]:
        """What a stage notes: seconds by part, and the highest memory of a process in bytes.

        Seconds are summed over the processes, except `wall`, the longest. Collective.
        """
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        own: dict[str, Any] = {name: getattr(self, name) for name in _SUMMED}
        own |= {"host": self.load + self.write + self.main, "wall": self.wall}
        own["peak_memory"] = peak if sys.platform == "darwin" else 1024 * peak
        if self.where.type == "cuda":
            own["peak_device_memory"] = torch.cuda.max_memory_allocated(self.where)
        every = distributed.all_gather_objects(own)
        return {
            name: round((sum if name in (*_SUMMED, "host") else max)(one[name] for one in every), 4)
            for name in own
        }


@dataclasses.dataclass(frozen=True)
class Steps(Generic[Item, Loaded, Result, Written]):
    """What a stage does with an item, which is one image or a batch of them.

    Attributes:
        load: reads the item's files; runs in threads. Arrays for the device are passed through
            `host_tensor`.
        compute: (item, what was loaded) -> result; runs in the main thread and only queues work
            for the device. The result is a tensor or anything else, or a list, tuple or dict of
            those.
        write: (item, the result with its tensors on the CPU) -> a value; runs in threads.
        done: called with (item, value) in the main thread, in the order of the items.
        size: number of bytes of an item's inputs and results.
    """

    load: Callable[[Item], Loaded]
    compute: Callable[[Item, Loaded], Result]
    write: Callable[[Item, Any], Written]
    done: Callable[[Item, Written], None]
    size: Callable[[Item], int]


def run(items: Iterable[Item], steps: Steps[Item, Any, Any, Any], times: Times) -> None:
    """Load, compute and write every item.

    If a step fails, or a signal arrives, no further item is computed; what is being written is
    finished first.

    Args:
        items: in the order in which they are computed.
        steps: what is done with each.
        times: the device, and where the time is added.

    Raises:
        Exception: the first failure, in the order of the items.
    """
    with times._running(), _prompt_main_thread(), contextlib.ExitStack() as stack:
        stack.enter_context(_own_stream(times.where))
        _Stream(iter(items), steps, times, stack).run()


def scan(
    ids: Sequence[str],
    load: Callable[[str], Loaded],
    use: Callable[[str, Loaded], None],
    device: torch.device,
    label: str,
    size: Callable[[str], tuple[int, int]],
) -> Times:
    """Read files of many images in threads, and use what was read in the main thread, in order.

    Args:
        ids: of the images.
        load: id -> what is read.
        use: called with (id, what was read).
        device: that `use` computes on.
        label: of the progress bar.
        size: id -> (H, W) of the image.

    Returns:
        Where the time went.
    """
    times = Times(device)

    def use_in_time(id: str, loaded: Loaded) -> None:
        with times.computing():
            use(id, loaded)

    with Bar(label, len(ids)) as bar:
        steps: Steps[str, Loaded, None, None] = Steps(
            load, use_in_time, lambda *_: None, lambda *_: bar.advance(), lambda id: _area(size(id))
        )
        run(ids, steps, times)
    return times


def _area(size: tuple[int, int]) -> int:
    return 16 * size[0] * size[1]


def host_tensor(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """The array as a tensor that can be copied to the device while it computes.

    Args:
        array: contiguous or not, of any dtype of torch.
        device: to which it will be copied; for CUDA the copy is in page-locked memory.

    Returns:
        A tensor on the CPU.
    """
    if device.type != "cuda":
        return torch.from_numpy(np.ascontiguousarray(array))
    like = torch.from_numpy(np.empty(0, array.dtype))
    pinned = torch.empty(array.shape, dtype=like.dtype, pin_memory=True)
    pinned.numpy()[...] = array  # torch's own copy would start threads in this thread
    return pinned


def num_threads() -> int:
    """Threads that read ahead, and threads that write behind; half of the cores, 1 to 4."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(_MOST_THREADS, (cores or 1) // 2))


class _Stream(Generic[Item]):
    """One call of `run`."""

    def __init__(
        self,
        items: Iterator[Item],
        steps: Steps[Item, Any, Any, Any],
        times: Times,
        stack: contextlib.ExitStack,
    ):
        self.items, self.steps, self.times = items, steps, times
        threads = num_threads()
        self.limit = _AHEAD * threads
        self.loaders = ThreadPoolExecutor(threads, "load")
        self.writers = ThreadPoolExecutor(threads, "write")
        # Called in the reverse order: what is not loaded yet is dropped, what was computed written.
        stack.callback(self.writers.shutdown)
        stack.callback(self.loaders.shutdown, cancel_futures=True)
        self.loads: deque[tuple[Item, Future[Any]]] = deque()
        self.writes: deque[tuple[Item, Future[Any]]] = deque()
        self.waiting = 0  # bytes of what is in the two queues
        self.next = next(items, None)

    def run(self) -> None:
        while True:
            self._load_ahead()
            if not self.loads:
                if not self.writes:
                    return
                self._finish_oldest()
                continue
            item, future = self.loads.popleft()
            loaded = self._result_of(future)
            results = self._compute(item, loaded)
            del loaded, future
            self.writes.append((item, self.writers.submit(self._write, item, results)))
            del results
            while self.writes and (self.writes[0][1].done() or len(self.writes) > self.limit):
                self._finish_oldest()

    def _load_ahead(self) -> None:
        while self.next is not None and len(self.loads) < self.limit:
            size = self.steps.size(self.next)
            if self.waiting and self.waiting + size > LARGEST_WAITING:
                return
            self.waiting += size
            self.loads.append((self.next, self.loaders.submit(self._load, self.next)))
            self.next = next(self.items, None)

    def _result_of(self, load: Future[Any]) -> Any:
        with self.times._waiting():
            failure = load.exception()
        if failure is not None:
            while self.writes:  # an earlier item may have failed, too, and is reported then
                self._finish_oldest()
        return load.result()

    def _load(self, item: Item) -> Any:
        with self.times._in_thread("load"):
            return self.steps.load(item)

    def _compute(self, item: Item, loaded: Any) -> _Results:
        if self.times.where.type != "cuda":
            return _Results(self.steps.compute(item, loaded))
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        copied = torch.cuda.Event(blocking=True)
        start.record()
        computed = self.steps.compute(item, loaded)
        end.record()
        on_host = _to_host(computed)
        copied.record()
        return _Results(on_host, (start, end), copied)

    def _write(self, item: Item, results: _Results) -> Any:
        if results.copied is not None:
            results.copied.synchronize()
            start, end = results.between
            self.times._add_device(start.elapsed_time(end) / 1e3)
        with self.times._in_thread("write"):
            return self.steps.write(item, results.values)

    def _finish_oldest(self) -> None:
        item, future = self.writes.popleft()
        with self.times._waiting():
            value = future.result()
        self.waiting -= self.steps.size(item)
        self.steps.done(item, value)


@dataclasses.dataclass(frozen=True)
class _Results:
    """Results of an item on the way to the host.

    Attributes:
        values: what `compute` returned, its tensors on the CPU.
        between: events before and after the kernels; empty on a CPU.
        copied: the event after which the tensors have their values; None on a CPU.
    """

    values: Any
    between: tuple[Any, ...] = ()
    copied: Any = None


def _to_host(value: Any) -> Any:
    """The value with its tensors copied to page-locked memory, without waiting for the device."""
    if isinstance(value, torch.Tensor):
        return value.to("cpu", non_blocking=True)
    if isinstance(value, dict):
        return {key: _to_host(one) for key, one in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_to_host, value))
    if isinstance(value, list | tuple):
        return type(value)(map(_to_host, value))
    return value


@contextlib.contextmanager
def _prompt_main_thread() -> Iterator[None]:
    """Let the main thread, which feeds the device, get Python's interpreter lock sooner.

    By default a thread that wants it waits 5 ms before another one has to give it up.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, _SWITCH))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextlib.contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """A stream of its own on CUDA, after what was queued before and before what is queued later."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        outer, own = torch.cuda.current_stream(), torch.cuda.Stream()
        own.wait_stream(outer)
        try:
            with torch.cuda.stream(own):
                yield
        finally:
            outer.wait_stream(own)
