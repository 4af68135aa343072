"""Loader processes that die, fail, or get a signal."""

import dataclasses
import functools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import environment, remaining, wait_for_updates
from torch import nn
from torch.utils.data import get_worker_info

from wsss_fast import InputError, RunError, cli
from wsss_fast.engine.checkpoint import Checkpoints
from wsss_fast.engine.fit import Length
from wsss_fast.engine.runtime import resolve_runtime, set_seed
from wsss_fast.engine.samples import Samples
from wsss_fast.engine.schedules import OneCycle
from wsss_fast.stages import training

ROOT = Path(__file__).resolve().parents[2]
DIED = "(is killed by signal: Killed|exited unexpectedly)"  # whichever torch notices first


@dataclasses.dataclass(frozen=True)
class LoadSample:
    """Random samples; in a loader process, `sabotage` runs before that of id 7."""

    sabotage: Callable[[], None] | None = None

    def __call__(self, id, rng):
        if get_worker_info() is not None and id == "7" and self.sabotage is not None:
            self.sabotage()
        return {"x": torch.from_numpy(rng.standard_normal((3, 4, 4)).astype("float32"))}


def die_after_a_checkpoint(out):
    """SIGKILL of this process, once there is a checkpoint."""
    if list(out.glob("toy/checkpoint-*")):
        os.kill(os.getpid(), signal.SIGKILL)


def fail(error):
    raise error


@pytest.fixture
def many_checkpoints(monkeypatch):
    """A checkpoint after each update."""
    frequent = functools.partial(Checkpoints, every=0.0, share=float("inf"))
    monkeypatch.setattr(training, "Checkpoints", frequent)


def train(out, sabotage=None, workers=2):
    """Weights file after 30 updates of a network with dropout."""
    set_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    training.train(
        net,
        lambda net, batch: net(batch["x"]).square().mean(),
        Samples(tuple(map(str, range(12))), LoadSample(sabotage), 0),
        out,
        "toy",
        optimizer=torch.optim.AdamW(net.parameters(), 0.01),
        schedule=OneCycle(),
        arguments={},
        length=Length(batch_size=4, updates=30),
        runtime=resolve_runtime("cpu", 0, workers, "fp32", prefer_bf16=False),
    )
    return (out / "toy/weights.pth").read_bytes()


def test_killed_loader_process_costs_the_updates_since_the_checkpoint(tmp_path, many_checkpoints):
    sabotage = functools.partial(die_after_a_checkpoint, tmp_path / "run")
    with pytest.raises(
        RunError, match=rf"^train toy: DataLoader worker .pid.*{DIED}.*the same command resumes"
    ) as caught:
        train(tmp_path / "run", sabotage)
    assert "\n" not in str(caught.value) and list(tmp_path.glob("run/toy/checkpoint-*.pth"))
    assert train(tmp_path / "run") == train(tmp_path / "whole", workers=0)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            InputError("/photos/7.jpg: cannot be read"),
            InputError,
            "^/photos/7.jpg: cannot be read$",
        ),
        (
            ZeroDivisionError("division by zero"),
            RunError,
            r"^train toy: a loader process failed \(ZeroDivisionError: division by zero\)$",
        ),
    ],
)
def test_error_in_a_loader_process_is_one_line(tmp_path, many_checkpoints, error, kind, message):
    with pytest.raises(kind, match=message):
        train(tmp_path, functools.partial(fail, error))


def test_command_resumes_after_a_killed_loader_process(
    shapes_root, tmp_path, capfd, monkeypatch, many_checkpoints
):
    save = Checkpoints.save

    def save_and_kill(self, update, state):
        save(self, update, state)
        if update == 4:  # before the third epoch
            for process in multiprocessing.active_children():
                process.kill()

    argv = (
        f"cam train --data {shapes_root} --out {tmp_path} --backbone small --precision fp32 "
        "--workers 2 --recipe.epochs 3 --recipe.batch-size 12 --recipe.augment.crop 32"
    ).split()
    monkeypatch.setattr(Checkpoints, "save", save_and_kill)
    code, err = cli.run(argv), capfd.readouterr().err
    last = err.strip().splitlines()[-1]
    assert code == 1 and last.startswith("failed: train cam: DataLoader worker")
    assert re.search(DIED, last) and "Traceback" not in err
    kept = {p.name for p in (tmp_path / "cam").iterdir()}
    assert "begun.json" in kept and "weights.pth" not in kept
    assert any(name.startswith("checkpoint-") for name in kept)
    monkeypatch.setattr(Checkpoints, "save", save)
    assert cli.run(argv) == 0 and "resumes after update" in capfd.readouterr().err
    assert (tmp_path / "cam/weights.pth").is_file()


@pytest.mark.parametrize(
    ("number", "method"),
    [(signal.SIGTERM, "fork"), (signal.SIGTERM, "forkserver"), (signal.SIGINT, "spawn")],
)
def test_signal_to_all_processes_keeps_the_training(shapes_root, tmp_path, number, method):
    """As batch systems and terminals send it: loader processes must survive the last update."""
    out = tmp_path / "run"
    line = (
        f"cam train --data {shapes_root} --out {out} --backbone small --precision fp32 "
        "--workers 2 --recipe.epochs 400 --recipe.batch-size 8 --recipe.augment.crop 32"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "wsss_fast", *line.split()],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        env=environment(method, tmp_path),
    )
    wait_for_updates(process, out / "cam")
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "the same command resumes where it stopped" in err
    assert len(list((out / "cam").glob("checkpoint-*.pth"))) == 1
    assert not remaining(process.pid)
