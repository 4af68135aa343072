"""Masks of new images: the same as the stages write, of arrays, files and folders."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import wsss_fast as wf
from wsss_fast import InputError, RunError, amn, cam, cli, data, eps, nets, seeds, seg
from wsss_fast.data import read_labels
from wsss_fast.eps.inference import pseudo_masks
from wsss_fast.evaluation.pictures import colours
from wsss_fast.nets.model_file import model_info, save_model
from wsss_fast.prediction import ModelOptions, Prediction, open_model, predict
from wsss_fast.stages import masks

OPTIONS = {"precision": "fp32"}
NETWORKS = {
    "seg": (nets.deeplab, seg.RECIPES["small"], {"head": "aspp", "scales": (0.5, 0.75)}),
    "cam": (nets.cam_resnet50, cam.RECIPES["small"], {}),
    "amn": (nets.amn_resnet50, amn.RECIPES["small"], {"condition_at": "layer4"}),
    "eps": (nets.eps_resnet38, eps.RECIPES["small"], {}),
}


@pytest.fixture(scope="module")
def few(shapes):
    """Four tagged images of 64x64, the third without any tag."""
    few = shapes.only(shapes.ids[:4])
    tags = few.tags.copy()
    tags[2] = 0
    return dataclasses.replace(few, tags=tags)


@pytest.fixture(scope="module")
def models(few, tmp_path_factory):
    """Folder with a model file of random weights for each network, whose masks have several labels.

    `plain/` has their weights alone.
    """
    folder = tmp_path_factory.mktemp("models")
    (folder / "plain").mkdir()
    for name, (make, recipe, options) in NETWORKS.items():
        torch.manual_seed(1)
        net = make(len(few.classes), backbone="small", **options)
        if name == "seg":  # else all pixels have the same label
            weight = torch.nn.init.normal_(net.aspp.weight, std=3.0).data
            weight -= weight.mean(dim=(2, 3, 4), keepdim=True)
        info = model_info(name, few.classes, recipe, backbone="small", **options)
        save_model(net, folder / f"{name}.safetensors", info)
        torch.save(net.state_dict(), folder / "plain" / f"{name}.pth")
    return folder


@pytest.fixture(scope="module")
def photos(few, tmp_path_factory):
    """Folder of the photos, and tags.csv beside it."""
    folder = tmp_path_factory.mktemp("new") / "photos"
    folder.mkdir()
    lines = ["file,class"]
    for id, tags in zip(few.ids, few.tags, strict=True):
        shutil.copy(few.images[id], folder)
        names = [few.classes[c] for c in np.flatnonzero(tags)]
        lines.append(f"{few.images[id].name},{';'.join(names)}")
    (folder.parent / "tags.csv").write_text("\n".join(lines) + "\n")
    return folder


def run(*words):
    return cli.run(["predict", *map(str, words)])


def by_stages(name, few, models, out, crf):
    """Folder of the masks that the stages of a method write."""
    weights, options = models / f"{name}.safetensors", {**OPTIONS, "device": "cpu"}
    numbers = amn.PIPELINES["small"]
    if name == "seg":
        return seg.infer(few, weights, out, crf=crf, **options).predictions
    if name == "eps":
        maps = eps.infer(few, weights, out, **options).maps
        recipe = eps.RECIPES["small"]
        return pseudo_masks(few, maps, out, recipe=recipe, crf=crf, name="masks")
    cams = cam.infer(few, models / "cam.safetensors", out, **options).maps
    if name == "cam":
        threshold = numbers.cam_crf_threshold if crf else numbers.cam_threshold
        own = numbers.crf if crf else None
        return masks.make(few, cams, out, threshold=threshold, crf=own).folder
    limits = {"fg_threshold": numbers.fg_threshold, "bg_threshold": numbers.bg_threshold}
    folder = seeds.make(few, cams, out, crf=numbers.crf, **limits).folder
    maps = amn.infer(few, weights, out, seeds=folder, **options).maps
    threshold = numbers.refine.crf_threshold if crf else numbers.amn_threshold
    own = numbers.refine.crf if crf else None
    return masks.make(few, maps, out, threshold=threshold, crf=own).folder


@pytest.mark.parametrize(
    "name, crf", [*((name, True) for name in NETWORKS), ("seg", False), ("cam", False)]
)
def test_masks_are_those_of_the_stages(name, crf, few, models, photos, tmp_path):
    expected = by_stages(name, few, models, tmp_path / "stages", crf)
    more = [] if name == "seg" else ["--tags", photos.parent / "tags.csv"]
    more += ["--cam-weights", models / "cam.safetensors"] if name == "amn" else []
    more += [] if crf else ["--no-crf"]
    weights, out = models / f"{name}.safetensors", tmp_path / "out"
    assert run(photos, "--weights", weights, "-o", out, "--precision", "fp32", *more) == 0
    found = {path.stem: read_labels(path) for path in out.glob("*.png")}
    assert found.keys() == set(few.ids)
    for id, labels in found.items():
        np.testing.assert_array_equal(labels, read_labels(expected / f"{id}.png"))
    assert len(np.unique(np.stack([*found.values()]))) > 2
    names = json.loads((out / "classes.json").read_text())
    assert names == json.loads((expected / "classes.json").read_text())
    if name != "seg":
        assert not found[few.ids[2]].any()


@pytest.mark.parametrize("name", NETWORKS)
def test_arrays_give_the_same_without_files(name, few, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = [few.image(id) for id in few.ids]
    given = {} if name == "seg" else {"tags": [names_of(few, id) for id in few.ids]}
    out = tmp_path / "files"
    wf.predict(few, models / f"{name}.safetensors", out, probabilities=True, **OPTIONS)
    before = sorted(tmp_path.rglob("*"))
    found = wf.predict(
        images, models / f"{name}.safetensors", probabilities=True, **given, **OPTIONS
    )
    assert sorted(tmp_path.rglob("*")) == before
    for id, one in zip(few.ids, found, strict=True):
        assert one.labels.dtype == np.uint8 and one.probabilities.dtype == np.float32
        np.testing.assert_array_equal(one.labels, read_labels(out / f"{id}.png"))
        np.testing.assert_array_equal(
            one.probabilities.astype(np.float16), np.load(out / "probabilities" / f"{id}.npy")
        )
        np.testing.assert_allclose(one.probabilities.sum(0), 1, atol=1e-5)
        present = {few.classes.index(name) + 1 for name in one.names()}
        assert present == set(np.unique(one.labels)) - {0}


def names_of(few, id):
    return [few.classes[c] for c in np.flatnonzero(few.tags_of(id))]


def test_an_amn_without_a_classifier_counts_each_pixel_as_unsure(few, models, tmp_path):
    unsure = tmp_path / "unsure"
    for id in few.ids:
        data.write_labels(unsure / f"{id}.png", np.full(few.size(id), 255, np.uint8))
    labels = few.ids[0]
    mixed = data.read_labels(unsure / f"{labels}.png").copy()
    mixed[0, 0] = np.flatnonzero(few.tags_of(labels))[0] + 1  # a folder of 255 alone is refused
    data.write_labels(unsure / f"{labels}.png", mixed)
    weights = models / "amn.safetensors"
    maps = amn.infer(few, weights, tmp_path, seeds=unsure, device="cpu", **OPTIONS).maps
    refine = amn.PIPELINES["small"].refine
    folder = masks.make(few, maps, tmp_path, threshold=refine.crf_threshold, crf=refine.crf).folder
    for one in wf.predict(few, weights, **OPTIONS):
        np.testing.assert_array_equal(one.labels, read_labels(folder / f"{one.id}.png"))


@pytest.mark.parametrize("name", NETWORKS)
def test_plain_weights_are_recognised(name, few, models):
    told = open_model(models / f"{name}.safetensors", **OPTIONS)
    options = ModelOptions(classes=few.classes)
    guessed = open_model(models / "plain" / f"{name}.pth", model=options, **OPTIONS)
    if name == "amn":  # the file says it
        assert told.arguments.pop("condition_at") == "layer4"
    assert guessed.arguments == told.arguments


def test_weights_without_class_names(few, models, photos, tmp_path, capfd):
    plain = models / "plain" / "seg.pth"
    assert open_model(plain).classes == tuple(map(str, range(1, len(few.classes) + 1)))
    assert predict(few, plain)[0].classes == few.classes
    assert predict(few.images[few.ids[0]], plain).id == few.ids[0]
    for names, said in (((), True), (few.classes, False)):  # names are no other prediction
        predict(photos, plain, tmp_path / "named", model=ModelOptions(classes=names))
        assert ("the weights name no classes" in capfd.readouterr().err) == said
    labels = json.loads((tmp_path / "named/classes.json").read_text())
    assert labels["1"] == few.classes[0]
    (tmp_path / "classes.txt").write_text("\n".join(few.classes))
    named = ModelOptions(classes=(str(tmp_path / "classes.txt"),))
    assert open_model(plain, model=named).classes == few.classes
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(tmp_path / "classes.txt", tmp_path / "photos")
    assert predict(tmp_path / "photos", plain, tmp_path / "out").classes == few.classes
    with pytest.raises(InputError, match="cam.pth: does not name its classes.*give --classes"):
        open_model(models / "plain" / "cam.pth")
    with pytest.raises(InputError, match="no.txt: no such file"):
        open_model(plain, model=ModelOptions(classes=("no.txt",)))


@pytest.mark.parametrize(
    "name, arguments, text",
    [
        ("seg", {"model": ModelOptions("amn")}, "network: got 'amn', but .* has 'seg'"),
        ("seg", {"model": ModelOptions(backbone="vgg16")}, "backbone: got 'vgg16', but .* 'small'"),
        ("seg", {"model": ModelOptions(classes=("a", "b"))}, "classes: got a, b, but .* has train"),
        ("seg", {"model": ModelOptions(preset="shapes")}, "preset: .* has its own recipe"),
        ("seg", {"threshold": 0.3}, "threshold: a segmentation network has none"),
        ("cam", {"threshold": 30.0}, "threshold: got 30.0; must be in 0..1"),
        ("eps", {"threshold": 0.3}, "threshold: EPS' CRF computes the score"),
        ("cam", {"cam_weights": "x.pth"}, "cam_weights: is for an AMN only, but .* is of 'cam'"),
        ("amn", {"cam_weights": "no.pth"}, "no.pth: no such weights file"),
        ("cam", {"model": ModelOptions(preset="vov")}, "preset is 'vov'; must be one of amn-voc"),
        ("cam", {"model": ModelOptions(preset="amn-voc")}, "for backbone 'resnet50', got 'small'"),
    ],
)
def test_what_contradicts_the_weights_is_refused(name, arguments, text, models):
    with pytest.raises(InputError, match=text):
        open_model(models / f"{name}.safetensors", **arguments)


def test_a_classifier_in_place_of_an_amn_is_named(models, few):
    amn_file, seg_file = models / "amn.safetensors", models / "seg.safetensors"
    with pytest.raises(InputError, match="network: got 'cam', but .*seg.safetensors has 'seg'"):
        open_model(amn_file, cam_weights=seg_file)
    other = models / "other.safetensors"
    info = model_info("cam", ("cat", "dog"), None, backbone="small")
    save_model(nets.cam_resnet50(2, backbone="small"), other, info)
    with pytest.raises(InputError, match="classes: got train.* but .*other.safetensors has cat"):
        open_model(amn_file, cam_weights=other)


@pytest.mark.parametrize(
    "image, text",
    [
        (np.zeros((4, 4), np.uint8), r"is uint8 \[4, 4\]; must be .*np.stack"),
        (np.zeros((4, 4, 4), np.uint8), r"drops the alpha channel"),
        (np.zeros((3, 4, 4), np.uint8), r"image.transpose\(1, 2, 0\)"),
        (np.zeros((4, 4, 3), np.float32), r"is float32 .* levels are 0..255"),
        (np.zeros((0, 4, 3), np.uint8), r"it has no pixels"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"give list\(images\)"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)], r"images\[1\]: is uint8"),
        (torch.zeros(4, 4, 3), r"is a Tensor; .*cpu\(\).numpy\(\)"),
        (Image.new("RGB", (4, 4)), r"is a Image; .*image.convert"),
        ([], "the list is empty"),
        ({}, "is a dict"),
    ],
)
def test_what_is_no_photo_is_refused(image, text, models):
    with pytest.raises(InputError, match=text):
        predict(image, models / "seg.safetensors")


def test_tags_of_arrays(few, models):
    image, cams = few.image(few.ids[0]), open_model(models / "cam.safetensors", **OPTIONS)
    names = names_of(few, few.ids[0])
    one = predict(image, cams, tags=names)
    assert isinstance(one, Prediction) and one.id == ""
    np.testing.assert_array_equal(one.labels, predict([image], cams, tags=[names])[0].labels)
    for tags, text in (
        (None, r"the CAM classifier needs the class names of each image, as in \['train'\]"),
        (["trian"], "'trian' is not a class of the model; did you mean 'train'"),
        ("train", "needs the class names"),
        ([["train"]], r"\['train'\] is not a class"),
    ):
        with pytest.raises(InputError, match=text):
            predict(image, cams, tags=tags)
    with pytest.raises(InputError, match="tags: are of 1 images, but there are 2"):
        predict([image, image], cams, tags=[["train"]])
    with pytest.raises(InputError, match="got 'train' for an image; give a list"):
        predict([image], cams, tags=["train"])
    with pytest.raises(InputError, match="tags: the segmentation network needs none"):
        predict(image, models / "seg.safetensors", tags=["train"])
    with pytest.raises(InputError, match="probabilities: the maps of the CAM .* without the CRF"):
        predict(image, models / "cam.safetensors", tags=names, crf=False, probabilities=True)


def test_tags_of_files(few, models, photos, tmp_path):
    cams = open_model(models / "cam.safetensors", **OPTIONS)
    files = [photos / few.images[id].name for id in few.ids[:2]]
    listed = predict(files, cams, tags=[names_of(few, id) for id in few.ids[:2]])
    for one, same in zip(listed, predict(few, cams), strict=False):
        assert one.id == same.id
        np.testing.assert_array_equal(one.labels, same.labels)
    with pytest.raises(InputError, match="tags: of a folder or a data set are given as a file"):
        predict(photos, cams, tags=[["train"]] * 4)
    with pytest.raises(InputError, match="needs the tags of the images; give a file of them$"):
        predict(photos, cams)
    csv = tmp_path / "some.csv"
    lines = (photos.parent / "tags.csv").read_text().splitlines()
    csv.write_text("\n".join(lines[:-1]))
    with pytest.raises(RunError, match=f"1 of 4 images .*{few.ids[3]}.jpg: .* has no tags of it"):
        predict(photos, cams, tmp_path / "out", tags=csv)
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
    csv.write_text("file,class\nother.jpg,train\n")
    with pytest.raises(InputError, match="some.csv: has tags of none of the images"):
        predict(photos, cams, tmp_path / "none", tags=csv)
    assert not (tmp_path / "none").exists()


def test_a_second_call_completes_the_folder(few, models, photos, tmp_path):
    own, out = tmp_path / "photos", tmp_path / "out"
    shutil.copytree(photos, own)
    late = own / f"{few.ids[3]}.jpg"
    late.rename(tmp_path / late.name)
    opened = open_model(models / "cam.safetensors", **OPTIONS)
    tags = tmp_path / "tags.csv"
    tags.write_text((photos.parent / "tags.csv").read_text())
    first = predict(own, opened, out, tags=tags)
    assert (first.written, first.skipped) == (3, 0)
    assert str(first) == f"masks: {out} (3 written)"
    for path in out.iterdir():  # what is written again has another time
        os.utime(path, (1, 1))

    (tmp_path / late.name).rename(late)
    changed = own / f"{few.ids[0]}.jpg"
    shutil.copy(few.images[few.ids[2]], changed)
    retagged = few.ids[1]
    text = tags.read_text().splitlines()
    text[2] = f"{retagged}.jpg,"
    tags.write_text("\n".join(text))
    second = predict(own, dataclasses.replace(opened, batch_size=1), out, tags=tags)
    assert (second.written, second.skipped) == (3, 1)
    renewed = {p.stem for p in out.glob("*.png") if p.stat().st_mtime > 1}
    assert renewed == {few.ids[0], retagged, few.ids[3]}
    assert not read_labels(out / f"{retagged}.png").any()
    third = predict(own, opened, out, tags=tags, overlay=True)
    assert (third.written, third.skipped, third.overlays) == (4, 0, out / "overlays")
    assert "4 written" in str(third) and str(third).endswith(f"overlays: {out / 'overlays'}")


def test_masks_of_other_origin_are_not_mixed(few, models, photos, tmp_path):
    out = tmp_path / "out"
    predict(photos, models / "seg.safetensors", out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InputError, match="with other arguments: crf.bilateral was .*, now None"):
        predict(photos, models / "seg.safetensors", out, crf=False)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    (out / "predict.json").write_text("{")
    with pytest.raises(InputError, match="predict.json: cannot be read"):
        predict(photos, models / "seg.safetensors", out)
    (out / "predict.json").unlink()
    with pytest.raises(InputError, match="png: is there already, but not from this command"):
        predict(photos, models / "seg.safetensors", out)
    with pytest.raises(InputError, match="is the folder of the photos"):
        predict(photos, models / "seg.safetensors", photos)
    with pytest.raises(InputError, match="mask.png is named like a file; give a folder"):
        predict(photos, models / "seg.safetensors", tmp_path / "mask.png")
    with pytest.raises(InputError, match="out: is for files; arrays have no names"):
        predict(few.image(few.ids[0]), models / "seg.safetensors", tmp_path / "a")
    with pytest.raises(InputError, match="overlay: is written to a folder"):
        predict(photos, models / "seg.safetensors", overlay=True)


def odd_photos(folder, image):
    """Photos of many kinds, and how each must look; files that are no photos."""
    folder.mkdir()
    picture = Image.fromarray(image).resize((61, 40))
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=turned)
    picture.convert("L").save(folder / "gray.png")
    with_alpha = picture.convert("RGBA")
    with_alpha.putalpha(90)
    with_alpha.save(folder / "alpha.png")
    picture.quantize(16).save(folder / "palette.gif")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.save(folder / "web.webp")
    picture.resize((1, 1)).save(folder / "dot.bmp")
    picture.resize((90, 2)).save(folder / "a line é.tif")
    whole = (folder / "cmyk.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "page.jpg").write_text("<html></html>")
    return {"cut", "empty", "page"}


def test_photos_of_all_kinds_and_broken_ones(few, models, tmp_path, capfd):
    folder, out = tmp_path / "odd", tmp_path / "out"
    broken = odd_photos(folder, few.image(few.ids[0]))
    options = ["--weights", models / "seg.safetensors", "-o", out, "--overlay"]
    assert run(folder, *options, "--precision", "fp32") == 1
    said = capfd.readouterr().err
    assert "failed: 3 of 11 images could not be predicted (the masks of the others" in said
    for name in broken:
        assert f"{name}." in said
    found = {path.stem for path in out.glob("*.png")}
    assert found == {path.stem for path in folder.iterdir()} - broken
    opened = open_model(models / "seg.safetensors", **OPTIONS)
    for path in folder.iterdir():
        if path.stem in broken:
            continue
        image = data.read_image(path)
        labels = read_labels(out / f"{path.stem}.png")
        np.testing.assert_array_equal(labels, predict(image, opened).labels)
        shown = np.asarray(Image.open(out / "overlays" / f"{path.stem}.jpg"))
        assert shown.shape == image.shape
    assert data.read_image(folder / "turned.jpg").shape == (61, 40, 3)
    with pytest.raises(InputError, match="cut.jpg"):
        predict(folder / "cut.jpg", opened)


def test_overlays_keep_the_background(few):
    image, labels = few.image(few.ids[0]), few.mask(few.ids[0])
    shown = wf.evaluation.pictures.overlay(image, labels)
    np.testing.assert_array_equal(shown[labels == 0], image[labels == 0])
    wanted = (image.astype(float) + colours()[labels]) / 2
    assert np.abs(shown - wanted)[labels > 0].max() <= 0.5


def test_scores_that_are_not_finite_are_named(few, models, photos, tmp_path):
    opened = open_model(models / "seg.safetensors", **OPTIONS)

    def compute(batch, probabilities, times):
        found = opened.compute(batch, probabilities, times)
        finite = found.finite.clone()
        finite[1] = False
        return found._replace(finite=finite)

    odd = dataclasses.replace(opened, compute=compute)
    with pytest.raises(RunError, match=f"1 of 4 .*{few.ids[1]}.jpg: its scores are NaN"):
        predict(photos, odd, tmp_path / "out")
    assert {p.stem for p in (tmp_path / "out").glob("*.png")} == set(few.ids) - {few.ids[1]}
    with pytest.raises(InputError, match=f"{few.ids[1]}: its scores are NaN"):
        predict(photos, odd)


def test_the_command_names_what_is_wrong(models, photos, tmp_path, capfd):
    weights = models / "seg.safetensors"
    for words, text in (
        ([photos / "no.jpg", "--weights", weights], "no.jpg: no such image"),
        (["--weights", weights], "images: name a folder of photos"),
        ([photos, "--weights", photos.parent / "tags.csv"], "tags.csv: not a file of weights"),
        ([photos.parent, "--weights", weights], f"{photos} has some"),
    ):
        assert run(*words, "-o", tmp_path / "out") == 2
        assert text in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
    listed = sorted(Path(photos).iterdir())[:2]
    assert run(*listed, "--weights", weights, "-o", tmp_path / "out") == 0
    assert capfd.readouterr().out == f"masks: {tmp_path / 'out'} (2 written)\n"
