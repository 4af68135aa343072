"""AMN, "Threshold Matters in WSSS" (Lee, Kim and Shim, CVPR 2022): activation manipulation network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wsss_fast import nets
from wsss_fast.cam.method import MapsResult
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.label_folder import check_label_folder, read_label
from wsss_fast.data.transforms import Augment, resize_labels
from wsss_fast.engine.fit import Length
from wsss_fast.engine.optimizers import Adam, Optimizer, ParameterGroup
from wsss_fast.engine.progress import say
from wsss_fast.engine.run_folder import provenance
from wsss_fast.engine.runtime import runtime, set_seed
from wsss_fast.engine.samples import Batch, Samples
from wsss_fast.engine.schedules import Constant, Poly, Schedule
from wsss_fast.maps import ClassMaps, resize_maps, strided_size
from wsss_fast.stages import training
from wsss_fast.stages.activate import Views, ViewsToMaps, maps_stage, unflipped
from wsss_fast.stages.batch_losses import cross_entropy
from wsss_fast.stages.training import TrainResult


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the AMN is trained and its maps are made; the defaults are the published numbers.

    Attributes:
        epochs: passes over the images.
        batch_size: images an update.
        lr: of the backbone.
        head_lr: of the label scale and the dilated convolutions.
        smoothing: label smoothing, 0..1: the label gets 1 - smoothing, the rest is shared by the other classes.
        balance: mean over background and mean over foreground pixels count the same.
        condition_at: where the label scale acts: "layer4", "layer3", "layer2" or None (no label conditioning).
        present_only: softmax over background and present classes instead of all.
        augment: of images and seeds.
        scales: of the views whose logits are averaged, each with its mirror image.
        infer_batch: images of equal size that share a pass at inference; photos at scale 2 are large, so 1.
        optimizer: of all parameters.
        schedule: of the learning rates.
        prefer_bf16: let precision "auto" mean bf16 where the hardware has it.
    """

    epochs: int = 5
    batch_size: int = 16
    lr: float = 5e-6
    head_lr: float = 1e-4
    smoothing: float = 0.4
    balance: bool = True
    condition_at: str | None = "layer4"
    present_only: bool = False
    augment: Augment = Augment(crop=512, scale=(0.5, 1.5))
    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    infer_batch: int = 1
    optimizer: Optimizer = Adam(weight_decay=1e-4)
    schedule: Schedule = Constant()
    prefer_bf16: bool = False


RECIPES = {
    "resnet50": Recipe(),
    "small": Recipe(
        epochs=8,
        lr=3e-4,
        head_lr=3e-3,
        augment=Augment(crop=128, scale=(0.8, 1.3)),
        scales=(1.0, 0.75, 1.5),
        infer_batch=16,
        schedule=Poly(warmup=0.05),
        prefer_bf16=True,
    ),
}


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
    """Train the AMN on seeds by the per-pixel classification loss; leaves `<out>/<name>/weights.pth`.

    Args:
        data: images and tags; a data set, or what `data.load` opens.
        out: run folder.
        seeds: folder of seed PNGs (0 background, 1..C, 255 ignored), as `seeds.make` leaves them.
        backbone: "resnet50" or "small".
        weights: where the net starts, see `nets.load_weights`: ImageNet's ResNet-50 as published, or a CAM classifier.
        recipe: numbers of the training; default: the backbone's.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        seed: of initialisation, shuffling, augmentation and dropout.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used, a missing seed.
        RunError: the loss became infinite.

    Source: AMN, section 3.2 and 3.3 (eq. 2-5).
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    where = runtime(device, seed, workers, precision, prefer_bf16=recipe.prefer_bf16)
    folder = check_label_folder(Path(seeds), data, "seeds")
    set_seed(seed)
    net = nets.amn_resnet50(len(data.classes), backbone=backbone, condition_at=recipe.condition_at)
    if weights is not None:
        nets.load_weights(net, weights)
    else:
        say(
            f"{name}: no weights given, so the backbone starts from random ones; the published numbers start from ImageNet's"
        )
    return training.train(
        net,
        _step(recipe),
        Samples(data.ids, _LoadSample(data, folder, recipe.augment), seed),
        Path(out),
        name,
        optimizer=recipe.optimizer(parameter_groups(net, recipe)),
        schedule=recipe.schedule,
        length=Length(recipe.batch_size, recipe.epochs),
        runtime=where,
        arguments={
            "data": data.fingerprint(),
            "seeds": provenance(folder),
            "backbone": backbone,
            "weights": nets.fingerprint(weights),
            "recipe": training.fields_except(recipe, "present_only", "scales", "infer_batch"),
        },
    )


def infer(
    data: Source,
    weights: str | Path,
    out: str | Path,
    *,
    seeds: str | Path,
    backbone: str = "resnet50",
    recipe: Recipe | None = None,
    name: str = "amn/maps",
    device: str = "auto",
    precision: str = "auto",
) -> MapsResult:
    """AMN maps of every image; leaves `<out>/<name>/<id>.npz` with the background as row 0.

    Logits of each scale, averaged with the mirror image's, resized bilinearly and averaged over scales; softmax over
    all channels; background and present classes kept. Where the seed is not background, a row is replaced by
    (x - min) / (max - min + 1e-5), min and max over the image. Dropout is off (the public code leaves it on).

    Args:
        data: images and tags; a data set, or what `data.load` opens.
        weights: a trained AMN: ours, or the public `res50_amn.pth`.
        out: run folder.
        seeds: folder of seed PNGs.
        backbone: "resnet50" or "small".
        recipe: its `scales`, `present_only`, `condition_at` and `infer_batch` are used; default: the backbone's.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used.
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    where = runtime(device, 0, 0, precision, prefer_bf16=recipe.prefer_bf16)
    folder = check_label_folder(Path(seeds), data, "seeds")
    net = nets.amn_resnet50(len(data.classes), backbone=backbone, condition_at=recipe.condition_at)
    net = nets.optimize_for_inference(nets.load_weights(net, weights, complete=True), where)
    to_maps = views_to_maps(net, lambda id: read_label(folder, data, id), recipe.present_only)
    return MapsResult(
        maps_stage(
            Path(out),
            name,
            data,
            to_maps,
            scales=recipe.scales,
            batch_size=recipe.infer_batch,
            runtime=where,
            arguments={
                "seeds": provenance(folder),
                "weights": nets.fingerprint(weights),
                "present_only": recipe.present_only,
            },
        )
    )


def views_to_maps(
    net: nets.AmnNet, seed_of: Callable[[str], np.ndarray], present_only: bool = False
) -> ViewsToMaps:
    """AMN as a views_to_maps for `stages.activate`; `seed_of` gives the seed of an id, uint8 [H, W]."""

    def to_maps(views: Views) -> list[ClassMaps]:
        labels = torch.cat([views.tags, views.tags])
        logits = []
        for scale in views.scales:
            images, mirrored = unflipped(net(scale, labels).float())
            logits.append((images + mirrored) / 2)  # [B, C+1, h_s, w_s]
        return [
            merge_logits([view[i] for view in logits], tags, seed_of(id), views.size, present_only)
            for i, (id, tags) in enumerate(zip(views.ids, views.tags, strict=True))
        ]

    return to_maps


def merge_logits(
    views: list[torch.Tensor],
    tags: torch.Tensor,
    seed: np.ndarray,
    size: tuple[int, int],
    present_only: bool = False,
) -> ClassMaps:
    """Maps of one image from the logits of its scales.

    Args:
        views: logits [C+1, h_s, w_s] of each scale.
        tags: multi-hot [C].
        seed: uint8 [H, W].
        size: (H, W).
        present_only: softmax over background and present classes only.
    """
    kept = torch.cat([tags.new_ones(1), tags]).nonzero()[:, 0]
    strided, high_res = (
        _normalised(views, kept, seed, each, present_only) for each in (strided_size(*size), size)
    )
    return ClassMaps(kept.cpu().numpy().astype(np.int16), strided, high_res)


def _normalised(
    views: list[torch.Tensor],
    kept: torch.Tensor,
    seed: np.ndarray,
    size: tuple[int, int],
    present_only: bool,
) -> np.ndarray:
    chosen = [view[kept] for view in views] if present_only else views
    logits = torch.stack([resize_maps(view, *size) for view in chosen]).mean(dim=0)
    scores = logits.softmax(dim=0)
    scores = scores if present_only else scores[kept]
    low, high = (f(scores, dim=(1, 2), keepdim=True) for f in (torch.amin, torch.amax))
    stretched = (scores - low) / (high - low + 1e-5)
    uncertain = torch.from_numpy(resize_labels(seed, *size) != 0).to(scores.device)
    return torch.where(uncertain, stretched, scores).cpu().numpy()


def parameter_groups(net: nets.AmnNet, recipe: Recipe) -> list[ParameterGroup]:
    """The backbone at `lr`; the label scale and the dilated convolutions at `head_lr`."""
    return [
        ParameterGroup(net.backbone.named_parameters(), recipe.lr),
        ParameterGroup([("head", p) for p in net.head_parameters()], recipe.head_lr),
    ]


def _step(recipe: Recipe) -> Callable[[nn.Module, Batch], torch.Tensor]:
    def step(net: nn.Module, batch: Batch) -> torch.Tensor:
        logits = net(batch["image"], batch["tags"])
        return cross_entropy(
            logits, batch["seed"], smoothing=recipe.smoothing, balance=recipe.balance
        )

    return step


@dataclasses.dataclass(frozen=True)
class _LoadSample:
    """(id, generator) -> `image`, `seed` and `tags` of a training image."""

    data: Dataset
    seeds: Path
    augment: Augment

    def __call__(self, id: str, rng: np.random.Generator) -> Batch:
        image, seed = self.augment(self.data.image(id), read_label(self.seeds, self.data, id), rng)
        return {
            "image": image,
            "seed": seed,
            "tags": torch.from_numpy(self.data.tags_of(id).astype(np.float32)),
        }
