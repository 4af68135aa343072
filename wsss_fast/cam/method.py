"""The CAM classifier: AMN's, IRN's and CCR's first stage. Image tags in, class activation maps out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wsss_fast import nets
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.transforms import Augment, normalise
from wsss_fast.engine import distributed
from wsss_fast.engine.fit import Length
from wsss_fast.engine.optimizers import AdamW, Optimizer, Sgd, backbone_and_head
from wsss_fast.engine.progress import say, track
from wsss_fast.engine.runtime import Runtime, runtime, set_seed
from wsss_fast.engine.samples import Batch, Samples
from wsss_fast.engine.schedules import OneCycle, Poly, Schedule
from wsss_fast.errors import InputError
from wsss_fast.evaluation.metrics import average_precision
from wsss_fast.maps import ClassMaps, merge_views, strided_size
from wsss_fast.stages import training
from wsss_fast.stages.activate import Views, ViewsToMaps, maps_stage, same_size_batches, unflipped
from wsss_fast.stages.training import TrainResult


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the classifier is trained and its maps are made.

    Attributes:
        epochs: passes over the images; or
        updates: of the weights, where it is not None.
        batch_size: images an update.
        lr: peak learning rate of the backbone.
        head_lr_scale: the head's rate over the backbone's.
        augment: of the training images.
        scales: of the views whose maps are summed, each with its mirror image.
        align: maps are resized to the multiple of this many px above the image's sides, and cropped.
        infer_batch: images of equal size that share a pass at inference; photos at scale 2 are large, so 1.
        optimizer: of all parameters.
        schedule: of the learning rates.
        prefer_bf16: let precision "auto" mean bf16 where the hardware has it.
    """

    epochs: int = 5
    updates: int | None = None
    batch_size: int = 16
    lr: float = 0.1
    head_lr_scale: float = 10.0
    augment: Augment = Augment(crop=512, long_side=(320, 640))
    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    align: int = 16
    infer_batch: int = 1
    optimizer: Optimizer = Sgd(weight_decay=1e-4, momentum=1e-4)
    schedule: Schedule = Poly()
    prefer_bf16: bool = False


RECIPES = {
    "resnet50": Recipe(),  # as published, from ImageNet weights
    "resnet38": Recipe(
        updates=20_000,
        batch_size=8,
        lr=0.01,
        optimizer=Sgd(weight_decay=5e-4, momentum=5e-4),
        align=1,
        scales=(0.5, 1.0, 1.5, 2.0),
        augment=Augment(crop=448, long_side=(256, 512), jitter=0.3, hue=0.1),
    ),  # EPS' baseline, VOC
    "small": Recipe(
        epochs=24,
        lr=3e-3,
        head_lr_scale=1.0,
        optimizer=AdamW(weight_decay=1e-2),
        schedule=OneCycle(),
        augment=Augment(crop=128, scale=(0.8, 1.3), jitter=0.15),
        scales=(1.0, 0.75, 1.5),
        infer_batch=16,
        prefer_bf16=True,
    ),
}


_NETWORKS = {
    "resnet50": nets.cam_resnet50,
    "resnet38": nets.cam_resnet38,
    "small": nets.cam_resnet50,
}


def network(data: Dataset, backbone: str) -> nets.CamNet:
    """The classifier of a backbone, with random weights. Raises InputError for an unknown one."""
    if backbone not in _NETWORKS:
        raise InputError(f"backbone: got {backbone!r}, must be one of {', '.join(_NETWORKS)}")
    return _NETWORKS[backbone](len(data.classes), backbone=backbone)


@dataclasses.dataclass(frozen=True)
class MapsResult:
    """What inference left: the folder of maps, one `<id>.npz` an image."""

    maps: Path


def train(
    data: Source,
    out: str | Path,
    *,
    backbone: str = "resnet50",
    weights: str | Path | None = None,
    recipe: Recipe | None = None,
    val: Source | None = None,
    name: str = "cam",
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> TrainResult:
    """Train the classifier on image tags; leaves `<out>/<name>/weights.pth`.

    Args:
        data: images and tags; a data set, or what `data.load` opens.
        out: run folder.
        backbone: "resnet50", "resnet38" (EPS' baseline, CCR's classifier) or "small".
        weights: where the net starts, see `nets.load_weights`; the published recipe starts from ImageNet.
        recipe: numbers of the training; default: the backbone's.
        val: tagged images on which the mean average precision is measured.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        seed: of initialisation, shuffling and augmentation.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used.
        RunError: the loss became infinite.

    Source: Zhou et al., CVPR 2016; recipe of IRN (CVPR 2019), as AMN uses it.
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    where = runtime(device, seed, workers, precision, prefer_bf16=recipe.prefer_bf16)
    set_seed(seed)
    net = network(data, backbone)
    if weights is not None:
        nets.load_weights(net, weights)
    elif backbone != "small":
        say(
            f"cam: no weights given, so the {backbone} starts from random ones; the published numbers start from ImageNet's"
        )
    tested = None if val is None else opened(val)
    length = Length(
        recipe.batch_size, recipe.epochs if recipe.updates is None else None, recipe.updates
    )
    return training.train(
        net,
        _step,
        Samples(data.ids, _LoadSample(data, recipe.augment), seed),
        Path(out),
        name,
        optimizer=recipe.optimizer(backbone_and_head(net, recipe.lr, recipe.head_lr_scale)),
        schedule=recipe.schedule,
        length=length,
        runtime=where,
        finish=None
        if tested is None
        else lambda: {"mean_ap": mean_ap(net, tested, where, recipe.batch_size)},
        arguments={
            "data": data.fingerprint(),
            "backbone": backbone,
            "weights": nets.fingerprint(weights),
            "recipe": training.fields_except(recipe, "scales", "align", "infer_batch"),
        },
    )


def infer(
    data: Source,
    weights: str | Path,
    out: str | Path,
    *,
    backbone: str = "resnet50",
    recipe: Recipe | None = None,
    name: str = "cam/maps",
    device: str = "auto",
    precision: str = "auto",
) -> MapsResult:
    """Class activation maps of every image; leaves `<out>/<name>/<id>.npz`.

    ReLU(W f) of each scale and its mirror image, resized bilinearly and summed; present classes only, each divided by
    (its maximum + 1e-5).

    Args:
        data: images and tags; a data set, or what `data.load` opens.
        weights: a trained classifier: ours, or the public `res50_cam.pth` or ResNet-38's.
        out: run folder.
        backbone: "resnet50", "resnet38" (EPS' baseline, CCR's classifier) or "small".
        recipe: its `scales`, `align` and `infer_batch` are used; default: the backbone's.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used.
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    where = runtime(device, 0, 0, precision, prefer_bf16=recipe.prefer_bf16)
    net = nets.optimize_for_inference(
        nets.load_weights(network(data, backbone), weights, complete=True), where
    )
    return MapsResult(
        maps_stage(
            Path(out),
            name,
            data,
            views_to_maps(net, recipe.align),
            scales=recipe.scales,
            batch_size=recipe.infer_batch,
            runtime=where,
            arguments={"weights": nets.fingerprint(weights), "align": recipe.align},
        )
    )


def views_to_maps(net: nets.CamNet, align: int = 16) -> ViewsToMaps:
    """CAM as a views_to_maps for `stages.activate`; `align` as in `merge`."""

    def score(views: Views) -> list[ClassMaps]:
        summed = []
        for scale in views.scales:
            images, mirrored = unflipped(net.maps(scale).float())
            summed.append(images + mirrored)  # [B, C, h_s, w_s]
        return [
            merge([view[i] for view in summed], tags, views.size, align)
            for i, tags in enumerate(views.tags)
        ]

    return score


def merge(
    views: list[torch.Tensor], tags: torch.Tensor, size: tuple[int, int], align: int = 1
) -> ClassMaps:
    """Maps of one image: the views of its present classes, resized bilinearly, summed, and divided by (maximum + 1e-5).

    Args:
        views: maps >= 0, [C, h_s, w_s] each.
        tags: multi-hot [C].
        size: (H, W) of the image.
        align: views are resized to the multiple of this many px above H and W, and cropped; AMN's and IRN's public code
            takes 16, so that map cells and pixels stay aligned, EPS' 1.
    """
    present = tags.nonzero()[:, 0]
    height, width = size
    kept = [view[present] for view in views]
    if not len(present):
        return ClassMaps(
            np.zeros(0, np.int16),
            np.zeros((0, *strided_size(*size)), np.float32),
            np.zeros((0, *size), np.float32),
        )
    strided = merge_views(kept, *strided_size(height, width))
    high_res = merge_views(kept, -(-height // align) * align, -(-width // align) * align)[
        :, :height, :width
    ]
    strided, high_res = (m / (m.amax(dim=(1, 2), keepdim=True) + 1e-5) for m in (strided, high_res))
    return ClassMaps(
        (present + 1).cpu().numpy().astype(np.int16), strided.cpu().numpy(), high_res.cpu().numpy()
    )


def mean_ap(net: nn.Module, data: Dataset, where: Runtime, batch_size: int) -> float:
    """Mean over classes of the average precision of the tags on `data`, one unscaled view an image; 0..1."""
    net.to(where.device).eval()
    scores: dict[str, np.ndarray] = {}
    with torch.inference_mode():
        for ids in track(
            distributed.shard(list(same_size_batches(data, data.ids, batch_size))),
            "mAP",
            unit="batch",
        ):
            images = torch.from_numpy(np.stack([normalise(data.image(i)) for i in ids])).to(
                where.device
            )
            with where.autocast():
                found = (
                    net(images.contiguous(memory_format=torch.channels_last)).float().cpu().numpy()
                )
            scores.update(zip(ids, found, strict=True))
    scores = {
        id: found for part in distributed.all_gather_objects(scores) for id, found in part.items()
    }
    return float(np.nanmean(average_precision(np.stack([scores[i] for i in data.ids]), data.tags)))


@dataclasses.dataclass(frozen=True)
class _LoadSample:
    """(id, generator) -> `image` and `tags` of a training image."""

    data: Dataset
    augment: Augment

    def __call__(self, id: str, rng: np.random.Generator) -> Batch:
        image, _ = self.augment(self.data.image(id), None, rng)
        return {"image": image, "tags": torch.from_numpy(self.data.tags_of(id).astype(np.float32))}


def _step(net: nn.Module, batch: Batch) -> torch.Tensor:
    return nn.functional.multilabel_soft_margin_loss(net(batch["image"]).float(), batch["tags"])
