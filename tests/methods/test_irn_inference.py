"""Refinement of class maps by IRN on a small data set."""

import dataclasses

import numpy as np
import pytest
import torch
from brief import brief
from irn_inputs import train, write_inputs
from labels_at import label_index

from wsss_fast import InputError, cam, irn
from wsss_fast.data import read_labels
from wsss_fast.irn.inference import load_maps_for
from wsss_fast.maps import ClassMaps, load_maps, save_maps, strided_size, to_labels

BRIEF = brief(irn.RECIPES["small"], 64, epochs=1, radius=4)


@pytest.fixture(scope="module")
def inputs(shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("irn")
    write_inputs(shapes, out)
    return out


@pytest.fixture(scope="module")
def weights(shapes, inputs):
    return train(shapes, inputs, inputs / "run", BRIEF).weights


def infer(data, weights, out, maps, recipe=BRIEF):
    return irn.infer(data, weights, out, maps=maps, backbone="small", recipe=recipe)


def test_refined_maps_and_masks(shapes, inputs, weights, tmp_path):
    result = infer(shapes, weights, tmp_path, inputs / "maps")
    for id in shapes.ids:
        maps, keys = load_maps(result.maps, id), np.flatnonzero(shapes.tags_of(id)) + 1
        np.testing.assert_array_equal(maps.keys, keys)
        assert maps.high_res.shape == (len(keys), *shapes.size(id))
        assert maps.strided.shape[1:] == strided_size(*shapes.size(id))
        assert maps.high_res.min() >= 0 and maps.high_res.max() == 1
        expected = to_labels(label_index(maps.high_res, BRIEF.threshold), maps.keys)
        np.testing.assert_array_equal(read_labels(result.masks / f"{id}.png"), expected)
    assert not list(tmp_path.rglob("*.tmp*")) and not list(tmp_path.rglob("begun.json"))


def test_maps_without_a_background_row(shapes, inputs, weights, tmp_path):
    some = shapes.only(shapes.ids[:3])
    cams = cam.infer(some, inputs / "cam.pth", tmp_path, backbone="small")
    result = infer(some, weights, tmp_path, cams.maps)
    assert len(list(result.masks.glob("*.png"))) == 3


def test_maps_of_no_class_may_have_any_size(shapes, tmp_path):
    """Public files of an image without a class hold no maps that would tell it."""
    id = shapes.ids[0]
    for keys, size in (((), (1, 1)), ((3,), strided_size(*shapes.size(id)))):
        maps = ClassMaps(np.array(keys, np.int16), np.zeros((len(keys), *size), np.float32))
        save_maps(tmp_path, id, maps)
        assert load_maps_for(tmp_path, shapes, id).keys.tolist() == list(keys)
    save_maps(tmp_path, id, ClassMaps(np.array([3]), np.zeros((1, 1, 1), np.float32)))
    with pytest.raises(InputError, match="strided maps are"):
        load_maps_for(tmp_path, shapes, id)


@pytest.mark.parametrize(
    ("height", "width", "pad", "padded"),
    [
        (40, 60, 512, (512, 512)),
        (520, 512, 512, (1024, 512)),
        (41, 61, 1, (41, 61)),
    ],
)
def test_images_are_padded_not_cropped(height, width, pad, padded):
    def network(images):
        assert images.shape[-2:] == padded
        return images.new_zeros(2, 1, *strided_size(*padded)), None

    edge = irn.boundaries(network, torch.zeros(2, 3, height, width), pad)
    assert edge.shape == (1, *strided_size(height, width)) and (edge == 0.5).all()


def test_walk_without_classes_with_boundaries_everywhere_and_with_negative_scores():
    recipe, size = irn.RECIPES["resnet50"], (13, 17)
    empty = ClassMaps(np.zeros(0, np.int16), np.zeros((0, 4, 5), np.float32))
    assert irn.walk_maps(empty, torch.zeros(4, 5), size, recipe).high_res.shape == (0, *size)
    maps = ClassMaps(np.array([3], np.int16), np.ones((1, 4, 5), np.float32))
    blocked = irn.walk_maps(maps, torch.ones(4, 5), size, recipe)
    assert (blocked.high_res == 0).all() and (blocked.strided == 0).all()
    # -1e-3 to the power 1.3 would be NaN.
    scores = maps.strided * np.array([-1e-3, 1, 1, 1, 1], np.float32)
    walked = irn.walk_maps(ClassMaps(maps.keys, scores), torch.zeros(4, 5), size, recipe)
    assert np.isfinite(walked.high_res).all()


def test_bad_input_raises_before_anything_is_written(shapes, inputs, weights, tmp_path):
    out, maps = tmp_path / "run", inputs / "maps"
    with pytest.raises(InputError, match="maps: .*nowhere is not a directory"):
        infer(shapes, weights, out, tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"missing: .*edge\.0\.0\.weight"):
        infer(shapes, inputs / "cam.pth", out, maps)
    with pytest.raises(InputError, match="threshold in 0..1, got 1, 1.3 and 2"):
        infer(shapes, weights, out, maps, dataclasses.replace(BRIEF, threshold=2))
    for id in shapes.ids:
        save_maps(tmp_path / "odd", id, ClassMaps(np.array([1]), np.zeros((1, 5, 5), np.float32)))
    with pytest.raises(
        InputError, match=r"npz: strided maps are \(5, 5\), but the image needs \(16, 16\)"
    ):
        infer(shapes, weights, out, tmp_path / "odd")
    assert not out.exists()


def test_published_recipe_with_the_full_size_network(shapes, inputs, tmp_path):
    some, published = shapes.only(shapes.ids[:2]), irn.RECIPES["resnet50"]
    augment = dataclasses.replace(published.augment, crop=80)
    recipe = dataclasses.replace(published, epochs=1, batch_size=2, augment=augment, pad=80)
    trained = irn.train(some, tmp_path, seeds=inputs / "seeds", recipe=recipe)
    result = irn.infer(some, trained.weights, tmp_path, maps=inputs / "maps", recipe=recipe)
    assert len(list(result.masks.glob("*.png"))) == 2
