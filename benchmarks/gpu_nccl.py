"""Every stage in a process group of one, under torchrun, compared with a run without any process group.

    python benchmarks/gpu_nccl.py FOLDER

One GPU cannot hold two NCCL processes, and with one process the package skips every collective call. So this script lets the
package believe that its group of one has several members: all exchanges then go through NCCL (gloo on a CPU), and the results
must be those of a plain run, within the tolerances of tests/test_ranks.py. Prints figures behind "| "; exit code 1 for a
difference beyond them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import every_stage  # noqa: E402
from wsss_fast import data  # noqa: E402
from wsss_fast.engine import distributed  # noqa: E402

TRAININGS = ("cam", "amn", "irn", "seg", "eps", "refined")
INFERENCES = (
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
# Of the whole batch's losses, and of a tensor's largest weight: as tests/test_ranks.py.
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 5e-4
NUMBERS = ["--crop", "64", "--batch", "8", "--updates", "4", "--exact"]


class OneOfSeveral(int):
    """1, which is not equal to 1: the package's shortcuts for a single process are not taken."""

    def __eq__(self, other: object) -> bool:
        return False

    def __gt__(self, other: Any) -> bool:
        return True

    __hash__ = int.__hash__


def member() -> None:
    """In a process that torchrun has started: run every stage, then say which backend did how many exchanges."""
    calls: Counter[str] = Counter()
    for name in (
        "all_reduce",
        "all_gather",
        "all_gather_object",
        "broadcast_object_list",
        "barrier",
    ):
        original = getattr(dist, name)

        def counted(
            *args: Any, _name: str = name, _original: Any = original, **options: Any
        ) -> Any:
            calls[_name] += 1
            return _original(*args, **options)

        setattr(dist, name, counted)
    leave = distributed.leave_group

    def report_and_leave() -> None:
        print(
            "group "
            + json.dumps(
                {
                    "backend": dist.get_backend(),
                    "processes": dist.get_world_size(),
                    "device": distributed.process_device("auto"),
                    "calls": dict(calls),
                }
            ),
            flush=True,
        )
        leave()

    distributed.world_size, distributed.leave_group = lambda: OneOfSeveral(1), report_and_leave
    every_stage.main()


def notes(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "done.json").read_text())["notes"]


def compare(plain: Path, group: Path) -> tuple[dict[str, Any], list[str]]:
    """Largest relative differences of losses and weights, files that differ; and what is beyond the tolerances."""
    figures: dict[str, Any] = {"losses": {}, "weights": {}, "files": {}}
    wrong = []
    for stage in TRAININGS:
        one, two = (np.asarray(notes(run / stage)["losses"]) for run in (plain, group))
        figures["losses"][stage] = float(np.max(np.abs(two - one) / np.abs(one)))
        first, second = (
            torch.load(run / stage / "weights.pth", weights_only=True, map_location="cpu")
            for run in (plain, group)
        )
        figures["weights"][stage] = max(
            (
                (second[n].double() - v.double()).abs().max()
                / v.double().abs().max().clamp_min(0.01)
            ).item()
            for n, v in first.items()
        )
        if not (
            figures["losses"][stage] <= LOSS_TOLERANCE
            and figures["weights"][stage] <= WEIGHT_TOLERANCE
        ):
            wrong.append(
                f"{stage}: losses differ by {figures['losses'][stage]:.1e}, weights by {figures['weights'][stage]:.1e}"
            )
    for stage in INFERENCES:
        one, two = (
            {
                p.name: p.read_bytes()
                for p in (run / stage).iterdir()
                if p.suffix in (".npz", ".png")
            }
            for run in (plain, group)
        )
        different = sorted(name for name in {*one, *two} if one.get(name) != two.get(name))
        figures["files"][stage] = {"files": len(one), "different": len(different)}
        if different or not one:
            wrong.append(
                f"{stage}: {len(different)} of {len(one)} files differ, first {different[:1]}"
            )
    return figures, wrong


def main() -> int:
    folder = Path(sys.argv[1])
    shapes = folder / "shapes"
    if not shapes.exists():
        data.make_shapes(shapes, seed=3, train=24, val=8, size=64)
    plain, group = folder / "plain", folder / "group"
    # Strict float32: rounding to TF32 would make large steps of the last bits in which two orders of summation differ.
    # A machine without a network has the loopback device alone.
    environment = {
        **os.environ,
        "NVIDIA_TF32_OVERRIDE": "0",
        "NCCL_SOCKET_IFNAME": "lo",
        "NCCL_DEBUG": "VERSION",
    }
    alone = [
        sys.executable,
        str(ROOT / "benchmarks/every_stage.py"),
        str(shapes),
        str(plain),
        str(plain),
        *NUMBERS,
    ]
    subprocess.run(alone, check=True, env=environment)
    launched = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "1",
        "--master-port",
        "29577",
        __file__,
        "--member",
        str(shapes),
        str(group),
        str(plain),
        *NUMBERS,
    ]
    done = subprocess.run(launched, check=False, env=environment, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    if done.returncode:
        print(f"| the run under torchrun ended with exit code {done.returncode}")
        return 1
    said = json.loads(
        next(line for line in done.stdout.splitlines() if line.startswith("group ")).partition(" ")[
            2
        ]
    )
    figures, wrong = compare(plain, group)
    different = sum(f["different"] for f in figures["files"].values())
    print(
        f"| backend {said['backend']} on {said['device']}, {sum(said['calls'].values())} exchanges {said['calls']}"
    )
    files = sum(f["files"] for f in figures["files"].values())
    print(
        f"| losses differ by {max(figures['losses'].values()):.1e}, weights by {max(figures['weights'].values()):.1e} "
        f"(allowed {LOSS_TOLERANCE:g}, {WEIGHT_TOLERANCE:g}); {different} of {files} files of the inference stages differ"
    )
    if torch.cuda.is_available() and said["backend"] != "nccl" and "nccl" not in said["backend"]:
        wrong.append(f"the backend is {said['backend']}, not nccl")
    for text in wrong:
        print(f"| {text}")
    (folder / "nccl.json").write_text(json.dumps({**said, **figures, "wrong": wrong}, indent=1))
    return int(bool(wrong))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--member"]:
        del sys.argv[1]
        member()
    else:
        sys.exit(main())
