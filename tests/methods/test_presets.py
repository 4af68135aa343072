"""The published presets on made-up data sets in their exact layouts, with full-size networks at few iterations."""

import pytest
from layouts import COCO_LABELS, VOC_LABELS, make_coco, make_voc

from wsss_fast import cli, data
from wsss_fast.data import read_labels

MAKE = {
    "voc": (make_voc, sum(map(len, VOC_LABELS.values()))),
    "coco": (make_coco, sum(map(len, COCO_LABELS.values()))),
}
FEW = {
    "cam.epochs": 1,
    "cam.batch-size": 4,
    "cam.augment.crop": 64,
    "cam.augment.long-side": "64 80",
    "cam.scales": 1.0,
    "amn.epochs": 1,
    "amn.batch-size": 4,
    "amn.augment.crop": 64,
    "amn.scales": 1.0,
    "refine.irn.epochs": 1,
    "refine.irn.batch-size": 4,
    "refine.irn.radius": 5,
    "refine.irn.augment.crop": 64,
    "refine.irn.pad": 1,
    "refine.irn.steps": 8,
    "seg.updates": 1,
    "seg.batch-size": 4,
    "seg.augment.crop": 65,
    "seg.scales": 0.5,
}


@pytest.mark.parametrize("preset", MAKE)
def test_the_whole_road_and_its_evaluation(preset, tmp_path, capfd):
    make, images = MAKE[preset]
    root = make(tmp_path / preset)
    numbers = [
        word for key, value in FEW.items() for word in (f"--pipeline.{key}", *str(value).split())
    ]
    out = tmp_path / "run"
    code = cli.run(
        [
            "amn",
            "run",
            "--preset",
            preset,
            "--data",
            str(root),
            "--val-split",
            "val",
            "--out",
            str(out),
            "--precision",
            "fp32",
            *numbers,
        ]
    )
    shown = capfd.readouterr()
    assert code == 0, shown.err
    assert "seg on val" in shown.out and "irn" in shown.out
    train, val = data.load(root), data.load(root, split="val")
    assert len(train) + len(val) == images
    for id in train.ids:
        assert read_labels(out / "irn/masks" / f"{id}.png").shape == train.size(id)
    for id in val.ids:
        assert read_labels(
            out / "seg/predictions" / f"{id}.png", len(val.classes)
        ).shape == val.size(id)
    code = cli.run(
        [
            "eval",
            "--data",
            str(root),
            "--split",
            "val",
            "--predictions",
            str(out / "seg/predictions"),
            "--out",
            str(tmp_path / "evaluation"),
        ]
    )
    shown = capfd.readouterr()
    assert code == 0 and f"over {len(val)} images" in shown.out, shown.err
    assert (tmp_path / "evaluation/evaluation.json").is_file() and (
        tmp_path / "evaluation/evaluation.png"
    ).is_file()


EPS_FEW = {
    "cam.updates": 1,
    "cam.batch-size": 2,
    "cam.augment.crop": 64,
    "cam.augment.long-side": "64 80",
    "cam.scales": 1.0,
    "eps.updates": 1,
    "eps.batch-size": 2,
    "eps.augment.crop": 64,
    "eps.augment.long-side": "64 80",
    "eps.scales": "0.5 1.0",
    "seg.updates": 1,
    "seg.batch-size": 2,
    "seg.augment.crop": 65,
    "seg.scales": 0.5,
}


@pytest.mark.parametrize("preset", MAKE)
def test_eps_from_saliency_to_segmentation(preset, tmp_path, capfd):
    make, _ = MAKE[preset]
    root, out = make(tmp_path / preset), tmp_path / "run"
    numbers = [
        word
        for key, value in EPS_FEW.items()
        for word in (f"--pipeline.{key}", *str(value).split())
    ]
    code = cli.run(
        [
            "eps",
            "run",
            "--preset",
            preset,
            "--data",
            str(root),
            "--val-split",
            "val",
            "--out",
            str(out),
            "--precision",
            "fp32",
            *numbers,
        ]
    )
    shown = capfd.readouterr()
    assert code == 0, shown.err
    assert "seg on val" in shown.out and "cam masks" in shown.out
    train, val = data.load(root), data.load(root, split="val")
    for id in train.ids:
        assert read_labels(out / "eps/masks" / f"{id}.png", len(train.classes)).shape == train.size(
            id
        )
    for id in val.ids:
        assert read_labels(
            out / "seg/predictions" / f"{id}.png", len(val.classes)
        ).shape == val.size(id)
