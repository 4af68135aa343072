"""What `predict` is given: weights, options, photos of all kinds, tags; what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from predicting import NETWORKS, OPTIONS, names_of, run

from wsss_fast import InputError, RunError, data, nets
from wsss_fast.data import read_labels
from wsss_fast.nets.model_file import model_info, save_model
from wsss_fast.prediction import ModelOptions, Prediction, open_model, predict


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


def test_the_command_names_what_is_wrong(models, photos, tmp_path, capfd):
    weights = models / "seg.safetensors"
    for words, text in (
        ([photos / "no.jpg", "--weights", weights], "no.jpg: no such file or folder"),
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
