"""CCR's segmentation training: pseudo-masks, and saliency where response maps do not contradict."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsss_fast import seg
from wsss_fast.ccr.recipe import REFINEMENTS, Refinement
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.label_folder import read_label
from wsss_fast.data.transforms import Augment, resize_image
from wsss_fast.engine.run_folder import provenance
from wsss_fast.engine.runtime import with_torch_defaults
from wsss_fast.engine.samples import Batch
from wsss_fast.maps import check_maps, load_maps, map_files
from wsss_fast.stages import saliency
from wsss_fast.stages.batch_losses import aamr
from wsss_fast.stages.training import TrainResult


@with_torch_defaults
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
    """Train DeepLabV2 on pseudo-masks and saliency maps; writes `<out>/<name>/weights.pth`.

    `model.safetensors` next to it holds the same weights, and says network, classes and recipe.

    `seg.infer` takes these weights. The loss is `seg.train`'s plus `weight` times `ops.aamr_loss`
    of the highest logits over the scales: with F the probability of anything but background, S the
    saliency and R the highest response of a present class, the mean binary cross-entropy of F
    against S over Omega. Omega has the pixels with S < `salient` and R < `active`, and the salient
    regions of which at least the share `overlap` has R >= `active`. So neither an object that is
    not salient but has a response, nor a salient region without a response, is supervised. The
    formula is this project's reconstruction, since the authors published no code of it. Collective.

    Args:
        data: images and a saliency map for every id (8 or 16-bit PNGs, bright where an object is
            salient, of any size): a data set, or an argument of `data.load`.
        out: run folder.
        masks: folder of label PNGs (0 background, 1..C, 255 ignored).
        maps: folder of response maps, as `ccr.infer` writes them.
        backbone: "resnet101" or "small".
        weights: initial weights, see `seg.train`.
        recipe: hyper-parameters of the training; default: those of the backbone.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        seed: seed of initialisation, shuffling and augmentation.
        workers: number of loader processes; 0 loads in the training process.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used, or a mask, map or saliency map is missing.
        RunError: the loss is not finite.

    Source: CCR, section 3.3.
    """
    data, recipe = opened(data), recipe or REFINEMENTS.get(backbone, Refinement())
    options: dict[str, Any] = {
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
        return seg.train(data, out, **options)
    folder = Path(maps)
    check_maps(folder, data)
    saliency.check(data)
    numbers = {
        f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if f.name != "seg"
    }
    extension = seg.Extension(
        load_sample=functools.partial(_LoadSample, maps=folder),
        loss=_extra_loss(recipe),
        arguments={
            "maps": provenance(folder, map_files(data)),
            "saliency": data.fingerprint(saliency=True)["saliency"],
            "refinement": numbers,
        },
    )
    return seg.train_extended(data, out, **options, extension=extension)


def _extra_loss(recipe: Refinement) -> seg.ExtraLoss:
    def loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        salient, inverse_response = batch["maps"].unbind(1)
        return recipe.weight * aamr(
            logits,
            salient,
            1 - inverse_response,
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
        image, mask, maps = self.augment.with_maps(self.data.photo(id), labels, levels, rng)
        return {"image": image, "mask": mask, "maps": maps}


def _levels(data: Dataset, maps: Path, id: str) -> np.ndarray:
    """Saliency and 255 - response, uint8 [2, H, W].

    Outside of the image both are 0 in a crop: not salient and, since the response is inverted,
    active. The loss ignores such pixels.
    """
    height, width = data.size(id)
    scores = load_maps(maps, id).foreground().at_size(height, width)
    response = scores.max(axis=0, initial=0.0).clip(0, 1)
    salient = resize_image(data.saliency_levels(id), height, width).mean(axis=2)
    return np.stack([np.rint(salient), np.rint(255 * (1 - response))]).astype(np.uint8)
