"""Kills the AMN pipeline at random moments and goes on: does every run end with the files of one that was left alone?"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tyro

from wsss_fast import data
from wsss_fast.engine.files import write_json

_ARTEFACTS = (".npz", ".png", ".pth")
_COSTS = ("seconds", "images_per_second", "samples_per_second")
_QUICK = {"cam.epochs": 6, "amn.epochs": 4, "refine.irn.epochs": 3, "seg.updates": 24}


def main(argv: list[str]) -> None:
    """The command line of `measure`."""
    tyro.cli(measure, args=argv, prog="python -m benchmarks kill")


def measure(
    out: Path = Path("bench-kill"),
    *,
    times: int = 20,
    kills: int = 1,
    train: int = 64,
    size: int = 64,
    processes: int = 1,
    seed: int = 0,
) -> None:
    """Run the whole pipeline once alone, then `times` times with SIGKILL; print a line each, leave `<out>/kill.json`.

    Args:
        out: folder of the runs; must not hold any.
        times: runs that are killed.
        kills: of each run, at moments drawn uniformly over the time that the run alone took.
        train: training images of the benchmark it runs on.
        size: side of the images, px.
        processes: of each run, all killed at once; more than one by torchrun.
        seed: of the moments.
    """
    shapes = data.make_shapes(out / "shapes", train=train, val=16, size=size)
    start = time.monotonic()
    command = _command(shapes, out / "alone", processes)
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    alone, seconds = result(out / "alone"), time.monotonic() - start
    print(f"alone: {len(alone) - 1} files, {seconds:.1f} s")
    moments, rows = random.Random(seed), []
    for n in range(times):
        folder = out / f"killed{n:02d}"
        chosen = [moments.uniform(0, seconds) for _ in range(kills)]
        rows.append(one_run(_command(shapes, folder, processes), folder, chosen, alone))
        print(f"{n + 1}/{times}: {rows[-1]}", flush=True)
        shutil.rmtree(folder)
    same = sum(row["same"] for row in rows)
    write_json(
        out / "kill.json",
        {
            "date": time.strftime("%Y-%m-%d"),
            "seconds_alone": seconds,
            "files": len(alone) - 1,
            "same": same,
            "runs": rows,
        },
    )
    print(f"{same} of {times} runs ended with the files and metrics of the run alone")
    if same < times:
        sys.exit(1)


def one_run(
    command: list[str], folder: Path, moments: list[float], alone: dict[str, Any]
) -> dict[str, Any]:
    """Start, kill after each of `moments` seconds, start again; where it was hit, and whether it ended as `alone`."""
    hit = []
    for moment in moments:
        process = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(moment)
            hit.append("finished")
        except subprocess.TimeoutExpired:
            for id in (
                process.pid,
                *_children(process.pid),
            ):  # torchrun gives its workers sessions of their own
                os.kill(id, signal.SIGKILL)
            process.wait()
            begun = sorted(folder.rglob("begun.json"))
            hit.append(str(begun[0].parent.relative_to(folder)) if begun else "between stages")
    done = subprocess.run(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, check=False
    )
    left = [
        str(p.relative_to(folder))
        for name in ("*.tmp*", "begun.json", "checkpoint-*")
        for p in folder.rglob(name)
    ]
    ended = result(folder) if done.returncode == 0 else {}
    different = sorted(k for k in {*alone, *ended} if alone.get(k) != ended.get(k))
    return {
        "killed_after": [round(m, 1) for m in moments],
        "in": hit,
        "code": done.returncode,
        "left": left,
        "different": different[:5],
        "same": not different and not left,
    }


def _children(parent: int) -> list[int]:
    path = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def result(folder: Path) -> dict[str, Any]:
    """Bytes of every artefact by name, and metrics.json without what the clock says."""
    files: dict[str, Any] = {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.suffix in _ARTEFACTS
    }
    stages = json.loads((folder / "metrics.json").read_text())["stages"]
    files["metrics.json"] = [
        {k: v for k, v in stage.items() if k not in _COSTS} for stage in stages
    ]
    return files


def _command(shapes: Path, out: Path, processes: int) -> list[str]:
    numbers = [word for key, value in _QUICK.items() for word in (f"--pipeline.{key}", str(value))]
    launcher = (
        ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    return [
        sys.executable,
        *launcher,
        "-m",
        "wsss_fast",
        "amn",
        "run",
        "--preset",
        "shapes",
        "--data",
        str(shapes),
        "--val-split",
        "val",
        "--out",
        str(out),
        *numbers,
    ]
