"""The complete evaluation: what is printed, and written as JSON and as a picture."""

import json
import re
import shutil

import numpy as np
import pytest
from layouts import coco_id, make_coco
from PIL import Image

from wsss_fast import InputError, cli, data
from wsss_fast.data import write_labels
from wsss_fast.evaluation import summary
from wsss_fast.evaluation.curves import threshold_curve
from wsss_fast.evaluation.metrics import evaluate
from wsss_fast.maps import ClassMaps, save_maps, strided_size


def test_predictions_to_json_and_picture(shapes, noisy, tmp_path):
    pair = f"{shapes.classes[0]}/{shapes.classes[1]}"
    found = summary.summarize(shapes, predictions=noisy[0], pairs=(pair,), out=tmp_path / "out")
    plain = evaluate(noisy[0], shapes)
    assert found.metrics.miou == plain.miou and found.curve is None
    stored = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert stored["miou"] == plain.miou and stored["iou"] == plain.iou and stored["images"] == 24
    np.testing.assert_array_equal(stored["confusion"], plain.confusion)
    assert stored["confusion_ratios"] == found.confusion_ratios and stored["curve"] is None
    assert found.files == (tmp_path / "out/evaluation.json", tmp_path / "out/evaluation.png")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"evaluation.json", "evaluation.png"}
    with Image.open(found.files[1]) as image:
        assert image.width > 1000 and len(np.unique(np.asarray(image.convert("L")))) > 20
    assert summary.summarize(shapes, predictions=noisy[0]).files == ()


def test_maps_are_scored_at_their_best_threshold(shapes, noisy, tmp_path):
    rng = np.random.default_rng(2)
    for id in shapes.ids:
        keys = np.flatnonzero(shapes.tags_of(id)) + 1
        right = np.stack([shapes.mask(id) == k for k in keys]).astype(np.float32)
        high = (0.4 * right + 0.6 * rng.random(right.shape)).astype(np.float32)
        strided = np.zeros((len(keys), *strided_size(*shapes.size(id))))
        save_maps(tmp_path / "maps", id, ClassMaps(keys, strided, high))
    pair = f"{shapes.classes[0]}/rails"
    found = summary.summarize(shapes, maps=tmp_path / "maps", pairs=(pair,), out=tmp_path / "out")
    curve = threshold_curve(tmp_path / "maps", shapes)
    assert found.curve.miou == curve.miou and found.curve.best == curve.best
    assert found.metrics.miou == max(curve.miou) < 1 and 0 < curve.best < 0.9
    stored = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert stored["curve"]["best"] == curve.best and stored["curve"]["miou"] == list(curve.miou)
    # The ratio is that of the label maps at the best threshold.
    for id in shapes.ids:
        with np.load(tmp_path / "maps" / f"{id}.npz") as file:
            high, keys = file["high_res"].astype(np.float32), file["keys"]
        labels = np.where(high.max(axis=0) > np.float32(curve.best), keys[high.argmax(axis=0)], 0)
        write_labels(tmp_path / "labels" / f"{id}.png", labels)
    again = summary.summarize(shapes, predictions=tmp_path / "labels", pairs=(pair,))
    assert again.confusion_ratios == found.confusion_ratios
    assert again.metrics.miou == found.metrics.miou


def test_the_command(capfd, shapes_root, noisy, tmp_path):
    pair = f"{data.load(shapes_root).classes[0]}/rails"
    common = ["eval", "--data", str(shapes_root), "--predictions", str(noisy[0])]
    code = cli.run([*common, "--pairs", pair, "--out", str(tmp_path)])
    out = capfd.readouterr().out
    assert code == 0 and "precision" in out and re.search(rf"confusion ratio {pair}: \d+\.\d+", out)
    assert str(tmp_path / "evaluation.png") in out
    code = cli.run([*common, "--maps", "x"])
    err = capfd.readouterr().err
    assert code == 2 and "either predictions (label PNGs) or maps" in err
    assert len(err.strip().splitlines()) == 1


def test_the_command_with_unsure_predictions(capfd, shapes, shapes_root, tmp_path):
    for id in shapes.ids:
        write_labels(tmp_path / "p" / f"{id}.png", np.full(shapes.size(id), 255))
    words = f"eval --data {shapes_root} --predictions {tmp_path / 'p'} --out {tmp_path} --ignored "
    assert cli.run([*words.split(), "leave-out"]) == 0
    out = capfd.readouterr().out
    assert "over 24 images" in out and "predicted 255 left out" in " ".join(out.split())
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["ignored"] == "leave-out" and written["ignored_pixels"] > 0
    with pytest.raises(InputError, match="ignored: 'background' is for predictions"):
        summary.summarize(shapes, maps=tmp_path, ignored="background")


def test_a_failure_keeps_earlier_files(shapes, noisy, tmp_path):
    summary.summarize(shapes, predictions=noisy[0], out=tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    broken = shutil.copytree(noisy[0], tmp_path / "broken")
    path = broken / f"{shapes.ids[-1]}.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=f"{path.name}: cannot be read"):
        summary.summarize(shapes, predictions=broken, out=tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_eighty_one_classes(capfd, tmp_path):
    """COCO14: absent classes are not in the mean, 255 is not counted, images without tags are."""
    root = make_coco(tmp_path / "coco14")
    loaded = data.load(root, split="val")
    for id in loaded.ids:
        mask = loaded.mask(id)
        write_labels(tmp_path / "p" / f"{id}.png", np.where(mask == 255, 80, mask))
    untagged = coco_id(133, "val")
    write_labels(tmp_path / "p" / f"{untagged}.png", np.full(loaded.size(untagged), 3))
    found = summary.summarize(loaded, predictions=tmp_path / "p", out=tmp_path / "out")
    assert found.metrics.confusion.shape == (81, 81) and found.metrics.iou["car"] == 0.0
    # Labels 2, 4 and 17 are right; car was only predicted, for the image without tags.
    present = {name for name, iou in found.metrics.iou.items() if not np.isnan(iou)}
    assert present == {"background", "bicycle", "car", "motorcycle", loaded.classes[16]}
    background = found.metrics.iou["background"]
    assert 0 < background < 1 and found.metrics.miou == pytest.approx((background + 3) / 5)
    assert np.isnan(found.metrics.iou["toothbrush"])
    command = ["eval", "--data", str(root), "--split", "val", "--predictions", str(tmp_path / "p")]
    assert cli.run(command) == 0
    assert "toothbrush" in capfd.readouterr().out
