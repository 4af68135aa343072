"""DeepLabV2's schedule, CRF, augmentation and scores against outputs of the public code."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from golden import cases, filled, golden, needs_full_golden

from wsss_fast import nets, seg
from wsss_fast.engine.optimizers import backbone_and_head
from wsss_fast.engine.runtime import resolve_runtime
from wsss_fast.engine.schedules import for_updates
from wsss_fast.evaluation.metrics import confusion_matrix, metrics_of

RECIPE = seg.RECIPES["resnet101"]


@pytest.mark.parametrize(
    ("name", "updates", "every", "shown"),
    [
        ("voc_20000_step10", 20000, 10, 10),
        ("short_50_step10", 50, 10, 1),
        ("short_30_step1", 30, 1, 1),
    ],
)
def test_learning_rates(name, updates, every, shown):
    """The published rates of each parameter group (a column), constant for `every` updates."""
    stored, net = golden("deeplab_poly_lr")[name], nets.deeplabv2_resnet101(20)
    optimizer = RECIPE.optimizer(backbone_and_head(net, RECIPE.lr, RECIPE.head_lr_scale))
    peaks = [group["lr"] for group in optimizer.param_groups if group["params"]]
    schedule = for_updates(dataclasses.replace(RECIPE.schedule, every=every), updates)
    steps = np.arange(0, updates, shown)
    ours = [[peak * schedule(i / updates) for peak in peaks] for i in steps]
    np.testing.assert_allclose(ours, stored[: len(steps)], rtol=1e-9)
    assert len(stored) > len(steps) and (stored[len(steps) :] == 0).all()


def test_parameter_groups():
    file, net = golden("deeplab_net"), nets.deeplabv2_resnet101(20)
    optimizer = RECIPE.optimizer(backbone_and_head(net, RECIPE.lr, RECIPE.head_lr_scale))
    groups = [group for group in optimizer.param_groups if group["params"]]
    convolutions, weights, biases = (g["params"] for g in groups)
    assert len(convolutions) == file["n_conv_1x"] and all(p.ndim == 4 for p in convolutions)
    assert weights[0].shape[0] == biases[0].shape[0] == file["n_conv_aspp"]
    decays = [g["weight_decay"] for g in groups]
    assert decays == [5e-4, 5e-4, 0.0]


@needs_full_golden
@pytest.mark.parametrize("name", cases("deeplab_crf"))
@pytest.mark.parametrize(
    ("photo", "stored"), [("img_u8", "argmax_with_unsubtracted_bgr"), ("image_as_fed_u8", "argmax")]
)
def test_crf_at_test_time(name, photo, stored):
    """On the true image, as here, and on the wrapped-around one of the public code; both in BGR.

    The model is symmetric in the channels, but the axes of its lattice are not: in RGB, 0.5 % and
    0.8 % of these pixels differ.
    """
    file = golden("deeplab_crf")
    image = file[f"{name}/{photo}"]
    image = image[..., ::-1] if photo == "img_u8" else image
    q = seg.to_probabilities(torch.from_numpy(file[f"{name}/logit"])[None], image[None], RECIPE.crf)
    assert (q[0].argmax(0).numpy() != file[f"{name}/{stored}"]).mean() <= 1e-3
    if stored == "argmax":
        np.testing.assert_allclose(
            q[0, :, ::2, ::2].numpy(), file[f"{name}/Q_f16_step2"], atol=2e-2
        )


@needs_full_golden
@torch.inference_mode()
def test_prediction_from_the_photo():
    """From photo to probabilities; stored are the logits of the unscaled input, here resized."""
    file = golden("deeplab_net")
    net = filled(nets.deeplabv2_resnet101(20), "deeplabv2_resnet101_msc_21")
    stored = torch.nn.functional.interpolate(
        torch.from_numpy(file["out_eval_unscaled"]), file["img_u8"].shape[:2], mode="bilinear"
    ).softmax(1)
    where = resolve_runtime("cpu", 0, 0, "fp32", prefer_bf16=False)
    ours = seg.predict(net, file["img_u8"][None], RECIPE, where, None)
    assert (ours.argmax(1) != stored.argmax(1)).float().mean() <= 1e-3
    # The logits span 450 here, so a relative error of 1e-5 moves a softmax.
    torch.testing.assert_close(ours, stored, rtol=0, atol=5e-3)


@needs_full_golden
@pytest.mark.parametrize("name", cases("deeplab_augment"))
def test_augmentation(name):
    """The stored crops, with the public code's random numbers: factor, top, left, flip."""
    file = golden("deeplab_augment")
    side, seed = int(name.split("_")[0].removeprefix("crop")), int(name.split("_s")[1])
    draw = random.Random(seed)
    augment = dataclasses.replace(RECIPE.augment, crop=side)
    image, labels = augment.resized(file["img_rgb_u8"], file["label"], draw.choice(augment.factors))
    top, left = (draw.randint(0, max(n - side, 0)) for n in image.shape[:2])
    # The public code mirrors the crop. With a small image in its corner, that is not a crop of the
    # mirrored image.
    cropped, mask = augment.cropped(augment.to_input(image), labels, top, left)
    if draw.random() < 0.5:
        cropped, mask = cropped.flip(-1), mask.flip(-1)
    np.testing.assert_array_equal(mask, file[f"{name}/label"])
    np.testing.assert_allclose(cropped, file[f"{name}/img_f16"], atol=0.07)  # stored as float16


def test_scores():
    """The confusion matrix is exact; the public mean leaves out classes absent from the truth."""
    file = golden("deeplab_scores")
    confusion = sum(
        confusion_matrix(gt, pred, 21) for gt, pred in zip(file["gt"], file["pred"], strict=True)
    )
    metrics = metrics_of(confusion, [f"c{i}" for i in range(20)], 3)
    iou, truth = np.array(list(metrics.iou.values())), confusion.sum(1)
    np.testing.assert_allclose(np.nan_to_num(iou), np.nan_to_num(file["iou"]), rtol=1e-12)
    assert np.mean(iou[truth > 0]) == pytest.approx(float(file["miou"]), rel=1e-12)
    assert np.diag(confusion).sum() / confusion.sum() == pytest.approx(
        float(file["pixacc"]), rel=1e-12
    )


@pytest.mark.parametrize("name", cases("chainercv_eval"))
def test_confusion_of_chainercv(name):
    """Exact, with its -1 as 255. The COCO evaluation also has a row for 255, left out here."""
    file = golden("chainercv_eval")
    stored, confusion = file[f"{name}/confusion"], 0
    num_labels = min(len(stored), 81) if len(stored) < 256 else 21
    for i in range(sum(key.startswith(f"{name}/gt") for key in file.files)):
        truth, predicted = file[f"{name}/gt{i}"], file[f"{name}/pred{i}"]
        truth = np.where(truth < 0, 255, truth).astype(np.uint8)
        confusion = confusion + confusion_matrix(truth, predicted.astype(np.uint8), num_labels)
    np.testing.assert_array_equal(confusion, stored[:num_labels, :num_labels])
    metrics = metrics_of(confusion, [f"c{i}" for i in range(num_labels - 1)], 3)
    if len(stored) < 256:
        np.testing.assert_allclose(list(metrics.iou.values()), file[f"{name}/iou"], rtol=1e-12)
        assert metrics.miou == pytest.approx(float(file[f"{name}/miou"]), rel=1e-12)
