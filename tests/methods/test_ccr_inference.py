"""CCR's response maps as a stage, on a small data set."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from wsss_fast import InputError, ccr
from wsss_fast.maps import load_maps, strided_size

SMALL = ccr.RECIPES["small"]
BRIEF = dataclasses.replace(
    SMALL, erasing=dataclasses.replace(SMALL.erasing, scales=(1.0, 0.5), rounds=2)
)


def infer(data, weights, out, recipe=BRIEF, precision="fp32", **options):
    return ccr.infer(
        data, weights, out, backbone="small", recipe=recipe, precision=precision, **options
    ).maps


def test_maps_and_notes(shapes, classifier_weights, tmp_path):
    folder = infer(shapes, classifier_weights, tmp_path)
    assert folder == tmp_path / "ccr/maps"
    for id in shapes.ids:
        maps, keys = load_maps(folder, id), np.flatnonzero(shapes.tags_of(id)) + 1
        np.testing.assert_array_equal(maps.keys, keys)
        assert maps.high_res.shape == (len(keys), *shapes.size(id))
        assert maps.strided.shape[1:] == strided_size(*shapes.size(id))
        assert maps.high_res.min() >= 0 and maps.high_res.max() <= 1
    done = json.loads((folder / "done.json").read_text())
    assert len(done["notes"]["rounds"]) == 2 and sum(done["notes"]["rounds"]) >= 24
    assert done["arguments"]["erasing"]["masked_from"] == 0.7
    with pytest.raises(InputError, match="finished or started with other arguments"):
        infer(shapes, classifier_weights, tmp_path, SMALL)


def test_bf16_is_near_fp32(shapes, classifier_weights, tmp_path):
    """In one round: pixels at the threshold may be masked with one precision only."""
    some = shapes.only(shapes.ids[:4])
    erasing = dataclasses.replace(BRIEF.erasing, rounds=1)
    recipe = dataclasses.replace(BRIEF, erasing=erasing)
    bf16, fp32 = (
        infer(some, classifier_weights, tmp_path, recipe, precision, name=precision)
        for precision in ("bf16", "fp32")
    )
    for id in some.ids:
        # With random weights, maps near 0 are divided by a maximum near 0.
        difference = load_maps(bf16, id).high_res - load_maps(fp32, id).high_res
        assert 0 < np.abs(difference).mean() < 0.15


def test_bad_input_raises_before_anything_is_written(shapes, classifier_weights, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(
        InputError, match="backbone: got 'vgg', must be one of resnet50, resnet38, small"
    ):
        ccr.infer(shapes, classifier_weights, out, backbone="vgg")
    with pytest.raises(InputError, match="no such weights file"):
        infer(shapes, tmp_path / "nowhere.pth", out)
    state = torch.load(classifier_weights, weights_only=True)
    head = state["head.weight"]
    for value, message in (
        (torch.nan, r"nan\.pth: the tensor head\.weight has .* NaN"),
        (3e38, "ccr: the classifier's maps of .* are not finite"),
    ):
        state["head.weight"] = torch.full_like(head, value)
        torch.save(state, tmp_path / f"{value}.pth")
        with pytest.raises(InputError, match=message):
            infer(shapes, tmp_path / f"{value}.pth", out, precision="auto")
    assert not list(out.rglob("*.*"))
