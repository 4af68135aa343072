"""A training that was stopped ends with the bytes of one that was not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import wait_until
from torch import nn

from wsss_fast import InputError, RunError
from wsss_fast.engine import signals
from wsss_fast.engine.checkpoint import Checkpoints
from wsss_fast.engine.fit import Length, fit
from wsss_fast.engine.runtime import runtime, set_seed
from wsss_fast.engine.samples import Samples
from wsss_fast.engine.schedules import OneCycle

IDS = tuple(f"{i}" for i in range(13))


class Killed(Exception):
    """As a SIGKILL would, it leaves nothing but the files."""


def make(id, rng):
    return {"x": torch.from_numpy(rng.standard_normal((3, 8, 8)).astype("float32"))}


def train(folder=None, *, die_at=None, stop_at=None, every=0.0, workers=0, length=None):
    """22 updates of a net with dropout and batch-norm, 3 a pass; dies in front of, or is asked to stop in, one of them."""
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
        return net(batch["x"]).square().mean()

    checkpoints = Checkpoints(folder, every=every, share=float("inf")) if folder else None
    history = fit(
        net,
        step,
        Samples(IDS, make, 0),
        optimizer=torch.optim.AdamW(net.parameters(), 0.01),
        schedule=OneCycle(),
        length=Length(4, **(length or {"updates": 22})),
        runtime=runtime("cpu", 0, workers, "fp32", prefer_bf16=False),
        label="train",
        checkpoints=checkpoints,
    )
    return net.state_dict(), history.losses


@pytest.fixture(scope="module")
def whole():
    return train()


def same(one, other):
    assert all(torch.equal(one[0][k], other[0][k]) for k in one[0]) and one[1] == other[1]


@pytest.mark.parametrize(
    ("die_at", "workers"), [*((n, 0) for n in (1, 2, 3, 4, 5, 20, 21)), (4, 2), (20, 2)]
)
def test_killed_anywhere_it_ends_with_the_same_bytes(tmp_path, whole, die_at, workers):
    with pytest.raises(Killed):
        train(tmp_path, die_at=die_at, workers=workers)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"checkpoint-{n:09d}.pth" for n in (die_at - 1, die_at) if n
    ]
    same(train(tmp_path, workers=workers), whole)


def test_workers_do_not_move_dropouts_generator(whole):
    same(train(workers=2), whole)


def test_killed_again_and_again(tmp_path, whole):
    for _ in range(7):
        with pytest.raises(Killed):
            train(tmp_path, die_at=3)
    same(train(tmp_path), whole)


def test_whole_epochs_too(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, die_at=7, length={"epochs": 5})
    same(train(tmp_path, length={"epochs": 5}), train(length={"epochs": 5}))


@pytest.mark.parametrize("stop_at", [0, 2, 9, 21])
def test_asked_to_stop_it_finishes_the_update_and_keeps_it(tmp_path, whole, stop_at):
    with pytest.raises(signals.Stopped, match="SIGTERM"):
        train(tmp_path, stop_at=stop_at, every=3600.0)
    assert [p.name for p in tmp_path.iterdir()] == [f"checkpoint-{stop_at + 1:09d}.pth"]
    same(train(tmp_path, every=3600.0), whole)


def test_a_damaged_checkpoint_is_passed_over(tmp_path, whole, capfd):
    with pytest.raises(Killed):
        train(tmp_path, die_at=9)
    (tmp_path / "checkpoint-000000009.pth").write_bytes(
        (tmp_path / "checkpoint-000000009.pth").read_bytes()[:500]
    )
    same(train(tmp_path), whole)
    said = capfd.readouterr().err
    assert (
        "checkpoint-000000009.pth: cannot be read" in said
        and "resumes after update 8 of 22" in said
    )


def test_a_full_disk_costs_a_checkpoint_not_the_training(tmp_path, whole, capfd, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    same(train(tmp_path), whole)
    assert "No space left on device); training continues without it" in " ".join(
        capfd.readouterr().err.split()
    )
    assert not list(tmp_path.iterdir())


def test_a_training_that_failed_is_not_gone_on_with(tmp_path):
    class Broken(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1)) * float("nan")

    net = Broken(192, 1)
    with pytest.raises(RunError, match="the loss became nan"):
        fit(
            net,
            lambda net, batch: net(batch["x"]).mean(),
            Samples(IDS, make, 0),
            schedule=OneCycle(),
            optimizer=torch.optim.SGD(net.parameters(), 0.1),
            label="train",
            length=Length(4, updates=9),
            runtime=runtime("cpu", 0, 0, "fp32", prefer_bf16=False),
            checkpoints=Checkpoints(tmp_path, every=0.0),
        )
    assert not list(tmp_path.iterdir())


def test_a_second_signal_does_not_wait():
    with pytest.raises(signals.Stopped), signals.defer_signals():
        signals._handle(signal.SIGTERM, None)
        signals._handle(signal.SIGTERM, None)
        pytest.fail("the second signal was held back too")
    signals._State.pending = None


STOPPABLE = Path(__file__).parents[1] / "helpers/stoppable.py"


def cam_train(data, out):
    return [
        "cam",
        "train",
        "--data",
        str(data),
        "--out",
        str(out),
        "--backbone",
        "small",
        "--precision",
        "fp32",
        "--recipe.epochs",
        "4",
        "--recipe.batch-size",
        "8",
        "--recipe.augment.crop",
        "64",
    ]


def in_a_process(*argv):
    return subprocess.run(
        [sys.executable, "-m", "wsss_fast", *argv],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def uninterrupted(shapes_root, tmp_path_factory):
    """The weights of the command's training."""
    out = tmp_path_factory.mktemp("uninterrupted")
    done = in_a_process(*cam_train(shapes_root, out))
    assert done.returncode == 0, done.stderr
    return (out / "cam/weights.pth").read_bytes()


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_asked_to_stop(shapes_root, tmp_path, uninterrupted, number, code):
    argv = cam_train(shapes_root, tmp_path / "run")
    process = subprocess.Popen(
        [sys.executable, STOPPABLE, *argv],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {"PYTHONPATH": str(STOPPABLE.parents[2]), "WAITS": str(tmp_path / "waits")},
    )
    wait_until((tmp_path / "waits").exists, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "the same command resumes where it stopped" in said and "Traceback" not in said
    assert [p.name for p in (tmp_path / "run").rglob("checkpoint-*")] == [
        "checkpoint-000000005.pth"
    ]
    assert not list((tmp_path / "run").rglob("*.tmp*"))
    again = in_a_process(*argv)
    assert again.returncode == 0, again.stderr
    assert "resumes after update 5 of 12" in again.stderr and not list(
        (tmp_path / "run").rglob("checkpoint-*")
    )
    assert (tmp_path / "run/cam/weights.pth").read_bytes() == uninterrupted


def test_other_arguments_do_not_go_on_from_a_checkpoint(shapes, tmp_path, monkeypatch):
    import dataclasses

    from wsss_fast import cam
    from wsss_fast.stages import training

    quick = dataclasses.replace(
        cam.RECIPES["small"],
        epochs=3,
        batch_size=8,
        augment=dataclasses.replace(cam.RECIPES["small"].augment, crop=64),
    )
    monkeypatch.setattr(
        training, "Checkpoints", lambda folder: Checkpoints(folder, every=0.0, share=float("inf"))
    )
    monkeypatch.setattr(training.nets, "save_weights", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        cam.train(shapes, tmp_path, backbone="small", recipe=quick, precision="fp32")
    monkeypatch.undo()
    with pytest.raises(
        InputError, match=r"made with other arguments \(recipe.lr was 0.003, now 0.001\)"
    ):
        cam.train(
            shapes,
            tmp_path,
            backbone="small",
            recipe=dataclasses.replace(quick, lr=0.001),
            precision="fp32",
        )
    cam.train(shapes, tmp_path, backbone="small", recipe=quick, precision="fp32")
    assert not list(tmp_path.rglob("checkpoint-*")) and (tmp_path / "cam/weights.pth").is_file()
