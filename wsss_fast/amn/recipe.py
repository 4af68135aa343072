"""Recipes of the AMN."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from wsss_fast.data.transforms import Augment
from wsss_fast.engine.fit import Length
from wsss_fast.engine.optimizers import Adam, Optimizer
from wsss_fast.engine.ranges import COUNT, NOT_NEGATIVE, SCALES, SHARE, TRAINING
from wsss_fast.engine.schedules import Constant, Poly, Schedule
from wsss_fast.stages.energy import Energy


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of the AMN's training and of its maps; the defaults are published.

    Attributes:
        epochs: number of passes over the training images.
        batch_size: number of images per update.
        lr: peak learning rate of the backbone.
        head_lr: peak learning rate of the label scale and of the dilated convolutions.
        smoothing: label smoothing, 0..1: the target of the labelled class is 1 - smoothing; the
            other classes share the rest.
        balance: whether the mean loss over background pixels and the mean loss over foreground
            pixels have equal weights, in the whole batch (True or "batch") or in each image
            ("image", which is not halved); otherwise all pixels have, as
            `ops.pixel_cross_entropy` says.
        energy: dense energy loss, which is added to the loss where its weight is not 0; the
            published recipe has none.
        condition_at: stage of the backbone that the label scale multiplies: "layer4", "layer3",
            "layer2", or None for no label conditioning.
        present_only: whether the softmax is over background and present classes instead of all.
        augment: augmentation of the training images and seeds.
        scales: scales of the views whose logits are averaged; each view is also mirrored.
        infer_batch: number of images of equal size that share a forward pass at inference; 1 for
            photos, which are large at scale 2. CUDA takes up to 8 where its memory allows.
        optimizer: optimizer of all parameters.
        schedule: schedule of the learning rates.
        prefer_bf16: whether precision "auto" means bf16 where the hardware supports it.
        compile: whether torch.compile compiles the network, which takes a minute or more before the
            first update and changes results by rounding.
    """

    ranges: ClassVar = {
        **TRAINING,
        "epochs": COUNT,
        "head_lr": NOT_NEGATIVE,
        "smoothing": SHARE,
        "balance": (False, True, "batch", "image"),
        "condition_at": ("layer4", "layer3", "layer2", "layer1"),
        "scales": SCALES,
    }

    epochs: int = 5
    batch_size: int = 16
    lr: float = 5e-6
    head_lr: float = 1e-4
    smoothing: float = 0.4
    balance: Literal[False, True, "batch", "image"] = True
    energy: Energy = Energy()
    condition_at: str | None = "layer4"
    present_only: bool = False
    augment: Augment = Augment(crop=512, scale=(0.5, 1.5))
    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    infer_batch: int = 1
    optimizer: Optimizer = Adam(weight_decay=1e-4)
    schedule: Schedule = Constant()
    prefer_bf16: bool = False
    compile: bool = False

    def length(self) -> Length:
        """Length of the training."""
        return Length(self.batch_size, self.epochs)

    def check_together(self, name: str) -> None:
        """Raise InputError for an augmentation that the energy loss cannot use."""
        self.energy.check(self.augment, name)


RECIPES = {
    "resnet50": Recipe(),
    "small": Recipe(
        epochs=8,
        lr=3e-4,
        head_lr=3e-3,
        augment=Augment(crop=128, scale=(0.8, 1.3)),
        scales=(1.0, 0.75, 1.5),
        infer_batch=16,
        schedule=Poly(warmup=0.05),
        prefer_bf16=True,
        energy=Energy(sigma_xy=25.0),
    ),
}
