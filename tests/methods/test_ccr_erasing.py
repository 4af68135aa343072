"""CCR's crops, rounds and batches against a plain loop, and what they do with odd input."""

import copy
import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import ccr_direct
from wsss_fast import InputError, ccr, nets
from wsss_fast.ccr.crops import boxes, centres_of_mass
from wsss_fast.ccr.erasing import ErasingOptions, cut, paste, run_rounds
from wsss_fast.ccr.padded_batch import PaddedBatch
from wsss_fast.data.transforms import normalise, resize_image
from wsss_fast.engine.runtime import runtime
from wsss_fast.nets import inference
from wsss_fast.stages.activate import Views, scaled_size

SCALES = (1.0, 0.5, 1.5)
CPU = runtime("cpu", 0, 0, "fp32", prefer_bf16=False)


def classifier(classes=4, backbone="small"):
    return copy.deepcopy(
        made_classifier(classes, backbone)
    )  # whose random weights take longer than its passes here


@functools.cache
def made_classifier(classes, backbone):
    torch.manual_seed(0)
    make = nets.cam_resnet38 if backbone == "resnet38" else nets.cam_resnet50
    net = make(classes, backbone=backbone).eval()
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(
            module, nn.BatchNorm2d
        ):  # so that padding with zeros is not what is outside of an image anyway
            module.running_mean.copy_(0.3 * torch.randn(module.num_features, generator=generator))
            module.bias.data.copy_(0.3 * torch.randn(module.num_features, generator=generator))
    return net


def photos(count, height=61, width=75):
    """Blobs of colour."""
    generator = torch.Generator().manual_seed(2)
    coarse = torch.randn(count, 3, 6, 6, generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return (128 + 90 * smooth).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def views_of(images, tags, scales):
    stack = []
    height, width = images[0].shape[:2]
    for scale in scales:
        size = scaled_size((height, width), scale)
        batch = torch.from_numpy(
            np.stack([normalise(resize_image(image, *size)) for image in images])
        )
        stack.append(torch.cat([batch, batch.flip(-1)]))
    return Views(
        tuple(str(i) for i in range(len(images))),
        torch.tensor(tags, dtype=torch.float32),
        tuple(stack),
        images[0].shape[:2],
    )


@torch.inference_mode()
def maps_of(net, images, tags, ask, **numbers):
    recipe = ccr.Recipe(erasing=ask, **numbers)
    return ccr.views_to_maps(PaddedBatch(net), lambda id: images[int(id)], recipe)(
        views_of(images, tags, ask.scales)
    )


TAGS = [[1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]]


@pytest.fixture
def unit(monkeypatch):
    """The split convolution's kernel, or its reference where there is none."""
    monkeypatch.setattr(inference, "pays", lambda: True)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batches_give_the_maps_of_the_plain_loop(batch_size, split, unit):
    net, images, seen = (
        nets.optimize_for_inference(classifier(), CPU, split=split),
        photos(len(TAGS)),
        [],
    )
    ask = ErasingOptions(scales=SCALES, masked_from=0.75)
    recipe = ccr.Recipe(erasing=ask, batch_size=batch_size)
    with torch.inference_mode():
        ours = ccr.views_to_maps(PaddedBatch(net), lambda id: images[int(id)], recipe, seen.extend)(
            views_of(images, TAGS, SCALES)
        )
    assert (
        max(seen) > 2 and len(set(seen)) > 1
    )  # the rounds are put to work, and crops finish at different times
    for image, tags, maps in zip(images, TAGS, ours, strict=True):
        np.testing.assert_array_equal(maps.keys, np.flatnonzero(tags) + 1)
        np.testing.assert_allclose(
            maps.high_res,
            ccr_direct.maps(net, image, np.array(tags), scales=SCALES, masked_from=0.75),
            atol=1e-4,
        )


@pytest.mark.parametrize("optimize_for_inference", ["no", "yes", "split"])
@pytest.mark.parametrize("backbone", ["small", "resnet50", "resnet38"])
@torch.inference_mode()
def test_unequal_images_together_are_as_alone(backbone, optimize_for_inference, unit):
    net = classifier(backbone=backbone)
    if optimize_for_inference != "no":
        net = nets.optimize_for_inference(net, CPU, split=optimize_for_inference == "split")
    together = PaddedBatch(net)
    assert together.exact == (optimize_for_inference != "yes" or backbone != "resnet38")
    if (
        not together.exact
    ):  # its padded layers begin with a batch-norm, so it only takes images of one size
        return
    generator = torch.Generator().manual_seed(3)
    images = [
        torch.randn(n, 3, h, w, generator=generator)
        for n, h, w in ((2, 33, 50), (1, 48, 17), (2, 1, 9))
    ]
    kept = [image.clone() for image in images]
    for image, before, maps in zip(images, kept, together(images), strict=True):
        alone = net.maps(before)
        torch.testing.assert_close(maps, alone, rtol=1e-4, atol=1e-4 * float(alone.max()))
        assert torch.equal(image, before)
    assert not any(module._forward_pre_hooks for module in net.modules())


class Blurred(nn.Module):
    """Looks over the whole image, so unequal images cannot share a pass."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 8, padding=1)

    def maps(self, images):
        features = self.conv(images)
        return (features - features.mean(dim=(2, 3), keepdim=True)).relu()


def test_a_network_that_is_not_local_still_gives_the_maps_of_the_plain_loop():
    torch.manual_seed(0)
    net, images = Blurred().eval(), photos(3)
    assert not PaddedBatch(net).exact
    ask = ErasingOptions(scales=SCALES)
    for image, tags, maps in zip(
        images, TAGS, maps_of(net, images, TAGS[:3], ask, batch_size=8), strict=False
    ):
        np.testing.assert_allclose(
            maps.high_res, ccr_direct.maps(net, image, np.array(tags), scales=SCALES), atol=1e-4
        )


def test_groups_hold_every_image_once_and_are_bounded():
    sizes = [(33, 40), (34, 41), (64, 64), (35, 47), (33, 65), (64, 64)]
    groups = PaddedBatch(classifier()).together(sizes, 2)
    assert (
        sorted(i for group in groups for i in group) == list(range(6))
        and max(map(len, groups)) == 2
    )
    apart = PaddedBatch(Blurred().eval()).together(sizes, 8)
    assert sorted(map(sorted, apart)) == [[0], [1], [2, 5], [3], [4]]


@torch.inference_mode()
def test_masking_by_class_is_the_procedure_of_each_class_alone():
    """With one crop, the whole image, a class asked on its own is what the plain loop gives for its tag alone."""
    net, image = classifier(), photos(1)[0]
    ask = ErasingOptions(scales=SCALES, masking="class", masked_from=0.6)
    (maps,) = maps_of(net, [image], [[1, 1, 1, 0]], ask)
    rounds = []
    for k in range(3):
        alone, count = ccr_direct.crop_response(net, image, np.array([k]), SCALES, 5, 0.6, 0.02)
        rounds.append(count)
        np.testing.assert_allclose(maps.high_res[k : k + 1], alone, atol=1e-4)
    assert max(rounds) > 1
    (joint,) = maps_of(net, [image], [[1, 1, 1, 0]], dataclasses.replace(ask, masking="joint"))
    assert np.abs(joint.high_res - maps.high_res).max() > 0.01


@torch.inference_mode()
def test_unit_image_keeps_a_crop_without_the_object_low():
    net, image = classifier(), photos(1)[0]
    (crop,) = maps_of(net, [image], [[1, 0, 0, 0]], ErasingOptions(scales=SCALES))
    (whole,) = maps_of(net, [image], [[1, 0, 0, 0]], ErasingOptions(scales=SCALES, unit="image"))
    assert whole.high_res.max() <= 1 and whole.high_res.min() >= 0
    (once,) = maps_of(
        net, [image], [[1, 0, 0, 0]], ErasingOptions(scales=SCALES, unit="image", rounds=1)
    )
    height, width = image.shape[:2]
    base = ccr.base_maps(PaddedBatch(net), views_of([image], [[1, 0, 0, 0]], SCALES))[0]
    places = list(dict.fromkeys(boxes(centres_of_mass(base.numpy()), (height, width))))
    answers = []
    for y0, y1, x0, x1 in places:
        raw = sum(
            nn.functional.interpolate(net.maps(v[None]), (y1 - y0, x1 - x0), mode="bilinear")
            + nn.functional.interpolate(
                net.maps(v.flip(-1)[None]), (y1 - y0, x1 - x0), mode="bilinear"
            ).flip(-1)
            for v in cut("i", image, (y0, y1, x0, x1), torch.tensor([0]), SCALES).views
        )[0, :1]
        answers.append((raw / (base.amax() + 1e-5)).clamp_max(1.0))
    np.testing.assert_allclose(once.high_res, paste(answers, places, (height, width)), atol=1e-4)
    assert (crop.high_res >= once.high_res - 1e-4).mean() > 0.5


@torch.inference_mode()
def test_masks_follow_the_mirror_image_and_are_not_chained():
    generator = torch.Generator().manual_seed(4)
    image = torch.randint(0, 256, (20, 30, 3), generator=generator, dtype=torch.uint8).numpy()
    crop = cut("i", image, (0, 20, 0, 30), torch.tensor([0]), (1.0, 0.5, 1.5))
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
        torch.testing.assert_close(
            straight[:, mask], view.mean(dim=(1, 2))[:, None].expand(3, int(mask.sum()))
        )
        other = crop.inputs(scale, mirror_mask=False)[1]
        assert torch.equal(other[:, ~mask], view.flip(-1)[:, ~mask]) and not torch.equal(
            other, mirrored
        )
    chained = crop._resized_masks(True)
    assert torch.equal(chained[0], crop._masks[0]) and not torch.equal(chained[2], crop._masks[2])


def test_a_round_that_masks_little_is_the_last():
    crop = cut("i", np.zeros((10, 10, 3), np.uint8), (0, 10, 0, 10), torch.tensor([0]), (1.0,))
    maps = torch.zeros(1, 10, 10)
    maps[0, 0, 0] = 2.0  # one pixel of a hundred
    crop.update(maps, ErasingOptions(stop=0.01))
    assert (
        not crop.finished and crop.masked.sum() == 1
    )  # one per cent is not less than one per cent
    maps[0, 0, 1] = 2.0
    crop.update(maps, ErasingOptions(stop=0.02))
    assert crop.finished and crop.rounds == 2 and crop.masked.sum() == 2


def test_the_last_round_is_the_given_number():
    net, image = PaddedBatch(classifier()), photos(1)[0]
    crops = [cut("i", image, (0, 61, 0, 75), torch.tensor([0]), SCALES) for _ in range(2)]
    with torch.inference_mode():
        ((first,),) = run_rounds(
            net, crops[:1], ErasingOptions(scales=SCALES, stop=0.0, rounds=3), batch_size=1
        )
    assert first.rounds == 3 and first.response.shape == (1, 61, 75)


def test_crops_at_the_border_and_of_tiny_images():
    assert boxes(np.array([[3.0, 5.0]]), (40, 50)) == [
        (0, 13, 0, 15),
        (0, 13, 0, 50),
        (0, 40, 0, 15),
        (0, 40, 0, 50),
    ]
    wrapped = boxes(np.array([[3.0, 5.0]]), (40, 50), wrap_crops=True)
    assert wrapped == [(0, 13, 0, 15), (0, 13, 45, 50), (33, 40, 0, 15), (33, 40, 45, 50)]
    for size in ((1, 1), (4, 7), (9, 30)):  # smaller than the buffer
        for wrap in (False, True):
            for y0, y1, x0, x1 in boxes(
                np.array([[size[0] / 2, size[1] / 2]]), size, wrap_crops=wrap
            ):
                assert 0 <= y0 < y1 <= size[0] and 0 <= x0 < x1 <= size[1]
    assert boxes(np.zeros((0, 2)), (40, 50)) == []
    assert boxes(np.full((1, 2), np.nan), (40, 50)) == boxes(np.array([[20.0, 25.0]]), (40, 50))


def test_centres():
    maps = np.zeros((3, 9, 11), np.float32)
    maps[0, 7, 2] = 0.5  # one pixel
    maps[1, 2:5, 3:8] = 1.0
    found = centres_of_mass(maps)
    np.testing.assert_allclose(found[:2], [[7, 2], [3, 5]])
    assert np.isnan(found[2]).all()  # nothing there
    assert centres_of_mass(np.zeros((0, 4, 4))).shape == (0, 2)


class Constant(nn.Module):
    """Maps that do not depend on the image: one cell, nothing, or not a number."""

    def __init__(self, kind, classes=20):
        super().__init__()
        self.kind, self.classes = kind, classes

    def maps(self, images):
        maps = torch.zeros(
            len(images), self.classes, -(-images.shape[2] // 8), -(-images.shape[3] // 8)
        )
        if self.kind == "cell":
            maps[:, :, 0, 0] = 1.0
        return maps * float("nan") if self.kind == "nan" else maps


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 3), (64, 64)])
@pytest.mark.parametrize("kind", ["cell", "nothing"])
@pytest.mark.parametrize("masking", ["joint", "class"])
def test_one_cell_nothing_and_small_images(height, width, kind, masking):
    """Images without tags, with one, two and twenty classes; a response of one cell, and none at all."""
    tags = np.zeros((4, 20), int)
    tags[1, 3], tags[2, [3, 7]], tags[3] = 1, 1, 1
    images = np.full((4, height, width, 3), 90, np.uint8)
    for maps, own in zip(
        maps_of(Constant(kind), images, tags.tolist(), ErasingOptions(masking=masking)),
        tags,
        strict=True,
    ):
        assert (
            maps.high_res.shape == (own.sum(), height, width) and maps.strided.shape[0] == own.sum()
        )
        assert np.isfinite(maps.high_res).all() and np.isfinite(maps.strided).all()
        if kind == "nothing":
            assert (maps.high_res == 0).all()
        elif own.sum():
            assert maps.high_res.max() == pytest.approx(1, abs=1e-4)


def test_maps_that_are_not_finite_are_refused_with_their_image():
    with pytest.raises(InputError, match="maps of 0 are not finite"):
        maps_of(Constant("nan"), photos(1), [[0] * 19 + [1]], ErasingOptions())
    crop = cut("photo", photos(1)[0], (0, 20, 0, 20), torch.tensor([0]), SCALES)
    maps = torch.ones(1, 20, 20)
    maps[0, 3, 3] = float("inf")
    with pytest.raises(InputError, match="maps of photo are not finite"):
        crop.update(maps, ErasingOptions())


def test_bad_numbers_are_refused():
    for wrong in (
        dict(scales=()),
        dict(scales=(0.0,)),
        dict(rounds=0),
        dict(masked_from=1.5),
        dict(stop=-0.1),
        dict(masking="both"),
        dict(unit="pixel"),
    ):
        with pytest.raises(InputError, match="ccr: "):
            ErasingOptions(**wrong)
    for wrong in (dict(buffers=(0, 20)), dict(batch_size=0)):
        with pytest.raises(InputError, match="ccr: "):
            ccr.Recipe(**wrong)
    for wrong in (
        dict(weight=-1.0),
        dict(salient=2.0),
        dict(overlap=-0.5),
        dict(active=float("nan")),
    ):
        with pytest.raises(InputError, match="ccr: "):
            ccr.Refinement(**wrong)
