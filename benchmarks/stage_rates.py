"""Images per second of every inference and label stage, from files to files, on a GPU.

    python benchmarks/stage_rates.py [STAGE ...] [--device cuda] [--data FOLDER] [--images 256]
        [--precision auto] [--seconds 110] [--quick] [--json FILE]

The stages are those of `wsss-fast bench pipeline`, with the published networks, random weights and
synthetic photos; what they write is checked. A stage that fails does not stop the others. Lines
that start with "| " are printed as soon as a stage has ended; the JSON file has all figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from wsss_fast.bench import pipeline  # noqa: E402
from wsss_fast.bench.harness.run import machine  # noqa: E402
from wsss_fast.bench.pipeline.steps import STEPS, Setting, Step, measure, warm_up  # noqa: E402
from wsss_fast.engine.runtime import resolve_runtime  # noqa: E402


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", help="names of the table; none: all")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data", type=Path, help="folder in VOC layout, instead of new photos")
    parser.add_argument("--images", type=int, default=256, help="number of new photos")
    parser.add_argument("--precision", default="auto", help="fp32, bf16 or auto")
    parser.add_argument("--seconds", type=float, default=110.0, help="no stage begins after these")
    parser.add_argument("--quick", action="store_true", help="four small photos, small networks")
    parser.add_argument("--json", type=Path, help="file for all figures")
    return parser.parse_args()


def run_steps(steps: list[Step], setting: Setting, end: float) -> Iterator[list[dict[str, Any]]]:
    """Measure each step that begins before `end`; prints and yields its rows."""
    for line in pipeline.table([]):
        print(f"| {line}", flush=True)
    for step in steps:
        if time.monotonic() > end:
            print(f"| {step.name:<18}no time left", flush=True)
            yield [{"stage": step.name, "problem": "no time left"}]
            continue
        try:
            warm_up(step, setting)
            times = measure(step, setting)
        except Exception as error:
            problem = f"{type(error).__name__}: {str(error)[:300]}"
            print(f"| {step.name:<18}FAILED {problem}", flush=True)
            yield [{"stage": step.name, "problem": problem, "failed": True}]
            continue
        for line in pipeline.table(times, heads=False):
            print(f"| {line}", flush=True)
        yield [dataclasses.asdict(one) for one in times]


def main() -> int:
    options = parse_arguments()
    end = time.monotonic() + options.seconds
    where = resolve_runtime(options.device, 0, 0, options.precision, prefer_bf16=False).device
    if unknown := set(options.stages) - {step.name for step in STEPS}:
        raise SystemExit(f"unknown stages: {', '.join(sorted(unknown))}")
    steps = [step for step in STEPS if not options.stages or step.name in options.stages]
    count, size = (4, (60, 80)) if options.quick else (options.images, (375, 500))
    kind: Any = "small" if options.quick else "published"
    with tempfile.TemporaryDirectory(prefix="stage_rates-", ignore_cleanup_errors=True) as folder:
        setting = pipeline.prepare(
            Path(folder) / "work",
            count,
            size,
            kind,
            str(where),
            options.precision,
            None if options.quick else options.data,
        )
        facts = {**machine(where), "cores": os.cpu_count(), "precision": options.precision}
        rows: list[dict[str, Any]] = []
        for found in run_steps(steps, setting, end):
            rows += found
            if options.json:  # after every step, since the process may be stopped
                options.json.write_text(json.dumps({**facts, "rows": rows}, indent=1, default=str))
    return int(any(row.get("failed") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
