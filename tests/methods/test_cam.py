"""The CAM classifier: its maps, its networks, and its training on a small data set."""

import numpy as np
import pytest
import torch
from brief import brief

from wsss_fast import InputError, cam, data
from wsss_fast.maps import load_maps
from wsss_fast.stages.activate import Views

BRIEF = brief(cam.RECIPES["small"], 64, epochs=1)


def test_training_and_inference(shapes, tmp_path):
    options = {"backbone": "small", "recipe": BRIEF, "precision": "fp32"}
    trained = cam.train(shapes, tmp_path, val=data.load(shapes.root, split="val"), **options)
    assert len(trained.losses) == 1 and 0 < trained.mean_ap <= 1
    result = cam.infer(shapes, trained.weights, tmp_path, **options)
    for id in shapes.ids:
        maps = load_maps(result.maps, id)
        np.testing.assert_array_equal(maps.keys, np.flatnonzero(shapes.tags_of(id)) + 1)
        assert maps.high_res.shape[1:] == shapes.size(id)


def test_mean_average_precision_is_that_of_the_validation_set(shapes, tmp_path):
    """Another validation set changes it, and not the training."""
    val = data.load(shapes.root, split="val")
    options = {"backbone": "small", "recipe": BRIEF, "precision": "fp32"}

    def score(out, val):
        return cam.train(shapes, tmp_path / out, val=val, **options).mean_ap

    found = [score("one", v) for v in (None, val, shapes, val)]
    weights = (tmp_path / "one/cam/weights.pth").stat().st_mtime_ns
    assert found[0] is None and found[1] == found[3] != found[2] == score("other", shapes)
    assert (tmp_path / "one/cam/weights.pth").stat().st_mtime_ns == weights


def test_updates_replace_epochs(shapes, tmp_path):
    recipe = brief(cam.RECIPES["small"], 64, epochs=100, updates=4)
    trained = cam.train(shapes, tmp_path, backbone="small", recipe=recipe, precision="fp32")
    assert len(trained.losses) == 2  # of three updates, and of one
    assert trained.mean_ap is None


def views_of(size, tags):
    """A batch of one image without views, since networks' outputs are given."""
    return Views(("image",), torch.tensor([tags]), (), size)


def test_maps_are_of_present_classes_with_their_labels():
    outputs = [torch.rand(2, 3, 4, 5), torch.rand(2, 3, 8, 10)]
    (maps,) = cam.relative_maps(views_of((8, 10), [1.0, 0.0, 1.0]), outputs)
    assert maps.keys == (1, 3)
    both = [output[0] + output[1].flip(-1) for output in outputs]
    resized = torch.nn.functional.interpolate(both[0][None], (8, 10), mode="bilinear")[0]
    summed = (resized + both[1])[[0, 2]]
    expected = summed / (summed.amax(dim=(1, 2), keepdim=True) + 1e-5)
    np.testing.assert_allclose(maps.high_res, expected, rtol=1e-5)


def test_aligned_maps_are_resized_to_a_multiple_and_cropped():
    output = torch.rand(2, 1, 2, 2)
    (maps,) = cam.relative_maps(views_of((13, 17), [1.0]), [output], align=16)
    both = output[:1] + output[1:].flip(-1)
    resized = torch.nn.functional.interpolate(both, (16, 32), mode="bilinear")[0]
    expected = resized[:, :13, :17] / (resized[:, :13, :17].amax() + 1e-5)
    np.testing.assert_allclose(maps.high_res, expected, rtol=1e-5)
    assert maps.strided.shape == (1, 4, 5)


def test_maps_without_tags_are_empty():
    (maps,) = cam.relative_maps(views_of((16, 16), [0.0, 0.0]), [torch.rand(2, 2, 4, 4)])
    assert maps.keys == () and maps.high_res.shape == (0, 16, 16)
    assert maps.strided.shape == (0, 4, 4)


def test_unknown_backbone_raises(shapes):
    with pytest.raises(InputError, match="backbone: got 'vgg', must be one of resnet50, resnet38"):
        cam.network(shapes, "vgg")
