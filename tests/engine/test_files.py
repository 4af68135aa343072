"""Atomic writes, also when a write fails, the disk is full, or a signal comes."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from wsss_fast import nets
from wsss_fast.data import write_labels
from wsss_fast.engine import signals
from wsss_fast.engine.files import atomic_write, temporary_path, write_json
from wsss_fast.maps import ClassMaps, save_maps


def test_failed_write_keeps_the_old_file_only(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"x": 1} and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".png", ".npz", ".json", ".pth"])
def test_longest_name_that_the_file_system_allows_is_written(tmp_path, suffix):
    for stem in ("a" * 251, "é" * 125 + "a", "a." * 125 + "b"):
        name = stem.encode()[: 255 - len(suffix)].decode(errors="ignore")
        path = tmp_path / (name + suffix)
        with atomic_write(path) as temporary:
            assert temporary.suffix == suffix and len(temporary.name.encode()) < 100
            temporary.write_text("whole")
        assert path.read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 3
    with (
        pytest.raises(OSError, match="too long"),
        atomic_write(tmp_path / ("a" * 256)) as temporary,
    ):
        temporary.write_text("whole")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_a_write_keeps_the_old_file_only(tmp_path, number):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(signals.Stopped), atomic_write(path) as temporary:
        temporary.write_text("half")
        signals._handle(number, None)
    assert json.loads(path.read_text()) == {"x": 1} and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_labels(path.with_suffix(".png"), np.zeros((4, 4))),
        lambda path: save_maps(
            path.parent, path.name, ClassMaps(np.array([1]), np.zeros((1, 2, 2), np.float32))
        ),
        lambda path: write_json(path.with_suffix(".json"), {"a": 1}),
        lambda path: nets.save_weights(nn.Linear(2, 2), path.with_suffix(".pth")),
    ],
    ids=["png", "npz", "json", "pth"],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_full_disk_during_a_write_raises_with_the_name_of_the_file(tmp_path, write):
    """/dev/full takes nothing; the writers' own errors name no file."""
    target = tmp_path / "x"
    for suffix in (".png", ".npz", ".json", ".pth"):
        temporary_path(target.with_suffix(suffix)).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        write(target)
    assert str(caught.value.filename).startswith(str(target))
    assert all(p.is_symlink() for p in tmp_path.iterdir()) and len(list(tmp_path.iterdir())) == 3
