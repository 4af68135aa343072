"""CCR's stages, training and pipeline on a tiny benchmark."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from wsss_fast import InputError, ccr, cli, data, nets, ops, seg
from wsss_fast.data import read_labels, write_labels
from wsss_fast.engine.run_folder import read_records
from wsss_fast.maps import ClassMaps, load_maps, save_maps, strided_size

SMALL = ccr.RECIPES["small"]
QUICK = dataclasses.replace(
    SMALL, erasing=dataclasses.replace(SMALL.erasing, scales=(1.0, 0.5), rounds=2)
)
SEG = dataclasses.replace(
    seg.RECIPES["small"],
    updates=2,
    batch_size=8,
    augment=dataclasses.replace(seg.RECIPES["small"].augment, crop=64),
)
REFINED = ccr.Refinement(seg=SEG)


@pytest.fixture(scope="module")
def weights(shapes, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("classifier") / "weights.pth"
    nets.save_weights(nets.cam_resnet50(len(shapes.classes), backbone="small"), path)
    return path


@pytest.fixture(scope="module")
def finished(shapes, weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("ccr")
    return ccr.infer(
        shapes, weights, out, backbone="small", recipe=QUICK, precision="fp32"
    ).maps, out


@pytest.fixture(scope="module")
def masks(shapes, tmp_path_factory):
    """The true masks as a folder of pseudo-masks."""
    folder = tmp_path_factory.mktemp("masks")
    for id in shapes.ids:
        write_labels(folder / f"{id}.png", shapes.mask(id))
    return folder


def test_what_inference_leaves(finished, shapes, weights):
    folder, out = finished
    assert folder == out / "ccr/maps"
    for id in shapes.ids:
        maps, keys = load_maps(folder, id), np.flatnonzero(shapes.tags_of(id)) + 1
        np.testing.assert_array_equal(maps.keys, keys)
        assert maps.high_res.shape == (len(keys), *shapes.size(id)) and maps.strided.shape[
            1:
        ] == strided_size(*shapes.size(id))
        assert maps.high_res.min() >= 0 and maps.high_res.max() <= 1
    notes = json.loads((folder / "done.json").read_text())
    assert len(notes["notes"]["rounds"]) == 2 and sum(notes["notes"]["rounds"]) >= 24
    assert notes["arguments"]["ask"]["masked_from"] == 0.7
    with pytest.raises(InputError, match="made with other arguments"):
        ccr.infer(shapes, weights, out, backbone="small", recipe=SMALL, precision="fp32")


def test_bf16_is_near(finished, shapes, weights, tmp_path):
    some = shapes.only(shapes.ids[:4])
    once = dataclasses.replace(
        QUICK, erasing=dataclasses.replace(QUICK.erasing, rounds=1)
    )  # a mask's edge may fall either way
    near, full = (
        ccr.infer(some, weights, tmp_path, backbone="small", recipe=once, precision=p, name=p).maps
        for p in ("bf16", "fp32")
    )
    for id in some.ids:  # random weights: maps near 0 are divided by a maximum near 0
        assert 0 < np.abs(load_maps(near, id).high_res - load_maps(full, id).high_res).mean() < 0.15


def test_levels_of_a_sample(shapes, finished):
    id = shapes.ids[0]
    levels = ccr.refinement._levels(shapes, finished[0], id)
    response = load_maps(finished[0], id).high_res.max(axis=0)
    np.testing.assert_allclose(1 - levels[1] / 255, response, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(levels[0] / 255, shapes.saliency(id), atol=0.5 / 255 + 1e-6)
    augment = dataclasses.replace(
        SEG.augment, crop=80, scale=None, jitter=0.0
    )  # larger than the image
    image, mask, maps = augment.with_maps(
        shapes.image(id), shapes.mask(id), levels, np.random.default_rng(0)
    )
    outside = mask == 255
    assert mask.shape == maps.shape[1:] == image.shape[1:] == (80, 80)
    assert (
        outside.sum() >= 80 * 80 - 64 * 64
        and (maps[:, :, 0] == 0).all()
        or (maps[:, :, -1] == 0).all()
    )
    whole = dataclasses.replace(augment, crop=64)
    for seed in range(8):  # mirrored or not, image, mask and maps together
        image, mask, maps = whole.with_maps(
            shapes.image(id), shapes.mask(id), levels, np.random.default_rng(seed)
        )
        mirrored = not np.array_equal(mask, shapes.mask(id))
        turned = levels[..., ::-1] if mirrored else levels
        np.testing.assert_allclose(maps, turned / 255, atol=1e-6)
        np.testing.assert_array_equal(
            mask, shapes.mask(id)[:, ::-1] if mirrored else shapes.mask(id)
        )


def test_the_loss_is_cross_entropy_and_aamr(shapes):
    torch.manual_seed(0)
    net = nets.deeplabv2_resnet101(3, backbone="small").train()
    net.backbone.eval()
    maps = torch.rand(2, 2, 65, 65)
    batch = {
        "image": torch.randn(2, 3, 65, 65),
        "mask": torch.randint(0, 4, (2, 65, 65), dtype=torch.uint8),
        "maps": maps,
    }
    logits = net(batch["image"])[-1]
    plain = seg.method._step(SEG)(net, batch)
    for recipe in (REFINED, REFINED.everywhere()):
        both = seg.method._step(SEG, ccr.refinement._refinement(recipe))(net, batch)
        added = ops.reference.aamr_loss(
            logits,
            maps[:, 0],
            1 - maps[:, 1],
            salient=0.5,
            active=recipe.active,
            overlap=recipe.overlap,
        )
        assert_close(both, plain + 0.5 * added, rtol=1e-4, atol=1e-5)
    _, region = ops.aamr_loss(
        logits, maps[:, :1], 1 - maps[:, 1], active=2.0, overlap=0.0, return_region=True
    )
    assert region.all()  # plain supervision leaves out nothing


def test_training_with_and_without_saliency(shapes, finished, masks, tmp_path):
    shared = {"masks": masks, "maps": finished[0], "backbone": "small", "precision": "fp32"}
    made = {}
    for name, recipe in (
        ("refined", REFINED),
        ("everywhere", REFINED.everywhere()),
        ("none", dataclasses.replace(REFINED, weight=0.0)),
    ):
        trained = ccr.train(shapes, tmp_path, recipe=recipe, name=name, **shared)
        assert np.isfinite(trained.losses).all()
        made[name] = torch.load(trained.weights, weights_only=True)["aspp.weight"]
    alone = seg.train(
        shapes, tmp_path, masks=masks, backbone="small", recipe=SEG, precision="fp32", name="seg"
    )
    assert torch.equal(made["none"], torch.load(alone.weights, weights_only=True)["aspp.weight"])
    assert len({float(w.sum()) for w in made.values()}) == 3
    noted = json.loads((tmp_path / "refined/done.json").read_text())["arguments"]
    assert noted["refinement"] == {"weight": 0.5, "salient": 0.5, "active": 0.2, "overlap": 0.1}


def test_the_whole_road_by_command(shapes_root, weights, tmp_path, capfd):
    few = {
        "ccr.erasing.scales": "1.0 0.5",
        "ccr.erasing.rounds": 2,
        "refine.irn.epochs": 1,
        "refine.irn.batch-size": 8,
        "refine.irn.steps": 8,
        "refine.irn.augment.crop": 64,
        "cam.scales": 1.0,
        "seg.seg.updates": 2,
        "seg.seg.batch-size": 8,
        "seg.seg.augment.crop": 64,
    }
    numbers = [
        word for key, value in few.items() for word in (f"--pipeline.{key}", *str(value).split())
    ]
    argv = [
        "ccr",
        "run",
        "--preset",
        "shapes",
        "--data",
        str(shapes_root),
        "--val-split",
        "val",
        "--weights",
        str(weights),
        "--precision",
        "fp32",
        "--out",
        str(tmp_path),
        *numbers,
    ]
    assert cli.run(argv) == 0, capfd.readouterr().err
    capfd.readouterr()
    records = read_records(tmp_path)
    assert {"cam", "ccr", "ccr+crf", "irn", "masks", "seg on val"} <= set(records)
    page = (tmp_path / "report.html").read_text()
    assert "CCR map" in page and "saliency" in page
    config = json.loads((tmp_path / "config.json").read_text())
    assert (
        config["command"] == "ccr.run" and config["arguments"]["pipeline"]["seg"]["weight"] == 0.5
    )
    unseen = data.load(shapes_root, split="val")
    for id in unseen.ids:
        assert read_labels(tmp_path / "seg/predictions" / f"{id}.png", 8).shape == unseen.size(id)
    assert (
        cli.run(argv) == 0 and "skipped" in capfd.readouterr().err
    )  # a finished pipeline is only read


def test_bad_input_stops_before_anything_is_written(
    shapes, weights, finished, masks, own_shapes, tmp_path
):
    out = tmp_path / "run"
    with pytest.raises(
        InputError, match="backbone: got 'vgg', must be one of resnet50, resnet38, small"
    ):
        ccr.infer(shapes, weights, out, backbone="vgg")
    with pytest.raises(InputError, match="no such weights file"):
        ccr.infer(shapes, tmp_path / "nowhere.pth", out, backbone="small")
    with pytest.raises(InputError, match=r"ccr\.run: preset is 'coco'; must be one of voc, shapes"):
        ccr.run(shapes, out, preset="coco")
    with pytest.raises(InputError, match="maps: .* has no maps for 24 of 24 ids"):
        ccr.train(shapes, out, masks=masks, maps=masks, backbone="small", recipe=REFINED)
    for path in (own_shapes / "saliency").iterdir():
        path.unlink()
    without = data.load(own_shapes)
    with pytest.raises(InputError, match="saliency: no map for 24 of 24 ids"):
        ccr.train(without, out, masks=masks, maps=finished[0], backbone="small", recipe=REFINED)
    with pytest.raises(InputError, match="saliency: no map for 24 of 24 ids"):
        ccr.run(without, out, preset="shapes", weights=weights)
    state = torch.load(weights, weights_only=True)
    torch.save(
        {k: v * float("nan") if k == "head.weight" else v for k, v in state.items()},
        tmp_path / "nan.pth",
    )
    with pytest.raises(InputError, match="ccr: the classifier's maps of .* are not finite"):
        ccr.infer(shapes, tmp_path / "nan.pth", out, backbone="small", recipe=QUICK)
    assert not list(out.rglob("*.*"))


def test_maps_of_another_size_are_named(shapes, masks, tmp_path):
    for id in shapes.ids:
        keys = np.flatnonzero(shapes.tags_of(id)) + 1
        save_maps(
            tmp_path / "maps",
            id,
            ClassMaps(keys, np.zeros((len(keys), 4, 4)), np.zeros((len(keys), 9, 9))),
        )
    with pytest.raises(InputError, match=r"maps are \(9, 9\), but the image is \(64, 64\)"):
        ccr.train(
            shapes,
            tmp_path / "run",
            masks=masks,
            maps=tmp_path / "maps",
            backbone="small",
            recipe=REFINED,
        )


def test_analyses(shapes, weights, tmp_path):
    small = ccr.PIPELINES["small"]
    refine = dataclasses.replace(small.refine, kind="crf")
    pipeline = dataclasses.replace(small, ccr=QUICK, refine=refine, seg=REFINED)
    call = {
        "weights": weights,
        "backbone": "small",
        "pipeline": pipeline,
        "val": data.load(shapes.root, split="val"),
        "precision": "fp32",
    }
    found = ccr.analyse(shapes, tmp_path, **call)
    assert list(found.miou) == [
        "cam",
        "ccr",
        "after-1",
        "masking-joint",
        "unit-image",
        "seg-none",
        "seg-everywhere",
        "seg-aamr",
    ]
    records = {**read_records(tmp_path), **read_records(found.out)}
    assert all(records[name]["miou"] == value for name, value in found.miou.items())
    one, whole = (
        load_maps(tmp_path / folder, shapes.ids[0]).high_res
        for folder in ("analyses/after-1/maps", "ccr/maps")
    )
    assert (whole >= one - 1e-3).all() and found.report == tmp_path / "analyses/report.html"
    page = found.report.read_text()
    named = (
        "CAM",
        "1 round",
        "CCR, 2 rounds",
        "all classes masked together",
        "maps divided by their maximum in the image",
        "everywhere",
        "aamr",
    )
    assert all(f"<td>{name}</td>" in page for name in named)
    assert (
        page.index("<td>CAM</td>")
        < page.index("<td>1 round</td>")
        < page.index("<td>CCR, 2 rounds</td>")
    )
    widths = [
        sum(map(int, re.findall("<img width=(\\d+)", row)))
        for row in page.split("<tr>")
        if "<img" in row
    ]
    assert len(widths) == 12 and max(widths) <= 1040  # all columns in sight
    before = {
        p: p.stat().st_mtime_ns
        for p in (tmp_path / "analyses").rglob("*")
        if p.suffix in (".npz", ".pth", ".png")
    }
    assert ccr.analyse(shapes, tmp_path, **call).miou == found.miou
    assert before == {p: p.stat().st_mtime_ns for p in before}
    with pytest.raises(InputError, match="parts holds 'colour'"):
        ccr.analyse(shapes, tmp_path / "other", parts=("colour",), backbone="small")
    assert not (tmp_path / "other").exists()
