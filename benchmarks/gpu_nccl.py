"""Every stage in a process group of one, under torchrun, compared with a run without a group.

    python benchmarks/gpu_nccl.py FOLDER

One GPU cannot hold two NCCL processes, and with one process the package skips every collective
call. So this script makes the package treat its group of one as several: all exchanges then go
through NCCL (gloo on a CPU), and the results must be those of a run without a group, within the
tolerances of tests/engine/test_distributed.py. The essential figures are printed on lines that
start with "| "; the exit code is 1 if a difference exceeds a tolerance.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import every_stage  # noqa: E402
from benchmarks.stages import ARTEFACTS, INFERENCES, TRAININGS, notes  # noqa: E402
from wsss_fast import data  # noqa: E402
from wsss_fast.engine import distributed  # noqa: E402

# Relative to the losses of the whole batch, and to a tensor's largest weight.
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 5e-4
NUMBERS = ["--crop", "64", "--batch", "8", "--updates", "4", "--exact"]
COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "all_gather_object",
    "broadcast_object_list",
    "barrier",
)


class OneOfSeveral(int):
    """1 that does not compare equal to 1, so that shortcuts for a single process are not taken."""

    def __eq__(self, other: object) -> bool:
        return False

    def __gt__(self, other: Any) -> bool:
        return True

    __hash__ = int.__hash__


def member() -> None:
    """In a process of torchrun: run every stage, then print the backend and count the exchanges."""
    calls: Counter[str] = Counter()

    def counted(name: str, original: Callable[..., Any], *args: Any, **options: Any) -> Any:
        calls[name] += 1
        return original(*args, **options)

    for name in COLLECTIVES:
        setattr(dist, name, functools.partial(counted, name, getattr(dist, name)))
    leave_group = distributed.leave_group

    def report_and_leave() -> None:
        group = {
            "backend": dist.get_backend(),
            "processes": dist.get_world_size(),
            "device": distributed.process_device("auto"),
            "calls": dict(calls),
        }
        print(f"group {json.dumps(group)}", flush=True)
        leave_group()

    distributed.world_size, distributed.leave_group = lambda: OneOfSeveral(1), report_and_leave
    every_stage.main()


def compare(single: Path, group: Path) -> tuple[dict[str, Any], list[str]]:
    """Compare two run folders.

    Returns:
        The largest relative differences of losses and weights and the number of different files
        by stage, and a description of each difference that exceeds the tolerance.
    """
    figures: dict[str, Any] = {"losses": {}, "weights": {}, "files": {}}
    wrong = []
    for stage in TRAININGS:
        losses = figures["losses"][stage] = loss_difference(single / stage, group / stage)
        weights = figures["weights"][stage] = weight_difference(single / stage, group / stage)
        if not (losses <= LOSS_TOLERANCE and weights <= WEIGHT_TOLERANCE):
            wrong.append(f"{stage}: losses differ by {losses:.1e}, weights by {weights:.1e}")
    for stage in INFERENCES:
        one, two = (
            {p.name: p.read_bytes() for p in (run / stage).iterdir() if p.suffix in ARTEFACTS}
            for run in (single, group)
        )
        different = sorted(name for name in {*one, *two} if one.get(name) != two.get(name))
        figures["files"][stage] = {"files": len(one), "different": len(different)}
        if different or not one:
            count = f"{len(different)} of {len(one)} files"
            wrong.append(f"{stage}: {count} differ, first {different[:1]}")
    return figures, wrong


def loss_difference(first: Path, second: Path) -> float:
    one, two = (np.asarray(notes(folder)["losses"]) for folder in (first, second))
    return float(np.max(np.abs(two - one) / np.abs(one)))


def weight_difference(first: Path, second: Path) -> float:
    one, two = (
        torch.load(folder / "weights.pth", weights_only=True, map_location="cpu")
        for folder in (first, second)
    )
    differences = []
    for name, value in one.items():
        scale = value.double().abs().max().clamp_min(0.01)
        differences.append((two[name].double() - value.double()).abs().max() / scale)
    return max(differences).item()


def run_stages(folder: Path) -> tuple[int, str]:
    """Run every stage without a group, then under torchrun; exit code and output of the latter."""
    shapes, single, group = folder / "shapes", folder / "single", folder / "group"
    if not shapes.exists():
        data.make_shapes(shapes, seed=3, train=24, val=8, size=64)
    environment = {
        **os.environ,
        # TF32 would amplify differences in the last bits that come from the order of summation.
        "NVIDIA_TF32_OVERRIDE": "0",
        # A machine without a network has the loopback device only.
        "NCCL_SOCKET_IFNAME": "lo",
        "NCCL_DEBUG": "VERSION",
    }
    script = ROOT / "benchmarks/every_stage.py"
    command = [sys.executable, script, shapes, single, single, *NUMBERS]
    subprocess.run(list(map(str, command)), check=True, env=environment)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "1", "--master-port", "29577"]
    command = [sys.executable, *launcher, __file__, "--member", shapes, group, single, *NUMBERS]
    done = subprocess.run(
        list(map(str, command)), check=False, env=environment, stdout=subprocess.PIPE, text=True
    )
    return done.returncode, done.stdout


def main() -> int:
    folder = Path(sys.argv[1])
    code, output = run_stages(folder)
    print(output)
    if code:
        print(f"| the run under torchrun ended with exit code {code}")
        return 1
    line = next(line for line in output.splitlines() if line.startswith("group "))
    group = json.loads(line.partition(" ")[2])
    figures, wrong = compare(folder / "single", folder / "group")
    different = sum(f["different"] for f in figures["files"].values())
    files = sum(f["files"] for f in figures["files"].values())
    calls = f"{sum(group['calls'].values())} exchanges {group['calls']}"
    print(f"| backend {group['backend']} on {group['device']}, {calls}")
    print(
        f"| losses differ by {max(figures['losses'].values()):.1e}, "
        f"weights by {max(figures['weights'].values()):.1e} "
        f"(allowed {LOSS_TOLERANCE:g}, {WEIGHT_TOLERANCE:g}); "
        f"{different} of {files} files of the inference stages differ"
    )
    if torch.cuda.is_available() and "nccl" not in group["backend"]:
        wrong.append(f"the backend is {group['backend']}, not nccl")
    for text in wrong:
        print(f"| {text}")
    (folder / "nccl.json").write_text(json.dumps({**group, **figures, "wrong": wrong}, indent=1))
    return int(bool(wrong))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--member"]:
        del sys.argv[1]
        member()
    else:
        sys.exit(main())
