"""The AMN pipeline end to end on a tiny benchmark, and its parts."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from wsss_fast import InputError, amn, cam, data, evaluate, seeds
from wsss_fast.data import read_labels
from wsss_fast.maps import load_maps


def quick(pipeline, **changes):
    """One epoch of everything."""
    return dataclasses.replace(
        pipeline,
        cam=dataclasses.replace(pipeline.cam, epochs=1, batch_size=8),
        amn=dataclasses.replace(pipeline.amn, epochs=1, batch_size=8, **changes),
        refine=dataclasses.replace(
            pipeline.refine,
            irn=dataclasses.replace(pipeline.refine.irn, epochs=1, batch_size=8, steps=16),
        ),
        seg=dataclasses.replace(pipeline.seg, updates=2, batch_size=8),
    )


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return amn.run(
        shapes,
        out,
        backbone="small",
        pipeline=quick(amn.PIPELINES["small"]),
        val=data.load(shapes.root, split="val"),
    )


def test_the_run_folder_holds_everything(finished, shapes):
    out = finished.out
    for folder, ending in (
        ("cam/maps", "npz"),
        ("seeds", "png"),
        ("amn/maps", "npz"),
        ("irn/seeds", "png"),
        ("irn/maps", "npz"),
        ("masks", "png"),
    ):
        assert {p.stem for p in (out / folder).glob(f"*.{ending}")} == set(shapes.ids), folder
    assert not list(out.rglob("*.tmp*")) and not list(out.rglob("begun.json"))
    config = json.loads((out / "config.json").read_text())
    assert (
        config["arguments"]["pipeline"]["amn"]["smoothing"] == 0.4
        and config["versions"]["torch"] == torch.__version__
    )
    records = {r["stage"]: r for r in json.loads((out / "metrics.json").read_text())["stages"]}
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
    assert (
        evaluate(finished.predictions, val).miou
        == finished.seg_metrics.miou
        == records["seg on val"]["miou"]
    )
    assert 0 < records["cam"]["mean_ap"] <= 1 and len(records["cam"]["curve"]["miou"]) == 46
    assert records["amn"]["miou"] >= records["amn"]["miou_at_fixed"] > 0


def test_masks_hold_tagged_classes_only(finished, shapes):
    for id in shapes.ids:
        mask = read_labels(finished.masks / f"{id}.png")
        assert mask.shape == shapes.size(id)
        assert set(np.unique(mask)) <= {0, *(np.flatnonzero(shapes.tags_of(id)) + 1)}
    assert evaluate(finished.masks, shapes).miou == finished.metrics.miou


def test_maps_are_normalised_and_carry_the_background_first(finished, shapes):
    for id in shapes.ids:
        present = np.flatnonzero(shapes.tags_of(id)) + 1
        cams, amns = (
            load_maps(finished.out / "cam/maps", id),
            load_maps(finished.out / "amn/maps", id),
        )
        np.testing.assert_array_equal(cams.keys, present)
        np.testing.assert_array_equal(amns.keys, [0, *present])
        for maps in (cams, amns):
            assert maps.high_res.min() >= 0 and maps.high_res.max() <= 1.0
            assert maps.strided.shape[1:] == (16, 16) and maps.high_res.shape[1:] == (64, 64)


def test_the_report_stands_alone(finished, shapes):
    page = finished.report.read_text()
    assert not re.search(r"(src|href)=['\"](?!data:|#)|url\((?!#)|@import|<script|<link", page)
    assert page.count("<img ") == 7 * 18 and "<svg" in page and "mIoU over the threshold" in page
    for name in shapes.classes:
        assert name in page


def test_a_second_run_skips_and_agrees(finished, shapes, capfd):
    before = {p: p.stat().st_mtime_ns for p in finished.out.rglob("*.npz")}
    again = amn.run(
        shapes,
        finished.out,
        backbone="small",
        pipeline=quick(amn.PIPELINES["small"]),
        val=data.load(shapes.root, split="val"),
    )
    assert capfd.readouterr().err.count("skipped") == 12
    assert before == {p: p.stat().st_mtime_ns for p in finished.out.rglob("*.npz")}
    assert again.metrics.miou == finished.metrics.miou


def test_a_changed_run_is_refused_and_says_what_changed(finished, shapes):
    with pytest.raises(InputError, match="seed was 0, now 1"):
        amn.run(
            shapes, finished.out, backbone="small", pipeline=quick(amn.PIPELINES["small"]), seed=1
        )


def test_a_missing_map_is_made_again(finished, shapes, tmp_path):
    maps = finished.out / "cam/maps"
    id = shapes.ids[4]
    before = load_maps(maps, id)
    (maps / f"{id}.npz").unlink()
    (maps / "done.json").unlink()
    cam.infer(
        shapes,
        finished.out / "cam/weights.pth",
        finished.out,
        backbone="small",
        recipe=quick(amn.PIPELINES["small"]).cam,
    )
    np.testing.assert_allclose(load_maps(maps, id).high_res, before.high_res, atol=0.02)


def test_same_seed_same_bytes(shapes, finished, tmp_path):
    again = amn.run(
        shapes,
        tmp_path / "run",
        backbone="small",
        pipeline=quick(amn.PIPELINES["small"]),
        val=data.load(shapes.root, split="val"),
    )
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
def test_ablations_run(shapes, finished, tmp_path, change):
    recipe = quick(amn.PIPELINES["small"], **change).amn
    some, weights = shapes.only(shapes.ids[:8]), finished.out / "cam/weights.pth"
    made = amn.train(
        some,
        tmp_path,
        seeds=finished.out / "seeds",
        backbone="small",
        weights=weights,
        recipe=recipe,
    )
    maps = amn.infer(
        some, made.weights, tmp_path, seeds=finished.out / "seeds", backbone="small", recipe=recipe
    ).maps
    assert np.isfinite(made.losses).all() and len(list(maps.glob("*.npz"))) == 8


def test_the_papers_recipe_runs_with_the_full_network(shapes, tmp_path):
    """Full-size networks, one short epoch of small crops."""
    some = shapes.only(shapes.ids[:2])
    paper = amn.PIPELINES["resnet50"]
    small_crop = {"epochs": 1, "batch_size": 2, "scales": (1.0,)}
    of_cam = dataclasses.replace(paper.cam.augment, crop=64, long_side=(64, 80))
    of_amn = dataclasses.replace(paper.amn.augment, crop=64)
    pipeline = dataclasses.replace(
        paper,
        cam=dataclasses.replace(paper.cam, augment=of_cam, **small_crop),
        amn=dataclasses.replace(paper.amn, augment=of_amn, **small_crop),
        refine=dataclasses.replace(
            paper.refine,
            irn=dataclasses.replace(
                paper.refine.irn,
                augment=of_amn,
                epochs=1,
                batch_size=2,
                radius=5,
                steps=4,
                pad=1,
            ),
        ),
        seg=dataclasses.replace(
            paper.seg,
            updates=1,
            batch_size=2,
            scales=(0.5,),
            augment=dataclasses.replace(paper.seg.augment, crop=65),
        ),
    )
    result = amn.run(some, tmp_path / "run", pipeline=pipeline)
    assert result.masks == tmp_path / "run/irn/masks" and len(list(result.masks.glob("*.png"))) == 2
    assert (
        len(list(result.predictions.glob("*.png"))) == 2
    )  # of the training images: no others were given


def test_the_road_may_end_with_masks_and_leave_irn_out(shapes, tmp_path):
    pipeline = quick(amn.PIPELINES["small"])
    pipeline = dataclasses.replace(
        pipeline, refine=dataclasses.replace(pipeline.refine, kind="crf")
    )
    result = amn.run(
        shapes.only(shapes.ids[:8]),
        tmp_path / "run",
        preset="shapes",
        pipeline=pipeline,
        until="masks",
    )
    assert result.predictions is None and result.masks == tmp_path / "run/masks"
    assert not (tmp_path / "run/irn").exists() and not (tmp_path / "run/seg").exists()


def test_presets_are_named(shapes, tmp_path):
    with pytest.raises(InputError, match="preset is 'voc2012'; must be one of voc, coco, shapes"):
        amn.run(shapes, tmp_path / "run", preset="voc2012")
    with pytest.raises(InputError, match="preset 'shapes' is for backbone 'small', got 'resnet50'"):
        amn.run(shapes, tmp_path / "run", preset="shapes", backbone="resnet50")
    assert not (tmp_path / "run").exists()
    assert (
        amn.PRESETS["voc"].pipeline.refine.irn.threshold,
        amn.PRESETS["coco"].pipeline.refine.irn.threshold,
    ) == (0.25, 0.22)
    assert (
        amn.PRESETS["coco"].pipeline.refine.irn.pad == 1
        and amn.PRESETS["voc"].pipeline.seg.updates == 20_000
    )


def test_the_recipes_hold_the_published_numbers():
    pipeline = amn.PIPELINES["resnet50"]
    assert (pipeline.fg_threshold, pipeline.bg_threshold) == (
        0.30,
        0.05,
    ) and pipeline.crf == seeds.Crf()
    assert dataclasses.asdict(pipeline.crf) == {
        "gaussian": (3, 3),
        "bilateral": (50, 5, 10),
        "iterations": 10,
        "gt_prob": 0.7,
    }
    assert (
        pipeline.cam.lr,
        pipeline.cam.head_lr_scale,
        pipeline.cam.optimizer.weight_decay,
        pipeline.cam.epochs,
    ) == (0.1, 10, 1e-4, 5)
    assert (
        pipeline.amn.lr,
        pipeline.amn.head_lr,
        pipeline.amn.optimizer.weight_decay,
        pipeline.amn.smoothing,
    ) == (5e-6, 1e-4, 1e-4, 0.4)
    assert (
        pipeline.refine.fg_threshold,
        pipeline.refine.bg_threshold,
        pipeline.refine.kind,
    ) == (
        0.45,
        0.15,
        "irn",
    )
    assert pipeline.cam.scales == pipeline.amn.scales == (1.0, 0.5, 1.5, 2.0)


def test_seeds_of_another_size_are_refused(shapes, finished, tmp_path):
    for id in shapes.ids:
        data.write_labels(tmp_path / "seeds" / f"{id}.png", np.zeros((32, 64)))
    with pytest.raises(
        InputError, match=r"train_\d+\.png: is \(32, 64\), but its image .* is \(64, 64\)"
    ):
        amn.train(shapes, tmp_path / "run", seeds=tmp_path / "seeds", backbone="small")


def test_a_classifiers_weights_start_the_amn_but_do_not_make_its_maps(shapes, finished, tmp_path):
    with pytest.raises(
        InputError,
        match=r"cam/weights\.pth: these weights do not fit AmnNet \(missing: .*label_scale",
    ):
        amn.infer(
            shapes,
            finished.out / "cam/weights.pth",
            tmp_path / "run",
            seeds=finished.out / "seeds",
            backbone="small",
        )
    assert not (tmp_path / "run").exists()


def test_bad_input_stops_before_anything_is_written(shapes, tmp_path):
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
