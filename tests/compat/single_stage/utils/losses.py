"""Losses of a single-stage method, written as such projects write them."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from bilateralfilter import bilateralfilter, bilateralfilter_batch
from torch.autograd import Function

IMAGE_MEAN = [123.675, 116.28, 103.53]
IMAGE_STD = [58.395, 57.12, 57.375]


def segmentation_loss(logits, pseudo_label, ignore_index=255):
    """Cross entropy, the mean of that of the background and that of the foreground."""
    background, foreground = pseudo_label.clone(), pseudo_label.clone()
    background[pseudo_label != 0] = ignore_index
    foreground[pseudo_label == 0] = ignore_index
    parts = [
        F.cross_entropy(logits, part.long(), ignore_index=ignore_index)
        for part in (background, foreground)
        if (part != ignore_index).any()
    ]
    return 0.5 * sum(parts)


class DenseEnergyFunction(Function):
    @staticmethod
    def forward(ctx, images, probs, sigma_rgb, sigma_xy, rois, unlabelled):
        n, k, h, w = probs.shape
        gate = (rois - probs.max(dim=1)[0]).clamp(min=0)
        gate[unlabelled] = 1
        masked = probs * rois.unsqueeze(1)

        image_array = images.detach().cpu().numpy().flatten()
        value_array = masked.detach().cpu().numpy().flatten()
        filtered = np.zeros(value_array.shape, dtype=np.float32)
        if n == 1:
            bilateralfilter(image_array, value_array, filtered, h, w, sigma_rgb, sigma_xy)
        else:
            bilateralfilter_batch(
                image_array, value_array, filtered, n, k, h, w, sigma_rgb, sigma_xy
            )
        filtered = filtered.reshape(n, k, h, w) * gate.cpu().numpy()[:, None]
        energy = -np.dot(value_array, filtered.flatten()) / n

        ctx.filtered, ctx.rois = torch.from_numpy(filtered), rois.unsqueeze(1)
        return torch.tensor([energy], dtype=torch.float32, device=probs.device)

    @staticmethod
    def backward(ctx, grad_output):
        grad = -2 * grad_output * ctx.filtered.to(grad_output.device) / len(ctx.filtered)
        return None, grad * ctx.rois, None, None, None, None


class DenseEnergyLoss(nn.Module):
    def __init__(self, weight, sigma_rgb, sigma_xy, scale_factor):
        super().__init__()
        self.weight, self.scale_factor = weight, scale_factor
        self.sigma_rgb, self.sigma_xy = sigma_rgb, sigma_xy

    def forward(self, images, segmentations, ROIs, seg_label):
        def smaller(x, **mode):
            return F.interpolate(
                x, scale_factor=self.scale_factor, recompute_scale_factor=True, **mode
            )

        probs = smaller(segmentations, mode="bilinear", align_corners=False)
        rois = smaller(ROIs.unsqueeze(1)).squeeze(1)
        unlabelled = smaller(seg_label).squeeze(1) == 255
        sigma_xy = self.sigma_xy * self.scale_factor
        energy = DenseEnergyFunction.apply(
            smaller(images), probs, self.sigma_rgb, sigma_xy, rois, unlabelled
        )
        return self.weight * energy


def get_energy_loss(img, logit, label, img_box, loss_layer, mean=IMAGE_MEAN, std=IMAGE_STD):
    probs = F.softmax(logit, dim=1)
    rois = torch.zeros_like(probs[:, 0])
    for i, (top, bottom, left, right) in enumerate(img_box):
        rois[i, top:bottom, left:right] = 1
    levels = torch.stack([img[:, c] * std[c] + mean[c] for c in range(3)], dim=1)
    return loss_layer(levels, probs, rois, label.to(torch.uint8).unsqueeze(1))
