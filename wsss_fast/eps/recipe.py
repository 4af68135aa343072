"""Recipes of EPS."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from wsss_fast.data.dataset import Dataset
from wsss_fast.data.transforms import Augment
from wsss_fast.engine.fit import Length
from wsss_fast.engine.optimizers import AdamW, Optimizer, Sgd
from wsss_fast.engine.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SCALES, SHARE, TRAINING
from wsss_fast.engine.schedules import OneCycle, Poly, Schedule
from wsss_fast.eps.alpha_crf import AlphaCrf
from wsss_fast.errors import InputError

STRATEGIES = ("adaptive", "naive", "predefined")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of EPS' training and of its maps; the defaults are published for VOC.

    Attributes:
        updates: number of weight updates.
        batch_size: number of images per update.
        lr: peak learning rate of the backbone's weights.
        head_lr_scale: learning rate of all other parameters, as a multiple of `lr`.
        tau: overlap ratio of a present class' map with the saliency map from which the class counts
            as foreground, 0..1.
        lam: weight of the foreground map in the estimate of the saliency, 0..1; that of the
            background map is 1 - lam.
        strategy: how the present classes that are foreground are selected: "adaptive" (by `tau`, as
            published), "naive" (all of them) or "predefined" (all but `background_classes`).
        background_classes: labels 1..C of the classes that "predefined" assigns to the background.
        saliency_weight: weight of the saliency loss relative to the classification loss, > 0.
        augment: augmentation of the training images and saliency maps.
        scales: scales of the views whose maps are summed; each view is also mirrored.
        threshold: background threshold of the pseudo-masks: score above which a pixel is labelled
            with its class, 0..1.
        crf: dense CRF of the pseudo-masks, used if CRF refinement is requested.
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
        "updates": COUNT,
        "head_lr_scale": NOT_NEGATIVE,
        "tau": SHARE,
        "lam": SHARE,
        "strategy": STRATEGIES,
        "saliency_weight": POSITIVE,
        "scales": SCALES,
        "threshold": SHARE,
    }

    updates: int = 20_000
    batch_size: int = 8
    lr: float = 0.01
    head_lr_scale: float = 10.0
    tau: float = 0.4
    lam: float = 0.5
    strategy: str = "adaptive"
    background_classes: tuple[int, ...] = ()
    saliency_weight: float = 1.0
    augment: Augment = Augment(crop=448, long_side=(256, 512), jitter=0.3, hue=0.1)
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    threshold: float = 0.20
    crf: AlphaCrf = AlphaCrf()
    infer_batch: int = 1
    optimizer: Optimizer = Sgd(weight_decay=5e-4, momentum=5e-4, caffe_biases=True)
    schedule: Schedule = Poly()
    prefer_bf16: bool = False
    compile: bool = False

    def length(self) -> Length:
        """Length of the training."""
        return Length(self.batch_size, updates=self.updates)


RECIPES = {
    "resnet38": Recipe(),
    "small": Recipe(
        updates=1200,
        batch_size=16,
        lr=3e-3,
        head_lr_scale=1.0,
        augment=Augment(crop=128, scale=(0.8, 1.3), jitter=0.15),
        scales=(1.0, 0.75, 1.5),
        threshold=0.36,
        crf=AlphaCrf(bilateral=(25.0, 13.0, 10.0)),
        infer_batch=16,
        optimizer=AdamW(weight_decay=1e-2),
        schedule=OneCycle(),
        prefer_bf16=True,
    ),
}
# The published hyper-parameters for COCO.
COCO = Recipe(
    updates=256_500,
    batch_size=16,
    lam=0.9,
    augment=Augment(crop=321, long_side=(256, 448), jitter=0.3, hue=0.1),
)


def check_recipe(recipe: Recipe, data: Dataset) -> None:
    """Check the ranges of the hyper-parameters.

    Raises:
        InputError: one is out of range.
    """
    for name in ("tau", "lam", "threshold"):
        if not 0 <= getattr(recipe, name) <= 1:
            raise InputError(f"eps: {name} must be in 0..1, got {getattr(recipe, name)}")
    if recipe.saliency_weight <= 0:
        raise InputError(f"eps: saliency_weight must be > 0, got {recipe.saliency_weight}")
    if recipe.strategy not in STRATEGIES:
        raise InputError(
            f"eps: strategy must be adaptive, naive or predefined, got {recipe.strategy!r}"
        )
    wrong = [label for label in recipe.background_classes if not 1 <= label <= len(data.classes)]
    if wrong or (recipe.background_classes and recipe.strategy != "predefined"):
        raise InputError(
            f"eps: background_classes are labels in 1..{len(data.classes)} for strategy "
            f"predefined, got {recipe.background_classes} for {recipe.strategy}"
        )
