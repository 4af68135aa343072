"""Steps of `gpu_check.py` that need torch.

    python benchmarks/gpu_steps.py {machine,build,rates,once,profile} [NAME ...] [--device cuda]
        [--quick] [--json FILE]

Each prints its essential figures on lines that start with "| " and writes all of them as JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import gpu_crf, gpu_rows  # noqa: E402
from benchmarks.gpu_timing import strict_float32, synchronize, timed  # noqa: E402
from wsss_fast import _build, _native, ops  # noqa: E402
from wsss_fast.bench.harness.memory import build_suite, to_device  # noqa: E402
from wsss_fast.bench.harness.suite import COMPILED, OURS, as_list  # noqa: E402

# What the profilers run: a row of gpu_crf.py, or (benchmark, its options, row).
CALLS: dict[str, str | tuple[str, dict[str, Any], str]] = {
    "crf-21": "21 labels",
    "crf-pair": "seed pair of 3 labels",
    "head-bf16": ("label_conditioned", {"dtype": "bfloat16"}, "amn16-train"),
    "head-fp32-81": ("label_conditioned", {"dtype": "float32"}, "amn16-81-train"),
    "cam-bf16": ("label_conditioned", {"dtype": "bfloat16"}, "cam-train"),
    "activation": ("label_conditioned", {"dtype": "float32"}, "amn-inference"),
    "pixel-loss": ("pixel_cross_entropy", {}, "pcl512"),
    "pixel-loss-41": ("pixel_cross_entropy", {}, "seg41"),
    "bce": ("pixel_bce", {}, "bce512"),
    "saliency": ("saliency_loss", {}, "voc"),
    "aamr": ("aamr_loss", {}, "seg321"),
    "filter": ("bilateral_filter", {}, "21"),
    "energy": ("dense_energy_loss", {}, "half"),
    "refine": ("pixel_adaptive_refine", {}, "par"),
    "refine-3": ("pixel_adaptive_refine", {}, "par3"),
    "walk": ("random_walk", {}, "irn5"),
    "views": ("image_views", {}, "voc"),
    "merge": ("merge_maps", {}, "amn1"),
}
SHOWN_KERNELS = 12  # the slowest kernels of each call


def machine(device: torch.device, quick: bool, names: list[str]) -> dict[str, Any]:
    """Hardware and versions, and the highest measured throughput.

    That is bytes per second of a copy, and FLOP per second of a bf16 matrix product.
    """
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = models[0] if models else platform.processor()
    found: dict[str, Any] = {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "date": time.strftime("%Y-%m-%d"),
    }
    nvcc = _build.find_nvcc()
    if nvcc:
        done = subprocess.run([nvcc, "--version"], capture_output=True, text=True)
        found["nvcc"] = done.stdout.strip().splitlines()[-1]
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        found |= {
            "device": torch.cuda.get_device_name(device),
            "capability": torch.cuda.get_device_capability(device),
            "free_gib": round(free / 2**30, 1),
            "total_gib": round(total / 2**30, 1),
        }
    size, side = (1 << 24, 256) if quick else (1 << 32, 8192)
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found["copy_tb_per_s"] = 2 * size / timed(lambda: target.copy_(source), device, 0.3)["ms"] / 1e9
    left, right = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    found["bf16_tflop_per_s"] = 2 * side**3 / timed(lambda: left @ right, device, 0.5)["ms"] / 1e9
    print(
        f"| {found.get('device', 'cpu')}, {cpu} x {os.cpu_count()}, Linux {found['kernel']}, "
        f"torch {found['torch']}, Python {found['python']}, {found.get('nvcc', 'no nvcc')}"
    )
    print(
        f"| copy {found['copy_tb_per_s']:.2f} TB/s (bytes read and written), "
        f"bf16 product {found['bf16_tflop_per_s']:.0f} TFLOP/s at {side}^3"
    )
    return found


def build(device: torch.device, quick: bool, names: list[str]) -> dict[str, Any]:
    """Build the native libraries by calling an op on the CPU and the device; print their state.

    The figures are those of `wsss-fast info`.
    """
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image, unary = torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.rand(1, 2, 4, 4)
        expected = ops.dense_crf(image, unary)
        got = ops.dense_crf(image.to(device), unary.to(device)).cpu()
        found = _native.info()
    found = {
        **found,
        "seconds": time.perf_counter() - start,
        "warnings": [str(w.message) for w in caught],
        "difference": (got - expected).abs().max().item(),
    }
    print(json.dumps(found, indent=1, default=str))
    print(
        f"| CPU {found['backend']} ({found['why'][:200]}), simd {found['simd']}, "
        f"built in {found['build_seconds']} s; "
        f"CUDA {found['cuda_backend']} ({found['cuda_why'][:200]}), sm {found['cuda_archs']}, "
        f"built in {found['cuda_build_seconds']} s; both calls took {found['seconds']:.1f} s, "
        f"{found['compiler']}"
    )
    for text in found["warnings"]:
        print(f"| warning: {text[:300]}")
    backend = found["cuda_backend"] if device.type == "cuda" else "native"
    if found["backend"] != "native" or backend != "native":
        raise SystemExit("| there is no native kernel for this device")
    return found


def rates(device: torch.device, quick: bool, names: list[str]) -> list[dict[str, Any]]:
    """Ours and eager PyTorch on rows of gpu_rows.py; wrong results are not timed.

    With "compiled" among the names also torch.compile.
    """
    heads = ("ours ms", "host ms", "MiB", "eager ms", "MiB", "torch ms", "compiled")
    print(f"| {'case':<38}{''.join(f'{head:>10}' for head in heads)}  difference", flush=True)
    found = []
    groups = [name for name in names if name != COMPILED]
    for chosen in gpu_rows.rows(groups):
        row = rate(chosen, device, quick, compiled=COMPILED in names)
        found.append({**chosen.about, **row})
        print(f"| {chosen.name:<38}{table_cells(row)}", flush=True)
    if wrong := sum("problem" in row for row in found):
        print(f"| {wrong} rows are wrong")
    return found


def table_cells(row: dict[str, Any]) -> str:
    """The cells of a row below the heads of `rates`: times, memory, differences or problem."""
    shown = (
        *((OURS, figure) for figure in ("ms", "host_ms", "peak_mib")),
        *(("eager", figure) for figure in ("ms", "peak_mib")),
        ("torch", "ms"),
        (COMPILED, "ms"),
    )
    values = [row.get(name, {}).get(figure) for name, figure in shown]
    cells = "".join(f"{'-':>10}" if v is None else f"{v:>10.3g}" for v in values)
    errors = ", ".join(f"{name} {value:.1e}" for name, value in row["figures"].items())
    return f"{cells}  {row.get('problem') or errors}"


def rate(row: gpu_rows.Row, device: torch.device, quick: bool, compiled: bool) -> dict[str, Any]:
    """One row: differences from the suite's baseline on two inputs, then times and memory."""
    available = row.suite.implementations(row.key)
    baseline = next(name for name in row.suite.baselines if name in available)
    figures: dict[str, float] = {}
    found: dict[str, Any] = {"figures": figures}
    for number in range(2):
        given = row.make(number, quick)
        inputs = to_device(given, device)
        try:
            with strict_float32():
                expected, results = (
                    [
                        t.detach().cpu()
                        for t in as_list(one.call(*(given if one.on_cpu else inputs)))
                    ]
                    for one in (available[baseline], available[OURS])
                )
            errors = row.compare(results, expected)
        except Exception as error:
            return found | {"problem": describe(error)}
        for name, value in errors.items():
            largest = figures.get(name, 0.0)
            figures[name] = value if not value <= largest else largest  # keeps NaN
    over = [
        f"{name} {figures[name]:.2g} > {limit:g}"
        for name, limit in row.limits.items()
        if not figures[name] <= limit
    ]
    if over:
        return found | {"problem": f"WRONG: {', '.join(over)}"}
    calls = {OURS: row.call(), **row.baselines(), **(row.compiled() if compiled else {})}
    for name, call in calls.items():
        run, budget = functools.partial(call, *inputs), 0.05 if quick else 0.4
        try:
            found[name] = timed(run, device, budget)
        except Exception as error:
            print(f"{name} failed: {error}")
            if name == OURS:
                return found | {"problem": describe(error)}
    return found


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:160]}"


def prepared_call(
    name: str, device: torch.device, quick: bool, iterations: int = gpu_crf.ITERATIONS
) -> Callable[[], object]:
    """The call that CALLS names, with its input on the device; `iterations` are those of a CRF."""
    target = CALLS[name]
    if isinstance(target, str):
        inputs = gpu_crf.row_input(target, quick, images=4)
        return functools.partial(gpu_crf.call, *(t.to(device) for t in inputs), iterations)
    benchmark, options, row = target
    suite = build_suite(benchmark, options)
    tensors = to_device(suite.tiny(row) if quick else suite.make(row, 0), device)
    return functools.partial(suite.implementations(row)[OURS].call, *tensors)


def once(device: torch.device, quick: bool, names: list[str]) -> None:
    """Two warm-up calls, then one that `ncu --profile-from-start off` profiles."""
    for name in names:
        # Few iterations, since ncu replays every launch several times.
        run = prepared_call(name, device, quick, iterations=2)
        for _ in range(2):
            run()
        synchronize(device)
        if device.type == "cuda":
            torch.cuda.profiler.start()
        run()
        synchronize(device)
        if device.type == "cuda":
            torch.cuda.profiler.stop()


def profile(device: torch.device, quick: bool, names: list[str]) -> dict[str, Any]:
    """A warm call of each under torch.profiler: the slowest kernels, and busy and total time."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    found = {}
    for name in names or CALLS:
        try:
            found[name] = profiled(prepared_call(name, device, quick), device, activities)
        except Exception as error:
            print(f"| {name}: {describe(error)}", flush=True)
            found[name] = {"problem": str(error)[:500]}
            continue
        row = found[name]
        busy = row["busy_us"]
        print(
            f"| {name}: {row['launches']} launches, {busy:.0f} us busy of {row['wall_us']:.0f} us"
        )
        for k in row["kernels"][:SHOWN_KERNELS]:
            print(f"    {k['us']:>9.1f} us {k['count']:>5} x  {k['name'][:130]}", flush=True)
        shares = [
            f"{short(k['name'])} {100 * k['us'] / max(busy, 1e-9):.0f}%" for k in row["kernels"][:4]
        ]
        print(f"|    {', '.join(shares)}", flush=True)
    return found


def profiled(run: Callable[[], object], device: torch.device, activities: list) -> dict[str, Any]:
    for _ in range(3):
        run()
    synchronize(device)
    with torch.profiler.profile(activities=activities) as record:
        run()
        synchronize(device)
    # Timed without the profiler, which slows the call down.
    start = time.perf_counter()
    run()
    synchronize(device)
    wall = 1e6 * (time.perf_counter() - start)
    kernels: dict[str, list[float]] = {}
    types = torch.autograd.DeviceType
    kind = types.CUDA if device.type == "cuda" else types.CPU
    for event in record.events():
        if event.device_type == kind and (device.type == "cuda" or not event.cpu_children):
            kernels.setdefault(event.name, []).append(event.time_range.elapsed_us())
    table = [{"name": n, "count": len(t), "us": sum(t)} for n, t in kernels.items()]
    table.sort(key=lambda k: -k["us"])
    return {
        "launches": sum(k["count"] for k in table),
        "busy_us": sum(k["us"] for k in table),
        "wall_us": wall,
        "kernels": table[:30],
    }


def short(name: str) -> str:
    """A kernel's name without return type, namespaces, template arguments and parameters."""
    name = name.removeprefix("void ").split("(anonymous namespace)::")[-1]
    return name.split("<")[0].split("(")[0].split("::")[-1][:40]


STEPS = {f.__name__: f for f in (machine, build, rates, once, profile)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("names", nargs="*", help="groups of rates, or calls to profile")
    parser.add_argument("--device", default="cuda", type=torch.device)
    parser.add_argument("--quick", action="store_true", help="tiny inputs, to test this script")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    found = STEPS[options.step](options.device, options.quick, options.names)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, default=str))
    return int(options.step == "rates" and any("problem" in row for row in found))


if __name__ == "__main__":
    sys.exit(main())
