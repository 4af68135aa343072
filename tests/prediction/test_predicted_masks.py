"""Masks of new images: the same as the stages write, of arrays, files and folders."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from predicting import NETWORKS, OPTIONS, names_of, run

import wsss_fast as wf
from wsss_fast import InputError, RunError, amn, cam, data, eps, seeds, seg
from wsss_fast.data import read_labels
from wsss_fast.eps.inference import pseudo_masks
from wsss_fast.evaluation.pictures import colours
from wsss_fast.prediction import open_model, predict
from wsss_fast.stages import masks


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


def test_the_threshold_is_the_score_of_the_background(few, models):
    shares = []
    for threshold in (0.0, 0.5, 1.0):
        options = {"crf": False, "threshold": threshold, **OPTIONS}
        found = predict(few, models / "cam.safetensors", **options)
        shares.append(np.mean([one.labels > 0 for one in found if one.id != few.ids[2]]))
    assert shares[0] > 0.9 > shares[1] > shares[2] == 0
