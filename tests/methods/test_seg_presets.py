"""The published segmentation recipes: their numbers, and trainings with every head."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from brief import brief
from torch.nn import functional as F
from torch.testing import assert_close

from wsss_fast import InputError, nets, seg
from wsss_fast.cli.arguments import parse
from wsss_fast.cli.catalog import COMMANDS
from wsss_fast.data.transforms import normalise, subtract_mean
from wsss_fast.engine.optimizers import backbone_and_head
from wsss_fast.engine.runtime import resolve_runtime
from wsss_fast.engine.serialize import exact
from wsss_fast.nets.wide_resnet38 import WideResNet38
from wsss_fast.seg.inference import Predictor
from wsss_fast.seg.training import _step
from wsss_fast.stages.training import fields_except

CPU = resolve_runtime("cpu", 0, 0, "fp32", prefer_bf16=False)
SMALL = brief(seg.RECIPES["small"], 64, updates=2)
WIDE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
NARROW = (0.5, 0.75, 1.0, 1.25, 1.5)
TENTHS = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
MSC = (0.5, 0.75)
SEAM_TEST = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
CAFFE = (5e-4, 0.9, True)  # weight decay, momentum, biases twice as fast and without decay
DPT_CRF = ((1, 3), (67, 3, 4), 10)  # (xy, weight), (xy, rgb, weight), iterations
# Each line copied from the published configurations and code, which the presets name.
# updates, images of an update, parts, rate, factors or range of the scale, crop, loss
TRAININGS = {
    "deeplab-pytorch": (20_000, 10, 2, 2.5e-4, NARROW, 321, "none"),
    "advcam": (30_000, 10, 2, 2.5e-4, WIDE, 321, "image"),
    "rib-coco": (100_000, 10, 2, 2.5e-4, WIDE, 481, "none"),
    "lpcam-coco": (100_000, 20, 2, 2e-4, NARROW, 321, "none"),
    "clip-es": (20_000, 10, 2, 2.5e-5, NARROW, 321, "none"),
    "clip-es-imagenet": (20_000, 10, 2, 2e-4, NARROW, 321, "image"),
    "deeplabv1-oaa-vgg16": (16_000, 10, 10, 1e-3, TENTHS, 321, "none"),
    "deeplabv1-oaa-resnet101": (16_000, 10, 10, 1e-3, TENTHS, 321, "none"),
    "deeplabv1-rulixiang": (40_000, 10, 1, 1e-3, NARROW, 321, "none"),
    "resnet38-seam": (20_000, 10, 2, 1e-3, (0.5, 1.5), 448, "none"),
    # 30 epochs of 10,582 images in batches of 4
    "resnet38-mctformer": (30 * (10_582 // 4), 4, 1, 7e-4, (0.7, 1.3), 321, "none"),
}
# backbone, head, scales in the network, resize, updates between changes of the rate, optimizer
NETWORKS = {
    **dict.fromkeys(
        ("deeplab-pytorch", "advcam", "rib-coco", "lpcam-coco", "clip-es", "clip-es-imagenet"),
        ("resnet101", "aspp", MSC, "labels", 10, CAFFE),
    ),
    "deeplabv1-oaa-vgg16": ("vgg16", "largefov", (), "aligned", None, CAFFE),
    "deeplabv1-oaa-resnet101": ("resnet101", "largefov", (), "aligned", None, CAFFE),
    "deeplabv1-rulixiang": ("vgg16", "largefov", (), "labels", None, CAFFE),
    "resnet38-seam": ("resnet38", "seam", (), "aligned", None, CAFFE),
    # torch's SGD takes its third argument, there the weight decay, as the momentum
    "resnet38-mctformer": ("resnet38", "mctformer", (), "logits", None, (0, 1e-5, False)),
}
# scales, what is merged, mirror images, CRF
TESTS = {
    **dict.fromkeys(list(NETWORKS)[:6], ((), "logits", False, DPT_CRF)),
    "deeplabv1-oaa-vgg16": ((), "logits", False, ((3, 1), (67, 4, 3), 1)),
    "deeplabv1-oaa-resnet101": (NARROW, "mean", False, ((3, 1), (67, 4, 3), 1)),
    "deeplabv1-rulixiang": ((), "logits", False, ((3, 3), (50, 5, 5), 10)),
    "resnet38-seam": (SEAM_TEST, "logits", True, ((3, 3), (32, 13, 10), 1)),
    "resnet38-mctformer": (NARROW, "max", False, ((4, 3), (83, 5, 3), 10)),
}
IMAGENET, COCO = "deeplabv1_resnet101-imagenet.pth", "deeplabv1_resnet101-coco.pth"
# start, results on val, whether anything is unsure
ROWS = {
    "deeplab-pytorch": (COCO, [77.93, 76.65], False),
    "advcam": (IMAGENET, [68.1, 64.9], True),
    "rib-coco": (IMAGENET, [], True),
    "lpcam-coco": (IMAGENET, [], True),
    "clip-es": (COCO, [73.5], True),
    "clip-es-imagenet": (IMAGENET, [69.7], True),
    "deeplabv1-oaa-vgg16": ("vgg16_20M", [65.1], True),
    "deeplabv1-oaa-resnet101": (COCO, [], True),
    "deeplabv1-rulixiang": ("deeplab_largeFOV.pth", [69.38, 65.48], True),
    "resnet38-seam": ("ilsvrc-cls_rna-a1_cls1000_ep-0001.params", [64.75], True),
    "resnet38-mctformer": ("res38_cls.pth", [71.9, 71.1], True),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_numbers_are_those_that_were_published(name):
    preset, row = seg.PRESETS[name], seg.PRESETS[name].row
    one, augment, crf = preset.numbers, preset.numbers.augment, preset.numbers.crf
    scales = augment.factors or augment.scale
    training = (one.updates, one.batch_size, one.accumulate, one.lr, scales, augment.crop)
    assert (*training, one.balance) == TRAININGS[name]
    sgd = one.optimizer
    optimizer = (sgd.weight_decay, sgd.momentum, sgd.caffe_biases)
    network = (preset.backbone, one.head, one.scales, one.resize, one.schedule.every, optimizer)
    assert network == NETWORKS[name]
    assert one.schedule.power == 0.9 and one.schedule.stairs is None and one.head_lr_scale == 10
    tested = (crf.gaussian, crf.bilateral, crf.iterations)
    assert (one.test_scales, one.test_merge, one.flip, tested) == TESTS[name]
    start, published, unsure = ROWS[name]
    assert len(row.starts) == 1 and start in row.starts[0].what and row.starts[0].where
    assert [found.value for found in row.published] == published and bool(row.unsure) == unsure
    assert row.source and (row.layout, row.split) == (
        ("coco", "train") if name.endswith("coco") else ("voc", "trainaug")
    )
    caffe = preset.backbone != "resnet38"  # BGR minus the mean colour
    assert augment.to_input is (subtract_mean if caffe else normalise)
    assert augment.hsv == (10 if name == "resnet38-seam" else 0) and augment.flip
    assert augment.linear == augment.corner == (name != "resnet38-seam")


def test_presets_and_recipes_of_backbones():
    assert set(TRAININGS) == {name for name, one in seg.PRESETS.items() if one.row is not None}
    assert set(seg.RECIPES) == set(nets.SEGMENTATION_BACKBONES)
    assert seg.RECIPES["resnet101"] == seg.Recipe() == seg.PRESETS["deeplab-pytorch"].numbers
    assert seg.PRESETS["shapes"].numbers is seg.RECIPES["small"]
    for name, preset in seg.PRESETS.items():
        assert preset.numbers.head in nets.SEGMENTATION_HEADS[preset.backbone], name


def test_arguments_of_earlier_trainings_stay_the_same():
    recorded = exact(fields_except(seg.Recipe(), "flip", "crf", "infer_batch"))
    assert set(recorded) == {
        *("updates", "batch_size", "accumulate", "lr", "head_lr_scale", "augment", "scales"),
        *("resize", "optimizer", "schedule", "prefer_bf16"),
    }
    assert set(recorded["augment"]) == {
        *("class", "crop", "scale", "factors", "long_side", "flip", "jitter", "hue", "linear"),
        *("corner", "to_input"),
    }
    changed = dataclasses.replace(seg.Recipe(), head="largefov", balance="image")
    assert exact(fields_except(changed)).items() >= {"head": "largefov", "balance": "image"}.items()


@pytest.mark.parametrize("name", ["deeplabv1-oaa-vgg16", "resnet38-seam", "resnet38-mctformer"])
def test_other_networks_train_and_predict(shapes, true_masks, tmp_path, monkeypatch, capsys, name):
    """VGG16 at full size; ResNet-38, whose weights have 0.5 GB, with a sixteenth of its width."""
    wide = functools.partial(WideResNet38, width=4)
    monkeypatch.setitem(nets.SEGMENTATION_BACKBONES, "resnet38", wide)
    preset = seg.PRESETS[name]
    recipe = dataclasses.replace(
        preset.numbers,
        updates=2,
        batch_size=2,
        accumulate=1,
        augment=dataclasses.replace(preset.numbers.augment, crop=33),
        test_scales=preset.numbers.test_scales[:2],
    )
    some, options = shapes.only(shapes.ids[:2]), {"preset": name, "recipe": recipe}
    trained = seg.train(some, tmp_path, masks=true_masks, **options)
    assert preset.row.starts[0].what in capsys.readouterr().err
    folder = seg.infer(some, trained.weights, tmp_path, **options).predictions
    assert len(list(folder.glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("head", "balance", "resize", "test_scales"),
    [
        ("largefov", "batch", "aligned", ()),
        ("seam", "image", "logits", (0.5, 1.0)),
        ("mctformer", "none", "labels", (1.0,)),
        ("conv1x1", "image", "aligned", (1.0, 1.5)),
    ],
)
def test_heads_train_and_predict(shapes, true_masks, tmp_path, head, balance, resize, test_scales):
    changes = {"head": head, "balance": balance, "resize": resize, "test_scales": test_scales}
    recipe, some = dataclasses.replace(SMALL, scales=(), **changes), shapes.only(shapes.ids[:8])
    options = {"backbone": "small", "recipe": recipe, "precision": "fp32"}
    trained = seg.train(some, tmp_path, masks=true_masks, **options)
    assert np.isfinite(trained.losses).all()
    names = torch.load(trained.weights, weights_only=True)
    assert any(name.startswith(f"{head}.") for name in names)
    folder = seg.infer(some, trained.weights, tmp_path, crf=False, **options).predictions
    assert len(list(folder.glob("*.png"))) == 8


def test_parameter_groups_of_seam():
    with torch.device("meta"):
        net = nets.deeplab(20, backbone="resnet38", head="seam", scales=())
    recipe = seg.PRESETS["resnet38-seam"].numbers
    optimizer = recipe.optimizer(backbone_and_head(net, recipe.lr, recipe.head_lr_scale))
    found = [(len(g["params"]), g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
    convolutions = sum(isinstance(m, torch.nn.Conv2d) for m in net.backbone.modules())
    assert found == [(convolutions, 1e-3, 5e-4), (0, 2e-3, 0.0), (3, 1e-2, 5e-4), (1, 2e-2, 0.0)]


def test_loss_of_aligned_logits_and_its_balance():
    torch.manual_seed(0)
    net = nets.deeplab(3, backbone="small", head="conv1x1", scales=()).train()
    net.backbone.eval()
    mask = torch.randint(0, 4, (2, 65, 65), dtype=torch.uint8)
    mask[:, :20] = 255
    batch = {"image": torch.randn(2, 3, 65, 65), "mask": mask}
    large = F.interpolate(net(batch["image"])[-1], (65, 65), mode="bilinear", align_corners=True)
    losses = F.cross_entropy(large, mask.long(), ignore_index=255, reduction="none")
    background, classes = mask == 0, (mask > 0) & (mask < 255)
    truth = {
        "none": losses[mask < 255].mean(),
        "batch": (losses[background].mean() + losses[classes].mean()) / 2,
        "image": sum(
            one[back].mean() + one[front].mean()
            for one, back, front in zip(losses, background, classes, strict=True)
        )
        / 2,
    }
    for balance, wanted in truth.items():
        recipe = dataclasses.replace(SMALL, resize="aligned", balance=balance)
        assert_close(_step(recipe)(net, batch), wanted)


class Recorded(torch.nn.Module):
    """A network whose logits are the mean of 8x8 blocks; it notes the sizes of its inputs."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, images):
        self.sizes.append(tuple(images.shape[-2:]))
        return F.avg_pool2d(images, 8, ceil_mode=True)


@pytest.mark.parametrize("merge", ["logits", "mean", "max"])
@pytest.mark.parametrize("resize", ["logits", "aligned"])
def test_test_scales_are_merged_at_the_size_of_the_image(merge, resize):
    torch.manual_seed(0)
    net, images, aligned = Recorded(), 3 * torch.randn(1, 3, 33, 47), resize == "aligned"
    changes = {"test_scales": (0.5, 1.0), "test_merge": merge, "resize": resize, "flip": True}
    found = Predictor(net, dataclasses.replace(SMALL, **changes), CPU, None).logits(images)
    half = F.interpolate(images, (16, 24), mode="bicubic")
    assert net.sizes == [(16, 24), (16, 24), (33, 47), (33, 47)]
    parts = []
    for one in (half, images):
        mean = (net(one) + net(one.flip(-1)).flip(-1)) / 2
        parts.append(F.interpolate(mean, (33, 47), mode="bilinear", align_corners=aligned))
    if merge == "logits":
        wanted = torch.stack(parts).mean(0).softmax(1)
    else:
        chances = torch.stack([part.softmax(1) for part in parts])
        wanted = chances.mean(0) if merge == "mean" else chances.amax(0)
        wanted /= wanted.sum(1, keepdim=True)
    assert_close(found.softmax(1), wanted)


def test_aligned_logits_are_enlarged_at_inference():
    images = torch.randn(1, 3, 17, 25)
    recipe = dataclasses.replace(SMALL, resize="aligned", flip=False)
    found = Predictor(Recorded(), recipe, CPU, None).logits(images)
    small = F.avg_pool2d(images, 8, ceil_mode=True)
    assert_close(found, F.interpolate(small, (17, 25), mode="bilinear", align_corners=True))


def test_command_line_takes_the_numbers_of_a_preset():
    line = ["--data", "d", "--out", "o", "--preset", "advcam"]
    train = parse(COMMANDS["seg train"], [*line, "--masks", "m", "--recipe.lr", "0.1"])
    advcam = seg.PRESETS["advcam"].numbers
    assert train["recipe"] == dataclasses.replace(advcam, lr=0.1) and train["preset"] == "advcam"
    test = parse(COMMANDS["seg infer"], [*line[:-1], "resnet38-mctformer", "--weights", "w"])
    assert test["recipe"] == seg.PRESETS["resnet38-mctformer"].numbers


def test_a_preset_sets_the_backbone(shapes, true_masks, tmp_path):
    recipe = dataclasses.replace(SMALL, updates=1)
    options = {"preset": "shapes", "recipe": recipe, "precision": "fp32"}
    trained = seg.train(shapes, tmp_path, masks=true_masks, **options)
    some = shapes.only(shapes.ids[:2])
    assert seg.infer(some, trained.weights, tmp_path, crf=False, **options).predictions.is_dir()
    with pytest.raises(InputError, match="seg train: preset is 'deeplab'; must be one of deeplab-"):
        seg.train(shapes, tmp_path, masks=true_masks, preset="deeplab")
    with pytest.raises(InputError, match="preset 'advcam' is for backbone 'resnet101', got 'small"):
        seg.infer(shapes, trained.weights, tmp_path, preset="advcam", backbone="small")
    with pytest.raises(InputError, match="no such weights file; row advcam starts from ResNet-101"):
        seg.train(shapes, tmp_path, masks=true_masks, preset="advcam", weights="nowhere.pth")
    with pytest.raises(InputError, match="head: got 'seam', must be one of aspp, largefov"):
        seg.train(shapes, tmp_path, masks=true_masks, recipe=seg.Recipe(head="seam"))


def test_initial_weights_are_those_of_the_nearest_preset():
    changed = dataclasses.replace(seg.PRESETS["advcam"].numbers, updates=7, batch_size=3)
    (start,) = seg.starts_of("resnet101", changed)
    assert IMAGENET in start.what
    assert seg.starts_of("small", seg.RECIPES["small"]) == ()
