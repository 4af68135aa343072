"""PAR and PAMR of the stages: their parameters as data, and the call of the op on photos."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import torch

from wsss_fast.engine.ranges import PIXELS, Range
from wsss_fast.errors import InputError
from wsss_fast.maps import resize_maps
from wsss_fast.ops.pixel_adaptive_refine import pixel_adaptive_refine

_STRIP = 1 << 22  # pixels; larger photos are refined in strips


@dataclasses.dataclass(frozen=True)
class Par:
    """Pixel-adaptive refinement; the defaults are the published ones for photos of 500x375.

    Attributes:
        dilations: distances of the neighbours in pixels of the reduced photo, one or more.
        iterations: number of iterations.
        scale: by how much photo and scores are reduced before, 0.01..1, which is faster and reaches
            further; public code has 0.5.
    """

    ranges: ClassVar = {
        "dilations": Range(PIXELS.low, PIXELS.high, some=True),
        "iterations": Range(0, 10_000),
        "scale": Range(0.01, 1),
    }

    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)
    iterations: int = 10
    scale: float = 1.0

    def apply(self, photo: torch.Tensor, scores: torch.Tensor, kind: str = "par") -> torch.Tensor:
        """Refined scores, which keep their range.

        PAR's weights sum to 1.01; the result is divided by 1.01^iterations, so that a constant map,
        such as the background's score, does not change. Photos of more than 4 million pixels are
        refined in overlapping strips, with the same result.

        Args:
            photo: uint8 RGB [H, W, 3].
            scores: float32 [L, H, W], on the device to compute on.
            kind: "par" or "pamr".

        Returns:
            float32 [L, H, W].

        Raises:
            InputError: a parameter is out of range.
        """
        height, width = scores.shape[1:]
        if not scores.numel():
            return scores
        image = photo.to(scores.device, non_blocking=True).permute(2, 0, 1).float()
        small = max(1, int(height * self.scale)), max(1, int(width * self.scale))
        reduced = scores
        if small != (height, width):
            image, reduced = (resize_maps(maps, *small) for maps in (image, scores))
        try:
            refined = self._in_strips(image, reduced, kind)
        except ValueError as error:
            raise InputError(str(error)) from None
        if kind == "par":
            refined /= 1.01**self.iterations
        return refined if small == (height, width) else resize_maps(refined, height, width)

    def _in_strips(self, image: torch.Tensor, scores: torch.Tensor, kind: str) -> torch.Tensor:
        """The op on strips of rows: [3, h, w] and [L, h, w] -> [L, h, w]."""
        height, width = image.shape[1:]
        refine = functools.partial(
            pixel_adaptive_refine,
            dilations=self.dilations,
            iterations=self.iterations,
            kind=kind,
        )
        reach = max(self.dilations, default=0) * self.iterations  # what a row depends on
        if height * width <= _STRIP or height <= 3 * reach:
            return refine(image[None], scores[None])[0]
        rows = max(2 * reach, _STRIP // width - 2 * reach, 1)
        refined = torch.empty_like(scores)
        for start in range(0, height, rows):
            end = min(start + rows, height)
            top, bottom = max(0, start - reach), min(height, end + reach)
            strip = refine(image[None, :, top:bottom], scores[None, :, top:bottom])
            refined[:, start:end] = strip[0, :, start - top : end - top]
        return refined
