"""The model file of a training: written with its weights, made of them if missing, removed too."""

import errno
import shutil

import pytest
import torch
from brief import brief
from torch.testing import assert_close

from wsss_fast import InputError, cam, nets
from wsss_fast.engine.redo import every_stage_repeated
from wsss_fast.stages import training

RECIPE = brief(cam.RECIPES["small"], 32, updates=1)


def train(data, out, recipe=RECIPE):
    return cam.train(data, out, backbone="small", recipe=recipe, precision="fp32")


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "run"
    return out, train(shapes, out)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(finished[0], tmp_path / "run")


def check_model(out, shapes):
    """The model file says what was trained, and has the weights of weights.pth."""
    weights, model = out / "cam/weights.pth", out / "cam/model.safetensors"
    for path in (model, weights, out / "cam"):
        info = nets.read_info(path)
        assert (info.network, info.backbone, info.classes) == ("cam", "small", shapes.classes)
        assert info.recipe_as(cam.Recipe) == RECIPE
    net, _ = nets.load_model(model)
    assert_close(net.state_dict(), torch.load(weights, weights_only=True), rtol=0, atol=0)


def test_training_writes_a_model_file(finished, shapes):
    out, trained = finished
    assert trained.model == out / "cam/model.safetensors"
    check_model(out, shapes)
    assert {p.name for p in (out / "cam").iterdir()} >= {"weights.pth", "done.json", "log.csv"}


@pytest.mark.parametrize("damage", ["missing", "cut off", "of other weights", "empty"])
def test_finished_training_without_its_model_file_gets_one(run, shapes, damage, capfd):
    """As one of an earlier version."""
    model, weights = run / "cam/model.safetensors", run / "cam/weights.pth"
    before = weights.read_bytes(), (run / "cam/done.json").read_bytes()
    if damage == "missing":
        model.unlink()
    elif damage == "of other weights":
        net, info = nets.load_model(model)
        other = run / "other.pth"
        nets.save_weights(info.build(), other)
        nets.save_model(net, model, info, weights=other)
        assert nets.read_info(weights) is None
    else:
        model.write_bytes(b"" if damage == "empty" else model.read_bytes()[:999])
    assert train(shapes, run).model == model
    assert "already finished" in capfd.readouterr().err
    check_model(run, shapes)
    assert before == (weights.read_bytes(), (run / "cam/done.json").read_bytes())


def test_model_file_that_cannot_be_written_does_not_fail_a_finished_training(
    run, shapes, monkeypatch, capfd
):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    (run / "cam/model.safetensors").unlink()
    monkeypatch.setattr(training.nets, "save_model", full)
    trained = train(shapes, run)
    assert trained.model is None and trained.weights.is_file()
    err = capfd.readouterr().err
    assert f"{run}/cam/model.safetensors: could not be written (No space left on device)" in err


def test_repeated_training_first_removes_the_model_file(run, shapes, monkeypatch):
    def fail(*_, **__):
        assert not (run / "cam/model.safetensors").exists()
        raise InputError("stopped")

    monkeypatch.setattr(training, "fit", fail)
    with every_stage_repeated(True), pytest.raises(InputError, match="stopped"):
        train(shapes, run)
    assert not list(run.rglob("*.pth")) and not list(run.rglob("*.safetensors"))
    monkeypatch.undo()
    assert train(shapes, run).model.is_file()
    check_model(run, shapes)


def test_training_that_was_killed_between_its_two_files_resumes(run, shapes, tmp_path):
    (run / "cam/model.safetensors").unlink()
    (run / "cam/done.json").rename(run / "cam/begun.json")
    train(shapes, run)
    check_model(run, shapes)


def test_training_with_other_arguments_leaves_the_model_file(run, shapes):
    before = (run / "cam/model.safetensors").read_bytes()
    with pytest.raises(InputError, match="finished or started with other arguments"):
        train(shapes, run, brief(RECIPE, 32, lr=1.0))
    assert (run / "cam/model.safetensors").read_bytes() == before


def test_no_stage_is_called_like_the_file(shapes, tmp_path):
    with pytest.raises(InputError, match="name: 'cam/model.safetensors' must be that of a folder"):
        cam.train(shapes, tmp_path, backbone="small", name="cam/model.safetensors")
