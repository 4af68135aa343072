"""Networks and recipes of the CAM classifier."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from wsss_fast import nets
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.transforms import Augment
from wsss_fast.engine.fit import Length
from wsss_fast.engine.optimizers import AdamW, Optimizer, Sgd
from wsss_fast.engine.ranges import COUNT, NOT_NEGATIVE, PIXELS, SCALES, TRAINING
from wsss_fast.engine.schedules import OneCycle, Poly, Schedule


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of the classifier's training and of its class activation maps.

    Attributes:
        epochs: number of passes over the training images; not used where `updates` is given.
        updates: number of weight updates, instead of `epochs`; None to train for `epochs`.
        batch_size: number of images per update.
        lr: peak learning rate of the backbone.
        head_lr_scale: learning rate of all other parameters, as a multiple of `lr`.
        augment: augmentation of the training images.
        scales: scales of the views whose maps are summed; each view is also mirrored.
        align: size multiple in pixels: maps are resized to the image's sides rounded up to
            multiples of it, then cropped.
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
        "updates": COUNT,
        "head_lr_scale": NOT_NEGATIVE,
        "scales": SCALES,
        "align": PIXELS,
    }

    epochs: int = 5
    updates: int | None = None
    batch_size: int = 16
    lr: float = 0.1
    head_lr_scale: float = 10.0
    augment: Augment = Augment(crop=512, long_side=(320, 640))
    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    align: int = 16
    infer_batch: int = 1
    optimizer: Optimizer = Sgd(weight_decay=1e-4, momentum=1e-4)
    schedule: Schedule = Poly()
    prefer_bf16: bool = False
    compile: bool = False

    def length(self) -> Length:
        """Length of the training."""
        return Length(self.batch_size, self.epochs if self.updates is None else None, self.updates)


RECIPES = {
    "resnet50": Recipe(),  # as published, from ImageNet weights
    "resnet38": Recipe(  # EPS' baseline for VOC
        updates=20_000,
        batch_size=8,
        lr=0.01,
        optimizer=Sgd(weight_decay=5e-4, momentum=5e-4),
        align=1,
        scales=(0.5, 1.0, 1.5, 2.0),
        augment=Augment(crop=448, long_side=(256, 512), jitter=0.3, hue=0.1),
    ),
    "small": Recipe(
        epochs=24,
        lr=3e-3,
        head_lr_scale=1.0,
        optimizer=AdamW(weight_decay=1e-2),
        schedule=OneCycle(),
        augment=Augment(crop=128, scale=(0.8, 1.3), jitter=0.15),
        scales=(1.0, 0.75, 1.5),
        infer_batch=16,
        prefer_bf16=True,
    ),
}


def network(data: Dataset, backbone: str) -> nets.CamNet:
    """The classifier for the classes of a data set, with random weights.

    Raises:
        InputError: an unknown backbone.
    """
    return nets.cam_classifier(len(data.classes), backbone=backbone)
