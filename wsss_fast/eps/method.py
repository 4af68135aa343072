"""EPS, "Railroad is not a Train: Saliency as Pseudo-pixel Supervision for WSSS" (Lee, Lee, Lee and Shim, CVPR 2021)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wsss_fast import nets
from wsss_fast.cam.method import merge
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.transforms import Augment
from wsss_fast.engine.fit import Length
from wsss_fast.engine.optimizers import AdamW, Optimizer, Sgd, backbone_and_head
from wsss_fast.engine.progress import say
from wsss_fast.engine.run_folder import provenance
from wsss_fast.engine.runtime import runtime, set_seed
from wsss_fast.engine.samples import Batch, Samples
from wsss_fast.engine.schedules import OneCycle, Poly, Schedule
from wsss_fast.eps import alpha_crf
from wsss_fast.eps.alpha_crf import AlphaCrf
from wsss_fast.errors import InputError
from wsss_fast.maps import ClassMaps
from wsss_fast.ops import saliency_loss
from wsss_fast.stages import masks, saliency, training
from wsss_fast.stages.activate import Views, ViewsToMaps, maps_stage, unflipped
from wsss_fast.stages.training import TrainResult


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How EPS is trained and its maps are made; the defaults are the published numbers for VOC.

    Attributes:
        updates: of the weights.
        batch_size: images an update.
        lr: of the backbone's weights.
        head_lr_scale: the head's rate over the backbone's.
        tau: overlap ratio with the saliency from which a present class is foreground, 0..1.
        lam: weight of the foreground's map in the estimate of the saliency, 0..1; the rest is the background's.
        strategy: which present classes are foreground: "adaptive" (by tau, as published), "naive" (all of them) or
            "predefined" (all but `background_classes`).
        background_classes: labels, 1..C, for "predefined".
        saliency_weight: of the saliency loss beside the classification loss, > 0.
        augment: of images and saliency maps.
        scales: of the views whose maps are summed, each with its mirror image.
        threshold: background score of the pseudo-masks, 0..1.
        crf: behind the maps where `infer` is asked for it.
        infer_batch: images of equal size that share a pass at inference; photos at scale 2 are large, so 1.
        optimizer: of all parameters.
        schedule: of the learning rates.
        prefer_bf16: let precision "auto" mean bf16 where the hardware has it.
    """

    updates: int = 20_000
    batch_size: int = 8
    lr: float = 0.01
    head_lr_scale: float = 10.0
    tau: float = 0.4
    lam: float = 0.5
    strategy: str = "adaptive"
    background_classes: tuple[int, ...] = ()
    saliency_weight: float = 1.0
    augment: Augment = Augment(crop=448, long_side=(256, 512), jitter=0.3, hue=0.1)
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    threshold: float = 0.20
    crf: AlphaCrf = AlphaCrf()
    infer_batch: int = 1
    optimizer: Optimizer = Sgd(weight_decay=5e-4, momentum=5e-4, caffe_biases=True)
    schedule: Schedule = Poly()
    prefer_bf16: bool = False


RECIPES = {
    "resnet38": Recipe(),
    "small": Recipe(
        updates=1200,
        batch_size=16,
        lr=3e-3,
        head_lr_scale=1.0,
        augment=Augment(crop=128, scale=(0.8, 1.3), jitter=0.15),
        scales=(1.0, 0.75, 1.5),
        threshold=0.36,
        crf=AlphaCrf(bilateral=(25.0, 13.0, 10.0)),
        infer_batch=16,
        optimizer=AdamW(weight_decay=1e-2),
        schedule=OneCycle(),
        prefer_bf16=True,
    ),
}
# The published numbers for COCO
COCO = Recipe(
    updates=256_500,
    batch_size=16,
    lam=0.9,
    augment=Augment(crop=321, long_side=(256, 448), jitter=0.3, hue=0.1),
)


@dataclasses.dataclass(frozen=True)
class InferResult:
    """What inference left.

    Attributes:
        maps: folder of class maps, one `<id>.npz` an image.
        masks: folder of pseudo-masks, one `<id>.png` an image.
    """

    maps: Path
    masks: Path


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
    """Train on image tags and saliency maps; leaves `<out>/<name>/weights.pth`.

    The loss is the multi-label soft-margin loss of the class scores plus `ops.saliency_loss` of the maps. In an image
    without tags everything is background.

    Args:
        data: images, tags and a saliency map for every id; a data set, or what `data.load` opens. Saliency maps are 8 or
            16-bit PNGs, soft or binary, bright where something is salient, of any size; they are stretched to their photo.
        out: run folder.
        maps: folder of class maps of a classifier that was trained without saliency (`cam.infer`); where it is given,
            saliency maps that look inverted are found by their overlap with these maps, and reported.
        backbone: "resnet38" or "small".
        weights: where the net starts, see `nets.load_weights`; the published recipe starts from ImageNet's ResNet-38.
        recipe: numbers of the training; default: the backbone's, for VOC; `eps.COCO` are those for COCO.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        seed: of initialisation, shuffling, augmentation and dropout.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used, a missing saliency map.
        RunError: the loss became infinite.

    Source: EPS, section 3.
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    where = runtime(device, seed, workers, precision, prefer_bf16=recipe.prefer_bf16)
    _check(recipe, data)
    set_seed(seed)
    net = nets.eps_resnet38(len(data.classes), backbone=backbone)
    if weights is not None:
        nets.load_weights(net, weights)
    elif backbone == "resnet38":
        say(
            f"{name}: no weights given, so the ResNet-38, whose batch-norm is frozen, starts from random ones; "
            "the published numbers start from ImageNet's"
        )
    black = saliency.check(data)
    agreement = saliency.overlap(data, Path(maps)) if maps is not None else None
    return training.train(
        net,
        _step(recipe),
        Samples(data.ids, _LoadSample(data, recipe.augment), seed),
        Path(out),
        name,
        optimizer=recipe.optimizer(backbone_and_head(net, recipe.lr, recipe.head_lr_scale)),
        schedule=recipe.schedule,
        length=Length(recipe.batch_size, updates=recipe.updates),
        runtime=where,
        finish=lambda: {"black_saliency": black, "saliency_overlap": agreement},
        arguments={
            "data": data.fingerprint(),
            "saliency": provenance(data.saliencies[data.ids[0]].parent),
            "backbone": backbone,
            "weights": nets.fingerprint(weights),
            "recipe": training.fields_except(recipe, "scales", "threshold", "crf", "infer_batch"),
        },
    )


def _check(recipe: Recipe, data: Dataset) -> None:
    for name in ("tau", "lam", "threshold"):
        if not 0 <= getattr(recipe, name) <= 1:
            raise InputError(f"eps: {name} must be in 0..1, got {getattr(recipe, name)}")
    if recipe.saliency_weight <= 0:
        raise InputError(f"eps: saliency_weight must be > 0, got {recipe.saliency_weight}")
    if recipe.strategy not in ("adaptive", "naive", "predefined"):
        raise InputError(
            f"eps: strategy must be adaptive, naive or predefined, got {recipe.strategy!r}"
        )
    wrong = [label for label in recipe.background_classes if not 1 <= label <= len(data.classes)]
    if wrong or (recipe.background_classes and recipe.strategy != "predefined"):
        raise InputError(
            f"eps: background_classes are labels in 1..{len(data.classes)} for strategy predefined, got "
            f"{recipe.background_classes} for {recipe.strategy}"
        )


def _step(recipe: Recipe) -> Callable[[nn.Module, Batch], torch.Tensor]:
    def step(net: nn.Module, batch: Batch) -> torch.Tensor:
        classes, salient = losses(net, batch, recipe)
        return classes + recipe.saliency_weight * salient

    return step


def losses(net: nn.Module, batch: Batch, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """The classification and the saliency loss of a batch of `image`, `saliency` [B, 1, H, W] and `tags` [B, C]."""
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


@dataclasses.dataclass(frozen=True)
class _LoadSample:
    """(id, generator) -> `image`, `saliency` and `tags` of a training image."""

    data: Dataset
    augment: Augment

    def __call__(self, id: str, rng: np.random.Generator) -> Batch:
        image, salient = self.augment.with_saliency(
            self.data.image(id), self.data.saliency_levels(id), rng
        )
        return {
            "image": image,
            "saliency": salient,
            "tags": torch.from_numpy(self.data.tags_of(id).astype(np.float32)),
        }


def infer(
    data: Source,
    weights: str | Path,
    out: str | Path,
    *,
    backbone: str = "resnet38",
    recipe: Recipe | None = None,
    crf: bool = False,
    name: str = "eps",
    device: str = "auto",
    precision: str = "auto",
) -> InferResult:
    """EPS' maps and pseudo-masks; leaves `<out>/<name>/maps/<id>.npz` and `<out>/<name>/masks/<id>.png`, behind a CRF
    `<out>/<name>/crf-masks/<id>.png`.

    Softmax over classes and background of each scale and its mirror image, resized bilinearly and summed; present classes
    only, each divided by (its maximum + 1e-5). The mask is the argmax against `threshold`, or, with `crf`, of the dense CRF
    of the maps and the background score (1 - highest map)^alpha. No saliency is needed.

    Args:
        data: images and tags; a data set, or what `data.load` opens.
        weights: a trained EPS network: ours, or the public one.
        out: run folder.
        backbone: "resnet38" or "small".
        recipe: its `scales`, `threshold`, `crf` and `infer_batch` are used; default: the backbone's.
        crf: whether the masks come from the dense CRF.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used.

    Source: EPS' public code; section 4.1.
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    where = runtime(device, 0, 0, precision, prefer_bf16=recipe.prefer_bf16)
    _check(recipe, data)
    net = nets.load_weights(
        nets.eps_resnet38(len(data.classes), backbone=backbone), weights, complete=True
    )
    net = nets.optimize_for_inference(net, where, split=True)
    out = Path(out)
    folder = maps_stage(
        out,
        f"{name}/maps",
        data,
        views_to_maps(net),
        scales=recipe.scales,
        batch_size=recipe.infer_batch,
        runtime=where,
        arguments={"weights": nets.fingerprint(weights)},
    )
    return InferResult(
        folder,
        pseudo_masks(
            data, folder, out, recipe=recipe, crf=crf, name=name, device=str(where.device)
        ),
    )


def pseudo_masks(
    data: Dataset,
    maps: Path,
    out: Path,
    *,
    recipe: Recipe,
    crf: bool,
    name: str,
    device: str = "cpu",
) -> Path:
    """EPS' pseudo-masks of any class maps: the folder `<out>/<name>/masks`, or `<out>/<name>/crf-masks` behind the CRF."""
    if crf:
        return alpha_crf.make(
            data, maps, out, crf=recipe.crf, name=f"{name}/crf-masks", device=device
        ).folder
    return masks.make(
        data, maps, out, threshold=recipe.threshold, crf=None, name=f"{name}/masks"
    ).folder


def views_to_maps(net: nets.EpsNet) -> ViewsToMaps:
    """EPS as a views_to_maps for `stages.activate`."""

    def score(views: Views) -> list[ClassMaps]:
        summed = []
        for scale in views.scales:
            images, mirrored = unflipped(net(scale)[1].float().softmax(dim=1)[:, 1:])
            summed.append(images + mirrored)  # [B, C, h_s, w_s]
        return [
            merge([view[i] for view in summed], tags, views.size)
            for i, tags in enumerate(views.tags)
        ]

    return score
