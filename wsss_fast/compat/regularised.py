"""Regularised losses of rloss, RRM, AFA, ToCo and SeCo; only the import changes.

    from wsss_fast.compat.regularised import DenseEnergyLoss, get_energy_loss

Arguments, results and gradients are those of the public modules, which run on CUDA machines only
and filter on the CPU. Here all tensors stay on their device, the CPU or another one. Labels may
have any dtype, and wrong arguments are a ValueError; see `wsss_fast.ops.dense_energy_loss`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from wsss_fast import ops

__all__ = ["DenseCRFLoss", "DenseEnergyLoss", "get_energy_loss"]

# Of the levels of RGB images in ImageNet.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class _Loss(nn.Module):
    def __init__(
        self,
        weight: float,
        sigma_rgb: float,
        sigma_xy: float,
        scale_factor: float,
        *,
        recompute_scale_factor: bool = True,
    ):
        super().__init__()
        self.weight = weight
        self.sigma_rgb = sigma_rgb
        self.sigma_xy = sigma_xy
        self.scale_factor = scale_factor
        self.recompute_scale_factor = recompute_scale_factor

    def loss(
        self, images: Tensor, segmentations: Tensor, rois: Tensor, labels: Tensor | None
    ) -> Tensor:
        loss = ops.dense_energy_loss(
            images,
            segmentations,
            rois,
            labels,
            weight=self.weight,
            sigma_rgb=self.sigma_rgb,
            sigma_xy=self.sigma_xy,
            scale_factor=self.scale_factor,
            recompute_scale_factor=self.recompute_scale_factor,
        )
        return loss.reshape(1)

    def extra_repr(self) -> str:
        return (
            f"sigma_rgb={self.sigma_rgb}, sigma_xy={self.sigma_xy}, weight={self.weight}, "
            f"scale_factor={self.scale_factor}"
        )


class DenseEnergyLoss(_Loss):
    """Dense energy loss with a gate, with the public constructor.

    Args:
        weight: factor of the loss.
        sigma_rgb: standard deviation in levels.
        sigma_xy: standard deviation in pixels of the images.
        scale_factor: in (0, 1]; the loss is computed on images reduced by it.
        recompute_scale_factor: True as in ToCo and SeCo, False as in AFA and RRM with a recent
            torch; it matters where scale_factor does not divide the size.

    >>> layer = DenseEnergyLoss(weight=1e-7, sigma_rgb=15, sigma_xy=100, scale_factor=0.5)
    >>> probabilities = torch.full((1, 2, 4, 4), 0.5)
    >>> images, labels = torch.full((1, 3, 4, 4), 99.0), torch.full((1, 1, 4, 4), 255)
    >>> layer(images, probabilities, torch.ones(1, 4, 4), labels).shape
    torch.Size([1])
    """

    def forward(
        self, images: Tensor, segmentations: Tensor, ROIs: Tensor, seg_label: Tensor
    ) -> Tensor:
        """The loss of a batch.

        Args:
            images: [N, 3, H, W] levels 0..255.
            segmentations: [N, K, H, W] probabilities.
            ROIs: [N, H, W] in 0..1.
            seg_label: [N, 1, H, W] pseudo labels, 255 for unknown.

        Returns:
            [1] float32.
        """
        return self.loss(images, segmentations, ROIs, seg_label)


class DenseCRFLoss(_Loss):
    """The loss of rloss, without a gate; arguments as for `DenseEnergyLoss`."""

    def __init__(
        self,
        weight: float,
        sigma_rgb: float,
        sigma_xy: float,
        scale_factor: float,
        *,
        recompute_scale_factor: bool = False,
    ):
        super().__init__(
            weight, sigma_rgb, sigma_xy, scale_factor, recompute_scale_factor=recompute_scale_factor
        )

    def forward(self, images: Tensor, segmentations: Tensor, ROIs: Tensor) -> Tensor:
        """The loss [1] of a batch; arguments as for `DenseEnergyLoss.forward`."""
        return self.loss(images, segmentations, ROIs, None)


def get_energy_loss(
    img: Tensor,
    logit: Tensor,
    label: Tensor,
    img_box: Sequence[Sequence[int]] | Tensor,
    loss_layer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Tensor:
    """The loss of normalised images and logits.

    Args:
        img: [N, 3, H, W], (levels - mean) / std.
        logit: [N, K, H, W].
        label: [N, H, W] pseudo labels, 255 for unknown.
        img_box: for each image rows and columns (y0, y1, x0, x1) of what is not padding.
        loss_layer: such as a `DenseEnergyLoss`.
        mean, std: of each channel's levels.

    Returns:
        What `loss_layer` returns.
    """
    probabilities = torch.softmax(logit, dim=1)
    inside = torch.zeros_like(probabilities[:, 0])
    for roi, (y0, y1, x0, x1) in zip(inside, img_box, strict=True):
        roi[y0:y1, x0:x1] = 1
    levels = [plane * s + m for plane, s, m in zip(img.unbind(1), std, mean, strict=True)]
    unknown = label.to(torch.uint8)[:, None]
    return loss_layer(torch.stack(levels, 1), probabilities, inside, unknown)
