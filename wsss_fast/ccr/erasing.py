"""CCR's iterative erasing: classify a crop again with the responding parts filled.

Each round shows what else the classifier recognises once the parts that it responded to before have
the mean colour.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch

from wsss_fast.ccr.crops import Box
from wsss_fast.ccr.padded_batch import PaddedBatch
from wsss_fast.engine.ranges import COUNT, SCALES, SHARE
from wsss_fast.errors import InputError
from wsss_fast.maps import merge_views
from wsss_fast.ops import image_views
from wsss_fast.stages.activate import unflipped


@dataclasses.dataclass(frozen=True)
class ErasingOptions:
    """Options of the iterative erasing of a crop; the defaults are published.

    Attributes:
        scales: scales of the views whose maps are summed; each view is also mirrored.
        rounds: largest number of rounds, including the first one, which has no mask; >= 1.
        masked_from: score from which a pixel is filled in the next round, 0..1.
        stop: smallest share of the crop that a round must newly mask for another round to follow,
            0..1.
        masking: where pixels are filled: "joint", where any present class responded, as in the
            public code; "class", in separate rounds for each class, only where that class responded
            (the paper's "separately").
        unit: maximum that the maps of a class are divided by: "crop", their maximum in that crop
            and round, as in the public code; "image", their maximum in the whole image without a
            mask; scores above 1 are then clipped to 1.
        mirror_mask: whether the mask is mirrored with the image; the public code does not, so it
            fills mirror images in the wrong place.
        chain_masks: whether the mask is resized from the size of one view to that of the next, as
            in the public code, so that views after a small one get its coarse mask; otherwise it is
            resized from the crop's size for each view.
    """

    ranges: ClassVar = {"scales": SCALES, "rounds": COUNT, "masked_from": SHARE, "stop": SHARE}

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
                "ccr: scales must be > 0 and rounds >= 1, "
                f"got {tuple(self.scales)} and {self.rounds}"
            )
        for name in ("masked_from", "stop"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"ccr: {name} must be in 0..1, got {getattr(self, name)}")
        for name, choices in (("masking", ("joint", "class")), ("unit", ("crop", "image"))):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"ccr: {name} must be {' or '.join(choices)}, got {getattr(self, name)!r}"
                )


@dataclasses.dataclass
class Crop:
    """A crop and the state of its erasing.

    Attributes:
        name: name of the image in errors.
        views: normalised view of each scale, float32 [3, h_s, w_s].
        size: size (h, w) in pixels.
        classes: indices of the classes whose maps are used, int64 [K].
        unit: value that their maps are divided by, [K, 1, 1]; None for their own maximum.
        response: running maximum of the scores over the rounds, float32 [K, h, w] in 0..1; None
            before the first round.
        masked: pixels that are filled in the next round, bool [h, w]; None for none.
        rounds: number of finished rounds.
        finished: whether no round is left.
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
        self._masks: list[torch.Tensor] = []

    def inputs(self, scale: int, mirror_mask: bool) -> torch.Tensor:
        """A view and its mirror image, [2, 3, h_s, w_s], filled with the view's mean colour."""
        view = self.views[scale]
        if self.masked is None:
            return torch.stack([view, view.flip(-1)])
        mask, colour = self._masks[scale], self._colours[scale]
        filled = torch.where(mask, colour, view)
        mirrored = filled.flip(-1) if mirror_mask else torch.where(mask, colour, view.flip(-1))
        return torch.stack([filled, mirrored])

    def final_response(self) -> torch.Tensor:
        """`response`, after at least one round."""
        assert self.response is not None
        return self.response

    def update(self, maps: torch.Tensor, options: ErasingOptions) -> None:
        """Add a round's maps, [K, h, w] summed over the views, and set the next mask.

        Raises:
            InputError: the maps are not finite.
        """
        unit = maps.amax(dim=(1, 2), keepdim=True) if self.unit is None else self.unit
        scores = maps / (unit + 1e-5)
        if self.unit is not None:
            scores = scores.clamp_max(1.0)
        self.response = scores if self.response is None else torch.maximum(self.response, scores)
        masked = self.response.amax(dim=0) >= options.masked_from
        newly = (masked if self.masked is None else masked & ~self.masked).sum()
        # One device sync for both. A NaN in a map makes its maximum NaN, too.
        finite = unit.isfinite().all() & scores.sum().isfinite()
        new_count, is_finite = torch.stack([newly, finite]).tolist()
        if not is_finite:
            raise InputError(
                f"ccr: the classifier's maps of {self.name} are not finite; check its weights, or "
                "use precision fp32"
            )
        self.masked, self.rounds = masked, self.rounds + 1
        self.finished = new_count / masked.numel() < options.stop or self.rounds >= options.rounds
        if not self.finished:
            self._masks = self._resize_mask(masked, options.chain_masks)

    def _resize_mask(self, masked: torch.Tensor, chain: bool) -> list[torch.Tensor]:
        """The mask at the size of each view, bool [h_s, w_s], by nearest, indices rounded down."""
        own = masked[None, None].float()
        masks, mask = [], own
        for view in self.views:
            mask = torch.nn.functional.interpolate(mask if chain else own, view.shape[-2:])
            masks.append(mask[0, 0] > 0)
        return masks

    def per_class(self) -> list[Crop]:
        """A crop for each class alone, before the first round."""
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
    """Cut a crop out of an image, at every scale (bicubic on uint8, rounded size, as published).

    Args:
        name: name of the image.
        image: uint8 RGB [H, W, 3].
        box: place of the crop, as `crops.boxes` returns it.
        classes: indices of the classes, int64 [K], on the device to compute on.
        scales: scales of the views.
        unit: see `Crop`.
    """
    y0, y1, x0, x1 = box
    part = image[y0:y1, x0:x1]
    size = (part.shape[0], part.shape[1])
    pixels = torch.from_numpy(np.array(part)).to(classes.device)
    views = tuple(view[0].contiguous() for view in image_views(pixels, scales, mirror=False))
    return Crop(name, views, size, classes, unit)


def run_rounds(
    net: PaddedBatch,
    crops: Sequence[Crop],
    options: ErasingOptions,
    *,
    batch_size: int,
    first_maps: Sequence[torch.Tensor | None] | None = None,
) -> list[list[Crop]]:
    """Classify crops in rounds until all are finished.

    Args:
        net: the classifier.
        crops: crops of any number of images.
        options: options of the erasing.
        batch_size: number of crops that share a forward pass, each with its mirror image. Together
            with their sizes it determines the memory.
        first_maps: summed maps [K, h, w] of the first round of each crop, or None where they have
            to be computed.

    Returns:
        For each crop the crop itself, or with masking "class" one crop per class, with the final
        `response`.
    """
    given = [None] * len(crops) if first_maps is None else first_maps
    missing = [i for i, maps in enumerate(given) if maps is None]
    computed = _summed_maps(net, [crops[i] for i in missing], options, batch_size)
    first = {**dict(enumerate(given)), **dict(zip(missing, computed, strict=True))}
    results: list[list[Crop]] = []
    for i, crop in enumerate(crops):
        maps = first[i]
        assert maps is not None  # given or computed
        # Nothing is masked yet, so with either masking the first round is common to all classes.
        parts, own = [crop], [maps]
        if options.masking == "class":
            parts, own = crop.per_class(), list(maps.split(1))
        for part, part_maps in zip(parts, own, strict=True):
            part.update(part_maps, options)
        results.append(parts)
    active = [part for parts in results for part in parts if not part.finished]
    while active:
        for crop, maps in zip(active, _summed_maps(net, active, options, batch_size), strict=True):
            crop.update(maps, options)
        active = [crop for crop in active if not crop.finished]
    return results


def _summed_maps(
    net: PaddedBatch, crops: Sequence[Crop], options: ErasingOptions, batch_size: int
) -> list[torch.Tensor]:
    """Maps of each crop with its mask, summed over the views, at its size; float32 [K, h, w]."""
    summed: list[list[torch.Tensor]] = [[] for _ in crops]
    for scale in range(len(options.scales)):
        sizes = [(crop.views[scale].shape[-2], crop.views[scale].shape[-1]) for crop in crops]
        for group in net.group(sizes, batch_size):
            maps = net([crops[i].inputs(scale, options.mirror_mask) for i in group])
            for i, both in zip(group, maps, strict=True):
                straight, mirrored = unflipped(both[:, crops[i].classes].float())
                summed[i].append((straight + mirrored)[0])
    return [merge_views(views, *crop.size) for views, crop in zip(summed, crops, strict=True)]


def paste(
    parts: Sequence[torch.Tensor], places: Sequence[Box], size: tuple[int, int]
) -> torch.Tensor:
    """Maximum of maps [K, h_i, w_i] at their places, [K, H, W]; 0 where there is none."""
    whole = parts[0].new_zeros(len(parts[0]), *size)
    for part, (y0, y1, x0, x1) in zip(parts, places, strict=True):
        torch.maximum(whole[:, y0:y1, x0:x1], part, out=whole[:, y0:y1, x0:x1])
    return whole
