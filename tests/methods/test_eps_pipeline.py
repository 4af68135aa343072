"""EPS' whole pipeline and its analyses, on a tiny benchmark."""

import dataclasses
import json

import numpy as np
import pytest

from wsss_fast import InputError, data, eps, evaluate
from wsss_fast.data import read_labels, write_labels
from wsss_fast.stages import saliency


def quick(**changes):
    small = eps.PIPELINES["small"]
    crop = dataclasses.replace(small.eps.augment, crop=64)
    return dataclasses.replace(
        small,
        cam=dataclasses.replace(small.cam, epochs=1, batch_size=8, augment=crop),
        eps=dataclasses.replace(small.eps, updates=3, batch_size=8, augment=crop),
        seg=dataclasses.replace(small.seg, updates=2, batch_size=8, augment=crop),
        **changes,
    )


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("eps") / "run"
    return eps.run(
        shapes,
        out,
        backbone="small",
        pipeline=quick(),
        val=data.load(shapes.root, split="val"),
        precision="fp32",
    )


def records_of(out):
    return {r["stage"]: r for r in json.loads((out / "metrics.json").read_text())["stages"]}


def test_the_run_folder_holds_everything(finished, shapes):
    out, val = finished.out, data.load(shapes.root, split="val")
    for folder, ending in (
        ("cam/maps", "npz"),
        ("cam/crf-masks", "png"),
        ("eps/maps", "npz"),
        ("eps/crf-masks", "png"),
    ):
        assert {p.stem for p in (out / folder).glob(f"*.{ending}")} == set(shapes.ids), folder
    assert {p.stem for p in finished.predictions.glob("*.png")} == set(val.ids)
    assert not list(out.rglob("*.tmp*")) and not list(out.rglob("begun.json"))
    records = records_of(out)
    assert list(records) == ["cam", "cam masks", "eps", "masks", "seg on val"]
    assert (
        set(records["eps"]["confusion_ratios"])
        == {"train/rails", "boat/water"}
        == set(records["masks"]["confusion_ratios"])
    )
    assert (
        evaluate(finished.masks, shapes).miou == finished.metrics.miou == records["masks"]["miou"]
    )
    assert evaluate(finished.predictions, val).miou == finished.seg_metrics.miou
    page = finished.report.read_text()
    assert "EPS map" in page and "train/rails confused" in page
    assert (
        json.loads((out / "config.json").read_text())["arguments"]["pipeline"]["eps"]["tau"] == 0.4
    )


def test_masks_hold_tagged_classes_only(finished, shapes):
    for id in shapes.ids:
        mask = read_labels(finished.masks / f"{id}.png")
        assert mask.shape == shapes.size(id) and set(np.unique(mask)) <= {
            0,
            *(np.flatnonzero(shapes.tags_of(id)) + 1),
        }


def test_a_second_call_does_nothing_and_another_seed_is_refused(finished, shapes):
    before = {
        p: p.stat().st_mtime_ns
        for p in finished.out.rglob("*")
        if p.suffix in (".npz", ".png", ".pth")
    }
    again = eps.run(
        shapes,
        finished.out,
        backbone="small",
        pipeline=quick(),
        val=data.load(shapes.root, split="val"),
        precision="fp32",
    )
    assert again.metrics.miou == finished.metrics.miou
    assert before == {p: p.stat().st_mtime_ns for p in before}
    with pytest.raises(InputError, match=r"seed was 0, now 1\)"):
        eps.run(shapes, finished.out, backbone="small", pipeline=quick(), seed=1, precision="fp32")


def test_without_baseline_and_segmentation(shapes, tmp_path):
    result = eps.run(
        shapes,
        tmp_path,
        backbone="small",
        pipeline=quick(baseline=False, crf=False, pairs=()),
        until="masks",
        precision="fp32",
    )
    assert (
        result.predictions is None
        and not (tmp_path / "cam").exists()
        and result.masks == tmp_path / "eps/masks"
    )
    assert list(records_of(tmp_path)) == ["eps", "masks"]


def test_inverted_saliency_is_found_in_a_run(shapes, tmp_path, capfd):
    for id in shapes.ids:
        write_labels(
            tmp_path / "inverted" / f"{id}.png",
            np.rint(255 * (1 - shapes.saliency(id))),
            palette=b"",
        )
    dark = data.load(shapes.root, saliency=tmp_path / "inverted")
    eps.run(
        dark, tmp_path / "run", backbone="small", pipeline=quick(), until="masks", precision="fp32"
    )
    assert "these maps look inverted" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize(
    "arguments, said",
    [
        (
            {"preset": "voc", "backbone": "small"},
            "preset 'voc' is for backbone 'resnet38', got 'small'",
        ),
        ({"preset": "pascal"}, "preset is 'pascal'; must be one of voc, coco, shapes"),
        ({"backbone": "resnet50"}, "must be one of resnet38, small"),
        (
            {"backbone": "small", "pipeline": quick(pairs=("train/lava",))},
            "'lava' in 'train/lava' is neither a class",
        ),
        ({"backbone": "small", "weights": "nowhere.pth"}, "nowhere.pth: no such weights file"),
    ],
)
def test_bad_input_leaves_nothing(shapes, tmp_path, arguments, said):
    with pytest.raises(InputError, match=said):
        eps.run(shapes, tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_missing_saliency_is_named_before_the_classifier_is_trained(shapes, tmp_path):
    some = dataclasses.replace(
        shapes, saliencies={i: f for i, f in shapes.saliencies.items() if i != shapes.ids[3]}
    )
    with pytest.raises(InputError, match=f"no map for 1 of 24 ids, first '{shapes.ids[3]}'"):
        eps.run(some, tmp_path / "run", backbone="small", pipeline=quick())
    assert not (tmp_path / "run").exists()


def test_the_presets_are_the_published_numbers():
    voc, coco = eps.PRESETS["voc"].pipeline, eps.PRESETS["coco"].pipeline
    assert (voc.eps.updates, voc.eps.lam, voc.eps.threshold, voc.crf) == (20_000, 0.5, 0.20, False)
    assert (coco.eps.updates, coco.eps.lam, coco.eps.augment.crop, coco.cam.updates) == (
        256_500,
        0.9,
        321,
        256_500,
    )


def test_analyses(finished, shapes):
    out, val = finished.out, data.load(shapes.root, split="val")
    call = {
        "backbone": "small",
        "pipeline": quick(),
        "parts": ("strategies", "lam", "saliency"),
        "lams": (0.5, 0.9),
        "background_classes": (1,),
        "val": val,
        "precision": "fp32",
    }
    found = eps.analyse(shapes, out, **call)
    names = [
        "cam",
        "eps",
        "naive",
        "predefined",
        "lam-0.9",
        "saliency-degraded",
        "saliency-classical",
    ]
    assert list(found.miou) == names
    assert (
        found.out == out / "analyses"
        and list(records_of(out))[0] == "cam"
        and "naive" not in records_of(out)
    )
    records = {**records_of(out), **records_of(found.out)}
    for name in names:
        assert records[name]["miou"] == found.miou[name] and set(records[name]["trimap"]) == {
            "1",
            "2",
            "4",
            "8",
            "16",
        }
    page = found.report.read_text()
    assert (
        found.report == out / "analyses/report.html"
        and "mIoU over lam" in page
        and "mIoU over tau" not in page
    )
    assert all(f"<td>{name}</td>" in page for name in names)
    before = {p: p.stat().st_mtime_ns for p in (out / "analyses").rglob("*.pth")}
    assert len(before) == 5 and eps.analyse(shapes, out, **call).miou == found.miou
    assert before == {p: p.stat().st_mtime_ns for p in before}


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"parts": ("colour",)}, "parts holds 'colour'"),
        ({"lams": (1.5,)}, r"lams must be in 0..1, got \(1.5,\)"),
    ],
)
def test_bad_analyses(shapes, tmp_path, arguments, said):
    with pytest.raises(InputError, match=said):
        eps.analyse(shapes, tmp_path / "run", backbone="small", **arguments)
    assert not (tmp_path / "run").exists()


def test_degraded_saliency(shapes, tmp_path):
    made = saliency.degrade(shapes, tmp_path, missed=0.5)
    worse = data.load(shapes.root, saliency=made.folder)
    black = [i for i in shapes.ids if worse.saliency(i).max() == 0]
    assert 0 < len(black) < len(shapes)
    for id in set(shapes.ids) - set(black):
        given, blurred = shapes.saliency(id), worse.saliency(id)
        assert (
            abs(np.diff(blurred, axis=0)).max() < abs(np.diff(given, axis=0)).max()
            or given.max() == 0
        )
    with pytest.raises(InputError, match="missed in 0..1, got 0.04 and 2"):
        saliency.degrade(shapes, tmp_path / "other", missed=2)
