"""Training of IRN's branches on seeds."""

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
from wsss_fast.data.label_folder import check_label_folder, label_files, read_label
from wsss_fast.data.transforms import Augment, resize_labels
from wsss_fast.engine import distributed
from wsss_fast.engine.optimizers import ParameterGroup
from wsss_fast.engine.progress import say, track
from wsss_fast.engine.run_folder import check_out, provenance
from wsss_fast.engine.runtime import Runtime, resolve_runtime, set_seed, with_torch_defaults
from wsss_fast.engine.samples import Batch, Samples
from wsss_fast.irn.recipe import RECIPES, Recipe
from wsss_fast.irn.relations import relation_losses
from wsss_fast.maps import strided_size
from wsss_fast.stages import training
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
    name: str = "irn",
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> TrainResult:
    """Train IRN's branches on seeds; writes `<out>/<name>/weights.pth`.

    `model.safetensors` next to it holds the same weights, and says network, classes and recipe.

    After the training, the mean displacement over all images is measured and stored with the
    weights. Collective.

    Args:
        data: images and tags: a data set, or an argument of `data.load`.
        out: run folder.
        seeds: folder of seed PNGs (0 background, 1..C, 255 ignored); published: from AMN maps at
            thresholds 0.45 and 0.15.
        backbone: "resnet50" or "small"; it is not trained.
        weights: weights of the backbone, see `nets.load_weights`: ImageNet's ResNet-50, as
            published; a trained classifier for "small".
        recipe: hyper-parameters of the training; default: those of the backbone.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        seed: seed of initialisation, shuffling and augmentation.
        workers: number of loader processes; 0 loads in the training process.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used, or a seed is missing.
        RunError: the loss is not finite.

    Source: IRN, section 4.2.
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    runtime = resolve_runtime(
        *(device, seed, workers, precision),
        prefer_bf16=recipe.prefer_bf16,
        compile=recipe.compile,
    )
    folder = check_label_folder(Path(seeds), data, "seeds")
    set_seed(seed)
    net = nets.irn_resnet50(backbone=backbone)
    if weights is not None:
        nets.load_weights(net, weights)
    else:
        say(
            f"{name}: no weights given, so the backbone, which is not trained here, stays random; "
            "the published numbers use ImageNet's"
        )
    augment, batch_size = recipe.augment, recipe.batch_size

    def finish() -> dict[str, object]:
        mean = mean_displacement(net, data, augment, batch_size, runtime)
        net.get_buffer("mean_displacement").copy_(mean)
        return {}

    return training.train(
        net,
        _step(recipe),
        Samples(data.ids, _LoadSample(data, folder, augment), seed),
        check_out(out),
        name,
        optimizer=recipe.optimizer(parameter_groups(net, recipe)),
        schedule=recipe.schedule,
        length=recipe.length(),
        runtime=runtime,
        info=nets.model_info("irn", data.classes, recipe, backbone=backbone),
        finish=finish,
        arguments={
            "data": data.fingerprint(),
            "seeds": provenance(folder, label_files(data)),
            "backbone": backbone,
            "weights": nets.fingerprint(weights),
            "recipe": training.fields_except(
                recipe, "power", "walk_radius", "beta", "steps", "pad", "threshold", "infer_batch"
            ),
        },
    )


def parameter_groups(net: nets.IrnNet, recipe: Recipe) -> list[ParameterGroup]:
    """The boundary branch at `lr`, the displacement branch at a multiple of it."""
    displacement_lr = recipe.lr * recipe.displacement_lr_scale
    return [
        ParameterGroup([("edge", p) for p in net.edge_parameters()], recipe.lr),
        ParameterGroup(
            [("displacement", p) for p in net.displacement_parameters()], displacement_lr
        ),
    ]


def _step(recipe: Recipe) -> Callable[[nn.Module, Batch], torch.Tensor]:
    def step(net: nn.Module, batch: Batch) -> torch.Tensor:
        edge, displacement = net(batch["image"])
        return relation_losses(edge, displacement, batch["seed"], recipe.radius).total()

    return step


@dataclasses.dataclass(frozen=True)
class _LoadSample:
    """(id, generator) -> `image` and, at the size of the maps, `seed` of a training image."""

    data: Dataset
    seeds: Path
    augment: Augment

    def __call__(self, id: str, rng: np.random.Generator) -> Batch:
        image, seed = self.augment(self.data.photo(id), read_label(self.seeds, self.data, id), rng)
        assert seed is not None  # since labels are given
        strided = resize_labels(seed.numpy(), *strided_size(*seed.shape))
        return {"image": image, "seed": torch.from_numpy(strided.copy())}  # Pillow's is read-only


@torch.inference_mode()
def mean_displacement(
    net: nets.IrnNet, data: Dataset, augment: Augment, batch_size: int, runtime: Runtime
) -> torch.Tensor:
    """Mean of the displacements that the network predicts over a data set. Collective.

    Args:
        net: IRN, put in eval mode; its `mean_displacement` is set to 0.
        data: images.
        augment: augmentation whose crop is used, at the upper left corner of each image.
        batch_size: number of images that share a forward pass.
        runtime: device and dtype.

    Returns:
        Mean displacement (dy, dx), float32 [2], in cells.
    """
    net.eval().get_buffer("mean_displacement").zero_()
    batches = [data.ids[i : i + batch_size] for i in range(0, len(data), batch_size)]
    summed = torch.zeros(2, dtype=torch.float64)
    for ids in track(distributed.shard(batches), "mean displacement", unit="batch"):
        crops = [augment.cropped(augment.to_input(data.image(i)), None, 0, 0)[0] for i in ids]
        images = torch.stack(crops).to(runtime.device)
        with runtime.autocast():
            _, displacement = net(images.contiguous(memory_format=torch.channels_last))
        summed += displacement.double().mean(dim=(2, 3)).sum(dim=0).cpu()
    return torch.from_numpy(distributed.all_reduce_sum(summed.numpy()) / len(data)).float()
