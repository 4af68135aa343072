"""Full disks, run folders that cannot be written, and clocks that are set back."""

import errno
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from powerless import powerless

from wsss_fast import cli, nets
from wsss_fast.data import write_labels
from wsss_fast.engine.run_folder import stage
from wsss_fast.maps import ClassMaps, save_maps

ROOT = Path(__file__).resolve().parents[2]
LINUX = sys.platform.startswith("linux")
STAGES = {
    "training": (
        "cam train --backbone small "
        "--recipe.epochs 1 --recipe.batch-size 8 --recipe.augment.crop 32"
    ),
    "maps": "cam infer --weights {inputs}/cam.pth --backbone small",
    "label PNGs": "seeds --maps {inputs}/maps --fg-threshold 0.4 --bg-threshold 0.1",
    "saliency PNGs": "saliency",
    "figures": "eval --predictions {inputs}/labels",
}


@pytest.fixture(scope="module")
def inputs(shapes, tmp_path_factory):
    """Inputs of every kind of stage."""
    folder = tmp_path_factory.mktemp("inputs")
    nets.save_weights(nets.cam_resnet50(len(shapes.classes), backbone="small"), folder / "cam.pth")
    for id in shapes.ids:
        mask = shapes.mask(id)
        write_labels(folder / "labels" / f"{id}.png", mask)
        keys = np.flatnonzero(shapes.tags_of(id)) + 1
        scores = np.stack([mask[::4, ::4] == k for k in keys]).astype(np.float32)
        save_maps(folder / "maps", id, ClassMaps(keys, scores))
    return folder


def command(kind, inputs, data, out):
    """Arguments of `wsss-fast`."""
    return f"{STAGES[kind].format(inputs=inputs)} --data {data} --out {out}".split()


def run(capfd, argv):
    """Exit code, and last line of stderr."""
    code, err = cli.run(argv), capfd.readouterr().err
    assert "Traceback" not in err
    return code, err.strip().splitlines()[-1]


def results(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.suffix in (".png", ".npz", ".pth")
    }


@pytest.mark.parametrize("kind", STAGES)
def test_full_disk_is_one_line_and_the_stage_resumes(
    shapes_root, inputs, tmp_path, capfd, monkeypatch, kind
):
    """The disk is full in the middle of the eighth file."""
    replace, out = os.replace, tmp_path / "run"
    # Training and figures write fewer files.
    room = iter(range(1 if kind in ("training", "figures") else 7))

    def replace_while_there_is_room(source, target):
        if next(room, None) is None:
            Path(source).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(source, target)

    argv = command(kind, inputs, shapes_root, out)
    monkeypatch.setattr(os, "replace", replace_while_there_is_room)
    code, last = run(capfd, argv)
    assert code == 1 and last.startswith(f"failed: {out}")
    assert "No space left on device; once this is fixed, the same command resumes" in last
    assert not [p for p in out.rglob("*") if ".tmp" in p.name] and not list(out.rglob("done.json"))
    monkeypatch.undo()
    before = results(out)
    assert cli.run(argv) == 0, capfd.readouterr().err
    whole = tmp_path / "whole"
    assert cli.run(command(kind, inputs, shapes_root, whole)) == 0
    after = results(out)
    assert after == results(whole)
    assert all(after[name] == content for name, content in before.items())


@pytest.mark.parametrize("kind", STAGES)
def test_run_folder_that_is_a_file_is_named(shapes_root, inputs, tmp_path, capfd, kind):
    out = tmp_path / "run"
    out.write_text("mine")
    code, last = run(capfd, command(kind, inputs, shapes_root, out))
    assert code == 2 or kind == "figures"
    assert str(out) in last and re.search("irectory|File exists", last)
    assert out.read_text() == "mine"


@pytest.mark.skipif(not LINUX, reason="capabilities are Linux'")
def test_read_only_run_folder_is_named(shapes_root, inputs, tmp_path):
    """Commands of three kinds, in turn in one process that has lost its capabilities."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    out.chmod(0o555)
    kinds = ("training", "label PNGs", "figures")
    commands = [command(kind, inputs, shapes_root, out) for kind in kinds]
    script = (
        "import json, sys; from wsss_fast import cli; "
        "print(*(cli.run(argv) for argv in json.loads(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=powerless,
        cwd=ROOT,
    )
    out.chmod(0o755)
    failures = [line for line in done.stderr.splitlines() if "failed" in line]
    assert done.stdout.split()[-3:] == ["1"] * 3 and len(failures) == 3, done.stderr
    for line in failures:
        assert line.startswith(f"failed: {out}") and "Permission denied" in line, done.stderr
    assert [p.name for p in out.iterdir()] == ["notes.txt"]


def test_clock_that_is_set_back_gives_no_negative_durations(shapes, tmp_path, monkeypatch, capfd):
    clock = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock) * 10**9)
    notes = stage(tmp_path, "cam", {}, dict)
    assert notes["seconds"] >= 0
    os.utime(shapes.images[shapes.ids[0]], (4e9, 4e9))  # the year 2096
    argv = ["saliency", "--data", str(shapes.root), "--out", str(tmp_path)]
    assert cli.run(argv) == 0, capfd.readouterr().err
    notes = json.loads((tmp_path / "saliency/done.json").read_text())["notes"]
    durations = [v for k, v in notes.items() if k == "seconds" or k.endswith("_per_second")]
    assert durations and min(durations) >= 0
