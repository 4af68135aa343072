"""Everything that needs a GPU, in one call; `benchmarks/gpu_check.sh` explains its use.

Runs steps one after another (those of a group at the same time), each as a process with its own
time limit, and prints a summary of each as soon as it ends. After every step `summary.txt`,
`gpu_check.json` (all figures) and `gpu_check.tar.gz` (all logs) in the output folder are complete.
Uses the standard library only, so that a broken torch cannot stop it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.gpu_plan import plan  # noqa: E402
from benchmarks.gpu_runner import ROOT, Check, Step  # noqa: E402

DEADLINE = 470.0  # seconds for all steps; the environment variable GPU_CHECK_SECONDS changes it


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu: a trial at tiny sizes, without NVIDIA tools",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        help="names of steps, or of sections: preparation, operators, stages, pipelines, tools; "
        "their prerequisites are not added",
    )
    parser.add_argument(
        "--list", action="store_true", help="print the steps and their commands, and run nothing"
    )
    parser.add_argument(
        "--keep", type=Path, help="use this folder for builds, data and runs, and do not remove it"
    )
    return parser.parse_args()


def selected(sections: dict[str, list[Step]], only: list[str] | None) -> list[Step]:
    """The steps of these names or sections, which then wait for no others; all steps for None."""
    steps = [step for section in sections.values() for step in section]
    if not only:
        return steps
    names = {name for word in only for name in [word, *(s.name for s in sections.get(word, ()))]}
    if unknown := set(only) - {*sections, *(step.name for step in steps)}:
        raise SystemExit(f"unknown steps: {', '.join(sorted(unknown))}; --list prints all")
    return [
        dataclasses.replace(step, after=tuple(set(step.after) & names))
        for step in steps
        if step.name in names
    ]


def set_environment(check: Check, device: str) -> None:
    """Set what all steps share: import path, native kernels, caches."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    check.environment |= {
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "WSSS_FAST_BACKEND": "native",
    }
    for name, folder in (("WSSS_FAST_CACHE", "cache"), ("WSSS_FAST_DATA", "data")):
        # An empty cache on a GPU, since the cold build is part of the check.
        if device == "cuda" or name not in os.environ:
            check.environment[name] = str(check.work / folder)


def main() -> int:
    options = parse_arguments()
    out = Path(os.environ.get("OUT") or ROOT / "gpu-results")
    deadline = float(os.environ.get("GPU_CHECK_SECONDS") or DEADLINE)
    python = os.environ.get("PYTHON") or sys.executable
    workers = max(0, min(8, (os.cpu_count() or 1) // 2)) if options.device == "cuda" else 0
    with contextlib.ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="gpu_check-", ignore_cleanup_errors=True)
        work = options.keep or Path(stack.enter_context(temporary))
        check = Check((work / "out" if options.list else out).resolve(), work.resolve(), deadline)
        set_environment(check, options.device)
        steps = selected(plan(check, options.device, python, workers), options.only)
        if options.list:
            for step in steps:
                command = shlex.join(map(str, step.command))
                print(f"{step.name:<14} at most {step.limit:.0f} s: {command}")
            return 0
        stack.callback(check.stop_all)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the callback stops the steps
        return int(check.run(steps) > 0)


if __name__ == "__main__":
    sys.exit(main())
