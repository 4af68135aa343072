"""Pseudo-masks from soft class maps by a dense CRF, whose background score falls with the maps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from wsss_fast.data.dataset import Dataset
from wsss_fast.engine.ranges import POSITIVE
from wsss_fast.engine.run_folder import provenance
from wsss_fast.errors import InputError
from wsss_fast.maps import check_maps, map_files
from wsss_fast.ops import unary_from_probabilities
from wsss_fast.stages.crf import DenseCrf
from wsss_fast.stages.labels import Scores, label_stage, write_all
from wsss_fast.stages.masks import MasksResult


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
        self, images: np.ndarray | torch.Tensor, scores: np.ndarray | torch.Tensor
    ) -> torch.Tensor:
        """Marginals for energies -log of the maps and of (1 - their maximum)^alpha.

        As published, the energies are not normalised.

        Args:
            images: uint8 RGB [B, H, W, 3].
            scores: class maps, float32 [B, K, H, W] in 0..1, K >= 1, on the device to compute on.

        Returns:
            float32 [B, K+1, H, W], background first.
        """
        maps = torch.as_tensor(scores)
        background = (1 - maps.amax(dim=1, keepdim=True)).clamp_min(0) ** self.alpha
        unary = unary_from_probabilities(torch.cat([background, maps], dim=1))
        return self.apply(images, unary, check=False)  # of scores that were checked when read


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

    def work() -> dict[str, Any]:
        return write_all(
            data,
            maps,
            out / name,
            lambda given: _index_of(given, crf),
            batch_size=batch_size,
            device=device,
            photos=True,
        )

    arguments = {
        "data": data.fingerprint(),
        "maps": provenance(maps, map_files(data)),
        "crf": crf,
    }
    label_stage(out, name, data, arguments, work)
    return MasksResult(out / name)


def _index_of(given: Scores, crf: AlphaCrf) -> torch.Tensor:
    """Argmax of the marginals, uint8 [B, H, W]: 0 background, otherwise 1 + the row."""
    scores = given.scores
    if given.photos is None:
        return scores.new_zeros((len(scores), *scores.shape[2:]), dtype=torch.uint8)
    with given.times.computing():
        return crf.refine_maps(given.photos, scores).argmax(dim=1).to(torch.uint8)
