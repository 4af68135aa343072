"""Predictions of the segmentation network on a small data set."""

import dataclasses

import numpy as np
import pytest
import torch
from brief import brief
from torch.testing import assert_close

from wsss_fast import InputError, data, evaluate, nets, seg
from wsss_fast.data import read_labels
from wsss_fast.engine.runtime import resolve_runtime
from wsss_fast.seg.recipe import network

BRIEF = brief(seg.RECIPES["small"], 64, updates=4)
CPU = resolve_runtime("cpu", 0, 0, "fp32", prefer_bf16=False)


@pytest.fixture(scope="module")
def trained(shapes, true_masks, tmp_path_factory):
    return seg.train(
        shapes,
        tmp_path_factory.mktemp("seg"),
        masks=true_masks,
        backbone="small",
        recipe=BRIEF,
        precision="fp32",
    ).weights


@pytest.fixture(scope="module")
def net(shapes, trained):
    net = nets.deeplabv2_resnet101(len(shapes.classes), backbone="small")
    return nets.load_weights(net, trained, complete=True).eval()


def infer(shapes, weights, out, recipe=BRIEF, **options):
    return seg.infer(
        shapes, weights, out, backbone="small", recipe=recipe, precision="fp32", **options
    ).predictions


def test_predictions_and_probabilities_of_validation_images(shapes, trained, tmp_path):
    val = data.load(shapes.root, split="val")
    folder = infer(val, trained, tmp_path, probabilities=True)
    files = {f"{id}.{suffix}" for id in val.ids for suffix in ("png", "npy")}
    assert {p.name for p in folder.glob("*.*")} == {"done.json", "classes.json", *files}
    for id in val.ids:
        labels = read_labels(folder / f"{id}.png", len(val.classes))
        scores = np.load(folder / f"{id}.npy")
        assert scores.shape == (len(val.classes) + 1, *val.size(id))
        assert scores.dtype == np.float16
        np.testing.assert_allclose(scores.astype(np.float32).sum(0), 1, atol=5e-3)
        predicted = np.take_along_axis(scores, labels[None].astype(int), 0)[0]
        assert (predicted >= scores.max(0)).all()
    assert evaluate(folder, val).images == len(val)


def test_only_batches_with_missing_images_are_predicted_again(shapes, trained, tmp_path):
    """Whole batches: the last bits of a network may depend on the other images of a pass."""
    some, in_pairs = shapes.only(shapes.ids[:5]), dataclasses.replace(BRIEF, infer_batch=2)
    folder = infer(some, trained, tmp_path, in_pairs)
    before = {i: read_labels(folder / f"{i}.png") for i in some.ids}
    kept = (folder / f"{some.ids[0]}.png").stat().st_mtime_ns
    (folder / f"{some.ids[3]}.png").unlink()
    infer(some, trained, tmp_path, in_pairs)
    assert (folder / f"{some.ids[0]}.png").stat().st_mtime_ns == kept
    for id, labels in before.items():
        np.testing.assert_array_equal(read_labels(folder / f"{id}.png"), labels)


def test_flip_averages_with_the_mirror_image(shapes, net):
    photo = shapes.image(shapes.ids[0])
    recipe = dataclasses.replace(BRIEF, flip=True)
    mirror_image = np.ascontiguousarray(photo[:, ::-1])
    straight, mirrored = (
        seg.predict(net, photos[None], recipe, CPU, None) for photos in (photo, mirror_image)
    )
    assert_close(mirrored.flip(-1), straight, rtol=1e-4, atol=1e-5)
    single = seg.predict(net, photo[None], dataclasses.replace(recipe, flip=False), CPU, None)
    assert not torch.allclose(single, straight, atol=1e-4)


@pytest.mark.parametrize("crf", [BRIEF.crf, None])
def test_odd_sizes_with_and_without_crf(shapes, net, crf):
    photo = shapes.image(shapes.ids[0])[:47, :61]
    q = seg.predict(net, photo[None], BRIEF, CPU, crf)
    assert q.shape == (1, len(shapes.classes) + 1, 47, 61)
    assert_close(q.sum(1), torch.ones(1, 47, 61), rtol=0, atol=1e-4)


def test_bad_input_raises_before_anything_is_written(shapes, trained, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(InputError, match="no such weights file"):
        infer(shapes, tmp_path / "nowhere.pth", out)
    with pytest.raises(InputError, match="infer_batch must be >= 1, got 0"):
        infer(shapes, trained, out, dataclasses.replace(BRIEF, infer_batch=0))
    classifier = nets.cam_resnet50(len(shapes.classes), backbone="small")
    nets.save_weights(classifier, tmp_path / "cam.pth")
    with pytest.raises(
        InputError, match=r"cam\.pth: these weights do not fit DeepLabV2 .*aspp\.weight"
    ):
        infer(shapes, tmp_path / "cam.pth", out)
    assert not out.exists()


@pytest.mark.parametrize("crf", [False, True])
def test_scores_that_are_not_finite_are_named_and_not_written(shapes, tmp_path, crf):
    net = network(shapes, "small", BRIEF)
    with torch.no_grad():
        for weight in net.parameters():
            weight.fill_(1e30)  # finite, as files must be; the scores are not
    nets.save_weights(net, tmp_path / "large.pth")
    with pytest.raises(InputError, match="NaN or infinite"):
        seg.infer(shapes, tmp_path / "large.pth", tmp_path, backbone="small", recipe=BRIEF, crf=crf)
    assert not list(tmp_path.rglob("*.png"))
