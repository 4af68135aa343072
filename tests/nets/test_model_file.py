"""Model files: what they say about a network survives, foreign and hostile ones are refused."""

import dataclasses
import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from wsss_fast import InputError, RunError, __version__, amn, cam, eps, irn, nets, seg
from wsss_fast.data.transforms import subtract_mean
from wsss_fast.engine.optimizers import AdamW
from wsss_fast.nets import model_file
from wsss_fast.nets.model_file import model_info

CLASSES = ("cat", "dog", "chat noir é")
RECIPES = {"cam": cam, "amn": amn, "eps": eps, "irn": irn, "seg": seg}
OPTIONS = {
    "cam": {"backbone": "small"},
    "amn": {"backbone": "small", "condition_at": None},
    "eps": {"backbone": "small"},
    "irn": {"backbone": "small"},
    "seg": {"backbone": "small", "head": "largefov", "scales": (0.5, 0.75)},
}


@pytest.fixture(scope="module")
def seg_file(tmp_path_factory):
    """A segmentation network, and its file."""
    torch.manual_seed(0)
    info = model_info("seg", CLASSES, seg.RECIPES["small"], **OPTIONS["seg"])
    path = tmp_path_factory.mktemp("model") / "any name.safetensors"
    net = info.build()
    nets.save_model(net, path, info)
    return net, info, path


@pytest.mark.parametrize("network", OPTIONS)
def test_model_comes_back_from_its_file(network, tmp_path):
    torch.manual_seed(1)
    recipe = RECIPES[network].RECIPES["small"]
    info = model_info(network, CLASSES, recipe, **OPTIONS[network])
    net = info.build()
    path = tmp_path / "model.safetensors"
    nets.save_model(net, path, info)

    read = nets.read_info(path)
    assert read == info and read.version == __version__ and read.backbone == "small"
    assert read.recipe_as(type(recipe)) == recipe
    loaded, _ = nets.load_model(path)
    assert type(loaded) is type(net) and not loaded.training
    assert_close(loaded.state_dict(), net.state_dict(), rtol=0, atol=0)
    assert nets.read_info(tmp_path) == info, "a folder of a training"


@pytest.mark.parametrize(
    "recipe",
    [
        *(one for method in RECIPES.values() for one in method.RECIPES.values()),
        *(preset.numbers for preset in seg.PRESETS.values()),
        eps.COCO,
        dataclasses.replace(seg.Recipe(), optimizer=AdamW(weight_decay=0.5)),
    ],
)
def test_every_published_recipe_can_be_read_back(recipe):
    info = model_info("irn", CLASSES, recipe, backbone="small")
    assert info.recipe_as(type(recipe)) == recipe
    assert json.loads(json.dumps(info.recipe)) == info.recipe


def test_file_is_plain_safetensors_with_a_key_per_field(seg_file):
    net, _, path = seg_file
    assert_close(load_file(path), net.state_dict(), rtol=0, atol=0)
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        texts = json.loads(file.read(length))["__metadata__"]
    assert {"network": "seg", "format": "pt", "version": __version__}.items() <= texts.items()
    assert json.loads(texts["classes"]) == list(CLASSES)
    assert json.loads(texts["options"]) == {**OPTIONS["seg"], "scales": [0.5, 0.75]}
    assert json.loads(texts["recipe"])["crf"]["bilateral"] == [25.0, 13.0, 10.0]
    assert texts.keys() == {"network", "options", "classes", "recipe", "version", "format"}


def test_smallest_safetensors_file_byte_by_byte(tmp_path):
    """{"a": float32 [1, 2]} is 72 bytes: length of the header, header and blanks, values."""
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  '
    content = b"\x38" + bytes(7) + header + bytes.fromhex("0000803f00000040")
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert len(content) == 72
    assert_close(load_file(path)["a"], torch.tensor([1.0, 2.0]))
    assert nets.read_info(path) is None
    save_file({"a": torch.tensor([1.0, 2.0])}, tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == content
    with pytest.raises(InputError, match=r"none of its 1 names is known here; the first are a"):
        nets.load_weights(nets.cam_resnet50(3, backbone="small"), path)


def test_weights_are_described_by_the_model_file_beside_them(seg_file, tmp_path):
    net, info, _ = seg_file
    weights = tmp_path / "weights.pth"
    nets.save_weights(net, weights)
    assert nets.read_info(weights) is None
    nets.save_model(net, tmp_path / "model.safetensors", info, weights=weights)
    assert nets.read_info(weights) == info
    assert_close(nets.load_model(weights)[0].state_dict(), net.state_dict(), rtol=0, atol=0)
    nets.save_weights(nets.cam_resnet50(3, backbone="small"), weights)
    assert nets.read_info(weights) is None, "other weights were put in their place"
    with pytest.raises(InputError, match="weights.pth: does not say which network it is of"):
        nets.load_model(weights)


def edited(path, tmp_path, **texts):
    """A copy of a model file with other texts; None leaves a key out."""
    out = tmp_path / "edited.safetensors"
    found = {**model_file.state_dicts.read_metadata(path), **texts}
    save_file(load_file(path), out, {k: v for k, v in found.items() if v is not None})
    return out


@pytest.mark.parametrize(
    ("texts", "wrong"),
    [
        ({"network": "gan"}, "network: got 'gan', must be one of cam, amn, eps, irn, seg"),
        ({"options": "{"}, "its metadata 'options' is not JSON"),
        ({"recipe": "[" * 100_000}, "its metadata 'recipe' is not JSON"),
        ({"options": "[]"}, "options: must be a mapping with a backbone"),
        (
            {"options": '{"backbone": "small", "heads": 1}'},
            "unknown key 'heads'; did you",
        ),
        ({"options": '{"backbone": {}}'}, "options.backbone: is {}, must be text"),
        ({"options": '{"backbone": "small", "scales": [-1, "a"]}'}, "scales"),
        ({"classes": "[]"}, "classes: must be a list of different printable names"),
        ({"classes": '["a", "a"]'}, "classes: must be a list of different printable names"),
        ({"classes": '["a\\nb"]'}, "classes: must be a list of different printable names"),
        ({"classes": "{}"}, "classes: must be a list of different printable names"),
        ({"recipe": "[]"}, "recipe: must be a mapping or null"),
        ({"version": "99", "network": "new"}, "version 99 of wsss-fast wrote it"),
    ],
)
def test_impossible_metadata_is_refused(seg_file, tmp_path, texts, wrong):
    path = edited(seg_file[2], tmp_path, **texts)
    with pytest.raises(InputError) as error:
        nets.read_info(path)
    assert str(error.value).startswith(f"{path}: ") and wrong in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("texts", "wrong"),
    [
        ({"options": '{"backbone": "vgg"}'}, "backbone: got 'vgg', must be one of"),
        ({"options": '{"backbone": "resnet38", "head": "aspp"}'}, "head: got 'aspp'"),
        ({"network": "cam", "options": '{"backbone": "small"}'}, "do not fit CamNet"),
        ({"classes": '["a", "b"]'}, "do not fit DeepLab"),
    ],
)
def test_weights_that_are_not_of_the_named_network_are_refused(seg_file, tmp_path, texts, wrong):
    with pytest.raises(InputError, match=wrong):
        nets.load_model(edited(seg_file[2], tmp_path, **texts))


@pytest.mark.parametrize(
    "function", ["os.system", "wsss_fast.engine.files.os", "wsss_fast.nets.model_file.save", 3]
)
def test_functions_of_other_packages_are_not_taken_from_a_file(seg_file, tmp_path, function):
    recipe = json.loads(json.dumps(seg_file[1].recipe))
    recipe["augment"]["to_input"] = function
    path = edited(seg_file[2], tmp_path, recipe=json.dumps(recipe))
    with pytest.raises(InputError, match=r"recipe.augment.to_input: is .*, must be the full name"):
        nets.read_info(path).recipe_as(seg.Recipe)
    own = f"{subtract_mean.__module__}.subtract_mean"
    recipe["augment"]["to_input"] = own
    path = edited(seg_file[2], tmp_path, recipe=json.dumps(recipe))
    assert nets.read_info(path).recipe_as(seg.Recipe).augment.to_input is subtract_mean


def test_recipes_of_other_networks_and_versions_are_refused(seg_file):
    info = seg_file[1]
    with pytest.raises(InputError, match="recipe: unknown key 'accumulate'"):
        info.recipe_as(cam.Recipe)
    endless = {**info.recipe, "crf": {**info.recipe["crf"], "iterations": 10**15}}
    with pytest.raises(InputError, match="recipe.crf.iterations: got 1000000000000000, must be"):
        dataclasses.replace(info, recipe=endless).recipe_as(seg.Recipe)
    newer = dataclasses.replace(info, recipe={**info.recipe, "sharpness": 1.0})
    with pytest.raises(InputError, match="recipe: unknown key 'sharpness'"):
        newer.recipe_as(seg.Recipe)
    assert dataclasses.replace(info, recipe=None).recipe_as(seg.Recipe) is None


def test_damaged_foreign_and_missing_files(seg_file, tmp_path):
    whole = seg_file[2].read_bytes()
    path = tmp_path / "x.safetensors"
    for content in (b"", whole[:5], whole[:300], whole[:-1], whole + b"1", b"\xff" * 200):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"^{path}: "):
            nets.read_info(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="a pointer of Git LFS"):
        nets.read_info(path)
    with pytest.raises(InputError, match="no such weights file"):
        nets.read_info(tmp_path / "none.pth")
    (tmp_path / "model.safetensors").write_bytes(whole[:300])
    (tmp_path / "weights.pth").write_bytes(b"any")
    with pytest.raises(InputError, match="model.safetensors: .*; remove it to use weights.pth"):
        nets.read_info(tmp_path / "weights.pth")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "page.pth").write_text("<html>")
    assert nets.read_info(tmp_path / "page.pth") is None  # told when its weights are read
    assert nets.read_info(tmp_path) is None
    with pytest.raises(InputError, match="does not say which network"):
        nets.load_model(tmp_path)


def test_weights_that_are_not_finite_are_not_written(seg_file, tmp_path):
    net = seg_file[1].build()
    with torch.no_grad():
        next(net.parameters()).fill_(float("nan"))
    with pytest.raises(RunError, match="not written: .* has values that are NaN"):
        nets.save_model(net, tmp_path / "m.safetensors", seg_file[1])
    assert not list(tmp_path.iterdir())


def test_what_no_file_can_hold_is_refused_before_a_training():
    recipe = dataclasses.replace(seg.Recipe(), schedule=lambda progress: 1.0)
    with pytest.raises(InputError, match="recipe.schedule: .* cannot be distinguished"):
        model_info("seg", CLASSES, recipe, backbone="small")
