"""Peak memory of one call, measured in a process of its own."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from wsss_fast.bench.harness.suite import Input, Results, Suite, as_list
from wsss_fast.errors import RunError

_CLEAR_PEAK = "5"  # proc(5): resets the peak resident set size


def build_suite(benchmark: str, options: Mapping[str, Any]) -> Suite:
    """The suite of a benchmark, given its name and the fields of its `Options`."""
    module = importlib.import_module(f"wsss_fast.bench.{benchmark}")
    return module.suite(module.Options(**options)) if options else module.suite()


def peak_of_one_call(
    benchmark: str,
    options: Mapping[str, Any],
    row: str,
    implementation: str,
    device: str,
    threads: int,
) -> int | None:
    """Peak memory in bytes of one call, in addition to its input and its results.

    On the CPU this is the growth of the resident set during the call, in a new process in which
    only a tiny call came before (it loads libraries and starts threads), so that buffers which an
    implementation keeps between calls count too. An implementation that compiles has a full call
    before, or the compiler would count. On CUDA it is the peak of torch's allocator.

    Args:
        benchmark: name of the benchmark.
        options: fields of its `Options`.
        row: key of the row.
        implementation: name of the implementation.
        device: cpu, cuda or cuda:N.
        threads: CPU threads.

    Returns:
        Bytes, or None where the system does not report them (other systems than Linux).

    Raises:
        RunError: the process failed, for example because memory was exhausted.
    """
    request = json.dumps([benchmark, dict(options), row, implementation, device, threads])
    package = str(Path(__file__).parents[3])
    paths = filter(None, [package, os.environ.get("PYTHONPATH")])
    program = "from wsss_fast.bench.harness import memory; memory.main()"
    done = subprocess.run(
        [sys.executable, "-c", program, request],
        text=True,
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    if done.returncode:
        reasons = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RunError(f"memory of {implementation} was not measured: {reasons[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """In the new process: print the bytes of the call that the first argument describes."""
    benchmark, options, row, implementation, device_name, threads = json.loads(sys.argv[1])
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    suite = build_suite(benchmark, options)
    chosen = suite.implementations(row)[implementation]
    tensors = to_device(suite.make(row, 0), device)
    chosen.call(*(tensors if chosen.compiles else to_device(suite.tiny(row), device)))
    if device.type == "cuda":
        size: int | None = _cuda_growth(chosen.call, tensors, device)
    else:
        size = _resident_growth(chosen.call, tensors)
    print(json.dumps(size))


def to_device(tensors: Input, device: torch.device) -> Input:
    """An input on a device."""
    return tuple(t if t is None else t.to(device) for t in tensors)


def _result_bytes(results: Results) -> int:
    return sum(r.nbytes for r in as_list(results))


def _cuda_growth(call: Callable[..., Results], tensors: Input, device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    results = call(*tensors)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before - _result_bytes(results)


def _resident_growth(call: Callable[..., Results], tensors: Input) -> int | None:
    # Otherwise the call would reuse memory that was freed after generating the input.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    if not reset_peak_resident():
        return None
    before = _status("VmRSS")
    results = call(*tensors)
    return _status("VmHWM") - before - _result_bytes(results)


def reset_peak_resident() -> bool:
    """Start a new measurement of the peak resident memory; whether the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK)
    except OSError:
        return False
    return True


def peak_resident() -> int | None:
    """Peak resident memory in bytes; None where the system does not report it."""
    try:
        return _status("VmHWM")
    except OSError:
        return None


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))
