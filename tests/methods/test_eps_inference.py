"""EPS' class maps and pseudo-masks on a small data set, with and without CRF refinement."""

import dataclasses

import numpy as np
import pytest
from brief import brief
from labels_at import label_index

from wsss_fast import InputError, cam, eps
from wsss_fast.data import read_labels
from wsss_fast.eps import alpha_crf
from wsss_fast.eps.alpha_crf import AlphaCrf
from wsss_fast.maps import load_maps, strided_size, to_labels

BRIEF = brief(eps.RECIPES["small"], 64, updates=4, scales=(1.0, 0.5))


@pytest.fixture(scope="module")
def weights(shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("eps")
    return eps.train(shapes, out, backbone="small", recipe=BRIEF, precision="fp32").weights


def infer(data, weights, out, **options):
    return eps.infer(
        data, weights, out, backbone="small", recipe=BRIEF, precision="fp32", **options
    )


def test_maps_and_masks(shapes, weights, tmp_path):
    result = infer(shapes, weights, tmp_path)
    for id in shapes.ids:
        maps, keys = load_maps(result.maps, id), np.flatnonzero(shapes.tags_of(id)) + 1
        np.testing.assert_array_equal(maps.keys, keys)
        assert maps.high_res.shape == (len(keys), *shapes.size(id))
        assert maps.strided.shape[1:] == strided_size(*shapes.size(id))
        assert maps.high_res.min() >= 0 and np.abs(maps.high_res.max(axis=(1, 2)) - 1).max() < 1e-3
        expected = to_labels(label_index(maps.high_res, BRIEF.threshold), maps.keys)
        np.testing.assert_array_equal(read_labels(result.masks / f"{id}.png"), expected)
    assert not list(tmp_path.rglob("*.tmp*")) and not list(tmp_path.rglob("begun.json"))


def test_masks_after_crf_refinement(shapes, weights, tmp_path):
    some = shapes.only(shapes.ids[:3])
    refined = infer(some, weights, tmp_path, crf=True)
    for id in some.ids:
        maps, mask = load_maps(refined.maps, id), read_labels(refined.masks / f"{id}.png")
        q = BRIEF.crf.refine_maps(some.image(id)[None], maps.high_res[None])[0]
        np.testing.assert_array_equal(mask, to_labels(q.argmax(dim=0).numpy(), maps.keys))
    plain = infer(some, weights, tmp_path)
    # Both kinds of masks fit into one run folder.
    assert plain.maps == refined.maps and plain.masks != refined.masks


def test_background_score_falls_with_alpha():
    image = np.full((1, 16, 16, 3), 128, np.uint8)
    scores = np.linspace(0, 1, 16, dtype=np.float32).repeat(16).reshape(1, 1, 16, 16)
    # Weights so small that the CRF does not change the unaries.
    weak = AlphaCrf(gaussian=(1.0, 1e-3), bilateral=(1.0, 1.0, 1e-3), iterations=1)
    for alpha in (1.0, 4.0, 32.0):
        labels = dataclasses.replace(weak, alpha=alpha).refine_maps(image, scores).argmax(dim=1)
        np.testing.assert_array_equal(labels[0] == 1, scores[0, 0] > (1 - scores[0, 0]) ** alpha)


def test_image_without_tags_is_background(shapes, tmp_path):
    tags = shapes.tags.copy()
    tags[:2] = 0
    untagged = dataclasses.replace(shapes, tags=tags)
    trained = eps.train(untagged, tmp_path, backbone="small", recipe=BRIEF)
    assert np.isfinite(trained.losses).all()
    for crf in (False, True):
        result = infer(untagged, trained.weights, tmp_path / str(crf), crf=crf)
        assert (read_labels(result.masks / f"{shapes.ids[0]}.png") == 0).all()
        assert load_maps(result.maps, shapes.ids[0]).high_res.shape == (0, 64, 64)


def test_bad_input_raises_before_anything_is_written(shapes, weights, tmp_path):
    maps, out = infer(shapes, weights, tmp_path / "maps").maps, tmp_path / "run"
    with pytest.raises(InputError, match="is an EPS network, but a CAM classifier is needed"):
        cam.infer(shapes, weights, out, backbone="small")
    with pytest.raises(InputError, match="alpha must be > 0, got 0"):
        alpha_crf.make(shapes, maps, out, crf=AlphaCrf(alpha=0))
    assert not out.exists()
