"""CCR's segmentation training: saliency beside the pseudo-masks, but only where the response maps do not contradict it."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch

from wsss_fast import seg
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.label_folder import read_label
from wsss_fast.data.transforms import Augment, resize_image
from wsss_fast.engine.run_folder import provenance
from wsss_fast.engine.samples import Batch
from wsss_fast.errors import InputError
from wsss_fast.maps import check_maps, load_maps
from wsss_fast.stages import saliency
from wsss_fast.stages.batch_losses import aamr
from wsss_fast.stages.training import TrainResult


@dataclasses.dataclass(frozen=True)
class Refinement:
    """How the segmentation network is trained: `seg.Recipe`'s numbers, and those of the loss beside the cross-entropy.

    Attributes:
        seg: of the network.
        weight: of `ops.aamr_loss` beside the cross-entropies, >= 0; 0 leaves saliency out.
        salient: saliency, 0..1, from which a pixel is salient.
        active: response from which a pixel is active; above 1 no pixel is, so that all that is not salient is background.
        overlap: share of a salient region, 0..1, that must be active for it to count; 0 takes every salient region.
    """

    seg: seg.Recipe = seg.RECIPES["resnet101"]
    weight: float = 0.5
    salient: float = 0.5
    active: float = 0.2
    overlap: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise InputError(f"ccr: weight must be >= 0, got {self.weight}")
        for name in ("salient", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"ccr: {name} must be in 0..1, got {getattr(self, name)}")
        if not abs(self.active) < float("inf"):
            raise InputError(f"ccr: active must be finite, got {self.active}")

    def everywhere(self) -> Refinement:
        """Plain saliency supervision: every pixel is pulled to its saliency, also where the maps contradict it."""
        return dataclasses.replace(self, active=2.0, overlap=0.0)


REFINEMENTS = {"resnet101": Refinement(), "small": Refinement(seg=seg.RECIPES["small"])}


def train(
    data: Source,
    out: str | Path,
    *,
    masks: str | Path,
    maps: str | Path,
    backbone: str = "resnet101",
    weights: str | Path | None = None,
    recipe: Refinement | None = None,
    name: str = "seg",
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> TrainResult:
    """Train DeepLabV2 on pseudo-masks and saliency; leaves `<out>/<name>/weights.pth`, which `seg.infer` takes.

    The loss is `seg.train`'s plus `weight` times `ops.aamr_loss` of the largest logits over the scales: with F the
    probability of anything but background, S the saliency and R the highest response of a present class, the mean binary
    cross-entropy of F against S over Omega. Omega are the pixels with S < `salient` and R < `active`, and the salient regions
    of which at least the share `overlap` has R >= `active`. So an object that is not salient, but has a response, is left
    alone, and so is what is salient without one. The formula is this project's reconstruction: the authors published none
    of its code.

    Args:
        data: images and a saliency map for every id (8 or 16-bit PNGs, bright where something is salient, of any size); a
            data set, or what `data.load` opens.
        out: run folder.
        masks: folder of label PNGs (0 background, 1..C, 255 ignored).
        maps: folder of response maps, of `ccr.infer`.
        backbone: "resnet101" or "small".
        weights: where the net starts, see `seg.train`.
        recipe: numbers of the training; default: the backbone's.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        seed: of initialisation, shuffling and augmentation.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used, a missing mask, map or saliency map.
        RunError: the loss became infinite.

    Source: CCR, section 3.3, as far as its abstract tells.
    """
    data, recipe = opened(data), recipe or REFINEMENTS.get(backbone, Refinement())
    shared = {
        "masks": masks,
        "backbone": backbone,
        "weights": weights,
        "recipe": recipe.seg,
        "name": name,
        "device": device,
        "seed": seed,
        "workers": workers,
        "precision": precision,
    }
    if recipe.weight == 0:
        return seg.learn(data, out, **shared)
    folder = Path(maps)
    check_maps(folder, data)
    saliency.check(data)
    numbers = {
        f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if f.name != "seg"
    }
    return seg.learn(
        data,
        out,
        **shared,
        extra_loss=_refinement(recipe),
        sampler=functools.partial(_LoadSample, maps=folder),
        depends={
            "maps": provenance(folder),
            "saliency": provenance(data.saliencies[data.ids[0]].parent),
            "refinement": numbers,
        },
    )


def _refinement(recipe: Refinement) -> seg.ExtraLoss:
    def loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        salient, silent = batch["maps"].unbind(1)
        return recipe.weight * aamr(
            logits,
            salient,
            1 - silent,
            salient=recipe.salient,
            active=recipe.active,
            overlap=recipe.overlap,
        )

    return loss


@dataclasses.dataclass(frozen=True)
class _LoadSample:
    """(id, generator) -> `image`, `mask` and, as `_levels`, `maps` of a training image."""

    data: Dataset
    masks: Path
    augment: Augment
    maps: Path

    def __call__(self, id: str, rng: np.random.Generator) -> Batch:
        labels, levels = read_label(self.masks, self.data, id), _levels(self.data, self.maps, id)
        image, mask, maps = self.augment.with_maps(self.data.image(id), labels, levels, rng)
        return {"image": image, "mask": mask, "maps": maps}


def _levels(data: Dataset, maps: Path, id: str) -> np.ndarray:
    """Saliency and 255 - response, uint8 [2, H, W].

    Outside of the image both are 0 in a crop: not salient and, since the response is inverted, active.
    The loss ignores such pixels.
    """
    height, width = data.size(id)
    scores = load_maps(maps, id).foreground().at_size(height, width)
    response = scores.max(axis=0, initial=0.0).clip(0, 1)
    salient = resize_image(data.saliency_levels(id), height, width).mean(axis=2)
    return np.stack([np.rint(salient), np.rint(255 * (1 - response))]).astype(np.uint8)
