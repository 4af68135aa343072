"""Recipes of CCR: of the response maps, and of the segmentation training."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from wsss_fast import seg
from wsss_fast.ccr.crops import BUFFERS
from wsss_fast.ccr.erasing import ErasingOptions
from wsss_fast.engine.ranges import COUNT, PIXELS
from wsss_fast.errors import InputError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of the response maps; the defaults are published.

    Attributes:
        erasing: options of the iterative erasing of each crop.
        buffers: number of pixels by which crops extend past the centre of one class, and past the
            extreme centres of two.
        wrap_crops: whether a crop that would begin outside of the image begins that many pixels
            before the opposite border, as it does by accident in the public code.
        batch_size: number of crops that share a forward pass, each with its mirror image. Together
            with the size of an image at the largest scale it determines the memory.
        infer_batch: number of images of equal size whose crops are processed together.
        prefer_bf16: whether precision "auto" means bf16 where the hardware supports it.
    """

    ranges: ClassVar = {"buffers": PIXELS, "batch_size": COUNT, "infer_batch": COUNT}

    erasing: ErasingOptions = ErasingOptions()
    buffers: tuple[int, int] = BUFFERS
    wrap_crops: bool = False
    batch_size: int = 4
    infer_batch: int = 1
    prefer_bf16: bool = False

    def __post_init__(self) -> None:
        if min(self.buffers) < 1 or self.batch_size < 1:
            raise InputError(
                "ccr: buffers and batch_size must be >= 1, "
                f"got {self.buffers} and {self.batch_size}"
            )


RECIPES = {
    "resnet38": Recipe(),
    "resnet50": Recipe(),
    # Each class on its own, since with joint masking, pictures with several classes get worse than
    # with CAM; three rounds, since two more bring nothing (benchmarks/RESULTS.md).
    "small": Recipe(
        erasing=ErasingOptions(scales=(1.0, 0.75, 1.5), rounds=3, masking="class"),
        batch_size=8,
        infer_batch=128,
        prefer_bf16=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class Refinement:
    """Hyper-parameters of the segmentation training on pseudo-masks and saliency.

    Attributes:
        seg: recipe of the segmentation network.
        weight: weight of `ops.aamr_loss` relative to the cross-entropies, >= 0; 0 does not use
            saliency maps.
        salient: saliency from which a pixel is salient, 0..1.
        active: response from which a pixel is active. Above 1 no pixel is active, so that
            everything that is not salient is background.
        overlap: share of a salient region that must be active for the region to be used, 0..1; 0
            uses every salient region.
    """

    seg: seg.Recipe = seg.RECIPES["resnet101"]
    weight: float = 0.5
    salient: float = 0.5
    active: float = 0.2
    overlap: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise InputError(f"ccr: weight must be >= 0, got {self.weight}")
        for name in ("salient", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"ccr: {name} must be in 0..1, got {getattr(self, name)}")
        if not abs(self.active) < float("inf"):
            raise InputError(f"ccr: active must be finite, got {self.active}")

    def everywhere(self) -> Refinement:
        """Plain saliency supervision of every pixel, also where the response maps contradict it."""
        return dataclasses.replace(self, active=2.0, overlap=0.0)


REFINEMENTS = {"resnet101": Refinement(), "small": Refinement(seg=seg.RECIPES["small"])}
