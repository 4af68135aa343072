"""Training of the activation manipulation network (AMN) on seeds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wsss_fast import nets
from wsss_fast.amn.recipe import RECIPES, Recipe
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.label_folder import check_label_folder, label_files, read_label
from wsss_fast.data.transforms import Augment
from wsss_fast.engine.ddp import Loss, Step
from wsss_fast.engine.optimizers import ParameterGroup
from wsss_fast.engine.progress import say
from wsss_fast.engine.run_folder import check_out, provenance
from wsss_fast.engine.runtime import resolve_runtime, set_seed, with_torch_defaults
from wsss_fast.engine.samples import Batch, Samples
from wsss_fast.stages import training
from wsss_fast.stages.batch_losses import cross_entropy
from wsss_fast.stages.training import TrainResult


@with_torch_defaults
def train(
    data: Source,
    out: str | Path,
    *,
    seeds: str | Path,
    backbone: str = "resnet50",
    weights: str | Path | None = None,
    recipe: Recipe | None = None,
    name: str = "amn",
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> TrainResult:
    """Train the AMN on seeds; writes `<out>/<name>/weights.pth`.

    `model.safetensors` next to it holds the same weights, and says network, classes and recipe.

    The loss is a per-pixel cross-entropy with label smoothing. With `recipe.energy`,
    `ops.dense_energy_loss` is added. Collective.

    Args:
        data: images and tags: a data set, or an argument of `data.load`.
        out: run folder.
        seeds: folder of seed PNGs (0 background, 1..C, 255 ignored), as `seeds.make` writes them.
        backbone: "resnet50" or "small".
        weights: initial weights, see `nets.load_weights`: ImageNet's ResNet-50, as published, or a
            CAM classifier's.
        recipe: hyper-parameters of the training; default: those of the backbone.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        seed: seed of initialisation, shuffling, augmentation and dropout.
        workers: number of loader processes; 0 loads in the training process.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used, or a seed is missing.
        RunError: the loss is not finite.

    Source: AMN, sections 3.2 and 3.3 (eq. 2-5).
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    recipe.energy.check(recipe.augment)
    runtime = resolve_runtime(
        *(device, seed, workers, precision),
        prefer_bf16=recipe.prefer_bf16,
        compile=recipe.compile,
    )
    folder = check_label_folder(Path(seeds), data, "seeds")
    set_seed(seed)
    net = nets.amn_resnet50(len(data.classes), backbone=backbone, condition_at=recipe.condition_at)
    if weights is not None:
        nets.load_weights(net, weights)
    else:
        say(
            f"{name}: no weights given, so the backbone starts from random ones; "
            "the published numbers start from ImageNet's"
        )
    return training.train(
        net,
        _step(recipe),
        Samples(data.ids, _LoadSample(data, folder, recipe.augment), seed),
        check_out(out),
        name,
        optimizer=recipe.optimizer(parameter_groups(net, recipe)),
        schedule=recipe.schedule,
        length=recipe.length(),
        runtime=runtime,
        info=nets.model_info(
            "amn", data.classes, recipe, backbone=backbone, condition_at=recipe.condition_at
        ),
        arguments={
            "data": data.fingerprint(),
            "seeds": provenance(folder, label_files(data)),
            "backbone": backbone,
            "weights": nets.fingerprint(weights),
            "recipe": training.fields_except(recipe, "present_only", "scales", "infer_batch"),
        },
    )


def parameter_groups(net: nets.AmnNet, recipe: Recipe) -> list[ParameterGroup]:
    """The backbone at `lr`; the label scale and the dilated convolutions at `head_lr`."""
    return [
        ParameterGroup(net.backbone.named_parameters(), recipe.lr),
        ParameterGroup([("head", p) for p in net.head_parameters()], recipe.head_lr),
    ]


def _step(recipe: Recipe) -> Step:
    def step(net: nn.Module, batch: Batch) -> Loss:
        logits = net(batch["image"], batch["tags"])
        loss = cross_entropy(
            logits, batch["seed"], smoothing=recipe.smoothing, balance=recipe.balance
        )
        return recipe.energy.added_to(loss, logits, batch["image"], batch["seed"], recipe.augment)

    return step


@dataclasses.dataclass(frozen=True)
class _LoadSample:
    """(id, generator) -> `image`, `seed` and `tags` of a training image."""

    data: Dataset
    seeds: Path
    augment: Augment

    def __call__(self, id: str, rng: np.random.Generator) -> Batch:
        image, seed = self.augment(self.data.photo(id), read_label(self.seeds, self.data, id), rng)
        assert seed is not None  # since labels are given
        tags = torch.from_numpy(self.data.tags_of(id).astype(np.float32))
        return {"image": image, "seed": seed, "tags": tags}
