"""Training of the segmentation network on pseudo-masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from wsss_fast import nets
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.label_folder import check_label_folder, label_files, read_label
from wsss_fast.data.transforms import Augment
from wsss_fast.engine.ddp import Loss, Step
from wsss_fast.engine.optimizers import backbone_and_head
from wsss_fast.engine.progress import say
from wsss_fast.engine.run_folder import check_out, provenance
from wsss_fast.engine.runtime import resolve_runtime, set_seed, with_torch_defaults
from wsss_fast.engine.samples import Batch, LoadSample, Samples
from wsss_fast.seg.recipe import RECIPES, Recipe, network
from wsss_fast.stages import training
from wsss_fast.stages.batch_losses import cross_entropy
from wsss_fast.stages.training import TrainResult

ExtraLoss = Callable[[torch.Tensor, Batch], torch.Tensor]  # (logits [B, C+1, h, w], batch) -> loss


@dataclasses.dataclass(frozen=True)
class Extension:
    """What a method adds to the training of the segmentation network.

    Attributes:
        load_sample: function from (data, folder of masks, augmentation) to the loader of samples,
            which have `image`, `mask` and whatever the loss needs. Loader processes may get it
            pickled.
        loss: function from (highest logits over the scales [B, C+1, h, w], batch) to a scalar that
            is added to the loss.
        arguments: what the weights depend on in addition to the arguments of `train`.
    """

    load_sample: Callable[[Dataset, Path, Augment], LoadSample]
    loss: ExtraLoss
    arguments: dict[str, Any]


@with_torch_defaults
def train(
    data: Source,
    out: str | Path,
    *,
    masks: str | Path,
    backbone: str = "resnet101",
    weights: str | Path | None = None,
    recipe: Recipe | None = None,
    name: str = "seg",
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> TrainResult:
    """Train DeepLabV2 on pseudo-masks; writes `<out>/<name>/weights.pth`.

    The loss is the sum of the cross-entropies of the logits at every scale and of their maximum, at
    the resolution of the logits, against masks resized to it by nearest neighbour (or, with
    `resize` "logits", at the resolution of the masks). Pixels labelled 255 are ignored. With
    `recipe.energy`, `ops.dense_energy_loss` of the maximum is added. Collective.

    Args:
        data: images: a data set, or an argument of `data.load`.
        out: run folder.
        masks: folder of label PNGs (0 background, 1..C, 255 ignored), as `irn.infer` and the
            pipelines write them.
        backbone: "resnet101" or "small".
        weights: initial weights, see `nets.load_weights`: DeepLab's COCO initialisation or
            ImageNet's ResNet-101, as published; "small" may start from a trained classifier.
        recipe: hyper-parameters of the training; default: those of the backbone.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        seed: seed of initialisation, shuffling and augmentation.
        workers: number of loader processes; 0 loads in the training process.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used, or a mask is missing.
        RunError: the loss is not finite.

    Source: Chen et al., PAMI 2018; recipe of its PyTorch re-implementation, which AMN, EPS and CCR
        use.
    """
    return train_extended(
        data,
        out,
        masks=masks,
        backbone=backbone,
        weights=weights,
        recipe=recipe,
        name=name,
        device=device,
        seed=seed,
        workers=workers,
        precision=precision,
        extension=None,
    )


@with_torch_defaults
def train_extended(
    data: Source,
    out: str | Path,
    *,
    masks: str | Path,
    backbone: str,
    weights: str | Path | None,
    recipe: Recipe | None,
    name: str,
    device: str,
    seed: int,
    workers: int,
    precision: str,
    extension: Extension | None,
) -> TrainResult:
    """`train`, with another loss and more in the samples if `extension` is given. Collective.

    Args:
        extension: what a method adds, or None. The other arguments are those of `train`.
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    recipe.energy.check(recipe.augment)
    runtime = resolve_runtime(
        *(device, seed, workers, precision),
        prefer_bf16=recipe.prefer_bf16,
        compile=recipe.compile,
    )
    folder = check_label_folder(Path(masks), data, "masks")
    set_seed(seed)
    net = network(data, backbone, recipe)
    if weights is not None:
        nets.load_weights(net, weights)
    elif backbone == "resnet101":
        say(
            f"{name}: no weights given, so the ResNet-101, whose batch-norm is frozen, starts from "
            "random ones; the published numbers start from COCO's or ImageNet's"
        )
    load_sample = _LoadSample if extension is None else extension.load_sample
    return training.train(
        net,
        _step(recipe, None if extension is None else extension.loss),
        Samples(data.ids, load_sample(data, folder, recipe.augment), seed),
        check_out(out),
        name,
        optimizer=recipe.optimizer(backbone_and_head(net, recipe.lr, recipe.head_lr_scale)),
        schedule=recipe.schedule,
        runtime=runtime,
        length=recipe.length(),
        arguments={
            "data": data.fingerprint(),
            "masks": provenance(folder, label_files(data)),
            "backbone": backbone,
            "weights": nets.fingerprint(weights),
            "recipe": training.fields_except(recipe, "flip", "crf", "infer_batch"),
            **({} if extension is None else extension.arguments),
        },
    )


def _step(recipe: Recipe, extra_loss: ExtraLoss | None = None) -> Step:
    def step(net: nn.Module, batch: Batch) -> Loss:
        outputs = [logits.float() for logits in net(batch["image"])]
        losses = [cross_entropy(x, batch["mask"], resize=recipe.resize) for x in outputs]
        loss = sum(losses[1:], start=losses[0])
        if extra_loss is not None:
            loss = loss + extra_loss(outputs[-1], batch)
        return recipe.energy.added_to(
            loss, outputs[-1], batch["image"], batch["mask"], recipe.augment
        )

    return step


@dataclasses.dataclass(frozen=True)
class _LoadSample:
    """(id, generator) -> `image` and `mask` of a training image."""

    data: Dataset
    masks: Path
    augment: Augment

    def __call__(self, id: str, rng: np.random.Generator) -> Batch:
        image, mask = self.augment(self.data.photo(id), read_label(self.masks, self.data, id), rng)
        assert mask is not None  # since labels are given
        return {"image": image, "mask": mask}
