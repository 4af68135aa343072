"""The segmentation stage on a tiny benchmark, and its parts."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from wsss_fast import InputError, data, evaluate, nets, seg
from wsss_fast.data import read_labels
from wsss_fast.data.images import write_labels
from wsss_fast.data.transforms import resize_labels
from wsss_fast.engine.ddp import TrainStepModule
from wsss_fast.engine.fit import _update
from wsss_fast.engine.runtime import runtime

SMALL = seg.RECIPES["small"]
QUICK = dataclasses.replace(
    SMALL, updates=4, batch_size=8, augment=dataclasses.replace(SMALL.augment, crop=64)
)
CPU = runtime("cpu", 0, 0, "fp32", prefer_bf16=False)


@pytest.fixture(scope="module")
def masks(shapes, tmp_path_factory):
    """The true masks as a folder of pseudo-masks."""
    folder = tmp_path_factory.mktemp("masks")
    for id in shapes.ids:
        write_labels(folder / f"{id}.png", shapes.mask(id))
    return folder


def train(shapes, out, masks, recipe=QUICK, **options):
    return seg.train(
        shapes, out, masks=masks, backbone="small", recipe=recipe, precision="fp32", **options
    )


@pytest.fixture(scope="module")
def trained(shapes, masks, tmp_path_factory):
    return train(shapes, tmp_path_factory.mktemp("seg"), masks).weights


def infer(shapes, weights, out, recipe=QUICK, **options):
    return seg.infer(
        shapes, weights, out, backbone="small", recipe=recipe, precision="fp32", **options
    ).predictions


def test_predictions_of_images_it_has_not_seen(shapes, trained, tmp_path):
    unseen = data.load(shapes.root, split="val")
    folder = infer(unseen, trained, tmp_path, probabilities=True)
    assert {p.name for p in folder.glob("*.*")} == {
        "done.json",
        *(f"{i}.{e}" for i in unseen.ids for e in ("png", "npy")),
    }
    for id in unseen.ids:
        labels, scores = (
            read_labels(folder / f"{id}.png", len(unseen.classes)),
            np.load(folder / f"{id}.npy"),
        )
        assert (
            scores.shape == (len(unseen.classes) + 1, *unseen.size(id))
            and scores.dtype == np.float16
        )
        np.testing.assert_allclose(scores.astype(np.float32).sum(0), 1, atol=5e-3)
        picked = np.take_along_axis(scores, labels[None].astype(int), 0)[0]
        assert (picked >= scores.max(0)).all()
    assert evaluate(folder, unseen).images == len(unseen)


def test_finished_images_are_not_made_again(shapes, trained, tmp_path):
    """Whole batches are: a network's last bits may depend on what shares its pass."""
    some, pairs = shapes.only(shapes.ids[:5]), dataclasses.replace(QUICK, infer_batch=2)
    folder = infer(some, trained, tmp_path, pairs)
    before = {i: read_labels(folder / f"{i}.png") for i in some.ids}
    kept = (folder / f"{some.ids[0]}.png").stat().st_mtime_ns
    (folder / "done.json").unlink()
    (folder / f"{some.ids[3]}.png").unlink()
    infer(some, trained, tmp_path, pairs)
    assert (folder / f"{some.ids[0]}.png").stat().st_mtime_ns == kept
    for id, labels in before.items():
        np.testing.assert_array_equal(read_labels(folder / f"{id}.png"), labels)


def test_it_learns_what_the_masks_say(shapes, masks, tmp_path):
    recipe = dataclasses.replace(QUICK, updates=60)
    made = train(shapes, tmp_path, masks, recipe)
    assert made.losses[-1] < 0.7 * made.losses[0]
    learned = evaluate(infer(shapes, made.weights, tmp_path, recipe, crf=False), shapes).miou
    torch.manual_seed(0)
    fresh = nets.deeplabv2_resnet101(len(shapes.classes), backbone="small")
    nets.save_weights(fresh, tmp_path / "fresh.pth")
    unlearned = infer(shapes, tmp_path / "fresh.pth", tmp_path, recipe, crf=False, name="fresh")
    assert learned > evaluate(unlearned, shapes).miou + 0.05


def test_same_seed_same_weights(shapes, masks, trained, tmp_path):
    def values(path):
        return torch.load(path, weights_only=True)

    one, again = values(trained), values(train(shapes, tmp_path / "a", masks).weights)
    assert all(torch.equal(one[k], again[k]) for k in one)
    other = values(train(shapes, tmp_path / "b", masks, seed=1).weights)
    assert not torch.equal(one["aspp.weight"], other["aspp.weight"])


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
    assert_close(seg.method._step(seg.RECIPES["resnet101"])(net, batch), truth)
    enlarged = [F.interpolate(logits, (65, 65), mode="bilinear") for logits in net(images)]
    fine = dataclasses.replace(SMALL, resize="logits")
    assert_close(
        seg.method._step(fine)(net, batch),
        sum(F.cross_entropy(x, mask.long(), ignore_index=255) for x in enlarged),
    )


def test_accumulation_is_the_mean_of_the_parts_losses():
    torch.manual_seed(0)
    net = nets.deeplabv2_resnet101(3, backbone="small").train()
    net.backbone.eval()
    batch = {
        "image": torch.randn(4, 3, 64, 64),
        "mask": torch.randint(0, 4, (4, 64, 64), dtype=torch.uint8),
    }
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    step = seg.method._step(SMALL)
    loss = _update(TrainStepModule(net, step), batch, optimizer, CPU, 2)
    gradient = net.aspp.weight.grad.clone()
    halves = [{k: v[i : i + 2] for k, v in batch.items()} for i in (0, 2)]
    net.zero_grad()
    mean = sum(step(net, half) for half in halves) / 2
    mean.backward()
    assert_close(loss, mean.detach())
    assert_close(net.aspp.weight.grad, gradient)


def test_flip_averages_with_the_mirror_image(shapes, trained):
    net = nets.load_weights(
        nets.deeplabv2_resnet101(len(shapes.classes), backbone="small"), trained, complete=True
    ).eval()
    photo = shapes.image(shapes.ids[0])
    recipe = dataclasses.replace(QUICK, flip=True)
    mirror_image = np.ascontiguousarray(photo[:, ::-1])
    ours, mirrored = (
        seg.predict(net, photos[None], recipe, CPU, None) for photos in (photo, mirror_image)
    )
    assert_close(mirrored.flip(-1), ours, rtol=1e-4, atol=1e-5)
    single = dataclasses.replace(recipe, flip=False)
    assert not torch.allclose(seg.predict(net, photo[None], single, CPU, None), ours, atol=1e-4)


def test_odd_sizes_and_the_crf(shapes, trained):
    net = nets.load_weights(
        nets.deeplabv2_resnet101(len(shapes.classes), backbone="small"), trained, complete=True
    ).eval()
    photo = shapes.image(shapes.ids[0])[:47, :61]
    for crf in (QUICK.crf, None):
        q = seg.predict(net, photo[None], QUICK, CPU, crf)
        assert q.shape == (1, len(shapes.classes) + 1, 47, 61)
        assert_close(q.sum(1), torch.ones(1, 47, 61), rtol=0, atol=1e-4)


def test_the_published_numbers_and_a_run_of_the_full_network(shapes, masks, tmp_path):
    paper = seg.RECIPES["resnet101"]
    assert (paper.updates, paper.batch_size, paper.lr, paper.optimizer.weight_decay) == (
        20000,
        10,
        2.5e-4,
        5e-4,
    )
    assert (
        paper.augment.crop == 321
        and paper.crf.bilateral == (67, 3, 4)
        and paper.crf.gaussian == (1, 3)
    )
    some = shapes.only(shapes.ids[:2])
    recipe = dataclasses.replace(
        paper, updates=1, batch_size=2, augment=dataclasses.replace(paper.augment, crop=65)
    )
    before = torch.random.get_rng_state()
    made = seg.train(some, tmp_path, masks=masks, recipe=recipe)
    torch.random.set_rng_state(before)
    folder = seg.infer(some, made.weights, tmp_path, recipe=recipe).predictions
    assert len(list(folder.glob("*.png"))) == 2


def test_it_starts_from_a_classifier(shapes, masks, tmp_path):
    classifier = nets.cam_resnet50(len(shapes.classes), backbone="small")
    nets.save_weights(classifier, tmp_path / "cam.pth")
    made = train(
        shapes, tmp_path, masks, dataclasses.replace(QUICK, lr=0.0), weights=tmp_path / "cam.pth"
    )
    assert torch.equal(
        torch.load(made.weights, weights_only=True)["backbone.conv1.weight"],
        classifier.backbone.conv1.weight,
    )


def test_bad_input_stops_before_anything_is_written(shapes, masks, trained, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(InputError, match="masks: .* has no PNG for 24 of 24 ids"):
        train(shapes, out, tmp_path)
    with pytest.raises(
        InputError, match="backbone: got 'resnet50', must be one of resnet101, small"
    ):
        seg.train(shapes, out, masks=masks, backbone="resnet50")
    with pytest.raises(InputError, match="a batch of 8 cannot be divided into 3"):
        train(shapes, out, masks, dataclasses.replace(QUICK, accumulate=3))
    with pytest.raises(InputError, match=r"scales: got \(0.5, -1\)"):
        train(shapes, out, masks, dataclasses.replace(QUICK, scales=(0.5, -1)))
    with pytest.raises(InputError, match="updates and batch size must be >= 1, got 0 and 8"):
        train(shapes, out, masks, dataclasses.replace(QUICK, updates=0))
    with pytest.raises(InputError, match="no such weights file"):
        infer(shapes, tmp_path / "nowhere.pth", out)
    with pytest.raises(InputError, match="infer_batch must be >= 1, got 0"):
        infer(shapes, trained, out, dataclasses.replace(QUICK, infer_batch=0))
    nets.save_weights(
        nets.cam_resnet50(len(shapes.classes), backbone="small"), tmp_path / "cam.pth"
    )
    with pytest.raises(
        InputError, match=r"cam\.pth: these weights do not fit DeepLabV2 .*aspp\.weight"
    ):
        infer(shapes, tmp_path / "cam.pth", out)
    for id in shapes.ids:
        write_labels(tmp_path / "large" / f"{id}.png", np.zeros((80, 80)))
    with pytest.raises(
        InputError, match=r"large/train_\d+\.png: is \(80, 80\), but its image .* is \(64, 64\)"
    ):
        train(shapes, out, tmp_path / "large")
    assert not out.exists()
