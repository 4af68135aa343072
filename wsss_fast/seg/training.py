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
from wsss_fast.engine.schedules import for_updates
from wsss_fast.runs import resolve_preset
from wsss_fast.seg.presets import PRESETS, RECIPES, starts_of
from wsss_fast.seg.recipe import Recipe, check_weights, enlarged, network
from wsss_fast.stages import training
from wsss_fast.stages.batch_losses import cross_entropy
from wsss_fast.stages.training import TrainResult

_OF_INFERENCE = ("flip", "crf", "infer_batch", "test_scales", "test_merge")
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
    preset: str | None = None,
    backbone: str | None = None,
    weights: str | Path | None = None,
    recipe: Recipe | None = None,
    name: str = "seg",
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> TrainResult:
    """Train a segmentation network on pseudo-masks; writes `<out>/<name>/weights.pth`.

    `model.safetensors` next to it holds the same weights, and says network, classes and recipe.

    The loss is the sum of the cross-entropies of the logits at every scale and of their maximum, at
    the resolution of the logits, against masks resized to it by nearest neighbour (or, with
    `resize` "logits" and "aligned", at the resolution of the masks). Pixels labelled 255 are
    ignored. With `recipe.energy`, `ops.dense_energy_loss` of the maximum is added. Collective.

    Args:
        data: images: a data set, or an argument of `data.load`.
        out: run folder.
        masks: folder of label PNGs (0 background, 1..C, 255 ignored), as `irn.infer` and the
            pipelines write them.
        preset: name of a published recipe, which sets `backbone` and `recipe`: "deeplab-pytorch",
            "advcam", "rib-coco", "lpcam-coco", "clip-es" (COCO start), "clip-es-imagenet",
            "deeplabv1-oaa-vgg16", "deeplabv1-oaa-resnet101", "deeplabv1-rulixiang",
            "resnet38-seam", "resnet38-mctformer", or "shapes" (the built-in benchmark).
        backbone: "resnet101", "vgg16", "resnet38" or "small"; default: the preset's, or
            "resnet101".
        weights: initial weights, see `nets.load_weights`; those that a published recipe starts from
            are in its preset's `row.starts`; "small" may start from a trained classifier.
        recipe: hyper-parameters of the training; default: those of the preset, or of the backbone.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        seed: seed of initialisation, shuffling and augmentation.
        workers: number of loader processes; 0 loads in the training process.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used, or a mask is missing.
        RunError: the loss is not finite.

    Source: Chen et al., ICLR 2015 and PAMI 2018; the source of each preset is in its `row`.
    """
    data = opened(data)
    chosen = resolve_preset("seg train", PRESETS, RECIPES, preset, backbone, recipe)
    if chosen.preset is not None and weights is not None:
        with chosen.checking("weights"):
            check_weights(data, chosen.backbone, chosen.numbers, weights, "weights")
    return train_extended(
        data,
        out,
        masks=masks,
        backbone=chosen.backbone,
        weights=weights,
        recipe=chosen.numbers,
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
    elif starts := starts_of(backbone, recipe):
        files = " or ".join(f"{start.what} ({start.where})" for start in starts)
        say(
            f"{name}: no weights given, so the {backbone} starts from random ones; the published "
            f"numbers start from {files}"
        )
    # As `stairs`, so that the same rates are the same arguments.
    timed = dataclasses.replace(recipe, schedule=for_updates(recipe.schedule, recipe.updates))
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
        info=nets.model_info(
            "seg",
            data.classes,
            recipe,
            backbone=backbone,
            head=recipe.head,
            scales=recipe.scales,
        ),
        arguments={
            "data": data.fingerprint(),
            "masks": provenance(folder, label_files(data)),
            "backbone": backbone,
            "weights": nets.fingerprint(weights),
            "recipe": training.fields_except(timed, *_OF_INFERENCE),
            **({} if extension is None else extension.arguments),
        },
    )


def _step(recipe: Recipe, extra_loss: ExtraLoss | None = None) -> Step:
    def step(net: nn.Module, batch: Batch) -> Loss:
        outputs = [logits.float() for logits in net(batch["image"])]
        losses = [_cross_entropy(x, batch["mask"], recipe) for x in outputs]
        loss = sum(losses[1:], start=losses[0])
        if extra_loss is not None:
            loss = loss + extra_loss(outputs[-1], batch)
        return recipe.energy.added_to(
            loss, outputs[-1], batch["image"], batch["mask"], recipe.augment
        )

    return step


def _cross_entropy(logits: torch.Tensor, mask: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    resize: str = recipe.resize
    if resize == "aligned":
        logits, resize = enlarged(logits, mask.shape[-2:], recipe), "logits"
    return cross_entropy(logits, mask, balance=recipe.balance, resize=resize)


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
