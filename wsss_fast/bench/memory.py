"""Peak memory of one call, measured in a process that does nothing else."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from wsss_fast.bench.suite import as_list
from wsss_fast.errors import RunError

_CLEAR_PEAK = "5"  # proc(5): resets the peak resident set size


def of_one_call(
    benchmark: str,
    options: dict[str, Any],
    row: str,
    implementation: str,
    device: str,
    threads: int,
) -> int | None:
    """Bytes that one call of a implementation needs at its peak, beyond its input and its results.

    On the CPU this is how far the resident set grows over what it was before the call, in a fresh process in which only a
    tiny call came before (it loads libraries and starts threads), so that buffers which an implementation keeps between
    calls count too; what compiles had a full call before, or the compiler would count. On CUDA it is what torch's
    allocator had at most.

    Args:
        benchmark: module of `wsss_fast.bench` with `suite(**options)`.
        options: of the suite.
        row: key of the row.
        implementation: its name.
        device: cpu, cuda or cuda:N.
        threads: CPU threads.

    Returns:
        Bytes, or None where the system does not tell (no Linux).

    Raises:
        RunError: the process failed, as when memory ends.
    """
    request = json.dumps([benchmark, options, row, implementation, device, threads])
    package = str(Path(__file__).parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    done = subprocess.run(
        [sys.executable, "-c", "from wsss_fast.bench import memory; memory.answer()", request],
        text=True,
        check=False,
        capture_output=True,
        env=environment,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RunError(f"memory of {implementation} was not measured: {said[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def answer() -> None:
    """In the process of its own: print the bytes of the call that the first argument names."""
    benchmark, options, row, implementation, device_name, threads = json.loads(sys.argv[1])
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    module = importlib.import_module(f"wsss_fast.bench.{benchmark}")
    suite = module.suite(**options)
    chosen = suite.implementations(row)[implementation]
    call = chosen.call
    given = moved(suite.make(row, 0), device)
    call(*given if chosen.compiles else moved(suite.tiny(row), device))
    print(
        json.dumps(
            _cuda_growth(call, given, device)
            if device.type == "cuda"
            else _resident_growth(call, given)
        )
    )


def moved(given: tuple, device: torch.device) -> tuple:
    """An input on a device."""
    return tuple(t if t is None else t.to(device) for t in given)


def _result_bytes(results: Any) -> int:
    return sum(r.nbytes for r in as_list(results))


def _cuda_growth(call, given: tuple, device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    results = call(*given)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before - _result_bytes(results)


def _resident_growth(call, given: tuple) -> int | None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(
            0
        )  # or the call would use, unseen, what making the input has freed
    try:
        Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK)
        before = _status("VmRSS")
    except OSError:
        return None
    results = call(*given)
    return _status("VmHWM") - before - _result_bytes(results)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))
