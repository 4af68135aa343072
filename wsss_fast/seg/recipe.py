"""Hyper-parameters of the segmentation network, and the network that belongs to them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import nn

from wsss_fast import nets
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.transforms import Augment, subtract_mean
from wsss_fast.engine.fit import Length
from wsss_fast.engine.optimizers import Optimizer, Sgd
from wsss_fast.engine.ranges import COUNT, NOT_NEGATIVE, SCALE, TRAINING
from wsss_fast.engine.schedules import Poly, Schedule
from wsss_fast.engine.serialize import later
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.energy import Energy


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of the training and of the predictions; the defaults are deeplab-pytorch's.

    Attributes:
        updates: number of weight updates.
        batch_size: number of images per update.
        accumulate: number of parts of a batch whose gradients are accumulated, to save memory.
        lr: peak learning rate of the backbone's convolutions.
        head_lr_scale: learning rate of all other parameters, as a multiple of `lr`.
        augment: augmentation of the training images and pseudo-masks; its `to_input` also prepares
            the images at inference.
        scales: scales of an image that are used in addition to its own size, in training and at
            inference.
        resize: what is resized to compute the loss: "labels", to the size of the logits;
            "logits", to the size of the labels; or "aligned", as "logits", but the centres of the
            corner pixels of both stay in place (align_corners), at inference, too.
        energy: dense energy loss of the highest logits over the scales, which is added to the loss
            where its weight is not 0; the published recipe has none.
        flip: whether the logits of an image and of its mirror image are averaged at inference.
        crf: dense CRF that refines the predictions at inference; `gt_prob` is not used.
        infer_batch: number of images of equal size that share a forward pass at inference;
            CUDA takes up to 8 where its memory allows.
        optimizer: optimizer of all parameters.
        schedule: schedule of the learning rates.
        prefer_bf16: whether precision "auto" means bf16 where the hardware supports it.
        compile: whether torch.compile compiles the network, which takes a minute or more before the
            first update and changes results by rounding.
        head: layers on the backbone's features, see `nets.deeplab`.
        balance: cross-entropy of background and foreground, see `ops.pixel_cross_entropy`: "none",
            the mean over all pixels; "batch", each group's mean over the batch, then the mean of
            both; "image", the sum of both groups' means of an image, then the mean over the images.
        test_scales: scales of the image at inference, each with its mirror image if `flip`; (): the
            image's own size.
        test_merge: what is taken over `test_scales`: the mean of the "logits", or the "mean" or
            "max" of the probabilities.
    """

    ranges: ClassVar = {
        **TRAINING,
        "updates": COUNT,
        "accumulate": COUNT,
        "head_lr_scale": NOT_NEGATIVE,
        "scales": SCALE,
        "resize": ("labels", "logits", "aligned"),
        "head": ("aspp", "largefov", "seam", "mctformer", "conv1x1"),
        "balance": ("none", "batch", "image"),
        "test_scales": SCALE,
        "test_merge": ("logits", "mean", "max"),
    }

    updates: int = 20_000
    batch_size: int = 10
    accumulate: int = 2
    lr: float = 2.5e-4
    head_lr_scale: float = 10.0
    augment: Augment = Augment(
        crop=321,
        factors=(0.5, 0.75, 1.0, 1.25, 1.5),
        linear=True,
        corner=True,
        to_input=subtract_mean,
    )
    scales: tuple[float, ...] = (0.5, 0.75)
    resize: Literal["labels", "logits", "aligned"] = "labels"
    energy: Energy = Energy()
    flip: bool = False
    crf: Crf = Crf(gaussian=(1.0, 3.0), bilateral=(67.0, 3.0, 4.0))
    infer_batch: int = 1
    optimizer: Optimizer = Sgd(weight_decay=5e-4, momentum=0.9, caffe_biases=True)
    schedule: Schedule = Poly(every=10)
    prefer_bf16: bool = False
    compile: bool = False
    head: Literal["aspp", "largefov", "seam", "mctformer", "conv1x1"] = later("aspp")
    balance: Literal["none", "batch", "image"] = later("none")
    test_scales: tuple[float, ...] = later(())
    test_merge: Literal["logits", "mean", "max"] = later("logits")

    def length(self) -> Length:
        """Length of the training."""
        return Length(self.batch_size, updates=self.updates, accumulate=self.accumulate)

    def check_together(self, name: str) -> None:
        """Raise InputError for an augmentation that the energy loss cannot use."""
        self.energy.check(self.augment, name)


def network(data: Dataset, backbone: str, recipe: Recipe) -> nets.DeepLab:
    """The network for the classes of a data set, with random weights.

    Raises:
        InputError: an unknown backbone, a head that it does not have, or a scale that is not
            positive.
    """
    return nets.deeplab(
        len(data.classes), backbone=backbone, head=recipe.head, scales=recipe.scales
    )


def enlarged(logits: torch.Tensor, size: Sequence[int], recipe: Recipe) -> torch.Tensor:
    """Logits [B, K, h, w] at a size (H, W), bilinearly, as the recipe's `resize` places pixels."""
    return nn.functional.interpolate(
        logits, size, mode="bilinear", align_corners=recipe.resize == "aligned"
    )


def check_weights(
    data: Dataset,
    backbone: str,
    recipe: Recipe,
    weights: str | Path | None,
    argument: str = "seg_weights",
) -> None:
    """Check, before a run starts, that its segmentation network exists and can start from a file.

    Args:
        data: the data set whose classes the network has.
        backbone: of the network.
        recipe: hyper-parameters of the network.
        weights: the file, or None.
        argument: name of the option that gives the file.

    Raises:
        InputError: the backbone has no such head, or the file is missing, unreadable or of another
            network.
    """
    with torch.device("meta"), warnings.catch_warnings():
        net = network(data, backbone, recipe)
        if weights is not None:
            nets.check_file(argument, weights)
            # The check is wanted, not the values, which the device does not have.
            warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")
            nets.load_weights(net, weights)
