"""log.csv and TensorBoard events of trainings: rows, resumed trainings, disks without room."""

import csv
import errno
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from wsss_fast import InputError
from wsss_fast.engine import distributed, redo, run_log
from wsss_fast.engine.checkpoint import Checkpoints
from wsss_fast.engine.fit import Length, fit
from wsss_fast.engine.run_folder import stage
from wsss_fast.engine.run_log import RunLog, log_files
from wsss_fast.engine.runtime import resolve_runtime, set_seed
from wsss_fast.engine.samples import Samples
from wsss_fast.engine.schedules import Poly

IDS = tuple(f"{i}" for i in range(9))  # four updates of two images per epoch
TIMES = "images_per_second", "seconds"


class Killed(Exception):
    """Like SIGKILL, it leaves nothing but the files."""


class CheckpointAt(Checkpoints):
    """Checkpoints after these updates only."""

    def __init__(self, folder, *updates):
        super().__init__(folder)
        self._updates, self._count = updates, 0

    def due(self):
        return (done := self.count()) in self._updates and bool(done)

    def count(self):
        self._count += 1
        return self._count


def load_sample(id, rng):
    return {"x": torch.from_numpy(rng.standard_normal((12,)).astype("float32"))}


def train(folder=None, *, updates=25, named=False, die_at=None, save_at=(), losses=None):
    """Weights of a network; `losses` gets the loss of each update."""
    set_seed(0)
    net = nn.Linear(12, 1)
    count = iter(range(10**6))

    def step(net, batch):
        if next(count) == die_at:
            raise Killed
        loss = net(batch["x"]).square().mean()
        if losses is not None:
            losses.append(loss.item())
        return {"square": loss, "more": 0 * loss + 0.5} if named else loss

    fit(
        net,
        step,
        Samples(IDS, load_sample, 0),
        optimizer=torch.optim.SGD(
            [{"params": [net.weight], "lr": 0.1}, {"params": [net.bias], "lr": 0.01}]
        ),
        schedule=Poly(),
        length=Length(2, updates=updates),
        runtime=resolve_runtime("cpu", 0, 0, "fp32", prefer_bf16=False),
        label="train",
        checkpoints=CheckpointAt(folder, *save_at) if folder else None,
        log=folder,
    )
    return net.state_dict()


def rows(folder):
    with (folder / "log.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


def without_times(found):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in found]


@pytest.fixture(autouse=True)
def no_tensorboard(request, monkeypatch, tmp_path):
    """Only the tests that ask for it import TensorBoard."""
    if "tensorboard" not in request.node.name:
        monkeypatch.setattr(run_log._Events, "of", lambda folder, done: None)


def test_rows_are_means_of_ten_updates(tmp_path):
    losses = []
    trained = train(tmp_path, losses=losses)
    found = rows(tmp_path)
    assert [*found[0]] == ["update", "epoch", "loss", "lr0", "lr1", *TIMES]
    assert [(row["update"], row["epoch"]) for row in found] == [
        ("10", "3"),
        ("20", "5"),
        ("25", "7"),
    ]
    parts = losses[:10], losses[10:20], losses[20:]
    means = [sum(part) / len(part) for part in parts]
    assert [float(row["loss"]) for row in found] == pytest.approx(means, rel=1e-5)
    rates = [0.1 * Poly()((int(row["update"]) - 1) / 25) for row in found]
    assert [float(row["lr0"]) for row in found] == pytest.approx(rates, rel=1e-6)
    assert [float(row["lr1"]) for row in found] == pytest.approx([r / 10 for r in rates], rel=1e-6)
    seconds = [float(row["seconds"]) for row in found]
    assert seconds == sorted(seconds) and all(float(row["images_per_second"]) > 0 for row in found)
    assert all(torch.equal(trained[name], value) for name, value in train().items())


def test_named_parts_have_columns(tmp_path):
    train(tmp_path, updates=3, named=True)
    (row,) = rows(tmp_path)
    assert [*row][:6] == ["update", "epoch", "loss", "square", "more", "lr0"]
    assert row["update"] == "3" and row["more"] == "0.5"
    assert float(row["loss"]) == pytest.approx(float(row["square"]) + 0.5, rel=1e-5)


@pytest.mark.parametrize(("saved", "killed"), [(13, 25), (20, 21), (4, 9), (25, 27)])
def test_resumed_log_is_that_of_an_uninterrupted_training(tmp_path, saved, killed):
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    train(tmp_path / "whole", updates=27, named=True)
    with pytest.raises(Killed):
        options = {"updates": 27, "named": True}
        train(tmp_path / "resumed", die_at=killed - 1, save_at=[saved], **options)
    with (tmp_path / "resumed/log.csv").open("a") as file:
        file.write("30,half of a ro")
    seconds = [float(row["seconds"] or 0) for row in rows(tmp_path / "resumed")[:-1]]
    train(tmp_path / "resumed", **options)
    whole, resumed = rows(tmp_path / "whole"), rows(tmp_path / "resumed")
    assert without_times(resumed) == without_times(whole) and len(whole) == 3
    found = [float(row["seconds"]) for row in resumed]
    assert found == sorted(found) and found[: saved // 10] == seconds[: saved // 10]


def test_new_training_starts_a_new_log(tmp_path):
    train(tmp_path, updates=20, named=True)
    train(tmp_path, updates=10)
    assert [row["update"] for row in rows(tmp_path)] == ["10"]


@pytest.mark.parametrize("recovers", [True, False])
def test_disk_without_room_costs_the_log_only(tmp_path, monkeypatch, capfd, recovers):
    opened, calls = os.open, []

    def full(path, *options):
        calls.append(path)
        if len(calls) > 1 and not (recovers and len(calls) > 2):
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, *options)

    monkeypatch.setattr(run_log.os, "open", full)
    trained = train(tmp_path)
    monkeypatch.undo()
    err = " ".join(capfd.readouterr().err.split())
    assert err.count("log.csv: could not be written (No space left on device); training") == 1
    assert err.count("log.csv: is not complete, since it could not be written") == 1 - recovers
    assert len(rows(tmp_path)) == (3 if recovers else 0)
    assert all(torch.equal(trained[name], value) for name, value in train().items())


def test_log_that_is_a_folder_does_not_end_the_training(tmp_path, capfd):
    (tmp_path / "log.csv").mkdir()
    train(tmp_path, updates=3)
    assert "log.csv: could not be written (Is a directory)" in " ".join(
        capfd.readouterr().err.split()
    )


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "is_main_process", lambda: False)
    train(tmp_path)
    assert not list(tmp_path.iterdir())


class LateEvent:
    """A CUDA event that is reached when it is waited for."""

    def __init__(self):
        self.reached = False

    def record(self):
        pass

    def query(self):
        return self.reached

    def synchronize(self):
        self.reached = True


def test_rows_wait_for_the_device_only_at_checkpoints_and_at_the_end(tmp_path):
    options = {"images": 2, "per_epoch": 4, "total": 40}
    log = RunLog(tmp_path, torch.device("cpu"), **options)
    note = log._late.note

    def note_late(values, about):
        note(values, about)
        log._late._on_their_way[-1] = (*log._late._on_their_way[-1][:2], LateEvent())

    log._late.note = note_late
    with log:
        for update in range(1, 36):
            log.add(update, {"": torch.tensor(float(update))}, [{"lr": 0.1}])
            if update == 19:
                assert not log_files(tmp_path)
            if update == 23:
                assert log.state().flatten().tolist() == [21, 22, 23]
                assert [row["loss"] for row in rows(tmp_path)] == ["5.5", "15.5"]
        assert len(rows(tmp_path)) == 2
    assert [row["loss"] for row in rows(tmp_path)] == ["5.5", "15.5", "25.5"]


def test_a_log_is_no_result_and_redo_removes_it(tmp_path):
    def begin(wanted, work):
        return stage(tmp_path, "cam", {"lr": wanted}, work, files=["weights.pth"], remake=False)

    def killed():
        for name in ("log.csv", "events.out.tfevents.0000000001.host.1.0"):
            (tmp_path / "cam" / name).write_text("update\n")
        raise Killed

    with pytest.raises(Killed):
        begin(1, killed)
    assert len(log_files(tmp_path / "cam")) == 2  # how the training went is kept

    def finish():
        (tmp_path / "cam/weights.pth").write_text("weights")
        return {}

    begin(2, finish)
    with pytest.raises(InputError, match="lr was 2, now 3"):
        begin(3, finish)
    with redo.every_stage_repeated(True):
        left = begin(3, lambda: {**finish(), "logs": len(log_files(tmp_path / "cam"))})
    assert left["logs"] == 0


FAKE = {
    "compat/proto/event_pb2.py": """
import json

class Event:
    def __init__(self, **fields):
        self.fields = fields

    def SerializeToString(self):
        return json.dumps(self.fields).encode()
""",
    "summary/writer/record_writer.py": """
class RecordWriter:
    def __init__(self, file):
        self.file = file

    def write(self, data):
        self.file.write(data + b"\\n")
""",
}


@pytest.fixture
def install(monkeypatch):
    """Puts a folder of packages before all others, for one test."""
    loaded = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "tensorboard"}
    for name in loaded:
        del sys.modules[name]
    yield lambda folder: monkeypatch.syspath_prepend(str(folder))
    for name in [n for n in sys.modules if n.partition(".")[0] == "tensorboard"]:
        del sys.modules[name]
    sys.modules.update(loaded)


def test_tensorboard_gets_the_rows(tmp_path, install):
    """A stand-in for the package, whose records are lines of JSON."""
    package = tmp_path / "site/tensorboard"
    for name, text in FAKE.items():
        for folder in ("", *Path(name).parents):
            (package / folder).mkdir(parents=True, exist_ok=True)
            (package / folder / "__init__.py").touch()
        (package / name).write_text(text)
    install(tmp_path / "site")
    out = tmp_path / "out"
    out.mkdir()
    (out / "events.out.tfevents.0000000001.of.an.earlier.training").touch()
    with pytest.raises(Killed):
        train(out, die_at=24, save_at=[13])
    train(out)
    files = sorted(out.glob("events.*"))
    first, second = ([json.loads(line) for line in f.read_text().splitlines()] for f in files)
    assert [event.get("step") for event in first] == [None, 10, 20]
    assert [event.get("step") for event in second] == [None, 14, 20, 25]
    assert second[1]["session_log"] == {"status": "START"}
    values = {v["tag"]: v["simple_value"] for v in second[-1]["summary"]["value"]}
    last = rows(out)[-1]
    assert [*values] == ["loss", "lr0", "lr1", "images_per_second"]
    assert values["loss"] == pytest.approx(float(last["loss"]), rel=1e-6)


def test_tensorboard_that_cannot_be_imported_is_one_line(tmp_path, install, capfd):
    (tmp_path / "site/tensorboard").mkdir(parents=True)
    (tmp_path / "site/tensorboard/__init__.py").write_text("raise TypeError('other protobuf')")
    install(tmp_path / "site")
    (tmp_path / "out").mkdir()
    train(tmp_path / "out", updates=3)
    assert "cannot be imported (other protobuf)" in " ".join(capfd.readouterr().err.split())
    assert len(rows(tmp_path / "out")) == 1 and len(log_files(tmp_path / "out")) == 1


def test_tensorboard_reads_the_events(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with pytest.raises(Killed):
        train(tmp_path, die_at=24, save_at=[13])
    train(tmp_path)
    shown = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert shown.Tags()["scalars"] == ["loss", "lr0", "lr1", "images_per_second"]
    losses = shown.Scalars("loss")
    assert [event.step for event in losses] == [10, 20, 25]
    expected = [float(row["loss"]) for row in rows(tmp_path)]
    assert [event.value for event in losses] == pytest.approx(expected, rel=1e-6)
