"""The whole evaluation: confusion ratios by hand, and what goes to the terminal, into JSON and into the picture."""

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
from wsss_fast.evaluation.confusion_ratio import confusion_ratios
from wsss_fast.evaluation.curves import threshold_curve
from wsss_fast.evaluation.metrics import evaluate
from wsss_fast.maps import ClassMaps, save_maps, strided_size


@pytest.fixture(scope="module")
def noisy(shapes, tmp_path_factory):
    """Predictions that are right in most places: folder, and labels by id."""
    folder, rng, made = tmp_path_factory.mktemp("noisy"), np.random.default_rng(4), {}
    for id in shapes.ids:
        truth = shapes.mask(id)
        wrong = (rng.random(truth.shape) < 0.3) | (truth == 255)
        made[id] = np.where(wrong, rng.integers(0, 9, truth.shape), truth).astype(np.uint8)
        write_labels(folder / f"{id}.png", made[id])
    return folder, made


def ratio_by_hand(shapes, made, target, is_coincident):
    """One pixel after the other."""
    confused = hit = 0
    for id in shapes.ids:
        truth, there = shapes.mask(id), is_coincident(id)
        for y, x in np.ndindex(truth.shape):
            if truth[y, x] != 255 and made[id][y, x] == target:
                confused += bool(there[y, x])
                hit += bool(truth[y, x] == target)
    return confused / hit


def test_confusion_ratios_are_counted_pixels(shapes, noisy):
    _, made = noisy
    about = json.loads((shapes.root / "shapes.json").read_text())["contexts"]
    a, b = shapes.classes[0], shapes.classes[1]
    context = next(iter(about))
    found = confusion_ratios(shapes, (f"{a}/{b}", f"{b}/{context}"), made.get)
    assert list(found) == [f"{a}/{b}", f"{b}/{context}"]
    assert found[f"{a}/{b}"] == ratio_by_hand(shapes, made, 1, lambda id: shapes.mask(id) == 2)

    def on_context(id):
        with Image.open(shapes.root / "context" / f"{id}.png") as image:
            return np.array(image) == about[context]

    assert found[f"{b}/{context}"] == ratio_by_hand(shapes, made, 2, on_context) > 0
    matrix = evaluate(noisy[0], shapes).confusion
    assert found[f"{a}/{b}"] == matrix[2, 1] / matrix[1, 1]
    # The truth itself confuses nothing; a target that is never hit has no finite ratio.
    assert confusion_ratios(shapes, (f"{b}/{context}",), shapes.mask) == {f"{b}/{context}": 0.0}
    nothing = confusion_ratios(
        shapes, (f"{a}/{b}",), lambda id: np.zeros(shapes.size(id), np.uint8)
    )
    assert np.isnan(nothing[f"{a}/{b}"])
    swapped = confusion_ratios(
        shapes, (f"{a}/{b}",), lambda id: np.where(shapes.mask(id) == 2, 1, 0)
    )
    assert swapped[f"{a}/{b}"] == np.inf


def test_contexts_of_a_users_own(own_shapes):
    loaded = data.load(own_shapes)
    usual = confusion_ratios(
        loaded, (f"{loaded.classes[0]}/rails",), lambda id: np.ones(loaded.size(id), np.uint8)
    )
    (own_shapes / "context/classes.txt").write_text("sleepers\nsea\n")
    found = confusion_ratios(
        loaded, (f"{loaded.classes[0]}/sleepers",), lambda id: np.ones(loaded.size(id), np.uint8)
    )
    assert list(found.values()) == list(usual.values())
    path = own_shapes / "context" / f"{loaded.ids[2]}.png"
    write_labels(path, np.zeros((64, 60)))
    with pytest.raises(
        InputError, match=rf"{path.name}: is \(64, 60\), but the mask .* is \(64, 64\)"
    ):
        confusion_ratios(loaded, (f"{loaded.classes[0]}/sea",), loaded.mask)
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name}: no such label map"):
        confusion_ratios(loaded, (f"{loaded.classes[0]}/sea",), loaded.mask)


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("{a}", "is not a target and another class"),
        ("{a}/{a}", "is not a target and another class"),
        ("{a}/b/c", "is not a target and another class"),
        ("zebra/{a}", "'zebra' in .* is no class of shapes"),
        (
            "{a}/zebra",
            r"'zebra' in .* is neither a class of shapes nor one of its contexts \(rails, water",
        ),
    ],
)
def test_wrong_pairs(shapes, noisy, tmp_path, pair, said):
    with pytest.raises(InputError, match=said):
        summary.summarize(
            shapes,
            predictions=noisy[0],
            pairs=(pair.format(a=shapes.classes[0]),),
            out=tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


def test_predictions_to_json_and_picture(shapes, noisy, tmp_path):
    pair = f"{shapes.classes[0]}/{shapes.classes[1]}"
    found = summary.summarize(shapes, predictions=noisy[0], pairs=(pair,), out=tmp_path / "out")
    plain = evaluate(noisy[0], shapes)
    assert found.metrics.miou == plain.miou and found.curve is None
    stored = json.loads((tmp_path / "out/summary.json").read_text())
    assert stored["miou"] == plain.miou and stored["iou"] == plain.iou and stored["images"] == 24
    np.testing.assert_array_equal(stored["confusion"], plain.confusion)
    assert stored["confusion_ratios"] == found.confusion_ratios and stored["curve"] is None
    assert found.files == (tmp_path / "out/summary.json", tmp_path / "out/summary.png")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "evaluation.json",
        "evaluation.png",
    ]
    with Image.open(found.files[1]) as image:
        assert image.width > 1000 and len(np.unique(np.asarray(image.convert("L")))) > 20
    assert summary.summarize(shapes, predictions=noisy[0]).files == ()


def test_maps_are_scored_at_their_best_threshold(shapes, noisy, tmp_path):
    rng = np.random.default_rng(2)
    for id in shapes.ids:
        keys = np.flatnonzero(shapes.tags_of(id)) + 1
        right = np.stack([shapes.mask(id) == k for k in keys]).astype(np.float32)
        high = (0.4 * right + 0.6 * rng.random(right.shape)).astype(np.float32)
        save_maps(
            tmp_path / "maps",
            id,
            ClassMaps(keys, np.zeros((len(keys), *strided_size(*shapes.size(id)))), high),
        )
    pair = f"{shapes.classes[0]}/rails"
    found = summary.summarize(shapes, maps=tmp_path / "maps", pairs=(pair,), out=tmp_path / "out")
    curve = threshold_curve(tmp_path / "maps", shapes)
    assert found.curve.miou == curve.miou and found.curve.best == curve.best
    assert found.metrics.miou == max(curve.miou) < 1 and 0 < curve.best < 0.9
    stored = json.loads((tmp_path / "out/summary.json").read_text())
    assert stored["curve"]["best"] == curve.best and stored["curve"]["miou"] == list(curve.miou)
    # The ratio is that of the label maps at the best threshold.
    for id in shapes.ids:
        with np.load(tmp_path / "maps" / f"{id}.npz") as file:
            high, keys = file["high_res"].astype(np.float32), file["keys"]
        labels = np.where(high.max(axis=0) > np.float32(curve.best), keys[high.argmax(axis=0)], 0)
        write_labels(tmp_path / "labels" / f"{id}.png", labels)
    again = summary.summarize(shapes, predictions=tmp_path / "labels", pairs=(pair,))
    assert (
        again.confusion_ratios == found.confusion_ratios
        and again.metrics.miou == found.metrics.miou
    )


def test_the_command(capfd, shapes_root, noisy, tmp_path):
    pair = f"{data.load(shapes_root).classes[0]}/rails"
    common = ["eval", "--data", str(shapes_root), "--predictions", str(noisy[0])]
    code = cli.run([*common, "--pairs", pair, "--out", str(tmp_path)])
    out = capfd.readouterr().out
    assert code == 0 and "precision" in out and re.search(rf"confusion ratio {pair}: \d+\.\d+", out)
    assert str(tmp_path / "evaluation.png") in out
    code = cli.run([*common, "--maps", "x"])
    err = capfd.readouterr().err
    assert (
        code == 2
        and "either predictions (label PNGs) or maps" in err
        and len(err.strip().splitlines()) == 1
    )


def test_a_run_that_fails_midway_leaves_the_earlier_files(shapes, noisy, tmp_path):
    summary.summarize(shapes, predictions=noisy[0], out=tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    broken = shutil.copytree(noisy[0], tmp_path / "broken")
    path = broken / f"{shapes.ids[-1]}.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=f"{path.name}: cannot be read"):
        summary.summarize(shapes, predictions=broken, out=tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_eighty_one_classes(capfd, tmp_path):
    """COCO14: absent classes are left out of the mean, 255 in a mask counts nowhere, images without tags count."""
    root = make_coco(tmp_path / "coco14")
    loaded = data.load(root, split="val")
    for id in loaded.ids:
        mask = loaded.mask(id)
        write_labels(tmp_path / "p" / f"{id}.png", np.where(mask == 255, 80, mask))
    write_labels(
        tmp_path / "p" / f"{coco_id(133, 'val')}.png", np.full(loaded.size(coco_id(133, "val")), 3)
    )
    found = summary.summarize(loaded, predictions=tmp_path / "p", out=tmp_path / "out")
    assert found.metrics.confusion.shape == (81, 81) and found.metrics.iou["car"] == 0.0
    # Labels 2, 4 and 17 are all right; car was only predicted, over the image without tags.
    present = {name for name, iou in found.metrics.iou.items() if not np.isnan(iou)}
    assert present == {"background", "bicycle", "car", "motorcycle", loaded.classes[16]}
    background = found.metrics.iou["background"]
    assert 0 < background < 1 and found.metrics.miou == pytest.approx((background + 3) / 5)
    assert np.isnan(found.metrics.iou["toothbrush"])
    assert (
        cli.run(
            ["eval", "--data", str(root), "--split", "val", "--predictions", str(tmp_path / "p")]
        )
        == 0
    )
    assert "toothbrush" in capfd.readouterr().out
