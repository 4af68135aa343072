"""Several processes under torchrun: the same artefacts and figures as one, faults said, and runs that go on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
PORT = iter(range(29611 + os.getpid() % 1000, 40000))


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def torchrun(*command, **options):
    return subprocess.run([*TORCHRUN, str(next(PORT)), *map(str, command)], capture_output=True, text=True, timeout=300,
                          check=False, env=environment(), **options)


@pytest.fixture(scope="module")
def runs(shapes_root, tmp_path_factory):
    """Run folders of one process and of two, which read what the one process made."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    script, numbers = ROOT / "benchmarks/every_stage.py", ["--crop", "64", "--batch", "8", "--updates", "4", "--exact"]
    alone = subprocess.run([sys.executable, script, shapes_root, one, one, *numbers], capture_output=True, text=True,
                           timeout=300, check=False, env=environment())
    assert alone.returncode == 0, alone.stderr
    together = torchrun(script, shapes_root, two, one, *numbers)
    assert together.returncode == 0, together.stderr
    return one, two


def notes(folder):
    return json.loads((folder / "done.json").read_text())["notes"]


@pytest.mark.parametrize("stage", ["cam", "amn", "irn", "seg", "eps", "refined"])
def test_training_is_that_of_one_process_on_the_whole_batch(runs, stage):
    one, two = (notes(run / stage)["losses"] for run in runs)
    np.testing.assert_allclose(two, one, rtol=1e-5)
    first, second = (torch.load(run / stage / "weights.pth", weights_only=True) for run in runs)
    assert first.keys() == second.keys()
    for name, value in first.items():
        worst = (second[name].double() - value.double()).abs().max()
        assert worst <= 5e-4 * max(0.01, value.double().abs().max()), (name, worst)


@pytest.mark.parametrize("stage", ["cam/maps", "seeds", "amn/maps", "irn/maps", "irn/masks", "masks", "seg/predictions",
                                   "eps/maps", "eps/crf-masks", "ccr/maps"])
def test_every_inference_stage_leaves_the_same_bytes(runs, stage):
    one, two = ({p.name: p.read_bytes() for p in (run / stage).iterdir() if p.suffix in (".npz", ".png")} for run in runs)
    assert len(one) >= 8 and one == two


def test_figures_are_the_same(runs):
    def figures(run):
        records = json.loads((run / "metrics.json").read_text())["stages"]
        return [{k: v for k, v in r.items() if k not in ("seconds", "images_per_second", "source")} for r in records]

    one, two = map(figures, runs)
    assert [r["stage"] for r in one] == ["cam", "cam+crf", "seeds", "masks"] and one == two
    assert notes(runs[1] / "ccr/maps")["rounds"] == notes(runs[0] / "ccr/maps")["rounds"]
    assert notes(runs[1] / "seeds") | {"seconds": 0} == notes(runs[0] / "seeds") | {"seconds": 0}
    assert abs(notes(runs[1] / "cam")["mean_ap"] - notes(runs[0] / "cam")["mean_ap"]) < 0.02


def cam_train(data, out, *more):
    return ["-m", "wsss_fast", "cam", "train", "--data", data, "--backbone", "small", "--precision", "fp32",
            "--recipe.augment.crop", "64", "--recipe.batch-size", "8", "--out", out, *map(str, more)]


def test_bad_input_is_said_once_by_the_main_process(shapes_root, tmp_path):
    result = torchrun(*cam_train(shapes_root, tmp_path / "run", "--recipe.epoch", "2"))
    assert result.returncode != 0 and result.stderr.count("error: ") == 1
    result = torchrun(*cam_train(shapes_root, tmp_path / "run", "--recipe.batch-size", "7"))
    assert "batch of 7 cannot be cut into 1 equal parts for each of 2 processes" in result.stderr
    result = torchrun(*cam_train(shapes_root, tmp_path / "run", "--device", "cuda:0"))
    assert "device" in result.stderr and not (tmp_path / "run").exists()


def children(pid):
    return [int(line) for line in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes under /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_dies_ends_the_run_and_the_rerun_goes_on(shapes_root, tmp_path, number):
    """SIGKILL of one process: the others end, too. SIGTERM to the launcher: all stop behind one update and keep it."""
    command = cam_train(shapes_root, tmp_path / "run", "--recipe.epochs", 50)
    log = tmp_path / "log"
    with log.open("w") as file:
        run = subprocess.Popen([*TORCHRUN, str(next(PORT)), *map(str, command)], stderr=file, env=environment())
        begun, deadline = tmp_path / "run/cam/begun.json", time.monotonic() + 120
        while not begun.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(4)  # some updates
        os.kill(children(run.pid)[1] if number == signal.SIGKILL else run.pid, number)
        assert run.wait(60) != 0
    assert not (tmp_path / "run/cam/weights.pth").exists()
    kept = list((tmp_path / "run/cam").glob("checkpoint-*.pth"))
    if number == signal.SIGKILL:
        assert "[process 0] failed: process 0 of 2 cannot reach the others" in log.read_text()
    else:
        assert len(kept) == 1, log.read_text()
        done = torch.load(kept[0], weights_only=True)["done"]
        again = torchrun(*cam_train(shapes_root, tmp_path / "run", "--recipe.epochs", 50))
        assert again.returncode == 0 and f"goes on behind update {done} of 150" in again.stderr
        assert (tmp_path / "run/cam/weights.pth").exists() and not list((tmp_path / "run/cam").glob("checkpoint-*"))
