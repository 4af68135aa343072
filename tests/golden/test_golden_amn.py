"""AMN's networks, loss, maps, seeds and training steps against outputs of the public code."""

import dataclasses

import numpy as np
import pytest
import torch
from golden import cases, filled, golden, needs_full_golden
from labels_at import label_index

from wsss_fast import amn, cam, nets
from wsss_fast.amn import training as amn_training
from wsss_fast.cam import training as cam_training
from wsss_fast.data.transforms import normalise, resize_image
from wsss_fast.engine import fit
from wsss_fast.engine.ddp import TrainStepModule
from wsss_fast.engine.optimizers import backbone_and_head
from wsss_fast.engine.runtime import Runtime
from wsss_fast.maps import to_labels
from wsss_fast.ops import pixel_cross_entropy
from wsss_fast.ops.reference.pixel_loss import nearest
from wsss_fast.readers.label_maps import write_labels
from wsss_fast.stages.activate import Views
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.seeds import combine

CPU = Runtime(torch.device("cpu"), 0, 0, torch.float32)


@pytest.fixture(scope="module")
def cam_net():
    return filled(nets.cam_resnet50(20), "amn_resnet50_cam")


@pytest.fixture(scope="module")
def amn_net():
    return filled(nets.amn_resnet50(20), "amn_resnet50_amn")


def with_mirror(image):
    return torch.cat([image[:1], image[:1].flip(-1)])


@needs_full_golden
@torch.inference_mode()
def test_cam_network(cam_net):
    file = golden("cam_net")
    images = torch.from_numpy(file["img"])
    np.testing.assert_allclose(cam_net(images), file["logit"], atol=1e-4)
    first, mirrored = cam_net.maps(with_mirror(images)).chunk(2)
    np.testing.assert_allclose((first + mirrored.flip(-1))[0], file["cam_pair_out"], atol=1e-4)


@needs_full_golden
@torch.inference_mode()
def test_amn_network(amn_net):
    file = golden("amn_net")
    images, labels = torch.from_numpy(file["img"]), torch.from_numpy(file["label"])
    np.testing.assert_allclose(amn_net(images, labels), file["logit"], atol=1e-4)
    first, mirrored = amn_net(with_mirror(images), labels[:1].expand(2, -1)).chunk(2)
    np.testing.assert_allclose((first + mirrored.flip(-1))[0] / 2, file["cam_pair_out"], atol=1e-4)


@needs_full_golden
def test_cam_gradient():
    file, images = golden("cam_train_grad"), torch.from_numpy(golden("cam_net")["img"])
    net = filled(nets.cam_resnet50(20), "amn_resnet50_cam").train()
    loss = torch.nn.functional.multilabel_soft_margin_loss(
        net(images), torch.from_numpy(file["label"])
    )
    loss.backward()
    assert loss.item() == pytest.approx(float(file["loss"]), abs=1e-5)
    np.testing.assert_allclose(
        net.head.weight.grad[:, :256, 0, 0], file["grad_classifier"], atol=1e-5
    )
    assert net.backbone.layer1[0].conv1.weight.grad is None
    assert net.backbone.layer2[0].conv1.weight.grad is None


@pytest.mark.parametrize("name", cases("amn_loss"))
def test_pixel_cross_entropy(name):
    file = golden("amn_loss")
    logits = torch.from_numpy(file[f"{name}/logits"]).requires_grad_()
    labels = torch.from_numpy(file[f"{name}/labels"])
    loss = pixel_cross_entropy(logits, labels, smoothing=float(file[f"{name}/eps"]), balance=True)
    loss.backward()
    stored = float(file[f"{name}/loss"])
    if np.isfinite(stored):
        assert loss.item() == pytest.approx(stored, abs=1e-5)
        np.testing.assert_allclose(logits.grad, file[f"{name}/grad"], atol=1e-7)
    else:
        assert loss.isfinite() and logits.grad.isfinite().all()


def test_resize_labels():
    """The public code passes (height, width) as Pillow's (width, height)."""
    file = golden("amn_resize_labels")
    for name in cases("amn_resize_labels"):
        labels, (width, height), out = (
            file[f"{name}/{key}"] for key in ("labels", "size_arg", "out")
        )
        ours = nearest(torch.from_numpy(labels), int(height), int(width))
        np.testing.assert_array_equal(ours, out, err_msg=name)


def views_of(image, label, scales=(1.0, 0.5, 1.5, 2.0)):
    height, width = image.shape[:2]
    stack = []
    for scale in scales:
        x = torch.from_numpy(
            normalise(resize_image(image, round(height * scale), round(width * scale)))
        )[None]
        stack.append(torch.cat([x, x.flip(-1)]))
    return Views(("i",), torch.from_numpy(label)[None], tuple(stack), (height, width))


@needs_full_golden
@torch.inference_mode()
@pytest.mark.parametrize("name", ["i0", "i1", "i2"])
def test_cam_stage_and_its_seeds(cam_net, name):
    file = golden("amn_stage_cam")
    image, label = file[f"{name}/img_u8"], file[f"{name}/label"]
    (maps,) = cam.views_to_maps(cam_net)(views_of(image, label))
    np.testing.assert_array_equal(maps.keys - 1, file[f"{name}/keys"])
    np.testing.assert_allclose(maps.strided, file[f"{name}/cam"], atol=1e-4)
    np.testing.assert_allclose(maps.high_res, file[f"{name}/high_res"], atol=1e-4)
    seed = seed_of(image, file[f"{name}/high_res"], file[f"{name}/keys"], 0.30, 0.05)
    assert (seed != file[f"{name}/ir_label_fg0.30_bg0.05"]).mean() <= 1e-3


@needs_full_golden
@torch.inference_mode()
@pytest.mark.parametrize("name", ["i0", "i1", "i2"])
def test_amn_stage_and_its_seeds(amn_net, name, tmp_path):
    file = golden("amn_stage_amn_cam")
    image, label, seed = file[f"{name}/img_u8"], file[f"{name}/label"], file[f"{name}/seed"]
    write_labels(tmp_path / "seed.png", seed)
    (maps,) = amn.views_to_maps(amn_net, lambda id: seed)(views_of(image, label))
    np.testing.assert_allclose(maps.strided, file[f"{name}/cam"], atol=1e-4)
    np.testing.assert_allclose(maps.high_res, file[f"{name}/high_res"], atol=1e-4)
    ours = seed_of(image, file[f"{name}/high_res"][1:], file[f"{name}/keys"], 0.45, 0.15)
    assert (ours != file[f"{name}/amn_ir_label_fg0.45_bg0.15"]).mean() <= 1e-3


def seed_of(image, scores, keys, fg, bg):
    index = np.stack([label_index(scores, t) for t in (fg, bg)])
    labels = Crf().refine_labels(image[None], index[None], len(keys) + 1)[0]
    return combine(*torch.from_numpy(to_labels(labels.numpy(), keys + 1))).numpy()


@pytest.mark.parametrize("name", cases("amn_cam_to_ir_label_given"))
@pytest.mark.parametrize("threshold", ["fg0.30", "bg0.05", "fg0.45", "bg0.15"])
def test_argmax_of_stored_maps(name, threshold):
    file = golden("amn_cam_to_ir_label_given")
    index = label_index(file[f"{name}/cam"], float(threshold[2:]))
    np.testing.assert_array_equal(index, file[f"{name}/argmax_{threshold}"])


@needs_full_golden
@pytest.mark.parametrize("name", cases("amn_cam_to_ir_label_given"))
@pytest.mark.parametrize(("fg", "bg"), [(0.30, 0.05), (0.45, 0.15)])
def test_seeds_from_stored_maps(name, fg, bg):
    file = golden("amn_cam_to_ir_label_given")
    seed = seed_of(file[f"{name}/img_u8"], file[f"{name}/cam"], file[f"{name}/keys"], fg, bg)
    stored = file[f"{name}/ir_label_fg{fg:.2f}_bg{bg:.2f}"]
    assert (seed != stored).mean() <= 1e-3


@needs_full_golden
@torch.inference_mode()
def test_coco_networks():
    file, images = golden("coco14_nets"), torch.from_numpy(golden("amn_net")["img"])
    labels = torch.from_numpy(file["label"])
    amn_coco = filled(nets.amn_resnet50(80), "amn_coco14_resnet50_amn")
    np.testing.assert_allclose(amn_coco(images, labels), file["amn_logit"], atol=1e-4)
    cam_coco = filled(nets.cam_resnet50(80), "amn_coco14_resnet50_cam")
    first, mirrored = cam_coco.maps(with_mirror(images)).chunk(2)
    np.testing.assert_allclose((first + mirrored.flip(-1))[0], file["cam_pair"], atol=1e-4)


@needs_full_golden
def test_three_steps_of_the_classifier():
    file = golden("cam_train_step")
    net = filled(nets.cam_resnet50(20), "amn_resnet50_cam").train()
    recipe = dataclasses.replace(cam.RECIPES["resnet50"], lr=1e-3)
    optimizer = recipe.optimizer(backbone_and_head(net, recipe.lr, recipe.head_lr_scale))
    peaks = [group["lr"] for group in optimizer.param_groups]
    batch = {"image": torch.from_numpy(file["img"]), "tags": torch.from_numpy(file["label_cls"])}
    untouched = net.backbone.layer2[0].conv1.weight.clone()
    for i in range(3):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * recipe.schedule(i / 5)
        np.testing.assert_allclose(
            [group["lr"] for group in optimizer.param_groups], file["lrs"][i], rtol=1e-6
        )
        loss = fit._update(TrainStepModule(net, cam_training._step), batch, optimizer, CPU)
        assert loss.item() == pytest.approx(file["losses"][i], abs=1e-4)
    np.testing.assert_allclose(
        net.head.weight[:, :256, 0, 0].detach(), file["classifier_after"], atol=1e-4
    )
    layer4 = net.backbone.layer4[2].conv3.weight[:64, :64, 0, 0].detach()
    np.testing.assert_allclose(layer4, file["layer4_after"], atol=1e-4)
    assert torch.equal(net.backbone.layer2[0].conv1.weight, untouched)


@needs_full_golden
def test_three_steps_of_the_amn():
    file = golden("amn_train_step")
    net = filled(nets.amn_resnet50(20), "amn_resnet50_amn").train()
    net.dropout.p = 0.0
    recipe = amn.RECIPES["resnet50"]
    optimizer = recipe.optimizer(amn.parameter_groups(net, recipe))
    batch = {
        "image": torch.from_numpy(file["img"]),
        "seed": torch.from_numpy(file["label"]),
        "tags": torch.from_numpy(file["label_cls"]),
    }
    np.testing.assert_array_equal(nearest(batch["seed"], 6, 6), file["label_small"])
    step = amn_training._step(recipe)
    for i in range(3):
        loss = fit._update(TrainStepModule(net, step), batch, optimizer, CPU)
        assert loss.item() == pytest.approx(file["losses_3_steps"][i], abs=1e-4)
        if i == 0:
            check_amn(net, file, "grad", lambda p: p.grad, rtol=2e-3)
            norm = torch.stack(
                [p.grad.norm() for p in net.parameters() if p.grad is not None]
            ).norm()
            assert norm.item() == pytest.approx(float(file["grad_total_norm"]), rel=1e-3)
            assert net.backbone.conv1.weight.grad is None
    # Adam divides by the gradient's size, so where that is near 0, rounding decides its sign and
    # thereby the step.
    check_amn(net, file, "after3", lambda p: p.detach(), rtol=0, atol=4 * recipe.head_lr)


def check_amn(net, file, prefix, read, rtol, atol=1e-5):
    ours = {
        "label_enc.weight": read(net.label_scale.weight),
        "classifier.1.c0.bias": read(net.bias)[0],
        "classifier.1.c3.weight[:,:16]": read(net.weight)[3, :, :16],
        "resnet50.layer4.2.conv3.weight[:64,:64]": read(net.backbone.layer4[2].conv3.weight)[
            :64, :64
        ],
        "resnet50.layer1.0.bn1.weight": read(net.backbone.layer1[0].bn1.weight),
    }
    for name, value in ours.items():
        stored = file[f"{prefix}/{name}"]
        np.testing.assert_allclose(
            value,
            stored,
            rtol=rtol,
            atol=max(atol, 1e-3 * float(np.abs(stored).max()) * (rtol > 0)),
            err_msg=name,
        )
        assert np.abs(value.numpy() - stored).mean() <= 1e-5 + 1e-4 * np.abs(stored).mean(), name
