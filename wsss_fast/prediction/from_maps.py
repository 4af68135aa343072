"""Masks from the class maps of tagged images: what `infer` and `masks` write, without files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from wsss_fast import amn, nets
from wsss_fast.cam.inference import views_to_maps as cam_views_to_maps
from wsss_fast.engine import stream
from wsss_fast.engine.runtime import Runtime
from wsss_fast.eps.alpha_crf import AlphaCrf
from wsss_fast.eps.inference import views_to_maps as eps_views_to_maps
from wsss_fast.prediction.model import Batch, Predicted
from wsss_fast.readers.label_maps import IGNORE
from wsss_fast.stages import seeds
from wsss_fast.stages.activate import Maps, Views, ViewsToMaps, views_dtype, views_of
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.labels import Scores, index_at
from wsss_fast.thresholds import label_index

MapsOf = Callable[[Batch, stream.Times], list[Maps]]


@dataclasses.dataclass(frozen=True)
class ToMask:
    """How scores become a mask.

    Attributes:
        threshold: score of the background; `AlphaCrf` has another one.
        crf: dense CRF of the labels or of the maps, or None.
    """

    threshold: float
    crf: Crf | AlphaCrf | None

    def marginals(self, photo: torch.Tensor, scores: torch.Tensor) -> torch.Tensor | None:
        """Marginals of the CRF, float32 [K+1, H, W], background first; None without a CRF.

        Args:
            photo: uint8 RGB [1, H, W, 3].
            scores: float32 [1, K, H, W], K >= 1.
        """
        if self.crf is None:
            return None
        if isinstance(self.crf, AlphaCrf):
            return self.crf.refine_maps(photo, scores)[0]
        index = label_index(scores, (self.threshold,))
        return self.crf.marginals(photo, index, scores.shape[1] + 1)[0, 0]


class SeedNumbers(NamedTuple):
    """How the classifier's maps become the seeds that an AMN uses; see `seeds.make`."""

    fg_threshold: float
    bg_threshold: float
    crf: Crf


def of_classifier(
    net: nets.CamNet, scales: Sequence[float], align: int, runtime: Runtime
) -> MapsOf:
    """Class activation maps; see `cam.infer`."""
    return _maps_of(cam_views_to_maps(net, align), scales, runtime)


def of_eps(net: nets.EpsNet, scales: Sequence[float], runtime: Runtime) -> MapsOf:
    """EPS' maps; see `eps.infer`."""
    return _maps_of(eps_views_to_maps(net), scales, runtime)


def of_amn(
    net: nets.AmnNet,
    scales: Sequence[float],
    present_only: bool,
    runtime: Runtime,
    cams: MapsOf | None,
    numbers: SeedNumbers,
) -> MapsOf:
    """Maps of an AMN, without the background row; see `amn.infer`.

    Args:
        net: the AMN.
        scales: of the views.
        present_only: as in `amn.Recipe`.
        runtime: device and dtype.
        cams: maps of the classifier, from which the seeds are made; None: each pixel is unsure.
        numbers: of the seeds.
    """

    def maps(batch: Batch, times: stream.Times) -> list[Maps]:
        if cams is None:
            found = [np.full(batch.photos.shape[1:3], IGNORE, np.uint8)] * len(batch.photos)
        else:
            found = _seeds(batch, cams(batch, times), numbers, times)
        of_id = dict(zip(_ids(batch), found, strict=True))
        to_maps = amn.views_to_maps(net, of_id.__getitem__, present_only)
        return [
            Maps(one.keys[1:], one.strided[1:], one.high_res[1:])
            for one in _maps_of(to_maps, scales, runtime)(batch, times)
        ]

    return maps


def _ids(batch: Batch) -> tuple[str, ...]:
    return tuple(map(str, range(len(batch.photos))))


def _maps_of(to_maps: ViewsToMaps, scales: Sequence[float], runtime: Runtime) -> MapsOf:
    def views(batch: Batch) -> Views:
        ids, dtype = _ids(batch), views_dtype(runtime)
        assert batch.tags is not None
        loaded = tuple(map(to_maps.load, ids))
        return views_of(ids, batch.photos, batch.tags, scales, runtime.device, dtype, loaded)

    def maps(batch: Batch, times: stream.Times) -> list[Maps]:
        with runtime.autocast(), times.computing():
            given = views(batch)
            return to_maps.merge(given, to_maps.network(given))

    return maps


def _seeds(
    batch: Batch, cams: list[Maps], numbers: SeedNumbers, times: stream.Times
) -> list[np.ndarray]:
    """Seeds of each image, uint8 [H, W]: 0 background, 255 unsure, other values a class."""
    found = []
    for photo, maps in zip(batch.photos, cams, strict=True):
        scores = _as_stored(maps)
        device = scores.device
        given = Scores((), scores, photo[None].to(device) if maps.keys else None, times)
        thresholds = (numbers.fg_threshold, numbers.bg_threshold)
        index = seeds.combine(*index_at(given, thresholds, numbers.crf).unbind(1))
        found.append(index[0].cpu().numpy())
    return found


def _as_stored(maps: Maps) -> torch.Tensor:
    """Scores float32 [1, K, H, W], rounded as in files of maps."""
    return maps.high_res.half().float()[None]


def masks_of(maps_of: MapsOf, to_mask: ToMask, num_classes: int) -> Callable[..., Predicted]:
    """The function `Model.compute` of a network that gives class maps."""

    def compute(batch: Batch, probabilities: bool, times: stream.Times) -> Predicted:
        found = [
            _mask(photo[None], maps, to_mask, num_classes, probabilities, times)
            for photo, maps in zip(batch.photos, maps_of(batch, times), strict=True)
        ]
        labels, finite, every = zip(*found, strict=True)
        dense = torch.stack([one for one in every if one is not None]) if probabilities else None
        return Predicted(torch.stack(labels), torch.stack(finite), dense)

    return compute


def _mask(
    photo: torch.Tensor,
    maps: Maps,
    to_mask: ToMask,
    num_classes: int,
    probabilities: bool,
    times: stream.Times,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Labels [H, W], whether all scores are finite, and probabilities [C+1, H, W] of one image."""
    scores = _as_stored(maps)
    device, size = scores.device, scores.shape[2:]
    keys = torch.tensor((0, *maps.keys), dtype=torch.uint8, device=device)
    marginals = None
    if maps.keys:
        with times.computing():
            marginals = to_mask.marginals(photo.to(device, non_blocking=True), scores)
    if marginals is None:
        index = label_index(scores, (to_mask.threshold,))[0, 0]
    else:
        index = marginals.max(dim=0).indices  # ten times faster than argmax on a CPU
    labels = keys[index.long()]
    dense = None
    if probabilities:
        dense = scores.new_zeros(num_classes + 1, *size)
        if marginals is None:  # without any class
            dense[0] = 1
        else:
            dense[keys.long()] = marginals
    return labels, scores.isfinite().all(), dense
