"""The dense energy loss as an additional loss of a training on label maps."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch.nn import functional as F

from wsss_fast.data.levels import check_to_input, photo_pixels, rgb_levels
from wsss_fast.data.transforms import Augment
from wsss_fast.engine import ranges
from wsss_fast.engine.ranges import NOT_NEGATIVE, POSITIVE, Range
from wsss_fast.errors import InputError, RunError
from wsss_fast.ops import dense_energy_loss


@dataclasses.dataclass(frozen=True)
class Energy:
    """Dense energy loss, `ops.dense_energy_loss`, which a training adds to its loss.

    It is lowest where similar pixels have equal classes, and acts where the network is unsure and
    where labels are 255. It grows with the size of the crop; public weights are 1e-7 times 0.05
    (ToCo, SeCo) and 2e-9 (rloss).

    Attributes:
        weight: factor of the loss; 0 trains without it.
        sigma_rgb: standard deviation of the filter in levels 0..255.
        sigma_xy: standard deviation of the filter in pixels of the crop.
        scale_factor: resolution of the loss, as a fraction of that of the crop.
    """

    ranges: ClassVar = {
        "weight": NOT_NEGATIVE,
        "sigma_rgb": POSITIVE,
        "sigma_xy": POSITIVE,
        "scale_factor": Range(0.01, 1),
    }

    weight: float = 0.0
    sigma_rgb: float = 15.0
    sigma_xy: float = 100.0
    scale_factor: float = 0.5

    @property
    def on(self) -> bool:
        """Whether the training has the loss."""
        return self.weight != 0

    def check(self, augment: Augment, name: str = "recipe") -> None:
        """Raise InputError for a number out of range, or crops that the loss cannot use.

        Args:
            augment: augmentation of the recipe.
            name: of the recipe.
        """
        ranges.check(self, f"{name}.energy")
        if not self.on:
            return
        check_to_input(augment.to_input, f"{name}.augment.to_input")
        if augment.crop * self.scale_factor < 1:
            raise InputError(
                f"{name}.energy.scale_factor: got {self.scale_factor}, by which no pixel of a crop "
                f"of {augment.crop} is left"
            )

    def added_to(
        self,
        loss: torch.Tensor,
        logits: torch.Tensor,
        images: torch.Tensor,
        labels: torch.Tensor,
        augment: Augment,
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """The loss itself, or {"supervised": loss, "energy": dense energy loss} if that is on.

        The logits are enlarged to the crop before the softmax, as in public code: at the reduced
        size the softmax would be that of a mean, not the mean of the softmax.

        Args:
            loss: scalar.
            logits: [B, C+1, h, w].
            images: crops of `augment`, float32 [B, 3, H, W].
            labels: uint8 [B, H, W]; 255 for pixels without a label.
            augment: augmentation of the recipe.

        Raises:
            RunError: the logits are not finite.
        """
        if not self.on:
            return loss
        size = images.shape[-2:]
        enlarged = F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)
        try:
            energy = dense_energy_loss(
                rgb_levels(images, augment.to_input),
                enlarged.softmax(dim=1),
                photo_pixels(images),
                labels,
                weight=self.weight,
                sigma_rgb=self.sigma_rgb,
                sigma_xy=self.sigma_xy,
                scale_factor=self.scale_factor,
            )
        except ValueError as error:  # the other arguments are right
            raise RunError(
                f"{error}; the network's scores may be NaN or infinite: lower the learning rate, "
                "or use --precision fp32"
            ) from None
        return {"supervised": loss, "energy": energy}
