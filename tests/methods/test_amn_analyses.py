"""AMN's analyses on a small data set."""

import dataclasses

import pytest
import torch
from brief import brief

from wsss_fast import InputError, amn, data, nets
from wsss_fast.engine.run_folder import read_records
from wsss_fast.maps import load_maps

NAMES = (
    "cam",
    "amn",
    "unconditioned",
    "condition-layer2",
    "condition-layer1",
    "unbalanced",
    "unsmoothed",
    "present-only",
)


@pytest.fixture(scope="module")
def few(shapes):
    return shapes.only(shapes.ids[:10])


@pytest.fixture(scope="module")
def options(shapes):
    small = amn.PIPELINES["small"]
    crf = dataclasses.replace(small.crf, iterations=1)
    quick = {"epochs": 1, "scales": (1.0, 0.5)}
    numbers = dataclasses.replace(
        small,
        cam=brief(small.cam, 64, **quick),
        crf=crf,
        amn=brief(small.amn, 64, **quick),
        refine=dataclasses.replace(small.refine, kind="crf", crf=crf),
    )
    return {
        "backbone": "small",
        "pipeline": numbers,
        "val": data.load(shapes.root, split="val"),
        "precision": "fp32",
    }


@pytest.fixture(scope="module")
def finished(few, options, tmp_path_factory):
    return amn.analyse(few, tmp_path_factory.mktemp("runs") / "run", **options)


def files(out):
    kept = (p for p in out.rglob("*") if p.suffix in (".npz", ".pth", ".png"))
    return {p: p.stat().st_mtime_ns for p in kept}


def test_each_variant_is_trained_scored_and_shown(few, options, finished):
    out = finished.out.parent
    assert finished.out.name == "analyses" and tuple(finished.miou) == NAMES
    own, added = read_records(out), read_records(finished.out)
    assert "unbalanced" not in own and "amn" not in added
    records = {**own, **added}
    for name in NAMES:
        values = records[name]
        assert values["miou"] == finished.miou[name] and "miou" in records[f"{name}+crf"]
        assert values["own_thresholds"]["miou"] >= 0 and values["own_thresholds"]["spread"] >= 0
        pairs = ["train/tram", "boat/ferry", "sheep/goat", "taxi/police"]
        assert list(values["look_alikes"]) == ["all", *pairs]
        assert ("look_alikes_unfiltered" in values) == (name != "cam")
    # The softmax over present classes needs no training; the others differ from AMN in weights.
    trained = {p.parent.name for p in finished.out.glob("*/weights.pth")}
    assert trained == set(NAMES) - {"cam", "amn", "present-only"}
    page = finished.report.read_text()
    titles = ("CAM", "AMN", "no conditioning", "conditioned at layer2", "no balance")
    assert all(f"<td>{title}</td>" in page for title in titles)
    assert "look-alikes, maps" in page and "mIoU over the threshold" in page
    before = files(out)
    again = amn.analyse(few, out, **options, pairs=("boat/taxi",))
    assert again.miou == finished.miou and files(out) == before
    assert list(read_records(out)["amn"]["look_alikes"]) == ["all", "boat/taxi"]


def test_the_softmax_over_present_classes_has_larger_scores(few, finished):
    """It is a sum over fewer classes, before the foreground is stretched to 0..1."""
    out = finished.out.parent
    own, present = (
        load_maps(folder, few.ids[0]).high_res.sum(axis=0)
        for folder in (out / "amn/maps", finished.out / "present-only/maps")
    )
    seed = data.read_labels(out / "seeds" / f"{few.ids[0]}.png")
    outside = seed == 0
    assert outside.any() and (present[outside] >= own[outside] - 2e-3).all()
    assert present[outside] == pytest.approx(1, abs=2e-3)


def test_variants_of_the_large_network_and_of_a_changed_recipe():
    from wsss_fast.amn.analyses import _variants

    recipe = dataclasses.replace(amn.RECIPES["resnet50"], condition_at="layer2", smoothing=0.0)
    found = _variants(recipe, "resnet50", ("conditioning", "balance", "smoothing"))
    assert list(found) == ["unconditioned", "condition-layer3", "unbalanced"]
    assert found["condition-layer3"].condition_at == "layer3" and not found["unbalanced"].balance


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parts": ("colour",)}, "parts holds 'colour'"),
        ({"pairs": ("boat",)}, "pairs: 'boat' is not a target and another class"),
        ({"pairs": ("boat/rails",)}, "pairs: 'boat/rails' must be two classes"),
        ({"device": "no such device"}, "no such device"),
    ],
)
def test_bad_input_raises_before_anything_is_written(shapes, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        amn.analyse(shapes, tmp_path / "run", backbone="small", **arguments)
    assert not (tmp_path / "run").exists()


def test_unfiltered_confusion_allows_every_class(shapes, tmp_path):
    """A network that only knows its bias predicts the class of the largest one everywhere."""
    net = nets.amn_resnet50(len(shapes.classes), backbone="small")
    with torch.no_grad():
        net.weight.zero_()
        net.bias.zero_()[0, 3] = 1
    nets.save_weights(net, tmp_path / "weights.pth")
    from wsss_fast.amn.look_alikes import unfiltered_confusion

    recipe = dataclasses.replace(amn.RECIPES["small"], infer_batch=5)
    found = unfiltered_confusion(shapes, tmp_path / "weights.pth", recipe, backbone="small")
    truth = sum((shapes.mask(i) == 3).sum() for i in shapes.ids)
    assert found[:, 3].sum() == found.sum() and found[3, 3] == truth > 0
