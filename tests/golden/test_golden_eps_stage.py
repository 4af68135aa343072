"""EPS' loader, training steps, inference and CRF against outputs of the public code."""

import copy
import dataclasses
import random

import numpy as np
import pytest
import torch
from golden import cases, filled, golden, needs_full_golden
from labels_at import label_index

from wsss_fast import cam, eps, nets
from wsss_fast.data.transforms import Augment, normalise, resize_image
from wsss_fast.engine import fit
from wsss_fast.engine.ddp import TrainStepModule
from wsss_fast.engine.optimizers import backbone_and_head
from wsss_fast.engine.runtime import Runtime
from wsss_fast.eps import training as eps_training
from wsss_fast.eps.alpha_crf import AlphaCrf
from wsss_fast.maps import to_labels
from wsss_fast.ops.reference.pixel_loss import nearest
from wsss_fast.stages.activate import Views

CPU = Runtime(torch.device("cpu"), 0, 0, torch.float32)
FROZEN = ("backbone.conv1", "backbone.stage2")
PAPER = eps.RECIPES["resnet38"]


def rgb(gray):
    return np.repeat(gray[..., None], 3, axis=2)


@needs_full_golden
@pytest.mark.parametrize("name", cases("eps_dataset_nojitter"))
def test_loader(name):
    """Image and saliency with the public code's random numbers: size, flip, left, top."""
    file = golden("eps_dataset_nojitter")
    draw, image, levels = random.Random(int(name[1:])), file["img_u8"], rgb(file["saliency_u8"])
    augment = Augment(crop=int(file["crop_size"]))
    image, _ = augment.resized(
        image, None, draw.randint(*file["resize_size"].tolist()) / max(image.shape[:2])
    )
    levels = resize_image(levels, *image.shape[:2])
    if draw.random() > 0.5:
        image, levels = image[:, ::-1], levels[:, ::-1]
    # The public code draws the crop's column before its row.
    places = {}
    for axis in (1, 0):
        room = image.shape[axis] - augment.crop
        places[axis] = draw.randrange(abs(room) + 1)
    salient = augment.crop_or_pad(
        (levels / 255.0).mean(axis=2).astype(np.float32)[None], 0, places[0], places[1]
    )
    np.testing.assert_allclose(salient, file[f"{name}/saliency"], atol=1e-6)
    cropped, _ = augment.cropped(normalise(image), None, places[0], places[1])
    np.testing.assert_allclose(cropped, file[f"{name}/img_f16"], atol=2e-3)  # stored as float16


@needs_full_golden
def test_sizes_of_the_longer_side():
    file = golden("eps_pipeline")
    image = file["img_u8"]
    for size in (96, 120, 77):
        resized, _ = Augment(crop=8).resized(image, None, size / max(image.shape[:2]))
        np.testing.assert_array_equal(resized, file[f"resize_long_{size}"])
    np.testing.assert_allclose(normalise(image).transpose(1, 2, 0), file["normalized"], atol=1e-6)


def test_saliency_at_the_size_of_the_maps():
    """Nearest with the index rounded down, the default mode of torch's interpolation."""
    file = golden("eps_saliency_resize")
    salient = torch.from_numpy(file["saliency_f16"]).float()
    for size in (56, 41):
        index = torch.arange(size) * salient.shape[-1] // size
        np.testing.assert_array_equal(salient[..., index[:, None], index], file[f"out{size}"])
    # Unlike Pillow's, which takes the pixel at the centre.
    assert not np.array_equal(nearest(salient[:, 0], 41, 41), file["out41"][:, 0])


@needs_full_golden
@pytest.mark.slow
def test_three_training_steps():
    file = golden("eps_train_step")
    net = filled(nets.eps_resnet38(20), "eps_resnet38_eps_21").train()
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    groups = backbone_and_head(net, PAPER.lr, PAPER.head_lr_scale)
    optimizer = PAPER.optimizer(groups)
    peaks = [group["lr"] for group in optimizer.param_groups]
    batch = {
        "image": torch.from_numpy(file["img"]),
        "saliency": torch.from_numpy(file["saliency"]),
        "tags": torch.from_numpy(file["label"]),
    }
    frozen = {
        k: v.clone() for k, v in net.state_dict().items() if "bn" in k or k.startswith(FROZEN)
    }
    with torch.no_grad():
        scores, maps = net(batch["image"])
        classes, salient = eps.losses(lambda images: (scores, maps), batch, PAPER)
    assert [classes.item(), salient.item()] == pytest.approx(
        file["loss_cls_sal_lrs"][0, :2].tolist(), abs=1e-5
    )
    np.testing.assert_allclose(maps.roll(-1, 1), file["cam"], atol=1e-4)
    np.testing.assert_allclose(scores, file["pred"][:, :-1], atol=1e-4)
    for i, row in enumerate(file["loss_cls_sal_lrs"]):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * PAPER.schedule(i / 20)
        np.testing.assert_allclose(
            [group["lr"] for group in optimizer.param_groups], row[2:], rtol=1e-6
        )
        loss = fit._update(TrainStepModule(net, eps_training._step(PAPER)), batch, optimizer, CPU)
        assert loss.item() == pytest.approx(row[0] + row[1], abs=1e-5)
        if i == 0:
            grads = [p.grad for p in net.parameters() if p.grad is not None]
            assert len(grads) == file["n_grad"]
            norm = torch.stack([g.double().square().sum() for g in grads]).sum().sqrt()
            assert norm.item() == pytest.approx(float(file["grad_norm"]), rel=1e-4)
            np.testing.assert_allclose(
                net.map_head.weight.grad.roll(-1, 0)[:, :256, 0, 0], file["grad_fc8"], atol=1e-6
            )
            np.testing.assert_allclose(last(net).grad[:64, :64, 0, 0], file["grad_b7"], atol=1e-7)
    np.testing.assert_allclose(
        net.map_head.weight.detach().roll(-1, 0)[:, :256, 0, 0], file["fc8_after"], atol=1e-6
    )
    np.testing.assert_allclose(last(net).detach()[:64, :64, 0, 0], file["b7_after"], atol=1e-6)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in frozen.items())


def last(net):
    return net.backbone.stage7[0].conv3.weight


def test_the_optimiser_has_the_published_groups():
    """As in the trace of the public optimiser.

    Learning rates scaled by 1, 2, 10, 20; weight decay on weights only, and momentum equal to it.
    """
    file = golden("poly_optimizer_trace")
    with torch.device("meta"):
        groups = PAPER.optimizer(
            backbone_and_head(nets.eps_resnet38(20), PAPER.lr, PAPER.head_lr_scale)
        ).param_groups
    np.testing.assert_allclose([g["lr"] for g in groups], file["lr"][0], rtol=1e-12)
    np.testing.assert_allclose(
        [g["weight_decay"] for g in groups], file["weight_decay"], rtol=1e-12
    )
    np.testing.assert_allclose([g["momentum"] for g in groups], file["momentum"], rtol=1e-12)
    assert [len(g["params"]) for g in groups] == [35, 0, 1, 0]


@pytest.fixture(scope="module")
def networks():
    return {
        "eps": filled(nets.eps_resnet38(20), "eps_resnet38_eps_21"),
        "cls": filled(nets.cam_resnet38(20), "eps_resnet38_cls_20"),
    }


@pytest.fixture(scope="module")
def ready(networks):
    return {
        kind: nets.optimize_for_inference(copy.deepcopy(net), CPU, amx=kind == "eps")
        for kind, net in networks.items()
    }


def views_of(image, label, scales):
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
@pytest.mark.parametrize("kind", ["eps", "cls"])
@pytest.mark.parametrize("name", ["i0", "i1"])
@pytest.mark.parametrize("fixture", ["networks", "ready"], ids=["plain", "as infer runs it"])
def test_inference(request, name, kind, fixture):
    file, net = golden("eps_infer"), request.getfixturevalue(fixture)[kind]
    views = views_of(file[f"{name}/img_u8"], file[f"{name}/label"], PAPER.scales)
    assert [list(v.shape[1:]) for v in views.scales] == file[f"{name}/scaled_shapes"][::2].tolist()
    classifier = cam.RECIPES["resnet38"]
    assert classifier.scales == PAPER.scales
    (maps,) = (
        eps.views_to_maps(net) if kind == "eps" else cam.views_to_maps(net, classifier.align)
    )(views)
    np.testing.assert_array_equal(maps.keys - 1, file[f"{kind}/{name}/keys"])
    np.testing.assert_allclose(maps.high_res, file[f"{kind}/{name}/cam"], atol=1e-4)
    stored = file[f"{kind}/{name}/pred_thr0.20"]
    for scores, most in ((file[f"{kind}/{name}/cam"], 0.0), (maps.high_res, 1e-3)):
        assert (to_labels(label_index(scores, PAPER.threshold), maps.keys) != stored).mean() <= most


@needs_full_golden
@pytest.mark.parametrize("kind", ["eps", "cls"])
@pytest.mark.parametrize("name", ["i0", "i1"])
@pytest.mark.parametrize("alpha", [4, 16, 32])
@pytest.mark.parametrize("steps", [1, 10])
def test_crf_with_alpha(name, kind, alpha, steps):
    file = golden("eps_infer")
    crf = dataclasses.replace(PAPER.crf, alpha=float(alpha), iterations=steps)
    q = crf.refine_maps(file[f"{name}/img_u8"][None], file[f"{kind}/{name}/cam"][None])[0].numpy()
    stored = file[f"{kind}/{name}/crf_alpha{alpha}_t{steps}_argmax"]
    assert (q.argmax(axis=0) != stored).mean() <= 1e-3
    if f"{kind}/{name}/crf_alpha{alpha}_t{steps}_f16" in file.files:
        np.testing.assert_allclose(
            q[:, ::2, ::2], file[f"{kind}/{name}/crf_alpha{alpha}_t{steps}_f16"], atol=5e-3
        )


def test_published_numbers():
    coco = eps.COCO
    assert (PAPER.updates, PAPER.batch_size) == (20_000, 8)
    assert (PAPER.tau, PAPER.lam, PAPER.threshold) == (0.4, 0.5, 0.2)
    assert (PAPER.augment.crop, PAPER.augment.long_side) == (448, (256, 512))
    assert (PAPER.augment.jitter, PAPER.augment.hue) == (0.3, 0.1)
    assert (coco.updates, coco.batch_size, coco.tau, coco.lam) == (256_500, 16, 0.4, 0.9)
    assert (coco.augment.crop, coco.augment.long_side, coco.lr) == (321, (256, 448), 0.01)
    assert AlphaCrf() == AlphaCrf(
        alpha=4.0, gaussian=(3.0, 3.0), bilateral=(80.0, 13.0, 10.0), iterations=10
    )
