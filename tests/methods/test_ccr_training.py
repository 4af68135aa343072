"""CCR's segmentation training with saliency maps, on a small data set."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from brief import brief
from torch.testing import assert_close

from wsss_fast import InputError, ccr, data, nets, ops, seg
from wsss_fast.ccr.training import _extra_loss, _levels
from wsss_fast.maps import ClassMaps, load_maps, save_maps
from wsss_fast.seg.training import _step

SEG = brief(seg.RECIPES["small"], 64, updates=2)
REFINEMENT = ccr.Refinement(seg=SEG)


@pytest.fixture(scope="module")
def response_maps(shapes, tmp_path_factory):
    """Random response maps."""
    folder, rng = tmp_path_factory.mktemp("maps"), np.random.default_rng(0)
    for id in shapes.ids:
        keys = np.flatnonzero(shapes.tags_of(id)) + 1
        scores = rng.random((len(keys), *shapes.size(id)), np.float32)
        save_maps(folder, id, ClassMaps(keys, scores[:, ::4, ::4], scores))
    return folder


def train(data, out, masks, maps, recipe=REFINEMENT, **options):
    return ccr.train(
        data,
        out,
        masks=masks,
        maps=maps,
        backbone="small",
        recipe=recipe,
        precision="fp32",
        **options,
    )


def test_levels_are_saliency_and_inverse_response(shapes, response_maps):
    id = shapes.ids[0]
    levels = _levels(shapes, response_maps, id)
    response = load_maps(response_maps, id).high_res.max(axis=0)
    np.testing.assert_allclose(1 - levels[1] / 255, response, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(levels[0] / 255, shapes.saliency(id), atol=0.5 / 255 + 1e-6)


def test_levels_are_0_outside_of_the_image(shapes, response_maps):
    id = shapes.ids[0]
    augment = dataclasses.replace(SEG.augment, crop=80, scale=None, jitter=0.0)
    image, mask, maps = augment.with_maps(
        shapes.image(id),
        shapes.mask(id),
        _levels(shapes, response_maps, id),
        np.random.default_rng(0),
    )
    assert mask.shape == maps.shape[1:] == image.shape[1:] == (80, 80)
    assert (mask == 255).sum() >= 80 * 80 - 64 * 64
    assert (maps[:, :, 0] == 0).all() or (maps[:, :, -1] == 0).all()


def test_image_mask_and_levels_are_mirrored_together(shapes, response_maps):
    id = shapes.ids[0]
    image, truth = shapes.image(id), shapes.mask(id)
    levels = _levels(shapes, response_maps, id)
    augment = dataclasses.replace(SEG.augment, scale=None, jitter=0.0)
    for seed in range(8):
        _, mask, maps = augment.with_maps(image, truth, levels, np.random.default_rng(seed))
        mirrored = not np.array_equal(mask, truth)
        expected = levels[..., ::-1] if mirrored else levels
        np.testing.assert_allclose(maps, expected / 255, atol=1e-6)
        np.testing.assert_array_equal(mask, truth[:, ::-1] if mirrored else truth)


def test_loss_is_cross_entropy_plus_weighted_aamr():
    torch.manual_seed(0)
    net = nets.deeplabv2_resnet101(3, backbone="small").train()
    net.backbone.eval()
    maps = torch.rand(2, 2, 65, 65)
    batch = {
        "image": torch.randn(2, 3, 65, 65),
        "mask": torch.randint(0, 4, (2, 65, 65), dtype=torch.uint8),
        "maps": maps,
    }
    logits = net(batch["image"])[-1]
    plain = _step(SEG)(net, batch)
    for recipe in (REFINEMENT, REFINEMENT.everywhere()):
        both = _step(SEG, _extra_loss(recipe))(net, batch)
        aamr = ops.reference.aamr_loss(
            logits,
            maps[:, 0],
            1 - maps[:, 1],
            salient=0.5,
            active=recipe.active,
            overlap=recipe.overlap,
        )
        assert_close(both, plain + 0.5 * aamr, rtol=1e-4, atol=1e-5)
    _, region = ops.aamr_loss(
        logits, maps[:, :1], 1 - maps[:, 1], active=2.0, overlap=0.0, return_region=True
    )
    assert region.all()  # `everywhere` supervises every pixel


def test_training_with_and_without_saliency(shapes, response_maps, true_masks, tmp_path):
    weights = {}
    for name, recipe in (
        ("refined", REFINEMENT),
        ("everywhere", REFINEMENT.everywhere()),
        ("none", dataclasses.replace(REFINEMENT, weight=0.0)),
    ):
        trained = train(shapes, tmp_path, true_masks, response_maps, recipe, name=name)
        assert np.isfinite(trained.losses).all()
        weights[name] = torch.load(trained.weights, weights_only=True)["aspp.weight"]
    options = {"backbone": "small", "recipe": SEG, "precision": "fp32"}
    plain = seg.train(shapes, tmp_path, masks=true_masks, **options)
    assert torch.equal(weights["none"], torch.load(plain.weights, weights_only=True)["aspp.weight"])
    assert len({float(w.sum()) for w in weights.values()}) == 3
    arguments = json.loads((tmp_path / "refined/done.json").read_text())["arguments"]
    expected = {"weight": 0.5, "salient": 0.5, "active": 0.2, "overlap": 0.1}
    assert arguments["refinement"] == expected


def test_missing_maps_or_saliency_raise(shapes, own_shapes, response_maps, true_masks, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(InputError, match="maps: .* has no maps for 24 of 24 ids"):
        train(shapes, out, true_masks, true_masks)
    for path in (own_shapes / "saliency").iterdir():
        path.unlink()
    without = data.load(own_shapes)
    with pytest.raises(InputError, match="saliency: no map for 24 of 24 ids"):
        train(without, out, true_masks, response_maps)
    assert not out.exists()


def test_maps_of_another_size_raise(shapes, true_masks, tmp_path):
    for id in shapes.ids:
        keys = np.flatnonzero(shapes.tags_of(id)) + 1
        count = len(keys)
        maps = ClassMaps(keys, np.zeros((count, 4, 4)), np.zeros((count, 9, 9)))
        save_maps(tmp_path / "maps", id, maps)
    with pytest.raises(InputError, match=r"maps are \(9, 9\), but the image is \(64, 64\)"):
        train(shapes, tmp_path / "run", true_masks, tmp_path / "maps")
