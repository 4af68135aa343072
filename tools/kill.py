"""Kill the AMN pipeline at random moments and resume it: does every run end with the same files?

With --pairs, two processes work on one run folder instead: does one work, and the other say so?

python tools/kill.py [--times 20] [--kills 1] [--processes 1] [--pairs 0] [--out bench-kill]
"""

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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from wsss_fast import data  # noqa: E402
from wsss_fast.engine.files import write_json  # noqa: E402

ARTEFACTS = (".npz", ".png", ".pth")
# Measured times in metrics.json, which are not compared.
MEASURED = ("seconds", "images_per_second", "samples_per_second", "time")
QUICK = {"cam.epochs": 6, "amn.epochs": 4, "refine.irn.epochs": 3, "seg.updates": 24}
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
}


def kill(
    out: Path = Path("bench-kill"),
    *,
    times: int = 20,
    kills: int = 1,
    pairs: int = 0,
    train: int = 64,
    size: int = 64,
    processes: int = 1,
    seed: int = 0,
) -> None:
    """Run the whole pipeline once undisturbed, then `times` times with SIGKILL, or `pairs` twice.

    Prints one line per run and writes `<out>/kill.json`; exit code 1 if a result differs.

    Args:
        out: folder of the runs; must not contain runs.
        times: number of runs that are killed.
        kills: kills of each run, at moments drawn uniformly from the undisturbed run's duration.
        pairs: number of runs, instead of `times`, with a second process on the same run folder,
            which begins at a moment drawn uniformly from most of the undisturbed run's duration;
            without torchrun.
        train: number of training images of the benchmark.
        size: side of the images, in pixels.
        processes: processes of each run, all killed at once; more than one are run by torchrun.
        seed: seed of the moments.
    """
    shapes = data.make_shapes(out / "shapes", train=train, val=16, size=size)
    start = time.monotonic()
    command = _command(shapes, out / "alone", processes)
    quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    subprocess.run(command, check=True, env=ENVIRONMENT, **quiet)
    expected, seconds = result(out / "alone"), time.monotonic() - start
    print(f"undisturbed: {len(expected) - 1} files, {seconds:.1f} s")
    moments, rows = random.Random(seed), []
    assert not pairs or processes == 1, "torchrun has an exit code of its own"
    runs = pairs or times
    for n in range(runs):
        folder = out / (f"pair{n:02d}" if pairs else f"killed{n:02d}")
        again = _command(shapes, folder, processes)
        if pairs:
            # the first pair begins at the same moment
            rows.append(two_runs(again, folder, n and moments.uniform(0, 0.8 * seconds), expected))
        else:
            chosen = [moments.uniform(0, seconds) for _ in range(kills)]
            rows.append(one_run(again, folder, chosen, expected))
        print(f"{n + 1}/{runs}: {rows[-1]}", flush=True)
        shutil.rmtree(folder)
    same = sum(row["same"] for row in rows)
    write_json(
        out / "kill.json",
        {
            "date": time.strftime("%Y-%m-%d"),
            "seconds_alone": seconds,
            "files": len(expected) - 1,
            "same": same,
            "runs": rows,
        },
    )
    told = ", and the second process said who works there" if pairs else ""
    print(f"{same} of {runs} runs ended with the files and metrics of the undisturbed run{told}")
    if same < runs:
        sys.exit(1)


def one_run(
    command: list[str], folder: Path, moments: list[float], expected: dict[str, Any]
) -> dict[str, Any]:
    """Start a run, kill it after each of `moments` seconds and restart it.

    Returns the stages in which it was killed, and whether its result is the expected one.
    """
    stages = []
    for moment in moments:
        process = subprocess.Popen(
            command,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        try:
            process.wait(moment)
            stages.append("finished")
        except subprocess.TimeoutExpired:
            # torchrun puts its workers in sessions of their own.
            for id in (process.pid, *_children(process.pid)):
                os.kill(id, signal.SIGKILL)
            process.wait()
            begun = sorted(folder.rglob("begun.json"))
            stages.append(str(begun[0].parent.relative_to(folder)) if begun else "between stages")
    last = _start(command)
    last.communicate()  # its pipe must not fill up
    return {
        "killed_after": [round(m, 1) for m in moments],
        "in": stages,
        **_compared(folder, last.returncode, expected),
    }


def two_runs(
    command: list[str], folder: Path, moment: float, expected: dict[str, Any]
) -> dict[str, Any]:
    """Start a run, and the same one `moment` seconds later: one of them must work, one refuse.

    Returns what the one that was refused said, and whether the other one's result is as expected.
    """
    first = _start(command)
    time.sleep(moment)
    second = _start(command)
    said = [process.communicate()[1] for process in (first, second)]
    codes = [first.returncode, second.returncode]
    refused = [code == 2 for code in codes]
    # Of two that begin at once either may be first.
    line = said[refused.index(True)].strip().splitlines()[-1] if any(refused) else ""
    worker = first if not refused[0] else second
    told = f"process {worker.pid} " in line and "works on this run folder" in line
    row = {"second_after": round(moment, 1), "codes": codes, "said": line}
    compared = _compared(folder, min(codes), expected)
    return {**row, **compared, "same": compared["same"] and told}


def _start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
    )


def _compared(folder: Path, code: int, expected: dict[str, Any]) -> dict[str, Any]:
    """Exit code, files that should not be left, and results that differ."""
    left = [
        str(p.relative_to(folder))
        for name in ("*.tmp*", "begun.json", "checkpoint-*", ".lock", "redo.json")
        for p in folder.rglob(name)
    ]
    found = result(folder) if code == 0 else {}
    different = sorted(k for k in {*expected, *found} if expected.get(k) != found.get(k))
    return {
        "code": code,
        "left": left,
        "different": different[:5],
        "same": not different and not left,
    }


def _children(parent: int) -> list[int]:
    path = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def result(folder: Path) -> dict[str, Any]:
    """The bytes of every artefact by name, and metrics.json without measured times."""
    files: dict[str, Any] = {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.suffix in ARTEFACTS
    }
    stages = json.loads((folder / "metrics.json").read_text())["stages"]
    files["metrics.json"] = [
        {k: v for k, v in stage.items() if k not in MEASURED} for stage in stages
    ]
    return files


def _command(shapes: Path, out: Path, processes: int) -> list[str]:
    launcher = []
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    numbers = [word for key, value in QUICK.items() for word in (f"--pipeline.{key}", str(value))]
    options = ["--preset", "shapes", "--data", str(shapes), "--val-split", "val", "--out", str(out)]
    return [sys.executable, *launcher, "-m", "wsss_fast", "amn", "run", *options, *numbers]


if __name__ == "__main__":
    tyro.cli(kill, description=__doc__)
