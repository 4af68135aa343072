"""What a pipeline says it will need, compared with what it writes."""

import re
import shutil

import numpy as np
import pytest

from wsss_fast import nets
from wsss_fast.engine.run_folder import stage
from wsss_fast.maps import ClassMaps, save_maps, strided_size
from wsss_fast.stages import estimate
from wsss_fast.stages.estimate import Network, Plan, readable, say_disk, say_time

NETWORK = Network(nets.BACKBONES["small"], 800)
PLAN = Plan({"a": 0, "b/maps": 1}, ("c",), {"cam": NETWORK, "net": NETWORK})


def test_maps_take_the_room_that_was_said(shapes, tmp_path):
    expected = estimate._maps(shapes, tmp_path, PLAN)
    for name, more in PLAN.maps.items():
        for id in shapes.ids:
            size, rows = shapes.size(id), int(shapes.tags_of(id).sum()) + more
            strided = np.zeros((rows, *strided_size(*size)), np.float32)
            maps = ClassMaps(np.arange(rows), strided, np.zeros((rows, *size), np.float32))
            save_maps(tmp_path / name, id, maps)
    written = sum(p.stat().st_size for p in tmp_path.rglob("*.npz"))
    assert abs(written / expected - 1) < 0.02
    assert estimate._maps(shapes, tmp_path, PLAN) == 0  # what is there is not counted


@pytest.mark.parametrize("free", [10**5, 10**12])
def test_room_is_compared_with_what_is_free(shapes, tmp_path, monkeypatch, capfd, free):
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    out = tmp_path / "not/yet"
    say_disk(shapes, out, PLAN)
    err = capfd.readouterr().err
    assert re.search(rf"not/yet: will need about .* {readable(free)} are free", err)
    assert ("too little; the run will stop at a full disk" in err) == (free < 10**6)
    assert not out.exists()


def test_time_is_that_of_the_trainings_that_remain(tmp_path, capfd):
    say_time(tmp_path, PLAN)
    assert not capfd.readouterr().err  # no rate yet
    stage(tmp_path, "cam", {}, lambda: {"samples_per_second": 8.0})
    say_time(tmp_path, PLAN)
    err = capfd.readouterr().err
    assert "the trainings of net see 800 images; at the classifier's 8 images/s" in err
    assert re.search(r"takes about (100 s|1:40|2 min|1 min)", err), err
    stage(tmp_path, "net", {}, dict)
    capfd.readouterr()
    say_time(tmp_path, PLAN)
    assert not capfd.readouterr().err


def test_bytes_are_readable():
    sizes = [0, 999, 1000, 3_140_000, 9.9e9, 2e15]
    assert [readable(size) for size in sizes] == [
        "0 B",
        "999 B",
        "1 kB",
        "3.14 MB",
        "9.9 GB",
        "2e+03 TB",
    ]
