"""Training of EPS on image tags and saliency maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wsss_fast import nets
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.transforms import Augment
from wsss_fast.engine.optimizers import backbone_and_head
from wsss_fast.engine.progress import say
from wsss_fast.engine.run_folder import check_out
from wsss_fast.engine.runtime import resolve_runtime, set_seed, with_torch_defaults
from wsss_fast.engine.samples import Batch, Samples
from wsss_fast.eps.recipe import RECIPES, Recipe, check_recipe
from wsss_fast.ops import saliency_loss
from wsss_fast.stages import saliency, training
from wsss_fast.stages.training import TrainResult


@with_torch_defaults
def train(
    data: Source,
    out: str | Path,
    *,
    maps: str | Path | None = None,
    backbone: str = "resnet38",
    weights: str | Path | None = None,
    recipe: Recipe | None = None,
    name: str = "eps",
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> TrainResult:
    """Train EPS on image tags and saliency maps; writes `<out>/<name>/weights.pth`.

    `model.safetensors` next to it holds the same weights, and says network, classes and recipe.

    The loss is the multi-label soft-margin loss of the class scores plus `ops.saliency_loss` of the
    maps. An image without tags is background everywhere. Collective.

    Args:
        data: images, tags and a saliency map for every id: a data set, or an argument of
            `data.load`. Saliency maps are 8 or 16-bit PNGs, soft or binary, bright where an object
            is salient, of any size; they are stretched to their photo.
        out: run folder.
        maps: folder of the class maps (`cam.infer`) of a classifier that was trained without
            saliency. If given, saliency maps that look inverted compared with them are reported.
        backbone: "resnet38" or "small".
        weights: initial weights, see `nets.load_weights`; published: ImageNet's ResNet-38.
        recipe: hyper-parameters of the training; default: those of the backbone, for VOC;
            `eps.COCO` has those for COCO.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        seed: seed of initialisation, shuffling, augmentation and dropout.
        workers: number of loader processes; 0 loads in the training process.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used, or a saliency map is missing.
        RunError: the loss is not finite.

    Source: EPS, section 3.
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    runtime = resolve_runtime(
        *(device, seed, workers, precision),
        prefer_bf16=recipe.prefer_bf16,
        compile=recipe.compile,
    )
    check_recipe(recipe, data)
    set_seed(seed)
    net = nets.eps_resnet38(len(data.classes), backbone=backbone)
    if weights is not None:
        nets.load_weights(net, weights)
    elif backbone == "resnet38":
        say(
            f"{name}: no weights given, so the ResNet-38, whose batch-norm is frozen, starts from "
            "random ones; the published numbers start from ImageNet's"
        )
    black = saliency.check(data)
    overlap = saliency.overlap(data, Path(maps)) if maps is not None else None
    return training.train(
        net,
        _step(recipe),
        Samples(data.ids, _LoadSample(data, recipe.augment), seed),
        check_out(out),
        name,
        optimizer=recipe.optimizer(backbone_and_head(net, recipe.lr, recipe.head_lr_scale)),
        schedule=recipe.schedule,
        length=recipe.length(),
        runtime=runtime,
        info=nets.model_info("eps", data.classes, recipe, backbone=backbone),
        finish=lambda: {"black_saliency": black, "saliency_overlap": overlap},
        arguments={
            "data": data.fingerprint(saliency=True),
            "backbone": backbone,
            "weights": nets.fingerprint(weights),
            "recipe": training.fields_except(recipe, "scales", "threshold", "crf", "infer_batch"),
        },
    )


def losses(net: nn.Module, batch: Batch, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """The classification loss and the saliency loss of a batch.

    Args:
        net: the network.
        batch: `image`, `saliency` [B, 1, H, W] and `tags` [B, C].
        recipe: hyper-parameters of the saliency loss.
    """
    scores, maps = net(batch["image"])
    classes = nn.functional.multilabel_soft_margin_loss(scores.float(), batch["tags"])
    salient = saliency_loss(
        maps.float(),
        batch["saliency"],
        batch["tags"],
        tau=recipe.tau,
        lam=recipe.lam,
        strategy=recipe.strategy,
        background_classes=recipe.background_classes,
    )
    return classes, salient.loss


def _step(recipe: Recipe) -> Callable[[nn.Module, Batch], torch.Tensor]:
    def step(net: nn.Module, batch: Batch) -> torch.Tensor:
        classes, salient = losses(net, batch, recipe)
        return classes + recipe.saliency_weight * salient

    return step


@dataclasses.dataclass(frozen=True)
class _LoadSample:
    """(id, generator) -> `image`, `saliency` and `tags` of a training image."""

    data: Dataset
    augment: Augment

    def __call__(self, id: str, rng: np.random.Generator) -> Batch:
        levels = self.data.saliency_levels(id)
        image, salient = self.augment.with_saliency(self.data.photo(id), levels, rng)
        tags = torch.from_numpy(self.data.tags_of(id).astype(np.float32))
        return {"image": image, "saliency": salient, "tags": tags}
