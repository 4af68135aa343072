"""CCR's iterative erasing, against a plain loop and with unusual input."""

import dataclasses

import numpy as np
import pytest
import torch
from ccr_inputs import CPU, SCALES, TAGS, classifier, photos, response_maps, views_of
from torch import nn

from benchmarks import ccr_direct
from wsss_fast import InputError, ccr, nets
from wsss_fast.ccr.crops import boxes, centres_of_mass
from wsss_fast.ccr.erasing import ErasingOptions, cut, paste, run_rounds
from wsss_fast.ccr.padded_batch import PaddedBatch
from wsss_fast.nets import inference


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_maps_are_those_of_the_plain_loop(batch_size, amx, monkeypatch):
    monkeypatch.setattr(
        inference, "is_profitable", lambda: True
    )  # the AMX convolution or its reference
    net = nets.optimize_for_inference(classifier(), CPU, amx=amx)
    images, rounds = photos(len(TAGS)), []
    options = ErasingOptions(scales=SCALES, masked_from=0.75)
    results = response_maps(net, images, TAGS, options, rounds.extend, batch_size=batch_size)
    assert max(rounds) > 2 and len(set(rounds)) > 1  # crops finish after different rounds
    for image, tags, maps in zip(images, TAGS, results, strict=True):
        np.testing.assert_array_equal(maps.keys, np.flatnonzero(tags) + 1)
        expected = ccr_direct.maps(net, image, np.array(tags), scales=SCALES, mask_threshold=0.75)
        np.testing.assert_allclose(maps.high_res, expected, atol=1e-4)


@torch.inference_mode()
def test_masking_by_class_gives_the_maps_of_each_class_alone():
    """With three classes there is one crop, the whole image."""
    net, image = classifier(), photos(1)[0]
    options = ErasingOptions(scales=SCALES, masking="class", masked_from=0.6)
    (maps,) = response_maps(net, [image], [[1, 1, 1, 0]], options)
    rounds = []
    for k in range(3):
        alone, count = ccr_direct.crop_response(net, image, np.array([k]), SCALES, 5, 0.6, 0.02)
        rounds.append(count)
        np.testing.assert_allclose(maps.high_res[k : k + 1], alone, atol=1e-4)
    assert max(rounds) > 1
    joint_options = dataclasses.replace(options, masking="joint")
    (joint,) = response_maps(net, [image], [[1, 1, 1, 0]], joint_options)
    assert np.abs(joint.high_res - maps.high_res).max() > 0.01


@torch.inference_mode()
def test_unit_image_divides_by_the_maximum_of_the_whole_image():
    """So a crop without the object has a low response."""
    net, image, tags = classifier(), photos(1)[0], [[1, 0, 0, 0]]
    size, options = image.shape[:2], ErasingOptions(scales=SCALES, unit="image")
    (crop,) = response_maps(net, [image], tags, ErasingOptions(scales=SCALES))
    (whole,) = response_maps(net, [image], tags, options)
    assert whole.high_res.max() <= 1 and whole.high_res.min() >= 0
    (once,) = response_maps(net, [image], tags, dataclasses.replace(options, rounds=1))
    (base,) = ccr.base_maps(PaddedBatch(net), views_of([image], tags, SCALES))
    places = list(dict.fromkeys(boxes(centres_of_mass(base.numpy()), size)))

    def response(box):
        crop_size = (box[1] - box[0], box[3] - box[2])
        summed = torch.zeros(1, *crop_size)
        for view in cut("image", image, box, torch.tensor([0]), SCALES).views:
            straight, mirrored = (
                nn.functional.interpolate(net.maps(x[None]), crop_size, mode="bilinear")[0, :1]
                for x in (view, view.flip(-1))
            )
            summed += straight + mirrored.flip(-1)
        return (summed / (base.amax() + 1e-5)).clamp_max(1.0)

    expected = paste([response(box) for box in places], places, size)
    np.testing.assert_allclose(once.high_res, expected, atol=1e-4)
    assert (crop.high_res >= once.high_res - 1e-4).mean() > 0.5


@torch.inference_mode()
def test_masks_are_mirrored_with_the_image_and_resized_from_the_crop():
    generator = torch.Generator().manual_seed(4)
    image = torch.randint(0, 256, (20, 30, 3), generator=generator, dtype=torch.uint8).numpy()
    crop = cut("image", image, (0, 20, 0, 30), torch.tensor([0]), (1.0, 0.5, 1.5))
    maps = torch.zeros(1, 20, 30)
    maps[0, 4:7, 3:10] = 1.0
    crop.update(maps, ErasingOptions())
    for scale, view in enumerate(crop.views):
        straight, mirrored = crop.inputs(scale, mirror_mask=True)
        assert torch.equal(mirrored, straight.flip(-1))
        height, width = view.shape[-2:]
        rows, columns = torch.arange(height) * 20 // height, torch.arange(width) * 30 // width
        mask = maps[0][rows[:, None], columns] > 0
        assert torch.equal(straight[:, ~mask], view[:, ~mask])
        colour = view.mean(dim=(1, 2))[:, None].expand(3, int(mask.sum()))
        torch.testing.assert_close(straight[:, mask], colour)
        other = crop.inputs(scale, mirror_mask=False)[1]
        assert torch.equal(other[:, ~mask], view.flip(-1)[:, ~mask])
        assert not torch.equal(other, mirrored)
    chained = crop._resize_mask(crop.masked, True)
    assert torch.equal(chained[0], crop._masks[0]) and not torch.equal(chained[2], crop._masks[2])


def test_round_that_masks_less_than_stop_is_the_last():
    crop = cut("image", np.zeros((10, 10, 3), np.uint8), (0, 10, 0, 10), torch.tensor([0]), (1.0,))
    maps = torch.zeros(1, 10, 10)
    maps[0, 0, 0] = 2.0  # one pixel of a hundred
    crop.update(maps, ErasingOptions(stop=0.01))
    assert not crop.finished and crop.masked.sum() == 1  # 1 % is not less than 1 %
    maps[0, 0, 1] = 2.0
    crop.update(maps, ErasingOptions(stop=0.02))
    assert crop.finished and crop.rounds == 2 and crop.masked.sum() == 2


def test_rounds_is_the_largest_number_of_rounds():
    image, options = photos(1)[0], ErasingOptions(scales=SCALES, stop=0.0, rounds=3)
    crop = cut("image", image, (0, 61, 0, 75), torch.tensor([0]), SCALES)
    with torch.inference_mode():
        ((result,),) = run_rounds(PaddedBatch(classifier()), [crop], options, batch_size=1)
    assert result.rounds == 3 and result.response.shape == (1, 61, 75)


class ConstantMaps(nn.Module):
    """Maps that do not depend on the image: one cell, nothing, or NaN."""

    def __init__(self, kind, classes=20):
        super().__init__()
        self.kind, self.classes = kind, classes

    def maps(self, images):
        size = (-(-images.shape[2] // 8), -(-images.shape[3] // 8))
        maps = torch.zeros(len(images), self.classes, *size)
        if self.kind == "cell":
            maps[:, :, 0, 0] = 1.0
        return maps * float("nan") if self.kind == "nan" else maps


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 3), (64, 64)])
@pytest.mark.parametrize("kind", ["cell", "nothing"])
@pytest.mark.parametrize("masking", ["joint", "class"])
def test_tiny_images_and_responses_with_0_to_20_classes(height, width, kind, masking):
    all_tags = np.zeros((4, 20), int)
    all_tags[1, 3], all_tags[2, [3, 7]], all_tags[3] = 1, 1, 1
    images, options = np.full((4, height, width, 3), 90, np.uint8), ErasingOptions(masking=masking)
    results = response_maps(ConstantMaps(kind), images, all_tags.tolist(), options)
    for maps, tags in zip(results, all_tags, strict=True):
        assert maps.high_res.shape == (tags.sum(), height, width)
        assert maps.strided.shape[0] == tags.sum()
        assert np.isfinite(maps.high_res).all() and np.isfinite(maps.strided).all()
        if kind == "nothing":
            assert (maps.high_res == 0).all()
        elif tags.sum():
            assert maps.high_res.max() == pytest.approx(1, abs=1e-4)


def test_maps_that_are_not_finite_raise_with_the_name_of_the_image():
    with pytest.raises(InputError, match="maps of 0 are not finite"):
        response_maps(ConstantMaps("nan"), photos(1), [[0] * 19 + [1]], ErasingOptions())
    crop = cut("photo", photos(1)[0], (0, 20, 0, 20), torch.tensor([0]), SCALES)
    maps = torch.ones(1, 20, 20)
    maps[0, 3, 3] = float("inf")
    with pytest.raises(InputError, match="maps of photo are not finite"):
        crop.update(maps, ErasingOptions())


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (ErasingOptions, {"scales": ()}),
        (ErasingOptions, {"scales": (0.0,)}),
        (ErasingOptions, {"rounds": 0}),
        (ErasingOptions, {"masked_from": 1.5}),
        (ErasingOptions, {"stop": -0.1}),
        (ErasingOptions, {"masking": "both"}),
        (ErasingOptions, {"unit": "pixel"}),
        (ccr.Recipe, {"buffers": (0, 20)}),
        (ccr.Recipe, {"batch_size": 0}),
        (ccr.Refinement, {"weight": -1.0}),
        (ccr.Refinement, {"salient": 2.0}),
        (ccr.Refinement, {"overlap": -0.5}),
        (ccr.Refinement, {"active": float("nan")}),
    ],
)
def test_values_out_of_range_raise(kind, wrong):
    with pytest.raises(InputError, match=f"ccr: .*{next(iter(wrong))}"):
        kind(**wrong)
