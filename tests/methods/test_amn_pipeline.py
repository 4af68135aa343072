"""The AMN pipeline from end to end on a small data set."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from brief import amn_pipeline

from wsss_fast import InputError, amn, cam, data, evaluate, seeds
from wsss_fast.amn.pipeline import STAGES
from wsss_fast.data import read_labels
from wsss_fast.engine.run_folder import read_records
from wsss_fast.maps import load_maps
from wsss_fast.stages import masks


def run(shapes, out, **options):
    val = data.load(shapes.root, split="val")
    return amn.run(shapes, out, backbone="small", pipeline=amn_pipeline(), val=val, **options)


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory):
    return run(shapes, tmp_path_factory.mktemp("runs") / "run")


def test_run_writes_all_artefacts(finished, shapes):
    out = finished.out
    for folder, suffix in (
        ("cam/maps", "npz"),
        ("seeds", "png"),
        ("amn/maps", "npz"),
        ("irn/seeds", "png"),
        ("irn/maps", "npz"),
        ("masks", "png"),
    ):
        assert {p.stem for p in (out / folder).glob(f"*.{suffix}")} == set(shapes.ids), folder
    assert not list(out.rglob("*.tmp*")) and not list(out.rglob("begun.json"))
    config = json.loads((out / "config.json").read_text())
    assert config["arguments"]["pipeline"]["amn"]["smoothing"] == 0.4
    assert config["versions"]["torch"] == torch.__version__


def test_run_records_every_stage(finished, shapes):
    records = read_records(finished.out)
    assert list(records) == [
        "cam",
        "cam+crf",
        "seeds",
        "amn",
        "amn+crf",
        "irn/seeds",
        "irn",
        "irn+crf",
        "masks",
        "seg on val",
    ]
    val = data.load(shapes.root, split="val")
    assert {p.stem for p in finished.predictions.glob("*.png")} == set(val.ids)
    miou = evaluate(finished.predictions, val).miou
    assert miou == finished.seg_metrics.miou == records["seg on val"]["miou"]
    assert 0 < records["cam"]["mean_ap"] <= 1 and len(records["cam"]["curve"]["miou"]) == 46
    assert records["amn"]["miou"] >= records["amn"]["miou_at_fixed"] > 0


def test_masks_have_tagged_classes_only(finished, shapes):
    for id in shapes.ids:
        mask = read_labels(finished.masks / f"{id}.png")
        assert mask.shape == shapes.size(id)
        assert set(np.unique(mask)) <= {0, *(np.flatnonzero(shapes.tags_of(id)) + 1)}
    assert evaluate(finished.masks, shapes).miou == finished.metrics.miou


def test_maps_are_normalised_and_amn_has_the_background_first(finished, shapes):
    for id in shapes.ids:
        present = np.flatnonzero(shapes.tags_of(id)) + 1
        cam_maps = load_maps(finished.out / "cam/maps", id)
        amn_maps = load_maps(finished.out / "amn/maps", id)
        np.testing.assert_array_equal(cam_maps.keys, present)
        np.testing.assert_array_equal(amn_maps.keys, [0, *present])
        for maps in (cam_maps, amn_maps):
            assert maps.high_res.min() >= 0 and maps.high_res.max() <= 1.0
            assert maps.strided.shape[1:] == (16, 16) and maps.high_res.shape[1:] == (64, 64)


def test_report_loads_nothing_from_elsewhere(finished, shapes):
    page = finished.report.read_text()
    assert not re.search(r"(src|href)=['\"](?!data:|#)|url\((?!#)|@import|<script|<link", page)
    assert page.count("<img ") == 7 * 18 and "<svg" in page and "mIoU over the threshold" in page
    for name in shapes.classes:
        assert name in page


def test_second_run_skips_all_stages(finished, shapes, capfd):
    before = {p: p.stat().st_mtime_ns for p in finished.out.rglob("*.npz")}
    again = run(shapes, finished.out)
    assert capfd.readouterr().err.count("skipped") == 12
    assert before == {p: p.stat().st_mtime_ns for p in finished.out.rglob("*.npz")}
    assert again.metrics.miou == finished.metrics.miou


def test_other_arguments_for_a_finished_run_raise(finished, shapes):
    with pytest.raises(InputError, match="seed was 0, now 1"):
        run(shapes, finished.out, seed=1)


def test_threshold_is_changed_without_repeating_what_is_before_it(finished, shapes, tmp_path):
    out = shutil.copytree(finished.out, tmp_path / "run", copy_function=shutil.copyfile)
    numbers = amn_pipeline()
    refine = dataclasses.replace(numbers.refine, irn_crf_threshold=0.6)
    changed = {"pipeline": dataclasses.replace(numbers, refine=refine), "backbone": "small"}
    changed["val"] = data.load(shapes.root, split="val")
    with pytest.raises(
        InputError, match=r"run/masks: .*threshold was 0\.3, now 0\.6.*--redo masks`"
    ):
        amn.run(shapes, out, **changed)
    again = amn.run(shapes, out, redo="masks", **changed)
    kept = [n for n in STAGES if n != "masks" and not n.startswith("seg")]
    for name in kept:
        marker = (out / name / "done.json").read_text()
        assert marker == (finished.out / name / "done.json").read_text(), name
    done = json.loads((again.masks / "done.json").read_text())
    assert done["arguments"]["threshold"] == 0.6
    fresh = masks.make(
        shapes, out / "irn/maps", tmp_path, threshold=0.6, crf=refine.crf, name="fresh"
    )
    assert {p.name: p.read_bytes() for p in again.masks.glob("*.png")} == {
        p.name: p.read_bytes() for p in fresh.folder.glob("*.png")
    }
    assert not (out / "redo.json").exists()


def test_missing_map_is_computed_again(finished, shapes):
    maps, id = finished.out / "cam/maps", shapes.ids[4]
    before = load_maps(maps, id)
    (maps / f"{id}.npz").unlink()
    weights, recipe = finished.out / "cam/weights.pth", amn_pipeline().cam
    cam.infer(shapes, weights, finished.out, backbone="small", recipe=recipe)
    np.testing.assert_allclose(load_maps(maps, id).high_res, before.high_res, atol=0.02)


def test_same_seed_gives_same_masks(shapes, finished, tmp_path):
    again = run(shapes, tmp_path / "run")
    for id in shapes.ids:
        np.testing.assert_array_equal(
            read_labels(again.masks / f"{id}.png"), read_labels(finished.masks / f"{id}.png")
        )


@pytest.mark.parametrize(
    "change",
    [
        {"condition_at": None},
        {"condition_at": "layer2"},
        {"balance": False},
        {"present_only": True},
    ],
)
def test_ablations(shapes, finished, tmp_path, change):
    some = shapes.only(shapes.ids[:8])
    options = {
        "seeds": finished.out / "seeds",
        "backbone": "small",
        "recipe": amn_pipeline(**change).amn,
    }
    trained = amn.train(some, tmp_path, weights=finished.out / "cam/weights.pth", **options)
    maps = amn.infer(some, trained.weights, tmp_path, **options).maps
    assert np.isfinite(trained.losses).all() and len(list(maps.glob("*.npz"))) == 8


def test_published_pipeline_with_full_size_networks(shapes, tmp_path):
    """One epoch of two small crops."""
    some = shapes.only(shapes.ids[:2])
    published, replace = amn.PIPELINES["resnet50"], dataclasses.replace
    brief = {"epochs": 1, "batch_size": 2}
    amn_augment = replace(published.amn.augment, crop=64)
    irn = replace(published.refine.irn, augment=amn_augment, radius=5, steps=4, pad=1, **brief)
    pipeline = replace(
        published,
        cam=replace(
            published.cam,
            augment=replace(published.cam.augment, crop=64, long_side=(64, 80)),
            scales=(1.0,),
            **brief,
        ),
        amn=replace(published.amn, augment=amn_augment, scales=(1.0,), **brief),
        refine=replace(published.refine, irn=irn),
        seg=replace(
            published.seg,
            updates=1,
            batch_size=2,
            scales=(0.5,),
            augment=replace(published.seg.augment, crop=65),
        ),
    )
    result = amn.run(some, tmp_path / "run", pipeline=pipeline)
    assert result.masks == tmp_path / "run/irn/masks" and len(list(result.masks.glob("*.png"))) == 2
    # Without `val`, the training images are predicted.
    assert len(list(result.predictions.glob("*.png"))) == 2


def test_run_until_masks_without_irn(shapes, tmp_path):
    pipeline = amn_pipeline()
    refine = dataclasses.replace(pipeline.refine, kind="crf")
    result = amn.run(
        shapes.only(shapes.ids[:8]),
        tmp_path / "run",
        preset="shapes",
        pipeline=dataclasses.replace(pipeline, refine=refine),
        until="masks",
    )
    assert result.predictions is None and result.masks == tmp_path / "run/masks"
    assert not (tmp_path / "run/irn").exists() and not (tmp_path / "run/seg").exists()


def test_unknown_or_mismatched_presets_raise(shapes, tmp_path):
    with pytest.raises(
        InputError, match="preset is 'voc2012'; must be one of amn-voc, amn-coco, shapes"
    ):
        amn.run(shapes, tmp_path / "run", preset="voc2012")
    with pytest.raises(InputError, match="preset 'shapes' is for backbone 'small', got 'resnet50'"):
        amn.run(shapes, tmp_path / "run", preset="shapes", backbone="resnet50")
    assert not (tmp_path / "run").exists()


def test_presets_have_the_published_numbers():
    pipeline = amn.PIPELINES["resnet50"]
    assert (pipeline.fg_threshold, pipeline.bg_threshold) == (0.30, 0.05)
    assert pipeline.crf == seeds.Crf()
    assert dataclasses.asdict(pipeline.crf) == {
        "gaussian": (3, 3),
        "bilateral": (50, 5, 10),
        "iterations": 10,
        "gt_prob": 0.7,
    }
    classifier, recipe, refine = pipeline.cam, pipeline.amn, pipeline.refine
    assert (classifier.lr, classifier.head_lr_scale, classifier.epochs) == (0.1, 10, 5)
    assert classifier.optimizer.weight_decay == 1e-4
    assert (recipe.lr, recipe.head_lr, recipe.smoothing) == (5e-6, 1e-4, 0.4)
    assert recipe.optimizer.weight_decay == 1e-4
    assert (refine.fg_threshold, refine.bg_threshold, refine.kind) == (0.45, 0.15, "irn")
    assert classifier.scales == recipe.scales == (1.0, 0.5, 1.5, 2.0)


def test_seeds_of_another_size_raise(shapes, tmp_path):
    for id in shapes.ids:
        data.write_labels(tmp_path / "seeds" / f"{id}.png", np.zeros((32, 64)))
    with pytest.raises(
        InputError, match=r"train_\d+\.png: is 32x64 pixels .* but its image .* is 64x64"
    ):
        amn.train(shapes, tmp_path / "run", seeds=tmp_path / "seeds", backbone="small")


def test_inference_with_a_classifiers_weights_raises(shapes, finished, tmp_path):
    """They are initial weights of the AMN only: its label scale is missing."""
    weights, folder = tmp_path / "plain.pth", finished.out / "seeds"
    shutil.copy(finished.out / "cam/weights.pth", weights)
    with pytest.raises(
        InputError,
        match=r"plain\.pth: these weights do not fit AmnNet \(.*missing: .*label_scale",
    ):
        amn.infer(shapes, weights, tmp_path / "run", seeds=folder, backbone="small")
    assert not (tmp_path / "run").exists()


def test_bad_input_raises_before_anything_is_written(shapes, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(InputError, match="no such weights file"):
        amn.run(shapes, out, backbone="small", weights=tmp_path / "nowhere.pth")
    with pytest.raises(InputError, match="backbone: got 'huge'"):
        amn.run(shapes, out, backbone="huge")
    with pytest.raises(InputError, match="device: got 'tpu'"):
        amn.run(shapes, out, device="tpu")
    with pytest.raises(InputError, match="seeds: .* has no PNG for 24 of 24 ids"):
        amn.train(shapes, out, seeds=tmp_path, backbone="small")
    assert not out.exists()
