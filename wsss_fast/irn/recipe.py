"""Recipes of IRN."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from wsss_fast.data.transforms import Augment
from wsss_fast.engine.fit import Length
from wsss_fast.engine.optimizers import AdamW, Optimizer, Sgd
from wsss_fast.engine.ranges import COUNT, NOT_NEGATIVE, PIXELS, POSITIVE, SHARE, TRAINING, Range
from wsss_fast.engine.schedules import OneCycle, Poly, Schedule
from wsss_fast.errors import InputError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of IRN's training and of the refinement.

    The defaults are those with which AMN was published for VOC. IRN's own are the same but for
    `power`, see `OWN_RECIPES`.

    Attributes:
        epochs: number of passes over the training images.
        batch_size: number of images per update.
        lr: peak learning rate of the boundary branch.
        displacement_lr_scale: learning rate of the displacement branch, as a multiple of `lr`.
        radius: distance below which two cells form a training pair, in cells of 4 pixels.
        augment: augmentation of the training images and seeds.
        power: exponent of the class maps before the random walk; 1.3 is AMN's, IRN's own is 1.
        walk_radius: distance below which two cells are neighbours in the random walk, in cells of
            4 pixels.
        beta: exponent of the affinities.
        steps: number of steps of the random walk.
        pad: size multiple in pixels: at inference, images are padded with the mean colour at the
            bottom and on the right to multiples of it. The padding is part of the statistics of
            group normalisation. Published: 512 for VOC, 1 (no padding) for COCO.
        threshold: background threshold of the pseudo-masks: score above which a pixel is labelled
            with its class, 0..1; published: 0.25 for VOC, 0.22 for COCO.
        infer_batch: number of images of equal size that share a forward pass at inference;
            CUDA takes up to 8 where its memory allows.
        optimizer: optimizer of both branches.
        schedule: schedule of the learning rates.
        prefer_bf16: whether precision "auto" means bf16 where the hardware supports it.
        compile: whether torch.compile compiles the network, which takes a minute or more before the
            first update and changes results by rounding.
    """

    ranges: ClassVar = {
        **TRAINING,
        "epochs": COUNT,
        "displacement_lr_scale": NOT_NEGATIVE,
        "radius": Range(2, PIXELS.high),
        "power": POSITIVE,
        "walk_radius": Range(1, 32),
        "beta": POSITIVE,
        "steps": Range(0, 100_000),
        "pad": PIXELS,
        "threshold": SHARE,
    }

    epochs: int = 3
    batch_size: int = 32
    lr: float = 0.1
    displacement_lr_scale: float = 10.0
    radius: int = 10
    augment: Augment = Augment(crop=512, scale=(0.5, 1.5))
    power: float = 1.3
    walk_radius: int = 5
    beta: float = 10.0
    steps: int = 256
    pad: int = 512
    threshold: float = 0.25
    infer_batch: int = 1
    optimizer: Optimizer = Sgd(weight_decay=1e-4, momentum=1e-4)
    schedule: Schedule = Poly()
    prefer_bf16: bool = False
    compile: bool = False

    def check_together(self, name: str) -> None:
        """Raise InputError for a radius that does not fit into the crop."""
        cells = -(-self.augment.crop // 4)
        if self.radius > (cells - 1) // 2 + 1:
            raise InputError(
                f"{name}.radius: got {self.radius}, but a crop of {self.augment.crop} pixels has "
                f"{cells} cells of 4 pixels, which allow 2..{(cells - 1) // 2 + 1}"
            )

    def length(self) -> Length:
        """Length of the training."""
        return Length(self.batch_size, self.epochs)


RECIPES = {
    "resnet50": Recipe(),
    "small": Recipe(
        epochs=6,
        batch_size=16,
        lr=3e-3,
        displacement_lr_scale=1.0,
        radius=5,
        augment=Augment(crop=128, scale=(0.8, 1.3)),
        beta=20.0,
        steps=64,  # on 32x32 cells, 256 steps would cross the whole map
        pad=1,
        threshold=0.4,
        infer_batch=16,
        optimizer=AdamW(weight_decay=1e-2),
        schedule=OneCycle(),
        prefer_bf16=True,
    ),
}

# jiwoon-ahn/irn, step/make_sem_seg_labels.py: the maps have no exponent. All else is as in AMN.
OWN_RECIPES = {name: dataclasses.replace(recipe, power=1.0) for name, recipe in RECIPES.items()}
"""The recipes with which IRN's authors use it, by backbone."""


@dataclasses.dataclass(frozen=True)
class InstanceOptions:
    """How objects are told apart; the defaults are published for VOC.

    Attributes:
        steps: number of steps in which every cell follows the displacements.
        centre: length of a displacement, in cells of 4 pixels, below which a cell belongs to the
            centre of an object.
        threshold: score of the background, 0..1.
        min_area: share of the image's pixels below which a fragment gets score 0.
    """

    ranges: ClassVar = {
        "steps": Range(0, 100_000),
        "centre": POSITIVE,
        "threshold": SHARE,
        "min_area": SHARE,
    }

    # jiwoon-ahn/irn: the last from run_sample.py, the others from step/make_ins_seg_labels.py
    steps: int = 300
    centre: float = 2.5
    min_area: float = 0.01
    threshold: float = 0.25


@dataclasses.dataclass(frozen=True)
class InstanceRecipe:
    """Hyper-parameters of object masks; the defaults are published for VOC.

    Attributes:
        irn: IRN, of which `power`, `walk_radius`, `beta`, `steps`, `pad` and `infer_batch` are
            used.
        objects: how objects are told apart.
    """

    irn: Recipe = OWN_RECIPES["resnet50"]
    objects: InstanceOptions = InstanceOptions()


INSTANCE_RECIPES = {
    "resnet50": InstanceRecipe(),
    # Of 0.5 to 4 and 0.25 to 0.45 the best on a quarter of Shapes, seed 0: its objects are small.
    "small": InstanceRecipe(OWN_RECIPES["small"], InstanceOptions(centre=1.0, threshold=0.35)),
}
"""Recipes of object masks, by backbone."""
