"""IRN's training step and refinement against outputs of the public code."""

import dataclasses

import numpy as np
import pytest
import torch
from golden import cases, filled, golden, needs_full_golden
from labels_at import label_index
from torch.testing import assert_close

from wsss_fast import irn, nets
from wsss_fast.data.transforms import normalise, resize_labels
from wsss_fast.engine import fit
from wsss_fast.engine.ddp import TrainStepModule
from wsss_fast.engine.optimizers import Sgd
from wsss_fast.engine.runtime import Runtime
from wsss_fast.engine.schedules import Poly
from wsss_fast.irn import training as irn_training
from wsss_fast.irn.inference import boundaries_and_displacements
from wsss_fast.irn.relations import offsets, pairs, relation_losses
from wsss_fast.maps import ClassMaps, to_labels

CPU = Runtime(torch.device("cpu"), 0, 0, torch.float32)


@pytest.fixture(scope="module")
def net():
    return filled(nets.irn_resnet50(), "irn_resnet50_irn")


@pytest.mark.parametrize("name", cases("irn_path_index"))
def test_pairs(name):
    """Sources, targets and, where paths are stored, maxima along them, in every direction."""
    file = golden("irn_path_index")
    radius, (height, width) = int(name[1:].split("_")[0]), map(int, name.split("_")[1].split("x"))
    directions = [tuple(d) for d in file[f"{name}/search_dst"].tolist()]
    assert set(directions) == set(offsets(radius)) and len(directions) == len(offsets(radius))
    edge = torch.rand(1, height, width, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(height * width).view(1, height, width)
    ours = {
        p.offset: p
        for p in pairs(edge, torch.stack([numbers, numbers], 1).float(), numbers, radius)
    }
    for direction, targets in zip(directions, file[f"{name}/dst"], strict=True):
        pair = ours[direction]
        np.testing.assert_array_equal(pair.source[0], file[f"{name}/src"])
        np.testing.assert_array_equal(pair.target[0], targets)
        assert (pair.displacement == pair.source - pair.target).all()
    names = [f"{name}/path_indices{i}" for i in range(int(file[f"{name}/n_lengths"]))]
    paths = [file[key] for key in names if key in file.files]
    highest = [
        edge.flatten()[torch.from_numpy(i.astype(np.int64))].amax(1) for i in paths
    ]  # [directions, n] each
    for direction, stored in zip(
        directions, torch.cat(highest) if highest else (), strict=bool(highest)
    ):
        assert_close(ours[direction].affinity[0], 1 - stored, rtol=0, atol=0)
    assert bool(highest) == (radius < 10)  # radius 10 is stored without paths


def small_seeds():
    labels = golden("irn_losses")["labels"]
    return torch.from_numpy(np.stack([resize_labels(one, 32, 32) for one in labels]))


def batch():
    file = golden("irn_losses")
    images = torch.from_numpy(np.stack([normalise(image) for image in file["img_u8"]]))
    return file, {"image": images, "seed": small_seeds()}


def stored_directions():
    """Index of each direction in the stored arrays."""
    directions = golden("irn_path_index")["r10_32x32/search_dst"].tolist()
    return {tuple(direction): i for i, direction in enumerate(directions)}


def test_affinity_labels():
    """Which pairs are both background, the same class, or different."""
    file, directions = golden("irn_losses"), stored_directions()
    shape = file["label_shape"]
    masks = {
        key: np.unpackbits(file[f"{key}_packed"])[: np.prod(shape)].reshape(shape)
        for key in ("bg_pos", "fg_pos", "neg")
    }
    for pair in pairs(torch.zeros(2, 32, 32), torch.zeros(2, 2, 32, 32), small_seeds(), 10):
        i, valid = directions[pair.offset], (pair.source < 21) & (pair.target < 21)
        for key, ours in (
            ("bg_pos", valid & (pair.source == 0) & (pair.target == 0)),
            ("fg_pos", valid & (pair.source == pair.target) & (pair.source > 0)),
            ("neg", valid & (pair.source != pair.target)),
        ):
            np.testing.assert_array_equal(masks[key][:, i], ours, err_msg=key)


@needs_full_golden
def test_losses_of_single_pairs(net):
    file, sample = batch()
    edge, displacement = net.train()(sample["image"])
    directions = stored_directions()
    for pair in pairs(edge.sigmoid()[:, 0], displacement, sample["seed"], 10):
        i = directions[pair.offset]
        if i < 8:
            assert_close(
                -(pair.affinity + 1e-5).log(),
                torch.from_numpy(file["pos_aff_loss_dir0_8"][:, i]),
                rtol=0,
                atol=1e-5,
            )
            assert_close(
                -(1 + 1e-5 - pair.affinity).log(),
                torch.from_numpy(file["neg_aff_loss_dir0_8"][:, i]),
                rtol=0,
                atol=1e-5,
            )
        if i < 4:
            assert_close(
                pair.displacement.abs(),
                torch.from_numpy(file["dp_bg_loss_dir0_4"][:, :, i]),
                rtol=0,
                atol=1e-5,
            )
            off = pair.displacement - torch.tensor(pair.offset)[:, None]
            assert_close(
                off.abs(), torch.from_numpy(file["dp_fg_loss_dir0_4"][:, :, i]), rtol=0, atol=1e-5
            )


@needs_full_golden
def test_one_training_step():
    file, sample = batch()
    net = filled(nets.irn_resnet50(), "irn_resnet50_irn").train()
    recipe = irn.RECIPES["resnet50"]
    with torch.no_grad():
        losses = relation_losses(*net(sample["image"]), sample["seed"], recipe.radius)
    for ours, name in zip(
        (*losses, losses.total()), ("pos", "neg", "dp_fg", "dp_bg", "total"), strict=True
    ):
        assert ours.item() == pytest.approx(float(file[f"loss_{name}"]), abs=1e-5), name
    # (parameter, the stored part of its gradient, the function that cuts it out, its learning rate)
    watched = [
        (net.edge_out.weight, file["grad_fc_edge6"], lambda p: p, 0.1),
        (net.edge[4][0].weight, file["grad_fc_edge5_conv"], lambda p: p[:, :64, 0, 0], 0.1),
        (net.displacement_out[3].weight, file["grad_dp7_last"], lambda p: p, 1.0),
    ]
    before = [part(p.detach()).clone() for p, _, part, _ in watched]
    frozen = {k: v.clone() for k, v in net.backbone.state_dict().items()}
    loss = fit._update(
        TrainStepModule(net, irn_training._step(recipe)),
        sample,
        recipe.optimizer(irn.parameter_groups(net, recipe)),
        CPU,
    )
    assert loss.item() == pytest.approx(float(file["loss_total"]), abs=1e-5)
    for (p, stored, part, lr), old in zip(watched, before, strict=True):
        assert_close(part(p.grad), torch.from_numpy(stored), rtol=1e-4, atol=1e-6)
        assert_close(
            part(p.detach()), old - lr * (torch.from_numpy(stored) + 1e-4 * old), rtol=0, atol=2e-6
        )
    assert sum(p.grad is None for p in net.parameters()) == file["n_params_without_grad"]
    assert all(torch.equal(v, net.backbone.state_dict()[k]) for k, v in frozen.items())


def test_the_public_optimiser_is_sgd_with_the_weight_decay_for_momentum():
    """13 steps of the public PolyOptimizer on given gradients: 10 scheduled, then the last rate."""
    file, schedule = golden("poly_optimizer_trace"), Poly()
    parameters = [torch.nn.Parameter(torch.ones(3)) for _ in range(4)]
    optimizer = torch.optim.SGD(
        [
            {"params": [p], "weight_decay": wd, "momentum": m}
            for p, wd, m in zip(parameters, file["weight_decay"], file["momentum"], strict=True)
        ],
        lr=1.0,
    )
    for i, (rates, stored) in enumerate(zip(file["lr"], file["params_after_step"], strict=True)):
        np.testing.assert_allclose(rates, file["lr"][0] * schedule(min(i, 9) / 10), rtol=1e-12)
        for j, (group, p) in enumerate(zip(optimizer.param_groups, parameters, strict=True)):
            group["lr"], p.grad = (
                float(rates[j]),
                torch.tensor([1.0, -2.0, 0.5]) * (i + 1) * (j + 1),
            )
        optimizer.step()
        assert_close(
            torch.stack(parameters).detach(), torch.from_numpy(stored), rtol=1e-5, atol=1e-5
        )


@needs_full_golden
@torch.inference_mode()
@pytest.mark.parametrize(
    ("pad", "edge_name", "displacement_name", "file_name"),
    [
        (160, "ed/edge_crop160", "ed/dp_crop160", "irn_net"),
        (512, "ed/edge_crop512", "ed/dp_crop512", "irn_net"),
        (1, "ed_edge_nopad", "ed_dp_nopad", "coco14_nets"),
    ],
)
def test_outputs_depend_on_the_padding_as_published(
    net, pad, edge_name, displacement_name, file_name
):
    image = torch.from_numpy(normalise(golden("irn_net")["ed/img_u8_91x123"]))[None]
    images, file = torch.cat([image, image.flip(-1)]), golden(file_name)
    edge, displacement = boundaries_and_displacements(net.eval(), images, pad)
    assert_close(edge, torch.from_numpy(file[edge_name]), rtol=0, atol=1e-4)
    assert_close(displacement[0], torch.from_numpy(file[displacement_name]), rtol=0, atol=2e-4)


@needs_full_golden
@pytest.mark.parametrize("name", cases("irn_sem_seg"))
def test_refinement_and_its_masks(name):
    file = golden("irn_sem_seg")
    keys, size = file[f"{name}/keys"] + 1, file[f"{name}/sem_seg"].shape
    maps = ClassMaps(np.concatenate([[0], keys]), file[f"{name}/amn_cam_strided"]).foreground()
    refined = irn.walk_maps(
        maps, torch.from_numpy(file[f"{name}/edge"])[0], size, irn.RECIPES["resnet50"]
    )
    stored = torch.nn.functional.interpolate(
        torch.from_numpy(file[f"{name}/rw"]), scale_factor=4, mode="bilinear"
    )
    stored = stored[:, 0, : size[0], : size[1]]
    assert_close(torch.from_numpy(refined.high_res), stored / stored.max(), rtol=1e-3, atol=1e-6)
    as_saved = refined.high_res.astype(np.float16).astype(np.float32)
    for scores in (refined.high_res, as_saved):
        mask = to_labels(label_index(scores, 0.25), refined.keys)
        assert (mask != file[f"{name}/sem_seg"]).mean() <= 1e-3


@needs_full_golden
@torch.inference_mode()
@pytest.mark.parametrize("name", cases("irn_sem_seg"))
def test_masks_from_the_network(net, name):
    """Complete inference: image, network, random walk, mask."""
    file = golden("irn_sem_seg")
    image = torch.from_numpy(normalise(file[f"{name}/img_u8"]))[None]
    edge = irn.boundaries(net.eval(), torch.cat([image, image.flip(-1)]), 512)[0]
    assert_close(edge, torch.from_numpy(file[f"{name}/edge"])[0], rtol=0, atol=1e-4)
    keys, size = file[f"{name}/keys"] + 1, file[f"{name}/sem_seg"].shape
    maps = ClassMaps(keys, file[f"{name}/amn_cam_strided"][1:])
    refined = irn.walk_maps(maps, edge, size, irn.RECIPES["resnet50"])
    mask = to_labels(label_index(refined.high_res, irn.RECIPES["resnet50"].threshold), refined.keys)
    assert (mask != file[f"{name}/sem_seg"]).mean() <= 1e-3


def test_recipe_of_the_walk():
    recipe = irn.RECIPES["resnet50"]
    assert dataclasses.astuple(recipe)[:5] == (3, 32, 0.1, 10.0, 10)
    assert recipe.optimizer == Sgd(weight_decay=1e-4, momentum=1e-4)
    assert (recipe.power, recipe.walk_radius, recipe.beta) == (1.3, 5, 10.0)
    assert (recipe.steps, recipe.pad) == (256, 512)
