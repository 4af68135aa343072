"""Throughput of dense_crf on batches of one size, on a GPU: images per second of direct calls and of CUDA graph replays.

    python benchmarks/gpu_crf.py [--device cuda] [--quick] [--json FILE]

Results are compared with the CPU kernel's first; a row that disagrees prints no rate. Inputs are those of `wsss-fast bench
crf`, whose subject is one call; here it is how many images a second, and that repeated calls agree to the bit.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from wsss_fast import ops  # noqa: E402
from wsss_fast.bench import dense_crf, photos  # noqa: E402

HEIGHT, WIDTH, ITERATIONS = 375, 500, dense_crf.ITERATIONS
# name: unaries per image, labels, images, images per second to reach on an H200
ROWS = {
    "2 labels": (1, 2, 32, None),
    "seed pair of 3 labels": (2, 3, 32, 3000),
    "21 labels": (1, 21, 16, 1000),
    "21 labels, 4 present": (1, 21, 16, None),
    "81 labels": (1, 81, 4, None),
    "one image, 21 labels": (1, 21, 1, None),
}


def made(sets, labels, count, height, width, present=None):
    """Levels uint8 [count, 3, H, W] of different photos, and energies of smooth soft maps [count, S, L, H, W]."""
    return dense_crf.problem(
        dense_crf.Problem(labels, sets, count, present), 0, "soft", height, width
    )


def call(image, unary, iterations=ITERATIONS):
    """As users call it: with the check of the energies, a device sync, which a graph that is being recorded leaves out."""
    return ops.dense_crf(image, unary, iterations=iterations)


def median_seconds(run, device, budget):
    """Median of repeated runs, timed by events on a GPU."""
    times, start = [], time.perf_counter()
    run()
    while len(times) < 3 or time.perf_counter() - start < budget:
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        else:
            begin = time.perf_counter()
            run()
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def captured(image, unary):
    """A replay of the call as a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        call(image, unary)
    return graph.replay


def measure(name, device, quick):
    sets, labels, count, goal = ROWS[name]
    height, width = (75, 100) if quick else (HEIGHT, WIDTH)
    count = min(count, 2) if quick else count
    image, unary = made(sets, labels, count, height, width, 4 if "present" in name else None)
    there = image.to(device), unary.to(device)
    q, expected = call(*there).cpu(), call(image[:1], unary[:1])
    row = {
        "name": name,
        "sets": sets,
        "labels": labels,
        "images": count,
        "height": height,
        "width": width,
        "goal": goal,
        **dense_crf.compare([q[:1]], [expected]),
        "repeats": torch.equal(q, call(*there).cpu()),
    }
    if not row["repeats"] or not all(
        row[figure] <= limit for figure, limit in dense_crf.LIMITS.items()
    ):
        return row
    budget = 0.1 if quick else 1.0
    row["images_per_s"] = count / median_seconds(lambda: call(*there), device, budget)
    if device.type == "cuda":
        row["graph_images_per_s"] = count / median_seconds(captured(*there), device, budget)
        row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", type=torch.device)
    parser.add_argument("--quick", action="store_true", help="small images, to test this script")
    parser.add_argument("--json", help="write the results here")
    options = parser.parse_args()
    print(
        f"| {'case':<24}{'images':>7}{'images/s':>10}{'graph':>10}{'goal':>7}{'MiB':>8}"
        + "".join(f"{figure:>15}" for figure in dense_crf.LIMITS)
    )
    rows = []
    for name in ROWS:
        row = measure(name, options.device, options.quick)
        rows.append(row)
        rates = [
            f"{row[k]:.0f}" if k in row else "-" for k in ("images_per_s", "graph_images_per_s")
        ]
        wrong = "" if "images_per_s" in row else "  WRONG" if row["repeats"] else "  NOT REPEATABLE"
        print(
            f"| {name:<24}{row['images']:>7}{rates[0]:>10}{rates[1]:>10}{row['goal'] or '-':>7}{row.get('peak_mib', 0):>8.0f}"
            + "".join(f"{row[figure]:>15.1e}" for figure in dense_crf.LIMITS)
            + wrong,
            flush=True,
        )
    print(f"{HEIGHT}x{WIDTH} unless --quick, {ITERATIONS} iterations, {photos.source()}")
    if options.json:
        about = {"torch": torch.__version__, "device": str(options.device)}
        Path(options.json).write_text(json.dumps({**about, "rows": rows}, indent=1))
    return int(any("images_per_s" not in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
