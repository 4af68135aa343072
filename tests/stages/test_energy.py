"""The energy loss of a training: what is added, where a photo is, what a run notes and reports."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from brief import brief
from torch.nn import functional as F
from torch.testing import assert_close

from wsss_fast import InputError, RunError, amn, cli, ops, seg
from wsss_fast.amn import training as amn_training
from wsss_fast.cli.arguments import parse
from wsss_fast.cli.catalog import COMMANDS
from wsss_fast.data.levels import photo_pixels, rgb_levels
from wsss_fast.data.transforms import Augment, normalise, subtract_mean
from wsss_fast.engine.marker import Marker
from wsss_fast.engine.ranges import check
from wsss_fast.evaluation import report, run_scores
from wsss_fast.seg import training as seg_training
from wsss_fast.stages.energy import Energy

ON = Energy(weight=1e-4, sigma_xy=20.0)
PHOTO, CROP = (30, 50), 48  # the photo is lower than the crop, and wider


def crops(to_input, **options):
    """Photos of random levels, and crops of them with padding: images, labels, where the photo is.

    The labels are 7 on the photo, so that they tell where it is.
    """
    rng = np.random.default_rng(3)
    augment = Augment(CROP, flip=False, to_input=to_input, **options)
    photos = rng.integers(0, 256, (4, *PHOTO, 3), dtype=np.uint8)
    pairs = [augment(one, np.full(PHOTO, 7, np.uint8), rng) for one in photos]
    images, labels = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    return photos, images, labels, (labels == 7).float()


@pytest.mark.parametrize("to_input", [normalise, subtract_mean])
def test_levels_and_photos_are_found_in_crops(to_input):
    photos, images, _, inside = crops(to_input)
    assert inside.sum() == 4 * PHOTO[0] * CROP
    assert torch.equal(photo_pixels(images), inside)
    found = rgb_levels(images, to_input)
    for one, levels, region in zip(photos, found, inside.bool(), strict=True):
        part = levels[:, region].view(3, PHOTO[0], CROP).permute(1, 2, 0)
        places = [one[:, left : left + CROP] for left in range(PHOTO[1] - CROP + 1)]
        assert min(np.abs(part.numpy() - place).max() for place in places) < 1e-3
    for options in ({"scale": (0.4, 1.6), "jitter": 0.2}, {"linear": True, "factors": (0.7,)}):
        _, images, _, inside = crops(to_input, **options)
        assert torch.equal(photo_pixels(images), inside)


def test_no_level_is_an_input_of_0():
    gray = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2)
    assert all((to_input(gray) != 0).all() for to_input in (normalise, subtract_mean))


def by_hand(logits, images, labels, inside, energy, to_input):
    """The energy loss as public code calls it."""
    size = images.shape[-2:]
    return ops.dense_energy_loss(
        rgb_levels(images, to_input),
        F.interpolate(logits, size, mode="bilinear", align_corners=False).softmax(dim=1),
        inside,
        labels,
        weight=energy.weight,
        sigma_rgb=energy.sigma_rgb,
        sigma_xy=energy.sigma_xy,
        scale_factor=energy.scale_factor,
    )


@pytest.mark.parametrize("method", ["seg", "amn"])
def test_step_adds_the_energy_of_the_photo_to_the_supervised_loss(method):
    module, training = (seg, seg_training) if method == "seg" else (amn, amn_training)
    recipe = module.RECIPES["small"]
    to_input = subtract_mean if method == "seg" else normalise
    augment = dataclasses.replace(recipe.augment, to_input=to_input)
    recipe = dataclasses.replace(recipe, energy=ON, augment=augment)
    _, images, labels, inside = crops(to_input)
    labels = torch.where(torch.rand(labels.shape) < 0.5, labels % 4, 255).byte()
    torch.manual_seed(0)
    scores = torch.randn(4, 5, 6, 6, requires_grad=True)
    batch = {"image": images, "mask": labels, "seed": labels, "tags": torch.ones(4, 4)}

    def net(*inputs):
        return [scores, scores] if method == "seg" else scores

    parts = training._step(recipe)(net, batch)
    plain = training._step(dataclasses.replace(recipe, energy=Energy()))(net, batch)
    assert [*parts] == ["supervised", "energy"] and torch.equal(parts["supervised"], plain)
    truth = by_hand(scores, images, labels, inside, ON, to_input)
    assert parts["energy"] < 0
    assert_close(parts["energy"], truth, rtol=1e-5, atol=0)
    gradients = [
        torch.autograd.grad(x, scores, retain_graph=True)[0] for x in (*parts.values(), truth)
    ]
    assert_close(gradients[1], gradients[2], rtol=1e-4, atol=1e-8)
    with_padding = by_hand(scores, images, labels, torch.ones_like(inside), ON, to_input)
    assert abs(with_padding / truth - 1) > 0.05


def test_scores_that_are_not_finite_end_the_training():
    images = torch.randn(1, 3, 16, 16)
    labels = torch.zeros(1, 16, 16, dtype=torch.uint8)
    logits = torch.full((1, 3, 2, 2), math.nan)
    with pytest.raises(RunError, match="lower the learning rate"):
        ON.added_to(torch.zeros(()), logits, images, labels, Augment(16))


def train(shapes, out, masks, energy, **options):
    recipe = brief(seg.RECIPES["small"], 64, updates=3, energy=energy)
    return seg.train(
        shapes, out, masks=masks, backbone="small", recipe=recipe, precision="fp32", **options
    )


def test_training_notes_the_parts_and_the_report_shows_them(shapes, true_masks, tmp_path, capfd):
    """With weight 0, the arguments and the bits of the weights are those without the field."""
    plain = train(shapes, tmp_path, true_masks, Energy(), name="plain")
    zero = train(shapes, tmp_path, true_masks, Energy(sigma_rgb=3.0), name="zero")
    found = train(shapes, tmp_path, true_masks, ON)
    done = [Marker.read(r.weights.parent / "done.json") for r in (plain, zero, found)]
    weights = [torch.load(r.weights, weights_only=True) for r in (plain, zero, found)]
    assert done[0]["arguments"] == done[1]["arguments"]
    assert "energy" not in done[0]["arguments"]["recipe"] and not plain.parts
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not torch.equal(weights[0]["aspp.weight"], weights[2]["aspp.weight"])
    assert done[2]["arguments"]["recipe"]["energy"]["weight"] == ON.weight
    assert done[2]["notes"]["loss_parts"] == found.parts and found.parts["energy"][0] < 0
    assert_close(np.sum([*found.parts.values()], axis=0), np.array(found.losses), rtol=1e-6, atol=0)
    with pytest.raises(InputError, match=r"recipe.energy.weight was 0.0001, now 0.0002"):
        train(shapes, tmp_path, true_masks, dataclasses.replace(ON, weight=2e-4))
    again = train(shapes, tmp_path, true_masks, ON)
    assert again.parts == found.parts and "already finished" in capfd.readouterr().err
    predict = {"backbone": "small", "crf": False, "precision": "fp32"}
    some = shapes.only(shapes.ids[:2])
    predictions = seg.infer(some, found.weights, tmp_path, **predict).predictions
    run_scores.masks(tmp_path, "seg on train", some, predictions)
    (score,) = report.rows(tmp_path)
    assert score["also"] == "energy loss 0.0001"
    panels = {"image": report.photo(shapes)}
    page = report.write(tmp_path, shapes, panels, title="run", curves={}, ids=[]).read_text()
    first, last = (f"{found.parts['energy'][n]:.4g}" for n in (0, -1))
    shown = first if len(found.losses) == 1 else f"{first} → {last}"
    row = "".join(f"<td>{cell}</td>" for cell in ("seg", "0.0001", "15", "20", "0.5"))
    assert f"<tr>{row}" in page and f"<td>{shown}</td></tr>" in page
    assert page.count("<td>0.0001</td>") == 1  # no row for the training without it


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weight": -1.0}, "weight: got -1.0, must be a finite number >= 0"),
        ({"weight": math.nan}, "weight: got nan"),
        ({"weight": math.inf}, "weight: got inf"),
        ({"sigma_rgb": 0.0}, "sigma_rgb: got 0.0, must be a finite number > 0"),
        ({"sigma_xy": math.nan}, "sigma_xy: got nan"),
        ({"scale_factor": 1.5}, "scale_factor: got 1.5, must be in 0.01..1"),
        ({"scale_factor": 0.01}, "scale_factor: got 0.01, by which no pixel of a crop of 64 is"),
    ],
)
def test_impossible_numbers_are_named(shapes, true_masks, tmp_path, wrong, message):
    energy = Energy(**{"weight": 1e-7, **wrong})
    with pytest.raises(InputError, match=f"^recipe.energy.{message}"):
        train(shapes, tmp_path / "run", true_masks, energy)
    recipe = brief(amn.RECIPES["small"], 64, energy=energy)
    with pytest.raises(InputError, match=f"^recipe.energy.{message}"):
        amn.train(shapes, tmp_path / "run", seeds=true_masks, backbone="small", recipe=recipe)
    with pytest.raises(InputError, match=f"^pipeline.seg.energy.{message}"):
        check(
            dataclasses.replace(
                amn.PIPELINES["small"], seg=brief(seg.RECIPES["small"], 64, energy=energy)
            ),
            "pipeline",
        )
    assert not (tmp_path / "run").exists()


def own_input(image):
    return np.zeros((3, *image.shape[:2]), np.float32)


def test_unknown_network_inputs_are_refused():
    recipe = dataclasses.replace(amn.RECIPES["small"], augment=Augment(64, to_input=own_input))
    check(recipe, "recipe")
    with pytest.raises(
        InputError, match="recipe.augment.to_input: got .*own_input.*; must be norm"
    ):
        check(dataclasses.replace(recipe, energy=ON), "recipe")


def test_options_and_configuration_files_switch_it_on(tmp_path, capfd):
    line = "seg train --data d --masks m --out o --backbone small --recipe.energy.weight 1e-7"
    recipe = parse(COMMANDS["seg train"], line.split()[2:])["recipe"]
    assert recipe.energy == Energy(weight=1e-7, sigma_xy=25.0)  # scaled to the small crops
    assert recipe == dataclasses.replace(seg.RECIPES["small"], energy=recipe.energy)
    config = tmp_path / "config.yaml"
    config.write_text("pipeline: {amn: {energy: {weight: 2e-7, sigma_xy: 30}}}")
    line = f"amn run --data d --out o --config {config} --pipeline.seg.energy.weight 3e-7"
    pipeline = parse(COMMANDS["amn run"], line.split()[2:])["pipeline"]
    assert pipeline.amn.energy == Energy(weight=2e-7, sigma_xy=30.0)
    assert pipeline.seg.energy == Energy(weight=3e-7)
    line = "amn train --data d --seeds s --out o --recipe.energy.weight -1"
    assert cli.run(line.split()) == 2
    message = "--recipe.energy.weight: got -1.0, must be a finite number >= 0"
    assert message in capfd.readouterr().err
