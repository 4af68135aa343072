"""CCR's inference as published, one view of one crop at a time: what the engine's maps and time are held against."""

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
    masked_from: float = 0.7,
    stop: float = 0.02,
) -> np.ndarray:
    """Maps of one image, float32 [K, H, W]: crops at its border clamped, masks mirrored with the image.

    Args:
        net: classifier with `maps(images)`, in eval mode.
        image: uint8 RGB [H, W, 3].
        tags: [C] of 0 and 1.
        scales: of the views.
        rounds: at most.
        masked_from: score from which a pixel is filled.
        stop: share of the crop; a round that newly masks less is the last.
    """
    present = np.flatnonzero(tags)
    height, width = image.shape[:2]
    if not len(present):
        return np.zeros((0, height, width), np.float32)
    base = asked(net, image, present, None, scales)
    places = four_crops([centre(m) for m in base.numpy()], height, width)
    whole = np.zeros((len(present), height, width), np.float32)
    for y0, y1, x0, x1 in places:
        answer = crop_response(
            net, image[y0:y1, x0:x1], present, scales, rounds, masked_from, stop
        )[0]
        whole[:, y0:y1, x0:x1] = np.maximum(whole[:, y0:y1, x0:x1], answer)
    return whole


def asked(
    net,
    image: np.ndarray,
    present: np.ndarray,
    mask: torch.Tensor | None,
    scales: tuple[float, ...],
) -> torch.Tensor:
    """Sum over scales and mirror images of the maps, each divided by (maximum + 1e-5); `mask` [h, w] is filled."""
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
            found = net.maps(view)[:, present]
            found = F.interpolate(found, (height, width), mode="bilinear", align_corners=False)
            total += (found.flip(-1) if mirrored else found)[0]
    return total / (total.amax(dim=(1, 2), keepdim=True) + 1e-5)


def crop_response(
    net,
    crop: np.ndarray,
    present: np.ndarray,
    scales: tuple[float, ...],
    rounds: int,
    masked_from: float,
    stop: float,
) -> tuple[np.ndarray, int]:
    """Running maximum over the rounds of one crop, and how many there were."""
    response = asked(net, crop, present, None, scales)
    mask, count = response.max(dim=0).values >= masked_from, 1
    newly = mask.float().mean()
    while count < rounds and newly >= stop:
        response = torch.maximum(response, asked(net, crop, present, mask, scales))
        before, mask, count = mask, response.max(dim=0).values >= masked_from, count + 1
        newly = (mask & ~before).float().mean()
    return response.numpy(), count


def centre(values: np.ndarray) -> tuple[int, int]:
    """Centre of mass, whole px; of a map that is 0 everywhere the middle of the image."""
    height, width = values.shape
    total = values.sum(dtype=np.float64)
    if total == 0:
        return height // 2, width // 2
    ys, xs = np.mgrid[:height, :width]
    return int((values * ys).sum(dtype=np.float64) / total), int(
        (values * xs).sum(dtype=np.float64) / total
    )


def four_crops(
    centres: list[tuple[int, int]], height: int, width: int
) -> list[tuple[int, int, int, int]]:
    """The crops as the public code makes them, but for starts below 0: four, also where all are the whole image."""
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
