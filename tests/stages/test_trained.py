"""Inference with model files: what they say is used, and what contradicts them is refused."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from wsss_fast import InputError, amn, cam, ccr, cli, eps, irn, nets, seg
from wsss_fast.cli.arguments import parse
from wsss_fast.cli.catalog import COMMANDS
from wsss_fast.data import write_labels
from wsss_fast.maps import ClassMaps, load_maps, save_maps
from wsss_fast.nets.model_file import state_dicts
from wsss_fast.stages.trained import info_of, recipe_of

SMALL = {
    "cam": (dataclasses.replace(cam.RECIPES["small"], scales=(0.5,), align=8), {}),
    "amn": (
        dataclasses.replace(amn.RECIPES["small"], scales=(0.5,), condition_at="layer2"),
        {"condition_at": "layer2"},
    ),
    "eps": (dataclasses.replace(eps.RECIPES["small"], scales=(0.5,), threshold=0.1), {}),
    "irn": (dataclasses.replace(irn.RECIPES["small"], power=2.0, steps=4), {}),
    "seg": (
        dataclasses.replace(seg.RECIPES["small"], scales=(0.5,), head="largefov", flip=True),
        {"head": "largefov", "scales": (0.5,)},
    ),
}


@pytest.fixture(scope="module")
def some(shapes):
    return shapes.only(shapes.ids[:2])


@pytest.fixture(scope="module")
def files(some, tmp_path_factory):
    """A folder for each network, with its weights and, beside them, its model file; inputs."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    for network, (recipe, options) in SMALL.items():
        info = nets.model_info(network, some.classes, recipe, backbone="small", **options)
        net, weights = info.build(), folder / network / "weights.pth"
        nets.save_weights(net, weights)
        nets.save_model(net, folder / network / "model.safetensors", info, weights=weights)
        nets.save_weights(net, folder / f"{network}.pth")  # plain: nothing beside it
    for id in some.ids:
        write_labels(folder / "seeds" / f"{id}.png", some.mask(id))
        keys = np.flatnonzero(some.tags_of(id)) + 1
        scores = np.stack([some.mask(id) == k for k in keys]).astype(np.float32)
        save_maps(folder / "maps", id, ClassMaps(keys, scores[:, ::4, ::4], scores))
    return folder


def results(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".npz", ".png")
    }


@pytest.mark.parametrize("network", SMALL)
def test_file_replaces_backbone_and_recipe(files, some, tmp_path, network):
    infer, given = {
        "cam": (cam.infer, {}),
        "amn": (amn.infer, {"seeds": files / "seeds"}),
        "eps": (eps.infer, {}),
        "irn": (irn.infer, {"maps": files / "maps"}),
        "seg": (seg.infer, {"crf": False}),
    }[network]
    given["precision"] = "fp32"
    explicit = {"backbone": "small", "recipe": SMALL[network][0]}
    infer(some, files / f"{network}.pth", tmp_path / "explicit", **given, **explicit)
    wanted = results(tmp_path / "explicit")
    assert len(wanted) >= len(some)
    for name in ("weights.pth", "model.safetensors"):
        infer(some, files / network / name, tmp_path / name, **given)
        assert results(tmp_path / name) == wanted, name
    infer(some, files / network / "weights.pth", tmp_path / "both", **given, **explicit)
    assert results(tmp_path / "both") == wanted


def test_methods_with_numbers_of_their_own_take_the_backbone(files, some, tmp_path):
    recipe = dataclasses.replace(
        ccr.RECIPES["small"],
        erasing=dataclasses.replace(ccr.RECIPES["small"].erasing, rounds=1, scales=(0.5,)),
    )
    model = files / "cam/model.safetensors"
    found = ccr.infer(some, model, tmp_path, recipe=recipe, precision="fp32").maps
    assert load_maps(found, some.ids[0]).high_res.shape[1:] == some.size(some.ids[0])
    found = irn.find_instances(
        some, files / "irn/model.safetensors", tmp_path, maps=files / "maps", precision="fp32"
    )
    assert len(list(found.folder.glob("*.npz"))) == len(some)


def test_plain_weights_need_their_backbone_as_before(files, some, tmp_path):
    with pytest.raises(InputError, match=r"backbone is small, not resnet50: use --backbone small"):
        cam.infer(some, files / "cam.pth", tmp_path)
    assert info_of(files / "cam.pth", "seg", data=some, backbone="anything") is None
    assert info_of({"a": torch.zeros(1)}, "cam") is None


def test_images_without_class_names_get_those_of_the_network(files, some, tmp_path):
    plain = dataclasses.replace(
        some, classes=(), tags=np.zeros((len(some), 0), np.uint8), masks={}, tagged=False
    )
    model = files / "seg/model.safetensors"
    named = seg.infer(some, model, tmp_path / "named", crf=False, precision="fp32").predictions
    found = seg.infer(plain, model, tmp_path / "plain", crf=False, precision="fp32").predictions
    assert results(found) == results(named)
    assert (found / "classes.json").read_bytes() == (named / "classes.json").read_bytes()
    assert some.classes[0] in (found / "classes.json").read_text()


def test_contradictions_name_both(files, some, tmp_path):
    model = files / "seg/model.safetensors"
    seg_recipe = SMALL["seg"][0]

    def refused(match, infer=seg.infer, weights=model, data=some, **options):
        with pytest.raises(InputError, match=match):
            infer(data, weights, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    refused(f"backbone: got 'vgg16', but the backbone of {model} is 'small'", backbone="vgg16")
    refused(
        f"preset 'advcam': backbone: got 'resnet101', but the backbone of {model} is 'small'",
        preset="advcam",
    )
    refused(
        f"recipe.head: got 'seam', but {model} has head 'largefov'",
        recipe=dataclasses.replace(seg_recipe, head="seam"),
    )
    refused(
        f"recipe.condition_at: got None, but {files}/amn/weights.pth has condition_at 'layer2'",
        amn.infer,
        files / "amn/weights.pth",
        seeds=files / "seeds",
        recipe=dataclasses.replace(SMALL["amn"][0], condition_at=None),
    )
    refused(f"{model}: is a segmentation network, but a CAM classifier is needed here", cam.infer)
    refused(
        f"{files}/cam/weights.pth: is a CAM classifier, but a segmentation network is needed",
        weights=files / "cam/weights.pth",
    )
    fewer = dataclasses.replace(some, classes=some.classes[:3], tags=some.tags[:, :3])
    refused(f"was trained for {len(some.classes)} classes, but .* has 3; a classes.txt", data=fewer)
    others = (some.classes[1], some.classes[0], *some.classes[2:])
    refused(
        f"its class 1 is {some.classes[0]!r}, but that of .* is {some.classes[1]!r}",
        data=dataclasses.replace(some, classes=others),
    )


def test_class_names_that_read_alike_are_the_same(files, some):
    loud = dataclasses.replace(some, classes=tuple(name.upper() for name in some.classes))
    assert info_of(files / "seg/model.safetensors", "seg", data=loud).classes == some.classes


def test_recipe_that_cannot_be_read_is_needed_only_without_another(files, some, tmp_path):
    """As of a training with a schedule of the user's own."""
    path = tmp_path / "own.safetensors"
    texts = state_dicts.read_metadata(files / "cam/model.safetensors")
    recipe = json.loads(texts["recipe"])
    recipe["schedule"] = {"class": "mine.Schedule", "power": 1.0}
    info = dataclasses.replace(nets.read_info(files / "cam/model.safetensors"), recipe=recipe)
    nets.save_model(nets.load_model(files / "cam/weights.pth")[0], path, info)
    with pytest.raises(InputError, match=r"own.safetensors: its recipe.schedule.class: is 'mine"):
        cam.infer(some, path, tmp_path / "out")
    given = SMALL["cam"][0]
    assert recipe_of(path, info, given, cam.RECIPES, "small") is given
    without = dataclasses.replace(info, recipe=None)
    assert recipe_of(path, without, None, cam.RECIPES, "small") == cam.RECIPES["small"]


def test_commands_take_numbers_from_the_file(files, shapes_root, tmp_path, capfd):
    """Those of the command line replace single ones."""
    weights = files / "cam/model.safetensors"
    line = f"cam infer --data {shapes_root} --weights {weights}"
    assert cli.run([*line.split(), "--help"]) == 0
    shown = capfd.readouterr().out
    assert "--recipe.align INT" in shown and "(default: 8)" in shown and "(default: 0.5)" in shown
    words = f"{line} --out {tmp_path} --recipe.infer-batch 3".split()
    options = parse(COMMANDS["cam infer"], words[2:])
    wanted = dataclasses.replace(SMALL["cam"][0], infer_batch=3)
    assert options["recipe"] == wanted and options["backbone"] is None
    missing = f"cam infer --data {shapes_root} --weights {tmp_path}/none.pth --out {tmp_path}/out"
    assert cli.run(missing.split()) == 2
    assert f"{tmp_path}/none.pth: no such weights file" in capfd.readouterr().err


def test_command_with_a_model_file(files, shapes_root, some, tmp_path, capfd):
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(some.ids))
    line = (
        f"seg infer --data {shapes_root} --ids {ids} --weights {files}/seg/model.safetensors "
        f"--out {tmp_path}/run --no-crf --precision fp32"
    )
    assert cli.run(line.split()) == 0, capfd.readouterr().err
    direct = seg.infer(
        some, files / "seg/weights.pth", tmp_path / "direct", crf=False, precision="fp32"
    )
    assert results(tmp_path / "run/seg/predictions") == results(direct.predictions)
