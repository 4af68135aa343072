"""Pseudo-masks from soft class maps by a dense CRF, whose background score falls with the maps."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from wsss_fast.data.dataset import Dataset
from wsss_fast.engine.progress import Bar
from wsss_fast.engine.ranges import POSITIVE
from wsss_fast.engine.run_folder import provenance
from wsss_fast.errors import InputError
from wsss_fast.maps import check_maps, map_files, to_labels
from wsss_fast.ops import unary_from_probabilities
from wsss_fast.readers.label_maps import write_labels
from wsss_fast.stages.crf import DenseCrf
from wsss_fast.stages.masks import MasksResult
from wsss_fast.stages.seeds import label_stage, share_of_labels, tagged_maps


@dataclasses.dataclass(frozen=True)
class AlphaCrf(DenseCrf):
    """Dense CRF over soft maps; the defaults are those of EPS' public code for 500x375 photos.

    Attributes:
        alpha: exponent of the background score (1 - highest map)^alpha, > 0; published: 4 and 32. A
            higher value gives less background.
    """

    ranges: ClassVar = {**DenseCrf.ranges, "alpha": POSITIVE}

    bilateral: tuple[float, float, float] = (80.0, 13.0, 10.0)
    alpha: float = 4.0

    def refine_maps(
        self, images: np.ndarray, scores: np.ndarray, device: str = "cpu"
    ) -> torch.Tensor:
        """Marginals for energies -log of the maps and of (1 - their maximum)^alpha.

        As published, the energies are not normalised.

        Args:
            images: uint8 RGB [B, H, W, 3].
            scores: class maps, float32 [B, K, H, W] in 0..1, K >= 1.
            device: device to compute on.

        Returns:
            float32 [B, K+1, H, W], background first.
        """
        maps = torch.from_numpy(scores).to(device)
        background = (1 - maps.amax(dim=1, keepdim=True)).clamp_min(0) ** self.alpha
        return self.apply(images, unary_from_probabilities(torch.cat([background, maps], dim=1)))


def make(
    data: Dataset,
    maps: Path,
    out: Path,
    *,
    crf: AlphaCrf,
    name: str = "masks",
    batch_size: int = 16,
    device: str = "cpu",
) -> MasksResult:
    """Write `<out>/<name>/<id>.png`, the argmax of `AlphaCrf.refine_maps`. Collective.

    Args:
        data: images and tags.
        maps: folder of the class maps; a background row in them is not used.
        out: run folder.
        crf: parameters of the dense CRF.
        name: sub-folder of `out`.
        batch_size: number of images of equal size and class count that share a CRF call.
        device: device of the CRF.

    Raises:
        InputError: alpha is not positive, or maps are missing or of other classes than the tags.
    """
    if not crf.alpha > 0:
        raise InputError(f"crf: alpha must be > 0, got {crf.alpha}")
    check_maps(maps, data)

    def work() -> dict[str, float]:
        own, todo = share_of_labels(data, out / name)
        with Bar(name, len(own), done=len(own) - len(todo)) as bar:
            for ids, labels in _refined_labels(todo, maps, crf, batch_size, device):
                for id, one in zip(ids, labels, strict=True):
                    write_labels(out / name / f"{id}.png", one)
                bar.advance(len(ids))
        return {}

    arguments = {
        "data": data.fingerprint(),
        "maps": provenance(maps, map_files(data)),
        "crf": crf,
    }
    label_stage(out, name, data, arguments, work)
    return MasksResult(out / name)


def _refined_labels(
    data: Dataset, maps: Path, crf: AlphaCrf, batch_size: int, device: str
) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """Yield ids of equal size and class count, and their label maps, uint8 [H, W]."""

    def kind(id: str) -> tuple[tuple[int, int], int]:
        return data.size(id), int(data.tags_of(id).sum())

    for (size, count), group in itertools.groupby(sorted(data.ids, key=kind), key=kind):
        same = list(group)
        for start in range(0, len(same), batch_size):
            ids = same[start : start + batch_size]
            loaded = [tagged_maps(data, maps, i) for i in ids]
            index = np.zeros((len(ids), *size), np.int64)
            if count:
                scores = np.stack([m.at_size(*size) for m in loaded])
                photos = np.stack([data.image(i) for i in ids])
                index = crf.refine_maps(photos, scores, device).argmax(dim=1).cpu().numpy()
            yield ids, [to_labels(one, m.keys) for one, m in zip(index, loaded, strict=True)]
