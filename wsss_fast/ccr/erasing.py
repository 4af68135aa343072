"""CCR's rounds: what a classifier still sees in a crop once the parts that it saw before are filled with the mean colour."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from wsss_fast.ccr.crops import Box
from wsss_fast.ccr.padded_batch import PaddedBatch
from wsss_fast.data.transforms import normalise, resize_image
from wsss_fast.errors import InputError
from wsss_fast.maps import merge_views
from wsss_fast.stages.activate import scaled_size, unflipped


@dataclasses.dataclass(frozen=True)
class ErasingOptions:
    """How a crop is asked again and again; the defaults are the published numbers.

    Attributes:
        scales: of the views whose maps are summed, each with its mirror image.
        rounds: at most, the one without a mask included; >= 1.
        masked_from: score, 0..1, from which a pixel is filled in the next round.
        stop: share of the crop, 0..1; a round that newly masks less is the last one.
        masking: "joint" fills where any present class responded (public code); "class" asks for each class on its own, with
            only its own response filled (the paper's "separately").
        unit: what a class' maps are divided by: "crop", their maximum in that crop and round (public code), or "image", their
            maximum in the whole image without a mask; then scores above 1 become 1.
        mirror_mask: mirror the mask with the image; the public code fills mirror images in the wrong place.
        chain_masks: bring the mask from the size of one view to that of the next, as the public code does, so that views behind
            a small one get its coarse mask; otherwise each view gets its own from the crop's.
    """

    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    rounds: int = 5
    masked_from: float = 0.7
    stop: float = 0.02
    masking: Literal["joint", "class"] = "joint"
    unit: Literal["crop", "image"] = "crop"
    mirror_mask: bool = True
    chain_masks: bool = False

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0 or self.rounds < 1:
            raise InputError(
                f"ccr: scales must be > 0 and rounds >= 1, got {tuple(self.scales)} and {self.rounds}"
            )
        for name in ("masked_from", "stop"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"ccr: {name} must be in 0..1, got {getattr(self, name)}")
        for name, known in (("masking", ("joint", "class")), ("unit", ("crop", "image"))):
            if getattr(self, name) not in known:
                raise InputError(
                    f"ccr: {name} must be {' or '.join(known)}, got {getattr(self, name)!r}"
                )


@dataclasses.dataclass
class Crop:
    """A crop and what is known of it so far.

    Attributes:
        name: what errors call it.
        views: of each scale, float32 [3, h_s, w_s], normalised.
        size: (h, w) px.
        classes: indices of the classes that are asked for, int64 [K].
        unit: what their maps are divided by, [K, 1, 1]; None for their own maximum.
        response: running maximum over rounds, float32 [K, h, w] in 0..1; None before the first.
        masked: bool [h, w], what is filled in the next round; None for nothing.
        rounds: that were made.
        finished: whether there is nothing left to ask.
    """

    name: str
    views: tuple[torch.Tensor, ...]
    size: tuple[int, int]
    classes: torch.Tensor
    unit: torch.Tensor | None = None
    response: torch.Tensor | None = None
    masked: torch.Tensor | None = None
    rounds: int = 0
    finished: bool = False

    def __post_init__(self) -> None:
        self._colours = [view.mean(dim=(1, 2), keepdim=True) for view in self.views]

    def inputs(self, scale: int, mirror_mask: bool) -> torch.Tensor:
        """A view and its mirror image, [2, 3, h_s, w_s], with the mean colour of the view where the crop is masked."""
        view = self.views[scale]
        if self.masked is None:
            return torch.stack([view, view.flip(-1)])
        mask, colour = self._masks[scale], self._colours[scale]
        filled = torch.where(mask, colour, view)
        return torch.stack(
            [filled, filled.flip(-1) if mirror_mask else torch.where(mask, colour, view.flip(-1))]
        )

    def _resized_masks(self, chain: bool) -> list[torch.Tensor]:
        """The mask at the size of each view, bool [h_s, w_s], by nearest with indices rounded down."""
        own = self.masked[None, None].float()
        masks, mask = [], own
        for view in self.views:
            mask = torch.nn.functional.interpolate(mask if chain else own, view.shape[-2:])
            masks.append(mask[0, 0] > 0)
        return masks

    def update(self, maps: torch.Tensor, options: ErasingOptions) -> None:
        """Take in the summed maps [K, h, w] of a round, and see what is left to ask."""
        unit = maps.amax(dim=(1, 2), keepdim=True) if self.unit is None else self.unit
        scores = maps / (unit + 1e-5)
        if self.unit is not None:
            scores = scores.clamp_max(1.0)
        self.response = scores if self.response is None else torch.maximum(self.response, scores)
        masked = self.response.amax(dim=0) >= options.masked_from
        newly = (masked if self.masked is None else masked & ~self.masked).sum()
        # one look at the device for both; a NaN in a map is one in its maximum, too
        newly, finite = torch.stack(
            [newly, unit.isfinite().all() & scores.sum().isfinite()]
        ).tolist()
        if not finite:
            raise InputError(
                f"ccr: the classifier's maps of {self.name} are not finite; look at its weights, or use "
                "precision fp32"
            )
        self.masked, self.rounds = masked, self.rounds + 1
        self.finished = newly / masked.numel() < options.stop or self.rounds >= options.rounds
        if not self.finished:
            self._masks = self._resized_masks(options.chain_masks)

    def per_class(self) -> list[Crop]:
        """The crop of each class on its own, before the first round."""
        return [
            dataclasses.replace(
                self,
                classes=self.classes[k : k + 1],
                unit=None if self.unit is None else self.unit[k : k + 1],
            )
            for k in range(len(self.classes))
        ]


def cut(
    name: str,
    image: np.ndarray,
    box: Box,
    classes: torch.Tensor,
    scales: Sequence[float],
    unit: torch.Tensor | None = None,
) -> Crop:
    """The crop of an image in a box, at every scale (bicubic on uint8, rounded size, as the public code).

    Args:
        name: of the image.
        image: uint8 RGB [H, W, 3].
        box: as `split.boxes` makes them.
        classes: indices, int64 [K], on the device.
        scales: of the views.
        unit: see `Crop`.
    """
    y0, y1, x0, x1 = box
    part = image[y0:y1, x0:x1]
    size = part.shape[:2]
    views = tuple(
        torch.from_numpy(normalise(resize_image(part, *scaled_size(size, scale)))).to(
            classes.device
        )
        for scale in scales
    )
    return Crop(name, views, size, classes, unit)


def run_rounds(
    net: PaddedBatch,
    crops: Sequence[Crop],
    options: ErasingOptions,
    *,
    batch_size: int,
    known: Sequence[torch.Tensor | None] | None = None,
) -> list[list[Crop]]:
    """Ask a classifier about crops until all are finished.

    Args:
        net: the classifier.
        crops: of any number of images.
        options: numbers of the procedure.
        batch_size: crops that share a pass, each with its mirror image; with their sizes it bounds the memory.
        known: the summed maps [K, h, w] of the first round of a crop where they are there already, or None.

    Returns:
        For each crop itself, or with masking "class" one crop a class, with the final `response`.
    """
    known = [None] * len(crops) if known is None else list(known)
    asked = [i for i, maps in enumerate(known) if maps is None]
    for i, maps in zip(
        asked, _summed_maps(net, [crops[i] for i in asked], options, batch_size), strict=True
    ):
        known[i] = maps
    results: list[list[Crop]] = []
    for crop, maps in zip(crops, known, strict=True):
        # Nothing is masked yet, so with either masking the first round is common to all classes.
        parts = (
            [(crop, maps)]
            if options.masking == "joint"
            else list(zip(crop.per_class(), maps.split(1), strict=True))
        )
        for part, own in parts:
            part.update(own, options)
        results.append([part for part, _ in parts])
    active = [part for parts in results for part in parts if not part.finished]
    while active:
        for crop, maps in zip(active, _summed_maps(net, active, options, batch_size), strict=True):
            crop.update(maps, options)
        active = [crop for crop in active if not crop.finished]
    return results


def _summed_maps(
    net: PaddedBatch, crops: Sequence[Crop], options: ErasingOptions, batch_size: int
) -> list[torch.Tensor]:
    """Maps of each crop as it is masked now, summed over views at the crop's size, float32 [K, h, w]."""
    summed: list[list[torch.Tensor]] = [[] for _ in crops]
    for scale in range(len(options.scales)):
        sizes = [tuple(crop.views[scale].shape[-2:]) for crop in crops]
        for group in net.together(sizes, batch_size):
            maps = net([crops[i].inputs(scale, options.mirror_mask) for i in group])
            for i, both in zip(group, maps, strict=True):
                straight, mirrored = unflipped(both[:, crops[i].classes].float())
                summed[i].append((straight + mirrored)[0])
    return [merge_views(views, *crop.size) for views, crop in zip(summed, crops, strict=True)]


def paste(
    parts: Sequence[torch.Tensor], places: Sequence[Box], size: tuple[int, int]
) -> torch.Tensor:
    """Maximum of maps [K, h_i, w_i] at their places, [K, H, W]; 0 where none is."""
    whole = parts[0].new_zeros(len(parts[0]), *size)
    for part, (y0, y1, x0, x1) in zip(parts, places, strict=True):
        torch.maximum(whole[:, y0:y1, x0:x1], part, out=whole[:, y0:y1, x0:x1])
    return whole
