"""The run folder: finished and interrupted stages, provenance, records, config.json."""

import dataclasses
import importlib
import json
import linecache
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from wsss_fast import InputError, cam
from wsss_fast.data import write_labels
from wsss_fast.engine.files import write_json
from wsss_fast.engine.run_folder import provenance, read_records, record, stage, write_config
from wsss_fast.engine.schedules import Constant, Poly
from wsss_fast.maps import ClassMaps, save_maps


def test_finished_stage_is_skipped_and_other_arguments_raise(tmp_path):
    calls = []

    def work():
        calls.append(1)
        return {"loss": 0.5}

    first = stage(tmp_path, "cam", {"lr": 0.1, "epochs": 5}, work)
    again = stage(tmp_path, "cam", {"lr": 0.1, "epochs": 5}, work)
    assert first == again and first["loss"] == 0.5 and len(calls) == 1
    with pytest.raises(
        InputError, match=r"cam: finished or started with other arguments \(lr was 0.1, now 0.2\)"
    ):
        stage(tmp_path, "cam", {"lr": 0.2, "epochs": 5}, work)


def test_stage_with_another_schedule_raises(tmp_path):
    def run(schedule):
        recipe = dataclasses.replace(cam.Recipe(), schedule=schedule)
        return stage(tmp_path, "cam", {"recipe": recipe}, dict)

    run(Poly())
    run(Poly(power=0.9))
    with pytest.raises(InputError, match=r"\(recipe\.schedule\.power was 0\.9, now 1\.0\)"):
        run(Poly(power=1.0))
    with pytest.raises(
        InputError,
        match=r"recipe\.schedule\.class was 'wsss_fast\.engine\.schedules\.Poly', now '.*Constant'",
    ):
        run(Constant())


def test_stage_of_the_version_before_raises(tmp_path):
    """It had no format, and wrote the same name for every schedule."""
    arguments = {"recipe": {"schedule": "poly.<locals>.factor"}}
    write_json(tmp_path / "cam/done.json", {"arguments": arguments, "notes": {}})
    with pytest.raises(
        InputError,
        match=r"cam: written by another version of wsss-fast \(run-folder format 1, this version "
        r"has 3\); use another --out, or remove that folder",
    ):
        stage(tmp_path, "cam", arguments, dict)


def test_interrupted_stage_resumes_with_the_same_arguments_only(tmp_path):
    def interrupted():
        (tmp_path / "cam/first.npz").write_bytes(b"a result")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path, "cam", {"lr": 0.1}, interrupted)
    with pytest.raises(InputError, match="lr was 0.1, now 0.3"):
        stage(tmp_path, "cam", {"lr": 0.3}, dict)
    (tmp_path / "cam/.a.123.tmp.npz").write_bytes(b"half")
    assert "seconds" in stage(tmp_path, "cam", {"lr": 0.1}, dict)
    assert {p.name for p in (tmp_path / "cam").iterdir()} == {"done.json", "first.npz"}


def test_stage_without_results_may_be_repeated_with_other_arguments(tmp_path):
    def fails():
        raise InputError("epochs")

    out = tmp_path / "run"
    with pytest.raises(InputError, match="epochs"):
        stage(out, "cam", {"epochs": 0}, fails)
    assert not out.exists()
    # As a killed process leaves it.
    write_json(out / "cam/begun.json", {"arguments": {"epochs": 0}})
    stage(out, "cam", {"epochs": 1}, dict)
    assert (out / "cam/done.json").exists()


@pytest.mark.parametrize("suffix", [".npz", ".png"])
def test_provenance_depends_on_the_content_of_the_files_that_are_used(tmp_path, suffix):
    """Also where the size and the time stay; a copy is the same, whatever its times."""
    folder, names = tmp_path / "maps", [f"a{suffix}", f"b{suffix}"]

    def write(name, value):
        if suffix == ".png":
            write_labels(folder / name, np.full((40, 50), value))
        else:
            scores = np.full((1, 90, 90), value, np.float32)
            save_maps(folder, name.removesuffix(suffix), ClassMaps(np.array([1]), scores))
        os.utime(folder / name, (1e9, 1e9))

    for name in names:
        write(name, 1)
    first, size = provenance(folder, names), (folder / names[1]).stat().st_size
    write(names[1], 2)
    assert (folder / names[1]).stat().st_size == size
    assert provenance(folder, names) != first
    write(names[1], 1)
    assert provenance(folder, names) == first
    write(f"unused{suffix}", 3)
    assert provenance(folder, names) == first != provenance(folder)
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert provenance(tmp_path / "copy", names) == first
    (folder / names[0]).unlink()
    assert provenance(folder, names) != first


def test_records_keep_their_order_and_are_replaced(tmp_path):
    record(tmp_path, "cam", {"miou": 0.4})
    record(tmp_path, "amn", {"miou": 0.5})
    record(tmp_path, "cam", {"miou": 0.45})
    assert list(read_records(tmp_path).items()) == [("cam", {"miou": 0.45}), ("amn", {"miou": 0.5})]
    (tmp_path / "metrics.json").write_text("[]")
    with pytest.raises(InputError, match=r"metrics\.json: not a metrics file"):
        read_records(tmp_path)


def test_config_has_the_command_its_arguments_and_versions(tmp_path):
    write_config(tmp_path, "amn run", {"seed": 3})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["command"] == "amn run" and config["arguments"] == {"seed": 3}
    assert config["format"] == 3 and config["versions"]["torch"] == torch.__version__


OWN_NAMES = ["config.json", "a/done.json", "metrics.json/b", "redo.json"]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/../b", "a/..", "/x", "//", "a//b", "a/", "./a", ".a", "a/.b", "a\\b"]
    + ["a\0b", "a\nb", "\x1b[31m", "é" * 128, "\udcff", *OWN_NAMES],
)
def test_names_that_lead_out_of_the_run_folder_raise(tmp_path, name):
    with pytest.raises(InputError, match="^name: ") as caught:
        stage(tmp_path / "run", name, {}, dict)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists() and [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "name", ["a", "cam/maps", "irn/seeds", "my masks", "ünïcode", "a.b", "é" * 127]
)
def test_other_names_are_folders_below_the_run_folder(tmp_path, name):
    stage(tmp_path, name, {}, dict)
    assert (tmp_path / name / "done.json").is_file()


def test_name_of_a_file_raises(tmp_path):
    (tmp_path / "a").write_text("mine")
    for name in ("a", "a/b"):
        with pytest.raises(InputError, match=r"name: .*a is not a directory"):
            stage(tmp_path, name, {}, dict)
    assert (tmp_path / "a").read_text() == "mine"


@dataclasses.dataclass(frozen=True)
class Kept:
    """Two kinds of numbers that must not be taken for each other."""

    value: object


@dataclasses.dataclass(frozen=True)
class Other(Kept):
    """Another class with the same fields."""


def test_values_of_another_kind_are_other_arguments(tmp_path):
    values = [None, "", 0, 1, 0.5, "1", float("nan"), float("inf"), -float("inf"), (), (1,), "None"]
    values += [Kept(1), Other(1), {"a": 1}, {3}, {1, 2}, Path("a"), np.arange(2), torch.ones(3)]
    for n, first in enumerate(values):
        stage(tmp_path, f"s{n}", {"value": first}, dict)
        for m, second in enumerate(values):
            if n == m:
                stage(tmp_path, f"s{n}", {"value": second}, dict)
            else:
                with pytest.raises(InputError, match="other arguments"):
                    stage(tmp_path, f"s{n}", {"value": second}, dict)


def test_edited_function_of_the_user_is_another_argument(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "users_schedule.py"
    for n, body in enumerate(("1 - progress", "1 - progress", "0.5 - progress")):
        file.write_text(f"def falling(progress):\n    return {body}\n")
        sys.modules.pop("users_schedule", None)
        importlib.invalidate_caches()
        linecache.clearcache()
        schedule = importlib.import_module("users_schedule").falling
        if n < 2:
            stage(tmp_path / "run", "cam", {"schedule": schedule}, dict)
        else:
            with pytest.raises(InputError, match="schedule was"):
                stage(tmp_path / "run", "cam", {"schedule": schedule}, dict)


def test_value_without_a_form_in_json_raises(tmp_path):
    with pytest.raises(InputError, match=r"crf: is of type builtins\.bytes, which cannot be"):
        stage(tmp_path, "cam", {"crf": b"1"}, dict)
