"""The published presets on small data sets in VOC's and COCO's layout, with full-size networks.

EPS' compute in the precision that is the default here.
"""

import json
import math

import layouts
import pytest
from layouts import make_coco, make_voc

from wsss_fast import cli, data, seg
from wsss_fast.data import read_labels

# Few images, since the large networks take long on each.
VOC = {
    "train": {"2007_000032": [1, 15], "2007_000039": [20], "2007_000063": [9, 12]},
    "val": {"2007_000033": [1], "2007_000061": [4, 15]},
}
COCO = {"train": {9: [46, 50], 25: [24], 30: [76], 36: [1, 26], 64: []}, "val": {42: [17], 133: []}}
CAM_OPTIONS = {
    "cam.augment.crop": 48,
    "cam.augment.long-side": "48 64",
    "cam.scales": 1.0,
}
IRN_OPTIONS = {
    "refine.irn.epochs": 1,
    "refine.irn.batch-size": 4,
    "refine.irn.radius": 3,
    "refine.irn.augment.crop": 48,
    "refine.irn.pad": 1,
    "refine.irn.steps": 8,
}
SEG_OPTIONS = {
    "updates": 1,
    "batch-size": 2,
    "accumulate": 1,
    "augment.crop": 33,
    "scales": 0.5,
}
AMN_OPTIONS = {
    **CAM_OPTIONS,
    **IRN_OPTIONS,
    "cam.epochs": 1,
    "cam.batch-size": 4,
    "amn.epochs": 1,
    "amn.batch-size": 4,
    "amn.augment.crop": 48,
    "amn.scales": 1.0,
    **{f"seg.{name}": value for name, value in SEG_OPTIONS.items()},
}
EPS_OPTIONS = {
    **CAM_OPTIONS,
    "cam.updates": 1,
    "cam.batch-size": 2,
    "eps.updates": 1,
    "eps.batch-size": 2,
    "eps.augment.crop": 48,
    "eps.augment.long-side": "48 64",
    "eps.scales": 1.0,
    **{f"seg.{name}": value for name, value in SEG_OPTIONS.items()},
}
CCR_OPTIONS = {
    **CAM_OPTIONS,
    **IRN_OPTIONS,
    "cam.updates": 1,
    "cam.batch-size": 2,
    "ccr.erasing.rounds": 1,
    "ccr.erasing.scales": 1.0,
    **{f"seg.seg.{name}": value for name, value in SEG_OPTIONS.items()},
}


@pytest.fixture
def root(request, tmp_path, monkeypatch):
    """A folder in VOC's or COCO's layout, with the list trainaug."""
    monkeypatch.setattr(layouts, "VOC_LABELS", VOC)
    monkeypatch.setattr(layouts, "COCO_LABELS", COCO)
    monkeypatch.setattr(layouts, "VOC_MORE", {"2008_000015": [5]})
    if request.param == "voc":
        return make_voc(tmp_path / "VOC2012", (48, 64), more=True)
    return make_coco(tmp_path / "coco14", (48, 64))


def run(method, preset, root, out, options, words=""):
    numbers = [f"--pipeline.{key} {value}" for key, value in options.items()]
    line = f"{method} run --preset {preset} {words} {' '.join(numbers)}"
    return cli.run([*line.split(), "--data", str(root), "--out", str(out)])


def check(out, masks, train, val):
    """Pseudo-masks and predictions of every image, at its size."""
    for folder, images in ((out / masks, train), (out / "seg/predictions", val)):
        for id in images.ids:
            labels = read_labels(folder / f"{id}.png", len(images.classes))
            assert labels.shape == images.size(id)


@pytest.mark.parametrize(
    ("root", "trained", "predicted"),
    [("voc", ("trainaug", 4), ("val", 2)), ("coco", ("train", 5), ("val", 2))],
    indirect=["root"],
)
def test_amn_pipeline_and_its_evaluation(root, trained, predicted, tmp_path, capfd):
    out, preset = tmp_path / "run", "amn-voc" if trained[0] == "trainaug" else "amn-coco"
    code = run("amn", preset, root, out, AMN_OPTIONS, "--precision fp32")
    output = capfd.readouterr()
    assert code == 0, output.err
    assert "seg on val" in output.out and "irn" in output.out
    assert f"no weights given; row {preset} starts from torchvision's ResNet-50" in output.err
    train, val = (data.load(root, split=split) for split, _ in (trained, predicted))
    assert (len(train), len(val)) == (trained[1], predicted[1])
    check(out, "irn/masks", train, val)
    arguments = json.loads((out / "config.json").read_text())["arguments"]
    assert (arguments["preset"], arguments["val_split"]) == (preset, "val")
    evaluation = tmp_path / "evaluation"
    line = f"eval --data {root} --split val --out {evaluation} --predictions"
    code = cli.run([*line.split(), str(out / "seg/predictions")])
    output = capfd.readouterr()
    assert code == 0 and f"over {len(val)} images" in output.out, output.err
    assert (evaluation / "evaluation.json").is_file() and (evaluation / "evaluation.png").is_file()


def check_losses(out, *stages):
    """Each training made its one update, with a finite loss."""
    for stage in stages:
        losses = json.loads((out / stage / "done.json").read_text())["notes"]["losses"]
        assert len(losses) == 1 and math.isfinite(losses[0]), stage


@pytest.mark.parametrize("root", ["voc"], indirect=True)
def test_eps_pipeline_on_voc(root, tmp_path, capfd):
    out = tmp_path / "run"
    code = run("eps", "eps-voc", root, out, EPS_OPTIONS)
    output = capfd.readouterr()
    assert code == 0, output.err
    assert "seg on val" in output.out and "cam masks" in output.out
    check(out, "eps/masks", data.load(root, split="trainaug"), data.load(root, split="val"))
    check_losses(out, "cam", "eps", "seg")


@pytest.mark.parametrize("root", ["coco"], indirect=True)
def test_eps_pipeline_on_coco_with_vgg16(root, tmp_path, capfd):
    """Without the baseline, which is the same network as on VOC."""
    out, options = tmp_path / "run", {**EPS_OPTIONS, "baseline": False}
    del options["seg.scales"]  # this network has none
    code = run("eps", "eps-coco", root, out, options, "--seg-preset deeplabv1-oaa-vgg16")
    output = capfd.readouterr()
    assert code == 0, output.err
    assert "seg on val-annotated" in output.out
    lists = (data.load(root, split=f"{split}-annotated") for split in ("train", "val"))
    check(out, "eps/masks", *lists)
    check_losses(out, "eps", "seg")


@pytest.mark.parametrize("root", ["voc"], indirect=True)
def test_ccr_pipeline_with_resnet38(root, tmp_path, capfd):
    out, options = tmp_path / "run", {**CCR_OPTIONS, "seg.seg.test-scales": 1.0}
    del options["seg.seg.scales"]
    code = run("ccr", "ccr-voc", root, out, options, "--precision fp32 --seg-preset resnet38-seam")
    output = capfd.readouterr()
    assert code == 0, output.err
    assert "seg on val" in output.out and "no irn_weights given; row ccr-voc" in output.err
    check(out, "irn/masks", data.load(root, split="trainaug"), data.load(root, split="val"))
    arguments = json.loads((out / "config.json").read_text())["arguments"]
    assert (arguments["preset"], arguments["seg_preset"]) == ("ccr-voc", "resnet38-seam")
    numbers, recipe = arguments["pipeline"], seg.PRESETS["resnet38-seam"].numbers
    assert numbers["seg_backbone"] == "resnet38" and numbers["seg"]["seg"]["lr"] == recipe.lr
    assert numbers["seg"]["seg"]["updates"] == 1 and numbers["seg"]["seg"]["head"] == "seam"
