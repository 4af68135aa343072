"""Presets of the methods against the numbers of the repositories and issues they come from."""

import dataclasses

import pytest

from wsss_fast import amn, ccr, eps, seg
from wsss_fast.pipeline import with_seg_preset
from wsss_fast.presets import Preset, differences
from wsss_fast.runs import Chosen, resolve_preset

PRESETS = {**amn.PRESETS, **eps.PRESETS, **ccr.PRESETS}
METHODS = {"amn": amn, "eps": eps, "ccr": ccr}
# Change the speed only.
SPEED = ("infer_batch", "prefer_bf16", "compile")
# Of this package: no published figure depends on them.
REPORTED = ("cam_crf_threshold", "refine.crf_threshold", "refine.irn_crf_threshold")

NO_AUGMENT = {
    "": "Augment",
    "scale": None,
    "factors": None,
    "long_side": None,
    "flip": True,
    "jitter": 0,
    "hue": 0,
    "hsv": 0,
    "linear": False,
    "corner": False,
    "to_input": "normalise",
}
POLY = {"": "Poly", "power": 0.9, "warmup": 0, "stairs": None, "every": None}


def under(name, numbers):
    """Numbers by dotted name; "" is the class of the part itself."""
    return {f"{name}.{key}" if key else name: value for key, value in numbers.items()}


# IRN's and AMN's run_sample.py: cam_*; step/train_cam.py passes the weight decay as momentum.
CAM_RESNET50 = {
    "epochs": 5,
    "updates": None,
    "batch_size": 16,
    "lr": 0.1,
    "head_lr_scale": 10,
    "scales": (1.0, 0.5, 1.5, 2.0),
    "align": 16,
    **under("augment", {**NO_AUGMENT, "crop": 512, "long_side": (320, 640)}),
    **under("optimizer", {"": "Sgd", "weight_decay": 1e-4, "momentum": 1e-4}),
    "optimizer.caffe_biases": False,
    **under("schedule", POLY),
}
# AMN's run_sample.py: amn_*, eps; step/train_amn.py.
AMN = {
    "epochs": 5,
    "batch_size": 16,
    "lr": 5e-6,
    "head_lr": 1e-4,
    "smoothing": 0.4,
    "balance": True,  # of the batch
    "energy.weight": 0,
    "condition_at": "layer4",
    "present_only": False,
    "scales": (1.0, 0.5, 1.5, 2.0),
    **under("augment", {**NO_AUGMENT, "crop": 512, "scale": (0.5, 1.5)}),
    **under("optimizer", {"": "Adam", "weight_decay": 1e-4}),
    "schedule": "Constant",
}
# run_sample.py: irn_*, beta, exp_times 8 (256 steps).
IRN = {
    "epochs": 3,
    "batch_size": 32,
    "lr": 0.1,
    "displacement_lr_scale": 10,
    "radius": 10,
    "walk_radius": 5,
    "beta": 10,
    "steps": 256,
    **under("augment", {**NO_AUGMENT, "crop": 512, "scale": (0.5, 1.5)}),
    **under("optimizer", {"": "Sgd", "weight_decay": 1e-4, "momentum": 1e-4}),
    "optimizer.caffe_biases": False,
    **under("schedule", POLY),
}
SEED_CRF = {
    "gaussian": (3, 3),
    "bilateral": (50, 5, 10),
    "iterations": 10,
    "gt_prob": 0.7,
}
# EPS' script/voc12_cls.sh and voc12_eps.sh; weight decay and momentum as in PSA's optimizer.
RESNET38 = {
    "updates": 20_000,
    "batch_size": 8,
    "lr": 0.01,
    "head_lr_scale": 10,
    "scales": (0.5, 1.0, 1.5, 2.0),
    **under("augment", {**NO_AUGMENT, "crop": 448, "long_side": (256, 512), "jitter": 0.3}),
    "augment.hue": 0.1,
    **under("optimizer", {"": "Sgd", "weight_decay": 5e-4, "momentum": 5e-4}),
    **under("schedule", POLY),
}
RESNET38_COCO = {
    **RESNET38,
    "updates": 256_500,
    "batch_size": 16,
    "augment.crop": 321,
    "augment.long_side": (256, 448),
}
CAM = {"epochs": 5, "align": 1, "optimizer.caffe_biases": False}
EPS = {
    "tau": 0.4,
    "lam": 0.5,
    "strategy": "adaptive",
    "background_classes": (),
    "saliency_weight": 1,
    "threshold": 0.20,
    "optimizer.caffe_biases": True,
    **under("crf", {"gaussian": (1, 3), "bilateral": (67, 3, 4), "iterations": 10, "alpha": 4}),
}
SEEDS = {
    **under("crf", SEED_CRF),
    **under("refine.crf", SEED_CRF),
    "refine.kind": "irn",
    "refine.fg_threshold": 0.45,
    "refine.bg_threshold": 0.15,
    **under("refine.irn", IRN),
    "refine.irn.power": 1.3,
}
AMN_BOTH = {
    **SEEDS,
    **under("cam", CAM_RESNET50),
    "cam_threshold": 0.15,
    **under("amn", AMN),
    "amn_threshold": 0.25,
}
CCR = {
    "erasing.scales": (1.0, 0.5, 1.5, 2.0),
    "erasing.rounds": 5,
    "erasing.masked_from": 0.7,
    "erasing.stop": 0.02,
    "erasing.masking": "joint",
    "erasing.unit": "crop",
    "erasing.mirror_mask": True,
    "erasing.chain_masks": False,
    "buffers": (10, 20),
    "wrap_crops": False,
    "batch_size": 4,
}
NUMBERS = {
    "amn-voc": {
        **AMN_BOTH,
        "fg_threshold": 0.30,
        "bg_threshold": 0.05,
        "refine.irn.pad": 512,
        "refine.irn.threshold": 0.25,
    },
    "amn-coco": {
        **AMN_BOTH,
        "fg_threshold": 0.45,
        "bg_threshold": 0.15,
        "refine.irn.pad": 1,
        "refine.irn.threshold": 0.22,
    },
    "eps-voc": {
        "baseline": True,
        "crf": False,
        "pairs": (),
        **under("cam", {**RESNET38, **CAM}),
        "cam_threshold": 0.20,
        **under("eps", {**RESNET38, **EPS}),
    },
    "eps-coco": {
        "baseline": True,
        "crf": False,
        "pairs": (),
        **under("cam", {**RESNET38_COCO, **CAM}),
        "cam_threshold": 0.20,
        **under("eps", {**RESNET38_COCO, **EPS, "lam": 0.9}),
    },
    "ccr-voc": {
        **{name: value for name, value in SEEDS.items() if not name.startswith("crf")},
        **under("cam", {**RESNET38, **CAM}),
        "cam_threshold": 0.20,
        **under("ccr", CCR),
        "ccr_threshold": 0.20,
        "refine.irn.pad": 512,
        "refine.irn.threshold": 0.25,
        "seg.weight": 0.5,
        "seg.salient": 0.5,
        "seg.active": 0.2,
        "seg.overlap": 0.1,
    },
}
# name of the recipe, backbone, updates, batch, rate, largest factor, crop, loss
VOC_SEG = ("deeplab-pytorch", "resnet101", 20_000, 10, 2.5e-4, 1.5, 321, "none")
SEGMENTATION = {
    "amn-voc": ("advcam", "resnet101", 30_000, 10, 2.5e-4, 2.0, 321, "image"),
    "amn-coco": ("rib-coco", "resnet101", 100_000, 10, 2.5e-4, 2.0, 481, "none"),
    "eps-voc": VOC_SEG,
    "eps-coco": VOC_SEG,
    "ccr-voc": VOC_SEG,
}
# backbone, layout, trained on, scored on, predicted, true masks
LISTS = {
    "amn-voc": ("resnet50", "voc", "trainaug", "train", "val", "SegmentationClass"),
    "amn-coco": ("resnet50", "coco", "train", "train", "val", "coco_seg_anno"),
    "eps-voc": ("resnet38", "voc", "trainaug", "train", "val", "SegmentationClassAug"),
    "eps-coco": (
        *("resnet38", "coco", "train-annotated", "train-annotated", "val-annotated"),
        "SegmentationClass",
    ),
    "ccr-voc": ("resnet38", "voc", "trainaug", "train", "val", "SegmentationClass"),
}
RESNET50 = "resnet50-19c8e357.pth"
RNA_A1 = "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"
COCO, IMAGENET = "deeplabv1_resnet101-coco.pth", "deeplabv1_resnet101-imagenet.pth"
# part of the name by argument, and whether the source names it
STARTS = {
    "amn-voc": {"weights": (RESNET50, True), "seg_weights": (COCO, False)},
    "amn-coco": {"weights": (RESNET50, True), "seg_weights": (IMAGENET, False)},
    "eps-voc": {"weights": (RNA_A1, True), "seg_weights": (COCO, True)},
    "eps-coco": {"weights": (RNA_A1, True), "seg_weights": (IMAGENET, False)},
    "ccr-voc": {
        "weights": ("PSA's ResNet-38 classifier", True),
        "irn_weights": (RESNET50, False),
        "seg_weights": (COCO, False),
    },
}
# record of metrics.json, mIoU, whether its source was read
PUBLISHED = {
    "amn-voc": [
        ("amn", 62.1, False),
        ("masks", 72.2, True),
        ("seg on val", 70.7, False),
        ("seg on test", 70.6, False),
    ],
    "amn-coco": [("amn", 40.3, False), ("masks", 46.7, False), ("seg on val", 44.7, False)],
    "eps-voc": [
        ("cam masks", 47.05, True),
        ("masks", 69.22, True),
        ("seg on val", 70.5, True),
        ("seg on val", 70.9, False),
        ("seg on test", 70.8, False),
        ("segv1 on val", 71.0, False),
        ("segv1 on test", 71.8, False),
        ("eps+crf", 71.6, False),
    ],
    "eps-coco": [
        ("cam masks", 31.23, True),
        ("masks", 37.15, True),
        ("seg on val-annotated", 35.7, False),
    ],
    "ccr-voc": [("seg on val", 70.8, False), ("seg on test", 71.8, False)],
}
# What the sentences about unsettled numbers must speak of.
UNSURE = {
    "amn-voc": ("COCO by LPCAM's table", "71.74", "dropout"),
    "amn-coco": ("0.45 and 0.15", "0.35 and 0.17", "rib-coco", "dropout"),
    "eps-voc": ("DeepLabV1", "OAA's ResNet-101", "alpha"),
    "eps-coco": ("VGG16", "not published", "--seg-preset rib-coco"),
    "ccr-voc": ("PSA's random walk", "reconstruction", "learning rate", "73.2"),
}


def leaves(value, name=""):
    """Numbers of a pipeline by dotted name; of a part that is a callable, also its class."""
    if not dataclasses.is_dataclass(value):
        return {name: getattr(value, "__name__", value)}
    found = {name: type(value).__name__} if callable(value) or "augment" in name[-7:] else {}
    for field in dataclasses.fields(value):
        place = f"{name}.{field.name}" if name else field.name
        found |= leaves(getattr(value, field.name), place)
    return found


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_is_the_published_one(name):
    """Also that the table has every number; those of the segmentation network have their own."""
    given = leaves(PRESETS[name].numbers)
    wanted = NUMBERS[name]
    free = {
        key
        for key in given
        if key.rpartition(".")[2] in SPEED
        or key in REPORTED
        or (".energy." in key and key not in wanted)
        or (key.startswith("seg") and key not in wanted)
    }
    assert {key: value for key, value in given.items() if key not in free} == wanted


@pytest.mark.parametrize("name", SEGMENTATION)
def test_the_segmentation_network_is_that_of_the_row(name):
    recipe, backbone, updates, batch, lr, factor, crop, balance = SEGMENTATION[name]
    numbers = PRESETS[name].numbers
    one = numbers.seg if isinstance(numbers.seg, seg.Recipe) else numbers.seg.seg
    assert one == seg.PRESETS[recipe].numbers and numbers.seg_backbone == backbone
    assert (one.updates, one.batch_size, one.lr) == (updates, batch, lr)
    assert (max(one.augment.factors), one.augment.crop) == (factor, crop)
    assert (one.balance, one.head, one.schedule.every) == (balance, "aspp", 10)


@pytest.mark.parametrize("name", LISTS)
def test_lists_starts_and_results_are_those_of_the_row(name):
    preset, row = PRESETS[name], PRESETS[name].row
    lists = (row.layout, row.split, row.score_on, row.val_split, row.truth)
    assert (preset.backbone, *lists) == LISTS[name]
    found = {start.argument: (start.what, start.sure) for start in row.starts}
    assert {key: sure for key, (_, sure) in found.items()} == {
        key: sure for key, (_, sure) in STARTS[name].items()
    }
    assert all(what in found[key][0] for key, (what, _) in STARTS[name].items())
    assert all(start.where for start in row.starts) and row.source
    published = [(one.record, one.value, one.sure) for one in row.published]
    assert published == PUBLISHED[name] and all(one.source for one in row.published)
    unsure = " ".join(row.unsure)
    assert all(text in unsure for text in UNSURE[name])
    assert all(text.endswith(".") for text in row.unsure)


@pytest.mark.parametrize("method", METHODS)
def test_every_row_is_in_a_table_and_old_names_are_the_same(method):
    presets = METHODS[method].PRESETS
    rows = {name for name, one in presets.items() if one.row is not None}
    assert rows == {name for name in NUMBERS if name.startswith(method)} | rows & {"voc", "coco"}
    assert presets["voc"] is presets[f"{method}-voc"] and presets["shapes"].row is None
    if "coco" in presets:
        assert presets["coco"] is presets[f"{method}-coco"]
    # Without a preset, the numbers are those of its backbone's row.
    usual = presets[f"{method}-voc"]
    pipelines = METHODS[method].PIPELINES
    assert next(iter(pipelines)) == usual.backbone
    assert differences(pipelines[usual.backbone], usual.numbers) == []


@pytest.mark.parametrize("name", NUMBERS)
def test_another_segmentation_recipe_changes_the_row(name):
    preset = PRESETS[name]
    other = seg.PRESETS["resnet38-seam"]
    before = Chosen(preset.backbone, preset.numbers, name, preset)
    chosen = with_seg_preset("run", before, "resnet38-seam")
    found = {one.name.partition(".")[0] for one in differences(chosen.numbers, preset.numbers)}
    assert found == {"seg", "seg_backbone"} and chosen.numbers.seg_backbone == "resnet38"
    assert chosen.preset.numbers == chosen.numbers and chosen.seg_preset == "resnet38-seam"
    row = chosen.row
    assert [one.what for one in row.starts if one.argument == "seg_weights"] == [
        one.what for one in other.row.starts
    ]
    assert not any(one.record.startswith("seg") for one in row.published)
    assert set(other.row.unsure) <= set(row.unsure)
    kept = with_seg_preset("run", before, SEGMENTATION[name][0])
    assert kept.numbers == preset.numbers
    assert with_seg_preset("run", before, None) is before


def test_a_preset_without_a_row_keeps_none():
    chosen = resolve_preset("amn run", amn.PRESETS, amn.PIPELINES, "shapes", None, None)
    chosen = with_seg_preset("amn run", chosen, "deeplab-pytorch")
    assert isinstance(chosen.preset, Preset) and chosen.row is None
    assert chosen.numbers.seg_backbone == "resnet101"
