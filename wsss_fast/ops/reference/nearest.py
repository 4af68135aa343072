"""Nearest resizing of maps to the logits' size, for the losses that compare the two."""

import torch
from torch import Tensor


def resized(maps: Tensor, logits: Tensor) -> Tensor:
    """Maps [B, 1, H, W] or [B, H, W] -> [B, h, w] of the logits' size and dtype.

    PyTorch's nearest, which rounds indices down.
    """
    planes = maps.reshape(logits.shape[0], *maps.shape[-2:]).to(logits.dtype)
    if not logits.numel():
        return planes.new_empty(logits.shape[0], *logits.shape[2:])
    return torch.nn.functional.interpolate(planes[:, None], logits.shape[2:], mode="nearest")[:, 0]
