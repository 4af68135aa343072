"""Throughput of every stage: in one process and in two, for more images, for larger images."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tyro

from benchmarks.stages import ARTEFACTS, INFERENCES, TRAININGS, notes
from wsss_fast import data
from wsss_fast.engine.files import write_json


def main(argv: list[str]) -> None:
    """The command line of `measure`."""
    tyro.cli(measure, args=argv, prog="python -m benchmarks processes")


def measure(
    out: Path = Path("bench-processes"),
    *,
    train: tuple[int, ...] = (64, 128, 256),
    sizes: tuple[int, ...] = (64, 128, 192),
    processes: int = 2,
    updates: int = 30,
    precision: str = "fp32",
) -> None:
    """Print images per second of every stage, one thread per process; writes `processes.json`.

    First the middle size and count in one process and in several, whose inference must write the
    same files; then every count and every size in one process. Trainings use batches of 16 crops
    as large as the images.

    Args:
        out: folder for the runs and the JSON file; must not contain runs.
        train: numbers of training images; a quarter as many are added for validation.
        sizes: sides of the images in pixels.
        processes: processes on this machine.
        updates: updates of each training.
        precision: fp32, or bf16 (autocast).
    """
    count, size = train[len(train) // 2], sizes[len(sizes) // 2]
    settings = [
        (count, size),
        *((n, size) for n in train if n != count),
        *((count, s) for s in sizes if s != size),
    ]
    rows = []
    for n, side in settings:
        folder = data.make_shapes(out / f"shapes-{n}-{side}", train=n, val=n // 4, size=side)
        run = out / f"{n}-{side}"
        numbers = ["--crop", side, "--batch", 16, "--updates", updates, "--precision", precision]
        for count_of_processes in (1, processes) if (n, side) == (count, size) else (1,):
            own = run if count_of_processes == 1 else run.with_name(f"{run.name}-x{processes}")
            _run_stages(count_of_processes, [folder, own, run, *numbers])
            speeds = _images_per_second(own, n)
            row = {"images": n, "size": side, "processes": count_of_processes, "speeds": speeds}
            rows.append(row)
            _require_same_files(run, own)
        result = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "rows": rows}
        write_json(out / "processes.json", result)
    heads = [f"{r['images']} of {r['size']} pixels, x{r['processes']}" for r in rows]
    print(f"| stage | {' | '.join(heads)} |")
    print("|---" * (len(rows) + 1) + "|")
    for stage in rows[0]["speeds"]:
        print(f"| {stage} | " + " | ".join(f"{r['speeds'][stage]:.1f}" for r in rows) + " |")


def _run_stages(processes: int, arguments: list[Any]) -> None:
    """Run `every_stage.py` in one process or in several, one thread each."""
    script = Path(__file__).with_name("every_stage.py")
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", processes]
    launcher = torchrun if processes > 1 else []
    command = [str(word) for word in (sys.executable, *launcher, script, *arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])}
    subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)


def _images_per_second(run: Path, images: int) -> dict[str, float]:
    """Throughput of each stage."""
    found = {}
    for stage in TRAININGS:
        found[f"{stage}, training"] = notes(run / stage)["samples_per_second"]
    for stage in INFERENCES:
        recorded = notes(run / stage)
        found[stage] = recorded.get("images_per_second") or images / recorded["seconds"]
    return found


def _require_same_files(one: Path, several: Path) -> None:
    """Exit unless every inference stage wrote the same bytes in both run folders."""
    for stage in INFERENCES:
        first, second = (
            {p.name: p.read_bytes() for p in (run / stage).iterdir() if p.suffix in ARTEFACTS}
            for run in (one, several)
        )
        wrong = sorted(n for n in {*first, *second} if first.get(n) != second.get(n))
        if not first or wrong:
            sys.exit(
                f"{stage}: {len(wrong)} of {len(first)} files differ between one process and "
                f"several, first {wrong[:1]}"
            )
