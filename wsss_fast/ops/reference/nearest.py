"""Nearest resizing: of labels as in Pillow, of maps as in PyTorch."""

from itertools import accumulate, repeat

import torch
from torch import Tensor


def nearest(labels: Tensor, height: int, width: int) -> Tensor:
    """Nearest resizing of [..., H, W] as in Pillow: the pixel under the centre of each new cell."""
    if 0 in labels.shape[:-2]:
        return labels.new_empty(*labels.shape[:-2], height, width)
    rows, columns = (
        _centres(old, new, labels.device)
        for old, new in zip(labels.shape[-2:], (height, width), strict=True)
    )
    return labels[..., rows[:, None], columns]


def _centres(old: int, new: int, device: torch.device) -> Tensor:
    """The source pixel of each of `new` pixels.

    Where a centre lies between two pixels, rounding decides; so the centres are added up one by one
    in double, as in Pillow.
    """
    if old == new:
        return torch.arange(new, device=device)
    if not new:
        return torch.zeros(0, dtype=torch.long, device=device)
    step = old / new
    centres = accumulate(repeat(step, new - 1), initial=0.5 * step)
    pixels = torch.tensor([min(int(c), old - 1) for c in centres])
    if device.type == "cuda":  # from pinned memory, so that the host does not wait for the device
        return pixels.pin_memory().to(device, non_blocking=True)
    return pixels.to(device)


def resized(maps: Tensor, logits: Tensor) -> Tensor:
    """Maps [B, 1, H, W] or [B, H, W] -> [B, h, w] of the logits' size and dtype.

    PyTorch's nearest for float32, which rounds indices down.
    """
    planes = maps.reshape(logits.shape[0], *maps.shape[-2:]).to(logits.dtype)
    rows, columns = (
        (torch.arange(new, dtype=torch.float32, device=maps.device) * (old / max(new, 1)))
        .long()
        .clamp_(max=max(old - 1, 0))
        for old, new in zip(maps.shape[-2:], logits.shape[2:], strict=True)
    )
    if not logits.numel():
        return planes.new_empty(logits.shape[0], *logits.shape[2:])
    return planes[:, rows[:, None], columns]
