"""What each stage costs: on one process and on two, and as images become more or larger."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tyro

from wsss_fast import data
from wsss_fast.engine.files import write_json

_ARTEFACTS = (".npz", ".png")
_TRAININGS = ("cam", "amn", "irn", "seg", "eps", "refined")
_INFERENCES = (
    "cam/maps",
    "seeds",
    "amn/maps",
    "irn/maps",
    "irn/masks",
    "masks",
    "seg/predictions",
    "eps/maps",
    "eps/crf-masks",
    "ccr/maps",
)


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
    """Print images a second of every stage, one thread a process, and leave `<out>/processes.json`.

    First the middle size and count on one process and on several, whose inference must leave the same files; then on one
    process for each count and each size. Trainings have a batch of 16 crops of the images' size.

    Args:
        out: folder of the runs; must not hold any.
        train: numbers of training images; a quarter of them are for validation.
        sizes: sides of the images, px.
        processes: on this machine.
        updates: of each training.
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
        folder, name = (
            data.make_shapes(out / f"shapes-{n}-{side}", train=n, val=n // 4, size=side),
            f"{n}-{side}",
        )
        rows.append(_row(out, name, out / name, folder, side, n, 1, updates, precision))
        if (n, side) == (count, size):
            rows.append(
                _row(
                    out,
                    f"{name}-x{processes}",
                    out / name,
                    folder,
                    side,
                    n,
                    processes,
                    updates,
                    precision,
                )
            )
            _same_files(out / name, out / f"{name}-x{processes}")
        write_json(
            out / "processes.json",
            {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "rows": rows},
        )
    print(
        "| stage | "
        + " | ".join(f"{r['images']} of {r['size']} px, x{r['processes']}" for r in rows)
        + " |"
    )
    print("|---" * (len(rows) + 1) + "|")
    for stage in rows[0]["speeds"]:
        print(f"| {stage} | " + " | ".join(f"{r['speeds'][stage]:.1f}" for r in rows) + " |")


def _row(
    out: Path,
    name: str,
    given: Path,
    folder: Path,
    size: int,
    images: int,
    processes: int,
    updates: int,
    precision: str,
) -> dict[str, Any]:
    script = Path(__file__).with_name("every_stage.py")
    launcher = (
        ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    command = [
        sys.executable,
        *launcher,
        script,
        folder,
        out / name,
        given,
        "--crop",
        size,
        "--batch",
        16,
        "--updates",
        updates,
        "--precision",
        precision,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])}
    subprocess.run(list(map(str, command)), check=True, env=environment, stderr=subprocess.DEVNULL)
    return {
        "images": images,
        "size": size,
        "processes": processes,
        "speeds": _speeds(out / name, images),
    }


def _speeds(run: Path, images: int) -> dict[str, float]:
    """Images a second of each stage."""
    found = {}
    for stage in _TRAININGS:
        found[f"{stage}, training"] = _notes(run / stage)["samples_per_second"]
    for stage in _INFERENCES:
        notes = _notes(run / stage)
        found[stage] = notes.get("images_per_second") or images / notes["seconds"]
    return found


def _notes(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "done.json").read_text())["notes"]


def _same_files(one: Path, several: Path) -> None:
    """Exit unless every inference stage left the same bytes."""
    for stage in _INFERENCES:
        first, second = (
            {p.name: p.read_bytes() for p in (run / stage).iterdir() if p.suffix in _ARTEFACTS}
            for run in (one, several)
        )
        if not first or first != second:
            wrong = sorted(
                name for name in {*first, *second} if first.get(name) != second.get(name)
            )
            sys.exit(
                f"{stage}: {len(wrong)} of {len(first)} files differ between one process and several, first {wrong[:1]}"
            )
