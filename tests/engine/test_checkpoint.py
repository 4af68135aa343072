"""Interrupted trainings resume and end with the weights of an uninterrupted one."""

import dataclasses
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from brief import brief
from processes import wait_until
from torch import nn

from wsss_fast import InputError, RunError, cam
from wsss_fast.engine import signals
from wsss_fast.engine.checkpoint import Checkpoints
from wsss_fast.engine.fit import Length, fit
from wsss_fast.engine.runtime import resolve_runtime, set_seed
from wsss_fast.engine.samples import Samples
from wsss_fast.engine.schedules import OneCycle
from wsss_fast.stages import training

IDS = tuple(f"{i}" for i in range(13))
STOPPABLE = Path(__file__).parents[1] / "helpers/stoppable.py"


class Killed(Exception):
    """Like SIGKILL, it leaves nothing but the files."""


def load_sample(id, rng):
    return {"x": torch.from_numpy(rng.standard_normal((3, 8, 8)).astype("float32"))}


def train(
    folder=None, *, die_at=None, stop_at=None, every=0.0, workers=0, length=None, named=False
):
    """Weights and losses of a network with dropout and batch-norm.

    Args:
        folder: folder of the checkpoints.
        die_at: update before which `Killed` is raised.
        stop_at: update in which a SIGTERM comes.
        every: seconds between checkpoints.
        workers: number of loader processes.
        length: epochs or updates; default: 22 updates, three per epoch.
        named: whether the step names parts of the loss; then their means are in the result, too.
    """
    set_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(288, 1),
    )
    count = iter(range(10**6))

    def step(net, batch):
        n = next(count)
        if n == die_at:
            raise Killed
        if n == stop_at:
            signals._handle(signal.SIGTERM, None)
        out = net(batch["x"])
        loss = out.square().mean()
        return {"square": loss, "sum": 0.01 * out.sum()} if named else loss

    checkpoints = Checkpoints(folder, every=every, share=float("inf")) if folder else None
    history = fit(
        net,
        step,
        Samples(IDS, load_sample, 0),
        optimizer=torch.optim.AdamW(net.parameters(), 0.01),
        schedule=OneCycle(),
        length=Length(4, **(length or {"updates": 22})),
        runtime=resolve_runtime("cpu", 0, workers, "fp32", prefer_bf16=False),
        label="train",
        checkpoints=checkpoints,
    )
    return net.state_dict(), (history.losses, history.parts) if named else history.losses


@pytest.fixture(scope="module")
def uninterrupted():
    return train()


def assert_same(one, other):
    assert all(torch.equal(one[0][k], other[0][k]) for k in one[0]) and one[1] == other[1]


@pytest.mark.parametrize(
    ("die_at", "workers"), [*((n, 0) for n in (1, 2, 3, 4, 5, 20, 21)), (4, 2), (20, 2)]
)
def test_killed_training_resumes_to_the_same_weights(tmp_path, uninterrupted, die_at, workers):
    with pytest.raises(Killed):
        train(tmp_path, die_at=die_at, workers=workers)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"checkpoint-{n:09d}.pth" for n in (die_at - 1, die_at) if n
    ]
    assert_same(train(tmp_path, workers=workers), uninterrupted)


@pytest.mark.parametrize("die_at", [2, 3])  # within an epoch, and between two
def test_named_parts_of_the_loss_are_those_of_an_uninterrupted_training(tmp_path, die_at):
    length = {"epochs": 2}
    with pytest.raises(Killed):
        train(tmp_path, die_at=die_at, length=length, named=True)
    resumed = train(tmp_path, length=length, named=True)
    assert_same(resumed, train(length=length, named=True))
    losses, parts = resumed[1]
    assert [*parts] == ["square", "sum"] and min(map(len, parts.values())) == 2
    assert losses == pytest.approx([a + b for a, b in zip(*parts.values(), strict=True)], rel=1e-6)


def test_checkpoint_of_a_version_without_named_parts_is_read(tmp_path, uninterrupted):
    with pytest.raises(Killed):
        train(tmp_path, die_at=4)
    for path in tmp_path.iterdir():
        kept = torch.load(path, weights_only=True)
        assert not kept.pop("parts") and not kept.pop("part_sums")
        torch.save(kept, path)
    assert_same(train(tmp_path), uninterrupted)


def test_loader_processes_do_not_change_the_dropout(uninterrupted):
    assert_same(train(workers=2), uninterrupted)


def test_training_that_is_killed_repeatedly(tmp_path, uninterrupted):
    for _ in range(7):
        with pytest.raises(Killed):
            train(tmp_path, die_at=3)
    assert_same(train(tmp_path), uninterrupted)


def test_killed_training_of_whole_epochs(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, die_at=7, length={"epochs": 5})
    assert_same(train(tmp_path, length={"epochs": 5}), train(length={"epochs": 5}))


@pytest.mark.parametrize("stop_at", [0, 2, 9, 21])
def test_signal_lets_the_update_finish_and_keeps_it(tmp_path, uninterrupted, stop_at):
    with pytest.raises(signals.Stopped, match="SIGTERM"):
        train(tmp_path, stop_at=stop_at, every=3600.0)
    assert [p.name for p in tmp_path.iterdir()] == [f"checkpoint-{stop_at + 1:09d}.pth"]
    assert_same(train(tmp_path, every=3600.0), uninterrupted)


def test_damaged_checkpoint_is_skipped(tmp_path, uninterrupted, capfd):
    with pytest.raises(Killed):
        train(tmp_path, die_at=9)
    newest = tmp_path / "checkpoint-000000009.pth"
    newest.write_bytes(newest.read_bytes()[:500])
    assert_same(train(tmp_path), uninterrupted)
    err = capfd.readouterr().err
    assert "checkpoint-000000009.pth: cannot be read" in err
    assert "resumes after update 8 of 22" in err


def test_a_checkpoint_with_changed_bytes_is_skipped(tmp_path, uninterrupted, capfd):
    """torch itself would load other numbers from it."""
    with pytest.raises(Killed):
        train(tmp_path, die_at=10)
    newest = max(tmp_path.glob("checkpoint-*.pth"))
    content = bytearray(newest.read_bytes())
    with zipfile.ZipFile(newest) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content[largest.header_offset + 200] ^= 1  # behind the header, in the numbers
    newest.write_bytes(content)
    assert_same(train(tmp_path), uninterrupted)
    err = capfd.readouterr().err
    assert f"{newest.name}: cannot be read (the checksum of" in " ".join(err.split())


def test_training_continues_without_checkpoints_on_a_full_disk(
    tmp_path, uninterrupted, capfd, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert_same(train(tmp_path), uninterrupted)
    err = " ".join(capfd.readouterr().err.split())
    assert "No space left on device); training continues without it" in err
    assert not list(tmp_path.iterdir())


def test_failed_training_removes_its_checkpoints(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    with pytest.raises(RunError, match="the loss became nan"):
        fit(
            net,
            lambda net, batch: net(batch["x"]).mean() * float("nan"),
            Samples(IDS, load_sample, 0),
            schedule=OneCycle(),
            optimizer=torch.optim.SGD(net.parameters(), 0.1),
            label="train",
            length=Length(4, updates=9),
            runtime=resolve_runtime("cpu", 0, 0, "fp32", prefer_bf16=False),
            checkpoints=Checkpoints(tmp_path, every=0.0),
        )
    assert not list(tmp_path.iterdir())


def test_second_signal_is_not_deferred():
    with pytest.raises(signals.Stopped), signals.defer_signals():
        signals._handle(signal.SIGTERM, None)
        signals._handle(signal.SIGTERM, None)
        pytest.fail("the second signal was deferred, too")
    signals._State.pending = None


def cam_train(data, out):
    return (
        f"cam train --data {data} --out {out} --backbone small --precision fp32 "
        "--recipe.epochs 4 --recipe.batch-size 8 --recipe.augment.crop 64"
    ).split()


def run_command(*argv):
    command = [sys.executable, "-m", "wsss_fast", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def uninterrupted_command(shapes_root, tmp_path_factory):
    """The weights of the command's training."""
    out = tmp_path_factory.mktemp("uninterrupted")
    done = run_command(*cam_train(shapes_root, out))
    assert done.returncode == 0, done.stderr
    return (out / "cam/weights.pth").read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_command_resumes_to_the_same_weights(
    shapes_root, tmp_path, uninterrupted_command, number, code
):
    out, waits = tmp_path / "run", tmp_path / "waits"
    argv = cam_train(shapes_root, out)
    process = subprocess.Popen(
        [sys.executable, STOPPABLE, *argv],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(STOPPABLE.parents[2]), "WAITS": str(waits)},
    )
    wait_until(waits.exists, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "the same command resumes where it stopped" in err and "Traceback" not in err
    assert [p.name for p in out.rglob("checkpoint-*")] == ["checkpoint-000000005.pth"]
    assert not list(out.rglob("*.tmp*"))
    again = run_command(*argv)
    assert again.returncode == 0, again.stderr
    assert "resumes after update 5 of 12" in again.stderr
    assert not list(out.rglob("checkpoint-*"))
    assert (out / "cam/weights.pth").read_bytes() == uninterrupted_command


def test_other_arguments_do_not_resume_from_a_checkpoint(shapes, tmp_path, monkeypatch):
    recipe = brief(cam.RECIPES["small"], 64, epochs=3)

    def kill(*_):
        raise Killed

    def checkpoints(folder):
        return Checkpoints(folder, every=0.0, share=float("inf"))

    monkeypatch.setattr(training, "Checkpoints", checkpoints)
    monkeypatch.setattr(training.nets, "save_weights", kill)
    options = {"backbone": "small", "precision": "fp32"}
    with pytest.raises(Killed):
        cam.train(shapes, tmp_path, recipe=recipe, **options)
    monkeypatch.undo()
    other = dataclasses.replace(recipe, lr=0.001)
    with pytest.raises(
        InputError, match=r"started with other arguments \(recipe.lr was 0.003, now 0.001\)"
    ):
        cam.train(shapes, tmp_path, recipe=other, **options)
    cam.train(shapes, tmp_path, recipe=recipe, **options)
    assert not list(tmp_path.rglob("checkpoint-*")) and (tmp_path / "cam/weights.pth").is_file()
