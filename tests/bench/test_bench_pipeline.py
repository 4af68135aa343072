"""`wsss-fast bench pipeline`: every stage is timed and checked; wrong results fail."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from wsss_fast import cli, nets
from wsss_fast.bench import pipeline
from wsss_fast.bench.pipeline import checks, steps
from wsss_fast.bench.pipeline.networks import ready_maps
from wsss_fast.data import load, write_labels
from wsss_fast.errors import InputError, RunError
from wsss_fast.evaluation.stage_times import StageTime
from wsss_fast.maps import load_maps, save_maps


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Four small photos, and the artefacts of the first stages."""
    folder = tmp_path_factory.mktemp("pipeline")
    made = pipeline.prepare(folder, 4, (36, 48), "none", "cpu")
    for step in steps.STEPS[:2]:
        steps.measure(step, made)
    return made


def step_of(name):
    return next(step for step in steps.STEPS if step.name == name)


def test_quick_measures_every_stage(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "pipeline", "--quick", "--network", "none", "--device", "cpu"])
    assert end.value.code == 0
    found = json.loads((tmp_path / "bench/pipeline.json").read_text())
    assert found["network"] == "none" and found["images"] == 4
    for row in found["rows"]:
        assert row["images"] == 4 and row["rate"] > 0 and row["wall"] > 0 and row["host"] > 0
    shown = capsys.readouterr().out
    for name in ("cam/maps", "seeds-crf", "irn", "predictions", "ccr/maps", "threshold curve"):
        assert any(row["stage"].startswith(name) for row in found["rows"]), name
        assert name in shown
    assert "pipeline.json" in shown


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--images", "1"], "images must be >= 2, got 1"),
        (["--device", "tpu"], "device: got 'tpu'"),
        (["--precision", "fp8"], "precision: got 'fp8'"),
        (["--network", "huge"], "invalid choice"),
    ],
)
def test_wrong_values_are_one_line(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "pipeline", *argv])
    assert end.value.code == 2 and message in " ".join(
        capsys.readouterr().err.replace("│", " ").split()
    )


def test_a_file_instead_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "bench").touch()
    with pytest.raises(InputError, match="must be a directory"):
        pipeline.run(tmp_path / "bench", quick=True)


def test_ready_maps_replace_the_networks_for_a_while():
    net = nets.eps_resnet38(20, backbone="small").eval()
    before, image = type(net).forward, torch.zeros(2, 3, 33, 48)
    with ready_maps():
        maps = net(image)[1]
        assert maps.shape == (2, 21, 5, 6) and maps.std() > 0.1
        assert torch.equal(maps, net(image)[1])
    assert type(net).forward is before


def test_a_stage_that_writes_nothing_fails(setting):
    lazy = dataclasses.replace(step_of("CRF of a folder"), run=lambda setting, data: None)
    with pytest.raises(RunError, match="does not have a file"):
        steps.measure(lazy, setting)


def test_the_command_names_the_stage_that_failed(tmp_path, monkeypatch):
    lazy = dataclasses.replace(step_of("CRF of a folder"), run=lambda setting, data: None)
    monkeypatch.setattr(pipeline, "STEPS", (lazy,))
    with pytest.raises(RunError, match="bench pipeline: CRF of a folder: .*does not have a file"):
        pipeline.run(tmp_path, quick=True, network="none", device="cpu")


def test_wrong_maps_and_labels_are_noticed(setting, tmp_path):
    data = load(setting.root)
    folder, id = setting.out / "cam/maps", data.ids[1]
    checks.maps(folder, data)
    right = load_maps(folder, id)

    def only(change):
        """The maps of one image, changed."""
        save_maps(tmp_path, id, dataclasses.replace(right, **change))
        return data.only([id])

    with pytest.raises(RunError, match=f"{id} does not have its classes"):
        checks.maps(tmp_path, only({"keys": right.keys[::-1] + 1}))
    with pytest.raises(RunError, match="all maps are flat"):
        checks.maps(tmp_path, only({"strided": 0 * right.strided, "high_res": 0 * right.high_res}))
    with pytest.raises(RunError, match="does not have its size"):
        checks.maps(tmp_path, only({"high_res": right.high_res[:, 1:]}))
    holes = right.high_res.astype(np.float16)
    holes[0, 0, 0] = np.nan
    np.savez(tmp_path / f"{id}.npz", keys=right.keys, strided=right.strided, high_res=holes)
    with pytest.raises((RunError, InputError), match="finite|NaN"):
        checks.maps(tmp_path, data.only([id]))

    checks.labels(setting.out / "seeds", data, unsure=True)
    empty = np.zeros(data.size(id), np.uint8)
    write_labels(tmp_path / f"{id}.png", empty)
    with pytest.raises(RunError, match="all pixels of all images have the label"):
        checks.labels(tmp_path, data.only([id]))
    empty[0] = 255
    write_labels(tmp_path / f"{id}.png", empty)
    with pytest.raises(RunError, match="does not have its labels"):
        checks.labels(tmp_path, data.only([id]))


def test_table_shows_shares_and_costs_per_image():
    time = StageTime("seeds", 10, 50.0, 0.2, 0.1, 0.15, 0.05, 2_000_000)
    *heads, row = pipeline.table([time])
    assert heads[0].split()[:3] == ["stage", "images", "images/s"]
    assert row.split() == ["seeds", "10", "50", "10", "15", "75", "25", "2", "-"]
