"""torchrun with two processes: artefacts and figures of one, errors, and resumed runs."""

import csv
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
    """torchrun with two processes, on a free port."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    options = f"-m torch.distributed.run --nproc-per-node 2 --master-port {port}"
    return [sys.executable, *options.split()]


def environment():
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **settings}


def run(*command):
    return subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment(),
    )


def torchrun(*command):
    return run(*launcher(), *command)


@pytest.fixture(scope="module")
def runs(shapes_root, tmp_path_factory):
    """Run folders of one process and of two; both read what the one process wrote."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    script = ROOT / "benchmarks/every_stage.py"
    options = ["--crop", "64", "--batch", "8", "--updates", "4", "--exact", "--energy", "1e-4"]
    single = run(sys.executable, script, shapes_root, one, one, *options)
    assert single.returncode == 0, single.stderr
    double = torchrun(script, shapes_root, two, one, *options)
    assert double.returncode == 0, double.stderr
    return one, two


def notes(folder):
    return json.loads((folder / "done.json").read_text())["notes"]


# Trainings that add the energy loss, with the parts of their loss.
ENERGY = dict.fromkeys(("amn", "seg", "refined"), ["supervised", "energy"])


@pytest.mark.parametrize("stage", ["cam", "amn", "irn", "seg", "eps", "refined"])
def test_training_has_the_weights_of_one_process(runs, stage):
    """Whose batches have the images of both processes."""
    one, two = (notes(run / stage)["losses"] for run in runs)
    np.testing.assert_allclose(two, one, rtol=1e-5)
    parts = [notes(run / stage).get("loss_parts", {}) for run in runs]
    assert [*parts[0]] == ENERGY.get(stage, []) == [*parts[1]]
    for name, means in parts[0].items():
        np.testing.assert_allclose(parts[1][name], means, rtol=1e-4)
    first, second = (torch.load(run / stage / "weights.pth", weights_only=True) for run in runs)
    assert first.keys() == second.keys()
    for name, value in first.items():
        worst = (second[name].double() - value.double()).abs().max()
        assert worst <= 5e-4 * max(0.01, value.double().abs().max()), (name, worst)


@pytest.mark.parametrize("stage", ["cam", "amn"])
def test_log_is_that_of_one_process(runs, stage):
    one, two = (list(csv.DictReader((run / stage / "log.csv").open())) for run in runs)
    assert [*one[0]] == [*two[0]] and len(one) == len(two) == 1
    for name, value in one[0].items():
        if name not in ("images_per_second", "seconds"):
            assert float(two[0][name]) == pytest.approx(float(value), rel=1e-4), name


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
def test_inference_writes_the_bytes_of_one_process(runs, stage):
    one, two = (
        {p.name: p.read_bytes() for p in (run / stage).iterdir() if p.suffix in (".npz", ".png")}
        for run in runs
    )
    assert len(one) >= 8 and one == two


def test_figures_are_those_of_one_process(runs):
    def figures(run):
        records = json.loads((run / "metrics.json").read_text())["stages"]
        other = ("seconds", "images_per_second", "time", "source")
        return [{k: v for k, v in r.items() if k not in other} for r in records]

    one, two = map(figures, runs)
    assert [r["stage"] for r in one] == ["cam", "cam+crf", "seeds", "masks"] and one == two
    rounds, seeds, mean_ap = (
        [notes(run / stage) for run in runs] for stage in ("ccr/maps", "seeds", "cam")
    )
    assert rounds[0]["rounds"] == rounds[1]["rounds"]
    shares = ("foreground", "background", "ignored")
    assert [seeds[0][name] for name in shares] == [seeds[1][name] for name in shares]
    assert abs(mean_ap[0]["mean_ap"] - mean_ap[1]["mean_ap"]) < 0.02


def cam_train(data, out, *options):
    """Arguments of `wsss-fast`."""
    line = (
        f"cam train --data {data} --out {out} --backbone small --precision fp32 "
        "--recipe.augment.crop 64 --recipe.batch-size 8"
    )
    return [*line.split(), *options]


SEVERAL_COMMANDS = """
import json, sys
from wsss_fast import cli
sys.exit(min(cli.run(argv) for argv in json.loads(sys.argv[1])))
"""


def test_errors_are_printed_once_by_the_main_process(shapes_root, tmp_path):
    """Three commands in turn in the same two processes."""
    out, script = tmp_path / "run", tmp_path / "several.py"
    script.write_text(SEVERAL_COMMANDS)
    wrong = (("--recipe.epoch", "2"), ("--recipe.batch-size", "7"), ("--device", "cuda:0"))
    commands = [cam_train(shapes_root, out, *options) for options in wrong]
    done = torchrun(script, json.dumps(commands))
    assert done.returncode != 0
    assert done.stderr.count("error: Unrecognized options: --recipe.epoch") == 1
    assert "batch of 7 cannot be divided into 1 equal parts for each of 2 processes" in done.stderr
    assert "error: device: got 'cuda:0'" in done.stderr and not out.exists()


def children(pid):
    return [int(line) for line in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes under /proc")
def test_killed_process_ends_the_other(shapes_root, tmp_path):
    argv = cam_train(shapes_root, tmp_path / "run", "--recipe.epochs", "400")
    log = tmp_path / "log"
    with log.open("w") as file:
        command = [*launcher(), "-m", "wsss_fast", *argv]
        process = subprocess.Popen(command, stderr=file, env=environment())
        wait_for_updates(process, tmp_path / "run/cam", lambda: children(process.pid)[0])
        os.kill(children(process.pid)[1], signal.SIGKILL)
        assert process.wait(60) != 0
    assert not (tmp_path / "run/cam/weights.pth").exists()
    # Which comes first is a race: the lost connection, or the launcher's SIGTERM.
    printed = log.read_text()
    ends = ("[process 0] failed: process 0 of 2 cannot reach the others", "stopped by SIGTERM")
    assert any(end in printed for end in ends), printed
    # The launcher ends with a traceback of its own.
    tracebacks = printed.count("Traceback (most recent call last)")
    assert tracebacks == printed.count("ChildFailedError:") <= 1, printed


def test_stopped_launcher_keeps_an_update_and_the_command_resumes(shapes_root, tmp_path):
    """After SIGTERM all processes stop after the same update.

    It is the one after that in which the signal reached the main process.
    """
    argv = cam_train(shapes_root, tmp_path / "run", "--recipe.epochs", "4")
    folder, log, waits = tmp_path / "run/cam", tmp_path / "log", tmp_path / "waits"
    with log.open("w") as file:
        command = [*launcher(), str(ROOT / "tests/helpers/stoppable.py"), *argv]
        settings = environment() | {"WAITS": str(waits)}
        process = subprocess.Popen(command, stderr=file, env=settings)
        wait_until(waits.exists, process)
        process.terminate()
        assert process.wait(60) != 0
    assert not (folder / "weights.pth").exists()
    checkpoints = [p.name for p in folder.glob("checkpoint-*.pth")]
    assert checkpoints == ["checkpoint-000000006.pth"], log.read_text()
    again = torchrun("-m", "wsss_fast", *argv)
    assert again.returncode == 0 and "resumes after update 6 of 12" in again.stderr
    assert (folder / "weights.pth").exists() and not list(folder.glob("checkpoint-*"))
