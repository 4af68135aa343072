"""Times and memory of single calls on a device."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

import torch


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], device: torch.device, budget: float) -> dict[str, float]:
    """Median times of a warm call in milliseconds, and its additional peak memory in MiB.

    Returns:
        `ms`: time by events on the device; `host_ms`: time until the call returned; `calls`: number
        of timed calls; `peak_mib`, on CUDA only.
    """
    for _ in range(2):
        run()
    synchronize(device)
    on_device, on_host, start = [], [], time.perf_counter()
    while len(on_host) < 3 or (len(on_host) < 200 and time.perf_counter() - start < budget):
        before = time.perf_counter()
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            on_host.append(1e3 * (time.perf_counter() - before))
            end.synchronize()
            on_device.append(begin.elapsed_time(end))
        else:
            run()
            on_host.append(1e3 * (time.perf_counter() - before))
            on_device.append(on_host[-1])
    figures = {
        "ms": statistics.median(on_device),
        "host_ms": statistics.median(on_host),
        "calls": len(on_host),
    }
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        allocated = torch.cuda.memory_allocated(device)
        run()
        synchronize(device)
        peak = torch.cuda.max_memory_allocated(device)
        figures["peak_mib"] = (peak - allocated) / 2**20
    return figures


@contextlib.contextmanager
def strict_float32() -> Iterator[None]:
    """No TF32, which torch uses for convolutions by default and which rounds to 10 bits."""
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value
