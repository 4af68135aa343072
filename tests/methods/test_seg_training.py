"""Training of the segmentation network on a small data set."""

import dataclasses

import numpy as np
import pytest
import torch
from brief import brief
from torch.nn import functional as F
from torch.testing import assert_close

from wsss_fast import InputError, evaluate, nets, seg
from wsss_fast.data.transforms import resize_labels
from wsss_fast.engine.ddp import TrainStepModule
from wsss_fast.engine.fit import _update
from wsss_fast.engine.runtime import resolve_runtime
from wsss_fast.readers.label_maps import write_labels
from wsss_fast.seg.training import _step

SMALL = seg.RECIPES["small"]
BRIEF = brief(SMALL, 64, updates=4)
CPU = resolve_runtime("cpu", 0, 0, "fp32", prefer_bf16=False)


def train(shapes, out, masks, recipe=BRIEF, **options):
    return seg.train(
        shapes, out, masks=masks, backbone="small", recipe=recipe, precision="fp32", **options
    )


def weights_of(path):
    return torch.load(path, weights_only=True)


def test_training_reduces_the_loss_and_raises_the_miou(shapes, true_masks, tmp_path):
    recipe = dataclasses.replace(BRIEF, updates=60)
    trained = train(shapes, tmp_path, true_masks, recipe)
    assert trained.losses[-1] < 0.7 * trained.losses[0]
    torch.manual_seed(0)
    untrained = nets.deeplabv2_resnet101(len(shapes.classes), backbone="small")
    nets.save_weights(untrained, tmp_path / "untrained.pth")
    mious = []
    for weights, name in ((trained.weights, "trained"), (tmp_path / "untrained.pth", "untrained")):
        options = {"backbone": "small", "recipe": recipe, "crf": False, "precision": "fp32"}
        result = seg.infer(shapes, weights, tmp_path, name=name, **options)
        mious.append(evaluate(result.predictions, shapes).miou)
    assert mious[0] > mious[1] + 0.05


def test_same_seed_gives_same_weights(shapes, true_masks, tmp_path):
    first, again, other = (
        weights_of(train(shapes, tmp_path / str(n), true_masks, seed=seed).weights)
        for n, seed in enumerate((0, 0, 1))
    )
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["aspp.weight"], other["aspp.weight"])


def test_loss_is_the_sum_over_scales_and_their_maximum():
    torch.manual_seed(0)
    net = nets.deeplabv2_resnet101(3, backbone="small").train()
    images, mask = torch.randn(2, 3, 65, 65), torch.randint(0, 4, (2, 65, 65), dtype=torch.uint8)
    mask[:, :20] = 255
    net.backbone.eval()
    truth = 0.0
    for logits in net(images):
        resized = np.stack([resize_labels(m.numpy(), *logits.shape[-2:]) for m in mask])
        truth += F.cross_entropy(logits, torch.from_numpy(resized).long(), ignore_index=255)
    batch = {"image": images, "mask": mask}
    assert_close(_step(seg.RECIPES["resnet101"])(net, batch), truth)
    enlarged = [F.interpolate(logits, (65, 65), mode="bilinear") for logits in net(images)]
    assert SMALL.resize == "logits"
    assert_close(
        _step(SMALL)(net, batch),
        sum(F.cross_entropy(x, mask.long(), ignore_index=255) for x in enlarged),
    )


def test_accumulation_gives_the_mean_loss_and_gradient_of_the_parts():
    torch.manual_seed(0)
    net = nets.deeplabv2_resnet101(3, backbone="small").train()
    net.backbone.eval()
    batch = {
        "image": torch.randn(4, 3, 64, 64),
        "mask": torch.randint(0, 4, (4, 64, 64), dtype=torch.uint8),
    }
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    step = _step(SMALL)
    loss = _update(TrainStepModule(net, step), batch, optimizer, CPU, 2)
    gradient = net.aspp.weight.grad.clone()
    halves = [{k: v[i : i + 2] for k, v in batch.items()} for i in (0, 2)]
    net.zero_grad()
    mean = sum(step(net, half) for half in halves) / 2
    mean.backward()
    assert_close(loss, mean.detach())
    assert_close(net.aspp.weight.grad, gradient)


def test_published_numbers_with_the_full_size_network(shapes, true_masks, tmp_path):
    published = seg.RECIPES["resnet101"]
    assert (published.updates, published.batch_size, published.lr) == (20000, 10, 2.5e-4)
    assert published.optimizer.weight_decay == 5e-4 and published.augment.crop == 321
    assert published.crf.bilateral == (67, 3, 4) and published.crf.gaussian == (1, 3)
    some = shapes.only(shapes.ids[:2])
    augment = dataclasses.replace(published.augment, crop=65)
    recipe = dataclasses.replace(published, updates=1, batch_size=2, augment=augment)
    trained = seg.train(some, tmp_path, masks=true_masks, recipe=recipe)
    folder = seg.infer(some, trained.weights, tmp_path, recipe=recipe).predictions
    assert len(list(folder.glob("*.png"))) == 2


def test_training_starts_from_a_classifier(shapes, true_masks, tmp_path):
    classifier = nets.cam_resnet50(len(shapes.classes), backbone="small")
    nets.save_weights(classifier, tmp_path / "cam.pth")
    recipe = dataclasses.replace(BRIEF, lr=0.0)
    trained = train(shapes, tmp_path, true_masks, recipe, weights=tmp_path / "cam.pth")
    weight = weights_of(trained.weights)["backbone.conv1.weight"]
    assert torch.equal(weight, classifier.backbone.conv1.weight)


def test_bad_input_raises_before_anything_is_written(shapes, true_masks, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(InputError, match="masks: .* has no PNG for 24 of 24 ids"):
        train(shapes, out, tmp_path)
    known = "resnet101, vgg16, resnet38, small"
    with pytest.raises(InputError, match=f"backbone: got 'resnet50', must be one of {known}"):
        seg.train(shapes, out, masks=true_masks, backbone="resnet50")
    with pytest.raises(InputError, match="a batch of 8 cannot be divided into 3"):
        train(shapes, out, true_masks, dataclasses.replace(BRIEF, accumulate=3))
    with pytest.raises(InputError, match=r"scales: got \(0.5, -1\)"):
        train(shapes, out, true_masks, dataclasses.replace(BRIEF, scales=(0.5, -1)))
    with pytest.raises(InputError, match="updates and batch size must be >= 1, got 0 and 8"):
        train(shapes, out, true_masks, dataclasses.replace(BRIEF, updates=0))
    for id in shapes.ids:
        write_labels(tmp_path / "large" / f"{id}.png", np.zeros((80, 80)))
    with pytest.raises(
        InputError, match=r"large/train_\d+\.png: is 80x80 pixels .*, but its image .* is 64x64"
    ):
        train(shapes, out, tmp_path / "large")
    assert not out.exists()
