"""The published presets on small data sets in VOC's and COCO's layout, with full-size networks."""

import pytest
from layouts import COCO_LABELS, VOC_LABELS, make_coco, make_voc

from wsss_fast import cli, data
from wsss_fast.data import read_labels

LAYOUTS = {
    "voc": (make_voc, sum(map(len, VOC_LABELS.values()))),
    "coco": (make_coco, sum(map(len, COCO_LABELS.values()))),
}
AMN_OPTIONS = {
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
EPS_OPTIONS = {
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


def run(method, preset, root, out, options):
    words = [f"--pipeline.{key} {value}" for key, value in options.items()]
    line = f"{method} run --preset {preset} --val-split val --precision fp32 {' '.join(words)}"
    return cli.run([*line.split(), "--data", str(root), "--out", str(out)])


@pytest.mark.parametrize("preset", LAYOUTS)
def test_amn_pipeline_and_its_evaluation(preset, tmp_path, capfd):
    make, images = LAYOUTS[preset]
    root, out = make(tmp_path / preset), tmp_path / "run"
    code = run("amn", preset, root, out, AMN_OPTIONS)
    output = capfd.readouterr()
    assert code == 0, output.err
    assert "seg on val" in output.out and "irn" in output.out
    train, val = data.load(root), data.load(root, split="val")
    assert len(train) + len(val) == images
    for id in train.ids:
        assert read_labels(out / "irn/masks" / f"{id}.png").shape == train.size(id)
    predictions = out / "seg/predictions"
    for id in val.ids:
        assert read_labels(predictions / f"{id}.png", len(val.classes)).shape == val.size(id)
    evaluation = tmp_path / "evaluation"
    line = f"eval --data {root} --split val --predictions {predictions} --out {evaluation}"
    code = cli.run(line.split())
    output = capfd.readouterr()
    assert code == 0 and f"over {len(val)} images" in output.out, output.err
    assert (evaluation / "evaluation.json").is_file() and (evaluation / "evaluation.png").is_file()


@pytest.mark.parametrize("preset", LAYOUTS)
def test_eps_pipeline(preset, tmp_path, capfd):
    make, _ = LAYOUTS[preset]
    root, out = make(tmp_path / preset), tmp_path / "run"
    code = run("eps", preset, root, out, EPS_OPTIONS)
    output = capfd.readouterr()
    assert code == 0, output.err
    assert "seg on val" in output.out and "cam masks" in output.out
    train, val = data.load(root), data.load(root, split="val")
    for folder, images in ((out / "eps/masks", train), (out / "seg/predictions", val)):
        for id in images.ids:
            labels = read_labels(folder / f"{id}.png", len(images.classes))
            assert labels.shape == images.size(id)
