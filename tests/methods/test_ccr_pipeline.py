"""The CCR pipeline from end to end on a small data set, by its command."""

import json

import pytest

from wsss_fast import InputError, ccr, cli, data
from wsss_fast.data import read_labels
from wsss_fast.engine.run_folder import read_records

OPTIONS = {
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


def test_run(shapes_root, classifier_weights, tmp_path, capfd):
    line = (
        f"ccr run --preset shapes --data {shapes_root} --val-split val --out {tmp_path} "
        f"--weights {classifier_weights} --precision fp32"
    )
    numbers = [f"--pipeline.{key} {value}" for key, value in OPTIONS.items()]
    argv = f"{line} {' '.join(numbers)}".split()
    assert cli.run(argv) == 0, capfd.readouterr().err
    capfd.readouterr()
    records = read_records(tmp_path)
    assert {"cam", "ccr", "ccr+crf", "irn", "masks", "seg on val"} <= set(records)
    page = (tmp_path / "report.html").read_text()
    assert "CCR map" in page and "saliency" in page
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["command"] == "ccr run"
    assert config["arguments"]["pipeline"]["seg"]["weight"] == 0.5
    val = data.load(shapes_root, split="val")
    for id in val.ids:
        assert read_labels(tmp_path / "seg/predictions" / f"{id}.png", 8).shape == val.size(id)
    assert cli.run(argv) == 0 and "skipped" in capfd.readouterr().err


def test_bad_input_raises_before_anything_is_written(
    shapes, own_shapes, classifier_weights, tmp_path
):
    out = tmp_path / "run"
    with pytest.raises(
        InputError, match=r"ccr run: preset is 'coco'; must be one of ccr-voc, shapes"
    ):
        ccr.run(shapes, out, preset="coco")
    for path in (own_shapes / "saliency").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="saliency: no map for 24 of 24 ids"):
        ccr.run(data.load(own_shapes), out, preset="shapes", weights=classifier_weights)
    assert not out.exists()
