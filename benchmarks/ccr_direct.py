"""CCR's inference as published, one view of one crop at a time.

Maps and time of the package are compared with those of this plain loop.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from wsss_fast.data.transforms import normalise, resize_image


@torch.inference_mode()
def maps(
    net: torch.nn.Module,
    image: np.ndarray,
    tags: np.ndarray,
    *,
    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0),
    rounds: int = 5,
    mask_threshold: float = 0.7,
    stop: float = 0.02,
) -> np.ndarray:
    """Maps of one image.

    Unlike in the public code, crops are clamped to the image, and masks are mirrored with it.

    Args:
        net: classifier with `maps(images)`, in eval mode.
        image: uint8 RGB [H, W, 3].
        tags: [C] of 0 and 1.
        scales: scales of the views.
        rounds: maximum number of rounds.
        mask_threshold: smallest score of a pixel that is masked.
        stop: share of the crop; the round that newly masks less than it is the last.

    Returns:
        float32 [K, H, W], one map for each of the K present classes.
    """
    present = np.flatnonzero(tags)
    height, width = image.shape[:2]
    if not len(present):
        return np.zeros((0, height, width), np.float32)
    base = view_response(net, image, present, None, scales)
    result = np.zeros((len(present), height, width), np.float32)
    for y0, y1, x0, x1 in four_crops([centre(m) for m in base.numpy()], height, width):
        crop = image[y0:y1, x0:x1]
        response = crop_response(net, crop, present, scales, rounds, mask_threshold, stop)[0]
        result[:, y0:y1, x0:x1] = np.maximum(result[:, y0:y1, x0:x1], response)
    return result


def view_response(
    net,
    image: np.ndarray,
    present: np.ndarray,
    mask: torch.Tensor | None,
    scales: tuple[float, ...],
) -> torch.Tensor:
    """Maps summed over scales and mirroring, divided by (maximum + 1e-5).

    Pixels of the image in `mask` [h, w] are filled with its mean.
    """
    height, width = image.shape[:2]
    total = torch.zeros(len(present), height, width)
    for scale in scales:
        size = max(1, int(np.round(height * scale))), max(1, int(np.round(width * scale)))
        for mirrored in (False, True):
            view = torch.from_numpy(normalise(resize_image(image, *size)))[None]
            if mask is not None:
                small = F.interpolate(mask[None, None].float(), size)[0, 0] > 0
                view[0][:, small] = view.mean(dim=(2, 3))[0][:, None]
            view = view.flip(-1) if mirrored else view
            scores = net.maps(view)[:, present]
            scores = F.interpolate(scores, (height, width), mode="bilinear", align_corners=False)
            total += (scores.flip(-1) if mirrored else scores)[0]
    return total / (total.amax(dim=(1, 2), keepdim=True) + 1e-5)


def crop_response(
    net,
    crop: np.ndarray,
    present: np.ndarray,
    scales: tuple[float, ...],
    rounds: int,
    mask_threshold: float,
    stop: float,
) -> tuple[np.ndarray, int]:
    """Maximum over the rounds of one crop, and the number of rounds."""
    response = view_response(net, crop, present, None, scales)
    mask, count = response.max(dim=0).values >= mask_threshold, 1
    newly = mask.float().mean()
    while count < rounds and newly >= stop:
        response = torch.maximum(response, view_response(net, crop, present, mask, scales))
        before, mask, count = mask, response.max(dim=0).values >= mask_threshold, count + 1
        newly = (mask & ~before).float().mean()
    return response.numpy(), count


def centre(values: np.ndarray) -> tuple[int, int]:
    """Centre of mass in whole pixels; the middle of the image for a map that is 0 everywhere."""
    height, width = values.shape
    total = values.sum(dtype=np.float64)
    if total == 0:
        return height // 2, width // 2
    ys, xs = np.mgrid[:height, :width]
    y, x = ((values * grid).sum(dtype=np.float64) / total for grid in (ys, xs))
    return int(y), int(x)


def four_crops(
    centres: list[tuple[int, int]], height: int, width: int
) -> list[tuple[int, int, int, int]]:
    """The four crops of the public code, also where all of them are the whole image.

    Unlike there, no crop starts below 0.
    """
    if len(centres) > 2:
        return [(0, height, 0, width)] * 4
    buffer = 10 if len(centres) == 1 else 20
    ys, xs = zip(*centres, strict=True)
    top, left = max(0, min(ys) - buffer), max(0, min(xs) - buffer)
    bottom, right = min(height, max(ys) + buffer), min(width, max(xs) + buffer)
    return [
        (0, bottom, 0, right),
        (0, bottom, left, width),
        (top, height, 0, right),
        (top, height, left, width),
    ]
