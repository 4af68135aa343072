"""Several processes under torchrun: the same artefacts and figures as one, faults said, and runs that go on."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import wait_for_updates, wait_until

ROOT = Path(__file__).parents[2]


def launcher():
    """torchrun with two processes, on a port that is free."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(port),
    ]


def environment():
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def torchrun(*command, **options):
    return subprocess.run(
        [*launcher(), *map(str, command)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment(),
        **options,
    )


@pytest.fixture(scope="module")
def runs(shapes_root, tmp_path_factory):
    """Run folders of one process and of two, which read what the one process made."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    script, numbers = (
        ROOT / "benchmarks/every_stage.py",
        ["--crop", "64", "--batch", "8", "--updates", "4", "--exact"],
    )
    alone = subprocess.run(
        [sys.executable, script, shapes_root, one, one, *numbers],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment(),
    )
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


@pytest.mark.parametrize(
    "stage",
    [
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
    ],
)
def test_every_inference_stage_leaves_the_same_bytes(runs, stage):
    one, two = (
        {p.name: p.read_bytes() for p in (run / stage).iterdir() if p.suffix in (".npz", ".png")}
        for run in runs
    )
    assert len(one) >= 8 and one == two


def test_figures_are_the_same(runs):
    def figures(run):
        records = json.loads((run / "metrics.json").read_text())["stages"]
        return [
            {k: v for k, v in r.items() if k not in ("seconds", "images_per_second", "source")}
            for r in records
        ]

    one, two = map(figures, runs)
    assert [r["stage"] for r in one] == ["cam", "cam+crf", "seeds", "masks"] and one == two
    assert notes(runs[1] / "ccr/maps")["rounds"] == notes(runs[0] / "ccr/maps")["rounds"]
    assert notes(runs[1] / "seeds") | {"seconds": 0} == notes(runs[0] / "seeds") | {"seconds": 0}
    assert abs(notes(runs[1] / "cam")["mean_ap"] - notes(runs[0] / "cam")["mean_ap"]) < 0.02


def cam_train(data, out, *more):
    return [
        "-m",
        "wsss_fast",
        "cam",
        "train",
        "--data",
        data,
        "--backbone",
        "small",
        "--precision",
        "fp32",
        "--recipe.augment.crop",
        "64",
        "--recipe.batch-size",
        "8",
        "--out",
        out,
        *map(str, more),
    ]


SEVERAL_COMMANDS = """
import json, sys
from wsss_fast import cli
sys.exit(min(cli.run(argv) for argv in json.loads(sys.argv[1])))
"""


def test_bad_input_is_said_once_by_the_main_process(shapes_root, tmp_path):
    """Three commands, one after the other in the same two processes."""
    out, script = tmp_path / "run", tmp_path / "several.py"
    script.write_text(SEVERAL_COMMANDS)
    commands = [
        cam_train(shapes_root, out, *wrong)[2:]
        for wrong in (("--recipe.epoch", "2"), ("--recipe.batch-size", "7"), ("--device", "cuda:0"))
    ]
    result = torchrun(script, json.dumps([[*map(str, command)] for command in commands]))
    assert (
        result.returncode != 0
        and result.stderr.count("error: Unrecognized options: --recipe.epoch") == 1
    )
    assert (
        "batch of 7 cannot be divided into 1 equal parts for each of 2 processes" in result.stderr
    )
    assert "error: device: got 'cuda:0'" in result.stderr and not out.exists()


def children(pid):
    return [int(line) for line in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes under /proc")
def test_a_process_that_dies_ends_the_run(shapes_root, tmp_path):
    """SIGKILL of one process: the others end, too."""
    command, log = (
        cam_train(shapes_root, tmp_path / "run", "--recipe.epochs", 400),
        tmp_path / "log",
    )
    with log.open("w") as file:
        run = subprocess.Popen([*launcher(), *map(str, command)], stderr=file, env=environment())
        wait_for_updates(run, tmp_path / "run/cam", lambda: children(run.pid)[0])
        os.kill(children(run.pid)[1], signal.SIGKILL)
        assert run.wait(60) != 0
    assert not (tmp_path / "run/cam/weights.pth").exists()
    assert "[process 0] failed: process 0 of 2 cannot reach the others" in log.read_text()


def test_a_launcher_that_is_stopped_keeps_an_update_and_the_rerun_goes_on(shapes_root, tmp_path):
    """SIGTERM to the launcher: all stop behind one update, the one after that in which the main process was asked."""
    script, *argv = (
        ROOT / "tests/helpers/stoppable.py",
        *cam_train(shapes_root, tmp_path / "run", "--recipe.epochs", 4)[2:],
    )
    log, waits = tmp_path / "log", tmp_path / "waits"
    with log.open("w") as file:
        run = subprocess.Popen(
            [*launcher(), script, *map(str, argv)],
            stderr=file,
            env=environment() | {"WAITS": str(waits)},
        )
        wait_until(waits.exists, run)
        run.terminate()
        assert run.wait(60) != 0
    assert not (tmp_path / "run/cam/weights.pth").exists()
    assert [p.name for p in (tmp_path / "run/cam").glob("checkpoint-*.pth")] == [
        "checkpoint-000000006.pth"
    ], log.read_text()
    again = torchrun("-m", "wsss_fast", *argv)
    assert again.returncode == 0 and "resumes after update 6 of 12" in again.stderr
    assert (tmp_path / "run/cam/weights.pth").exists() and not list(
        (tmp_path / "run/cam").glob("checkpoint-*")
    )
