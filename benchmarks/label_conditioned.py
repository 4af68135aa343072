"""label_conditioned_logits and _activation against their eager reference and torch.compile of it, in one run.

    python -m benchmarks label_conditioned [--device cuda] [--threads 2] [--rows amn deeplab] [--quick] [--json FILE]

Times are medians over inputs that rotate past the cache. Memory is the peak beyond inputs and results of one
call, on the CPU in a fresh process. A row whose results disagree with the reference prints the disagreement and no time.
"""

import argparse
import ctypes
import dataclasses
import itertools
import json
import math
import platform
import statistics
import subprocess
import sys
import time

import torch

from wsss_fast import _native, ops


@dataclasses.dataclass(frozen=True)
class Row:
    features: tuple[int, int, int, int]
    labels: int
    dilations: tuple[int, ...] = (6, 12, 18, 24)
    kernel: int = 3
    scaled: bool = True
    size: tuple[int, int] | None = None  # of the activation; None: logits
    backward: bool = False


# The papers' shapes; four images are what two cores are asked for.
ROWS = {
    "amn 4": Row((4, 2048, 32, 32), 21),
    "amn 4 train": Row((4, 2048, 32, 32), 21, backward=True),
    "amn 4, 81 labels": Row((4, 2048, 32, 32), 81),
    "amn 4, 81 labels train": Row((4, 2048, 32, 32), 81, backward=True),
    "amn 16 train": Row((16, 2048, 32, 32), 21, backward=True),
    "amn 16, 81 labels train": Row((16, 2048, 32, 32), 81, backward=True),
    "amn inference 512x512": Row((1, 2048, 32, 32), 21, size=(512, 512)),
    "deeplab": Row((10, 2048, 41, 41), 21, scaled=False),
    "deeplab train": Row((10, 2048, 41, 41), 21, scaled=False, backward=True),
    "cam 1x1": Row((16, 2048, 32, 32), 20, dilations=(1,), kernel=1, scaled=False),
    "cam 1x1 train": Row((16, 2048, 32, 32), 20, dilations=(1,), kernel=1, scaled=False, backward=True),
}
CONTENDERS = ("ours", "eager", "compiled")
MAX_ERROR = 2e-5  # of the largest value, float32; half precisions: see tolerance()
ROTATED_BYTES = 256 << 20


def make(row: Row, device, dtype, seed=0):
    generator = torch.Generator(device).manual_seed(seed)
    b, c, _, _ = row.features
    shapes = [row.features, (b, c), (len(row.dilations), row.labels, c, row.kernel, row.kernel),
              (len(row.dilations), row.labels)]
    tensors = [torch.randn(s, generator=generator, device=device) for s in shapes]
    tensors[2] *= 0.01
    if not row.scaled:
        tensors[1] = None
    return [t if t is None else t.to(dtype).requires_grad_(row.backward) for t in tensors]


def caller(row: Row, contender):
    """tensors -> list of results: the logits or the activation, then the gradients of every input."""
    home = ops if contender == "ours" else ops.reference
    if row.size is None:
        def forward(*tensors):
            return home.label_conditioned_logits(*tensors, row.dilations)
    else:
        def forward(*tensors):
            return home.label_conditioned_activation(*tensors, row.dilations, size=row.size)
    if contender == "compiled":
        forward = torch.compile(forward, fullgraph=True)

    def call(tensors, upstream):
        if not row.backward:
            with torch.no_grad():
                return [forward(*tensors)]
        given = [t for t in tensors if t is not None]
        out = forward(*tensors)
        return [out.detach(), *torch.autograd.grad(out, given, upstream)]

    return call


def seconds(call, inputs, upstream, repeats, device):
    """Median wall time after one warm-up on each input."""
    times = []
    for i, tensors in zip(range(repeats + len(inputs)), itertools.cycle(inputs)):
        start = time.perf_counter()
        call(tensors, upstream)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if i >= len(inputs):
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def resident(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(key))


def extra_memory(row: Row, contender, device, dtype):
    """Peak bytes of one call beyond its inputs and results."""
    tensors, call = make(row, device, dtype), caller(row, contender)
    upstream = torch.ones(row.features[0], row.labels, *row.features[2:], device=device, dtype=dtype)
    results = sum(t.nbytes for t in call(tensors, upstream))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call(tensors, upstream)
        return torch.cuda.max_memory_allocated() - before - results
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again at what is resident now
    before = resident("VmRSS")
    call(tensors, upstream)
    return resident("VmHWM") - before - results


def extra_memory_alone(name, contender, options):
    """The same where nothing else disturbs it: on the CPU, in a fresh process."""
    if options.device.type == "cuda":
        return extra_memory(ROWS[name], contender, options.device, getattr(torch, options.dtype))
    command = [sys.executable, "-m", "benchmarks", "label_conditioned", "--memory", name, contender, "--device",
               str(options.device), "--dtype", options.dtype, "--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def tolerance(dtype):
    """Of the largest value: eager rounds every branch to the dtype, so half precisions differ by a few roundings."""
    return max(MAX_ERROR, 4 * torch.finfo(dtype).eps)


def measure(name, options):
    row, device, dtype = ROWS[name], options.device, getattr(torch, options.dtype)
    size = math.prod(row.features) * dtype.itemsize
    inputs = [make(row, device, dtype, seed) for seed in range(max(2, math.ceil(ROTATED_BYTES / size)))]
    calls = {c: caller(row, c) for c in CONTENDERS if c != "compiled" or not options.quick}
    upstream = torch.randn(row.features[0], row.labels, *row.features[2:], device=device).to(dtype)
    expected = calls["eager"](inputs[0], upstream)
    error = max(((a - b).abs().max() / b.abs().max()).item()
                for a, b in zip(calls["ours"](inputs[0], upstream), expected, strict=True))
    result = {"name": name, "error": error}
    if error > tolerance(dtype):
        return result
    del expected
    for contender, call in calls.items():
        result[contender] = seconds(call, inputs, upstream, options.repeats, device)
        if options.memories:
            result[f"{contender} bytes"] = extra_memory_alone(name, contender, options)
    return result


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks label_conditioned", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--quick", action="store_true", help="leave out torch.compile")
    parser.add_argument("--no-memory", dest="memories", action="store_false", help="measure times only")
    parser.add_argument("--memory", nargs=2, metavar=("ROW", "CONTENDER"), help="print the extra bytes of one call")
    parser.add_argument("--json", help="write the results here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.memory:
        name, contender = options.memory
        print(extra_memory(ROWS[name], contender, options.device, getattr(torch, options.dtype)))
        return
    info = _native.info()
    print(f"label-conditioned head, {options.dtype}; ms, and MB beyond inputs and results")
    print(f"{platform.processor() or platform.machine()}, {options.device}, {options.threads} threads, "
          f"backend {info['backend']}, simd {info['simd']}, torch {info['torch']}")  # fmt: skip
    print(f"{'case':<26}" + "".join(f"{c:>10}{'MB':>8}" for c in CONTENDERS) + f"{'ratio':>8}{'memory':>8}{'error':>10}")
    results = []
    for name in options.rows:
        result = measure(name, options)
        results.append(result)
        cells = [f"{1e3 * result[c]:>10.1f}" if c in result else f"{'-':>10}" for c in CONTENDERS]
        sizes = [result.get(f"{c} bytes") for c in CONTENDERS]
        cells = [t + (f"{'-':>8}" if size is None else f"{size / 1e6:>8.1f}") for t, size in zip(cells, sizes, strict=True)]
        ratio = f"{result['eager'] / result['ours']:.1f}x" if "ours" in result else "WRONG"
        share = f"1/{sizes[1] / max(sizes[0], 1):.1f}" if None not in sizes[:2] else "-"
        print(f"{name:<26}{''.join(cells)}{ratio:>8}{share:>8}{result['error']:>10.1e}", flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"info": info, "threads": options.threads, "device": str(options.device), "dtype": options.dtype,
                       "rows": results}, file, indent=1)  # fmt: skip
