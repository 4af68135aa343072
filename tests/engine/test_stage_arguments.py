"""Everything that the result of a stage depends on is among its arguments: one table for all."""

import dataclasses
import functools
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_fast import amn, cam, ccr, data, eps, irn, nets, seeds, seg
from wsss_fast.data.transforms import subtract_mean
from wsss_fast.engine import run_folder
from wsss_fast.engine.marker import flat
from wsss_fast.engine.optimizers import Adam
from wsss_fast.engine.schedules import Constant
from wsss_fast.eps.alpha_crf import AlphaCrf
from wsss_fast.eps.inference import pseudo_masks
from wsss_fast.maps import ClassMaps, save_maps
from wsss_fast.readers.label_maps import write_labels
from wsss_fast.stages import masks, saliency
from wsss_fast.stages.crf import Crf

SPEED = {"infer_batch", "prefer_bf16"}  # change speed and rounding only


@dataclasses.dataclass(frozen=True)
class Stage:
    """A function with a stage.

    Attributes:
        call: function of (data, out, inputs, recipe, more arguments).
        recipe: its hyper-parameters, or None.
        unused: fields of the recipe that do not change the result.
        inputs: files and folders of `Inputs` that it reads.
        numbers: other arguments and another value for each.
        saliency: whether it reads saliency maps.
    """

    call: object
    recipe: object = None
    unused: frozenset = frozenset()
    inputs: tuple = ()
    numbers: dict = dataclasses.field(default_factory=dict)
    saliency: bool = False


def training(module, recipe, unused, inputs=(), weights="cam_weights", **more):
    """A training: its recipe without `unused`, folders, a start, a seed."""

    def call(data, out, given, recipe, **options):
        folders = {name: getattr(given, name) for name in inputs}
        start = getattr(given, weights)
        return module.train(
            data, out, weights=start, recipe=recipe, backbone="small", **folders, **options
        )

    return Stage(call, recipe, frozenset(unused) | SPEED, (*inputs, weights), {"seed": 1}, **more)


def inference(module, recipe, unused, weights, inputs=(), numbers=None):
    """An inference: what it uses of its recipe, weights, folders."""

    def call(data, out, given, recipe, **options):
        folders = {name: getattr(given, name) for name in inputs}
        file = getattr(given, weights)
        return module.infer(data, file, out, recipe=recipe, backbone="small", **folders, **options)

    return Stage(call, recipe, frozenset(unused) | SPEED, (*inputs, weights), numbers or {})


TRAINED = {
    *("epochs", "updates", "batch_size", "lr", "augment", "optimizer", "schedule"),
    *("compile", "energy"),
}
TESTED = {"flip", "crf", "test_scales", "test_merge"}  # of the segmentation network's inference
STAGES = {
    "cam.train": training(cam, cam.RECIPES["small"], {"scales", "align"}),
    "cam.infer": inference(cam, cam.RECIPES["small"], TRAINED | {"head_lr_scale"}, "cam_weights"),
    "seeds.make": Stage(
        lambda data, out, given, recipe, **options: seeds.make(data, given.maps, out, **options),
        inputs=("maps",),
        numbers={"fg_threshold": 0.6, "bg_threshold": 0.2, "crf": Crf(gt_prob=0.6)},
    ),
    "masks.make": Stage(
        lambda data, out, given, recipe, threshold=0.3, **options: masks.make(
            data, given.maps, out, threshold=threshold, **options
        ),
        inputs=("maps",),
        numbers={"threshold": 0.6, "crf": None},
    ),
    "eps.pseudo_masks": Stage(
        lambda data, out, given, recipe, **options: pseudo_masks(
            data, given.maps, out, recipe=recipe, crf=True, name="eps", **options
        ),
        SimpleNamespace(crf=AlphaCrf()),
        inputs=("maps",),
    ),
    "amn.train": training(amn, amn.RECIPES["small"], {"scales", "present_only"}, ("seeds",)),
    "amn.infer": inference(
        amn,
        amn.RECIPES["small"],
        TRAINED | {"head_lr", "smoothing", "balance"},
        "amn_weights",
        ("seeds",),
    ),
    "irn.train": training(
        irn,
        irn.RECIPES["small"],
        {"power", "walk_radius", "beta", "steps", "pad", "threshold"},
        ("seeds",),
    ),
    "irn.infer": inference(
        irn,
        irn.RECIPES["small"],
        TRAINED | {"displacement_lr_scale", "radius", "threshold"},  # the threshold: of masks.make
        "irn_weights",
        ("maps",),
    ),
    "irn.find_instances": Stage(
        lambda data, out, given, recipe, **options: irn.find_instances(
            data,
            given.irn_weights,
            out,
            maps=given.maps,
            backbone="small",
            recipe=recipe,
            **options,
        ),
        irn.INSTANCE_RECIPES["small"],
        frozenset(
            f"irn.{name}"
            for name in TRAINED | SPEED | {"displacement_lr_scale", "radius", "threshold"}
        ),
        ("maps", "irn_weights"),
    ),
    "eps.train": training(eps, eps.RECIPES["small"], {"scales", "threshold", "crf"}, saliency=True),
    "eps.infer": inference(
        eps,
        eps.RECIPES["small"],
        TRAINED
        | {"head_lr_scale", "tau", "lam", "strategy", "background_classes", "saliency_weight"}
        | {"threshold", "crf"},  # of the pseudo-masks
        "eps_weights",
    ),
    "ccr.infer": inference(ccr, ccr.RECIPES["small"], {"batch_size"}, "cam_weights"),
    "ccr.train": training(
        ccr,
        ccr.REFINEMENTS["small"],
        {f"seg.{name}" for name in (*TESTED, "infer_batch", "prefer_bf16")},
        ("masks", "maps"),
        saliency=True,
    ),
    "seg.train": training(seg, seg.RECIPES["small"], TESTED, ("masks",)),
    "seg.infer": inference(
        seg,
        seg.RECIPES["small"],
        (TRAINED - {"augment"})
        | {"accumulate", "head_lr_scale", "resize", "balance"}
        | {"head"}  # of the weights
        | {f"augment.{f.name}" for f in dataclasses.fields(data.transforms.Augment)}
        - {"augment.to_input"},
        "seg_weights",
        numbers={"crf": False, "probabilities": True},
    ),
    "saliency.make": Stage(lambda data, out, given, recipe: saliency.make(data, out)),
    "saliency.degrade": Stage(
        lambda data, out, given, recipe, **options: saliency.degrade(data, out, **options),
        numbers={"blur": 0.1, "missed": 0.5},
        saliency=True,
    ),
}


@pytest.fixture(scope="module")
def some(shapes):
    """A few images."""
    return shapes.only(shapes.ids[:4])


@pytest.fixture(scope="module")
def inputs(some, tmp_path_factory):
    """A file of weights for each network, folders of maps, seeds and masks."""
    folder, classes = tmp_path_factory.mktemp("inputs"), len(some.classes)
    networks = {
        "cam_weights": nets.cam_resnet50(classes, backbone="small"),
        "amn_weights": nets.amn_resnet50(classes, backbone="small"),
        "irn_weights": nets.irn_resnet50(backbone="small"),
        "eps_weights": nets.eps_resnet38(classes, backbone="small"),
        "seg_weights": nets.deeplabv2_resnet101(classes, backbone="small"),
    }
    for name, net in networks.items():
        nets.save_weights(net, folder / name)
    for id in some.ids:
        truth = some.mask(id)
        write_labels(folder / "masks" / f"{id}.png", truth)
        write_labels(folder / "seeds" / f"{id}.png", truth)
        keys = np.flatnonzero(some.tags_of(id)) + 1
        scores = np.stack([truth == k for k in keys]).astype(np.float32)
        save_maps(folder / "maps", id, ClassMaps(keys, scores[:, ::4, ::4], scores))
    names = (*networks, "maps", "seeds", "masks")
    return SimpleNamespace(**{name: folder / name for name in names})


class Recorded(Exception):
    """The arguments are known; nothing is computed."""


@pytest.fixture
def arguments_of(monkeypatch, inputs, tmp_path):
    """Function from a stage and its arguments to what done.json would say; computes nothing."""

    def call(stage, data, recipe=None, given=inputs, **options):
        seen = []

        def record(marker, work, remake):
            seen.append(marker)
            raise Recorded

        monkeypatch.setattr(run_folder, "_stage", record)
        with pytest.raises(Recorded):
            stage.call(data, tmp_path / "run", given, recipe or stage.recipe, **options)
        return flat(seen[0].arguments)

    monkeypatch.setattr(nets, "load_weights", lambda net, source, complete=False: net)
    monkeypatch.setattr(nets, "optimize_for_inference", lambda net, runtime, amx=False: net)
    return call


def leaves(value, prefix=""):
    """Names of the numbers of a recipe: lr, augment.crop, optimizer.weight_decay."""
    for name, part in vars(value).items():
        if dataclasses.is_dataclass(part) and name not in ("optimizer", "schedule"):
            yield from leaves(part, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", part


def another(name, value):
    """A different value that is possible, too."""
    special = {
        "optimizer": Adam(0.123),
        "schedule": Constant(),
        "augment.to_input": subtract_mean,
        "seg.augment.to_input": subtract_mean,
        "condition_at": "layer3",
        "background_classes": (),
        "strategy": "naive",
        "resize": "labels",
        "seg.resize": "labels",
        "erasing.masking": "joint",
        "erasing.unit": "image",
        "head": "conv1x1",
        "balance": "image",
        "test_scales": (0.5, 1.0),
        "test_merge": "max",
    }
    last = name.split(".")[-1]
    if name in special or last in special:
        return special.get(name, special.get(last))
    if last in ("updates", "epochs"):
        return 7
    if value is None:
        return {"scale": (0.7, 0.9), "factors": (0.7,), "long_side": (40, 50)}[last]
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return tuple(another(f"{last}[]", part) for part in value)
    if isinstance(value, int):
        return value + 1
    return value * 0.9 + 0.017


def with_value(recipe, name, value):
    """The recipe with another value of a dotted name."""
    first, _, rest = name.partition(".")
    inner = with_value(getattr(recipe, first), rest, value) if rest else value
    if isinstance(recipe, SimpleNamespace):
        return SimpleNamespace(**{**vars(recipe), first: inner})
    return dataclasses.replace(recipe, **{first: inner})


@pytest.mark.parametrize("name", [name for name in STAGES if STAGES[name].recipe])
def test_every_number_of_a_recipe_is_an_argument(arguments_of, some, name):
    stage = STAGES[name]
    # only "predefined" may have background classes
    unused = {*stage.unused, "background_classes"}
    used = {
        leaf: another(leaf, value)
        for leaf, value in leaves(stage.recipe)
        if not any(f"{leaf}.".startswith(f"{name}.") for name in unused)
    }
    assert used
    changed = functools.reduce(lambda r, item: with_value(r, *item), used.items(), stage.recipe)
    before, after = arguments_of(stage, some), arguments_of(stage, some, changed)
    different = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    for leaf in used:
        # an inference may list a number without the recipe's name before it
        tails = {leaf, leaf.rpartition(".")[2]}
        found = any(f".{key}.".rfind(f".{tail}.") >= 0 for key in different for tail in tails)
        assert found, f"{name}: {leaf} is not among {sorted(different)}"


@pytest.mark.parametrize("name", STAGES)
def test_every_other_argument_is_one(arguments_of, some, name):
    stage = STAGES[name]
    before = arguments_of(stage, some)
    assert before == arguments_of(stage, some)
    for key, value in stage.numbers.items():
        assert arguments_of(stage, some, **{key: value}) != before, key


@pytest.mark.parametrize("name", [name for name in STAGES if STAGES[name].inputs])
def test_content_of_every_input_is_an_argument(arguments_of, some, inputs, tmp_path, name):
    """Labels edited by hand, maps of another network, other weights under the same name."""
    stage = STAGES[name]
    before = arguments_of(stage, some)
    for key in stage.inputs:
        path = getattr(inputs, key)
        content = path if path.is_file() else sorted(path.iterdir())[2]
        original, stat = content.read_bytes(), content.stat()
        content.write_bytes(edited(content))
        os.utime(content, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert arguments_of(stage, some) != before, key
        content.write_bytes(original)
        assert arguments_of(stage, some) == before, f"{key}: other times, same content"


def edited(path):
    """The content of a file with another pixel, score or weight."""
    copy = path.with_name("edited" + path.suffix)
    if path.suffix == ".png":
        labels = data.read_labels(path)
        labels[0, 0] = 255
        write_labels(copy, labels)
    elif path.suffix == ".npz":
        with np.load(path) as file:
            arrays = dict(file)
        arrays["strided"][0, 0, 0] += np.float16(0.5)
        np.savez(copy, **arrays)
    else:
        state = torch.load(path, weights_only=True)
        next(iter(state.values())).view(-1)[0] += 1
        torch.save(state, copy)
    content = copy.read_bytes()
    copy.unlink()
    return content


@pytest.fixture(scope="module")
def variants(shapes_root, tmp_path_factory):
    """The same few images, and data sets that differ from them in one thing."""
    folder = tmp_path_factory.mktemp("variants")

    def copy(name):
        root = shutil.copytree(shapes_root, folder / name, copy_function=shutil.copyfile)
        loaded = data.load(root)
        return loaded.only(loaded.ids[:4])

    same = copy("same")
    ids, tags = list(same.ids), same.tags.copy()
    tags[[0, 1]] = tags[[1, 0]]
    assert (tags != same.tags).any()
    files = {"photos": copy("photos"), "saliency": copy("saliency")}
    for path in (
        files["photos"].images[ids[2]],
        files["saliency"].saliencies[ids[2]],
    ):
        with Image.open(path) as image:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    return {
        "same": same,
        "tags": dataclasses.replace(same, tags=tags),
        "order of ids": same.only(ids[::-1]),
        "classes": dataclasses.replace(same, classes=(*same.classes[:-1], "elk")),
        **files,
    }


@pytest.mark.parametrize("name", STAGES)
def test_everything_of_the_data_is_an_argument(arguments_of, some, variants, name):
    """Tags of equal sum, another photo; but neither the folder nor the times of files."""
    stage = STAGES[name]
    before = arguments_of(stage, some)
    for what, changed in variants.items():
        after = arguments_of(stage, changed)
        different = {key for key in before if before[key] != after[key]} - {"data.root"}
        expected = what not in ("same", "saliency") or (what == "saliency" and stage.saliency)
        assert bool(different) == expected, f"{what}: {different}"
