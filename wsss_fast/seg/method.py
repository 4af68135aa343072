"""The segmentation network of all three papers: DeepLabV2 (Chen et al., PAMI 2018) trained on pseudo-masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from wsss_fast import nets
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.images import write_labels
from wsss_fast.data.label_folder import check_label_folder, read_label
from wsss_fast.data.transforms import Augment, subtract_mean
from wsss_fast.engine import distributed
from wsss_fast.engine.files import atomic_write
from wsss_fast.engine.fit import Length
from wsss_fast.engine.optimizers import AdamW, Optimizer, Sgd, backbone_and_head
from wsss_fast.engine.progress import Bar, say
from wsss_fast.engine.run_folder import provenance, stage
from wsss_fast.engine.runtime import Runtime, runtime, set_seed
from wsss_fast.engine.samples import Batch, Samples
from wsss_fast.engine.schedules import OneCycle, Poly, Schedule
from wsss_fast.errors import InputError
from wsss_fast.ops import unary_from_probabilities
from wsss_fast.stages import training
from wsss_fast.stages.activate import unfinished_batches
from wsss_fast.stages.batch_losses import cross_entropy
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.training import TrainResult

LoadSample = Callable[[str, np.random.Generator], Batch]  # (id, generator) -> one training sample
ExtraLoss = Callable[
    [torch.Tensor, Batch], torch.Tensor
]  # (logits [B, C+1, h, w], batch) -> a loss


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the network is trained and asked; the defaults are the published numbers.

    Attributes:
        updates: of the weights.
        batch_size: images an update.
        accumulate: equal parts that a batch goes through the network in, to save memory.
        lr: of the backbone's convolutions.
        head_lr_scale: the head's rate over the backbone's.
        augment: of images and pseudo-masks; its `to_input` is used at inference too.
        scales: of the images that are looked at beside the full size, in training and at inference.
        resize: what a loss brings to the size of the other: "labels" as published, or "logits".
        flip: average the logits of the image and its mirror image at inference.
        crf: behind the network at inference; `gt_prob` is not used.
        infer_batch: images of equal size that share a pass at inference.
        optimizer: of all parameters.
        schedule: of the learning rates.
        prefer_bf16: let precision "auto" mean bf16 where the hardware has it.
    """

    updates: int = 20_000
    batch_size: int = 10
    accumulate: int = 2
    lr: float = 2.5e-4
    head_lr_scale: float = 10.0
    augment: Augment = Augment(
        crop=321,
        factors=(0.5, 0.75, 1.0, 1.25, 1.5),
        linear=True,
        corner=True,
        to_input=subtract_mean,
    )
    scales: tuple[float, ...] = (0.5, 0.75)
    resize: Literal["labels", "logits"] = "labels"
    flip: bool = False
    crf: Crf = Crf(gaussian=(1.0, 3.0), bilateral=(67.0, 3.0, 4.0))
    infer_batch: int = 1
    optimizer: Optimizer = Sgd(weight_decay=5e-4, momentum=0.9, caffe_biases=True)
    schedule: Schedule = Poly(stairs=2000)  # the rate changes every 10 updates
    prefer_bf16: bool = False


RECIPES = {
    "resnet101": Recipe(),
    "small": Recipe(
        updates=800,
        batch_size=16,
        accumulate=1,
        lr=3e-3,
        head_lr_scale=1.0,
        augment=Augment(crop=128, scale=(0.8, 1.3), jitter=0.15),
        flip=True,
        crf=Crf(gaussian=(1.0, 3.0), bilateral=(25.0, 13.0, 10.0)),
        infer_batch=16,
        optimizer=AdamW(weight_decay=1e-2),
        schedule=OneCycle(),
        prefer_bf16=True,
        resize="logits",
    ),
}


@dataclasses.dataclass(frozen=True)
class PredictResult:
    """What inference left: the folder of predictions, one `<id>.png` an image, and `<id>.npy` where they were asked for."""

    predictions: Path


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
    """Train DeepLabV2 on pseudo-masks; leaves `<out>/<name>/weights.pth`.

    The loss is the sum of the cross-entropies at every scale and of their maximum, at the resolution of the logits,
    against masks resized by nearest (or, `resize` "logits", at the masks' resolution); 255 counts nowhere.

    Args:
        data: images; a data set, or what `data.load` opens.
        out: run folder.
        masks: folder of label PNGs (0 background, 1..C, 255 ignored), as `irn.infer` or the AMN pipeline leave them.
        backbone: "resnet101" or "small".
        weights: where the net starts, see `nets.load_weights`; the published recipe starts from DeepLab's COCO
            initialisation or from ImageNet's ResNet-101, "small" may start from a trained classifier.
        recipe: numbers of the training; default: the backbone's.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        seed: of initialisation, shuffling and augmentation.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used, a missing mask.
        RunError: the loss became infinite.

    Source: Chen et al., PAMI 2018; recipe of its PyTorch re-implementation that the three papers use.
    """
    return learn(
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
    )


def learn(
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
    sampler: Callable[[Dataset, Path, Augment], LoadSample] | None = None,
    extra_loss: ExtraLoss | None = None,
    depends: dict[str, object] | None = None,
) -> TrainResult:
    """`train`, with more in the samples and another loss beside the cross-entropy where a method asks for them.

    Args:
        sampler: (data, folder of masks, augmentation) -> (id, generator) -> a sample with `image`, `mask` and more; default:
            these two. Loader processes may get it pickled.
        beside: (largest logits over the scales [B, C+1, h, w], batch) -> the loss that is added.
        depends: what the result depends on besides what `train` notes.

    The others are those of `train`.
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    where = runtime(device, seed, workers, precision, prefer_bf16=recipe.prefer_bf16)
    folder = check_label_folder(Path(masks), data, "masks")
    set_seed(seed)
    net = _network(data, backbone, recipe)
    if weights is not None:
        nets.load_weights(net, weights)
    elif backbone == "resnet101":
        say(
            f"{name}: no weights given, so the ResNet-101, whose batch-norm is frozen, starts from random ones; "
            "the published numbers start from COCO's or ImageNet's"
        )
    samples = Samples(data.ids, (sampler or _LoadSample)(data, folder, recipe.augment), seed)
    return training.train(
        net,
        _step(recipe, extra_loss),
        samples,
        Path(out),
        name,
        optimizer=recipe.optimizer(backbone_and_head(net, recipe.lr, recipe.head_lr_scale)),
        schedule=recipe.schedule,
        runtime=where,
        length=Length(recipe.batch_size, updates=recipe.updates, accumulate=recipe.accumulate),
        arguments={
            "data": data.fingerprint(),
            "masks": provenance(folder),
            "backbone": backbone,
            "weights": nets.fingerprint(weights),
            "recipe": training.fields_except(recipe, "flip", "crf", "infer_batch"),
            **(depends or {}),
        },
    )


def _step(
    recipe: Recipe, extra_loss: ExtraLoss | None = None
) -> Callable[[nn.Module, Batch], torch.Tensor]:
    def step(net: nn.Module, batch: Batch) -> torch.Tensor:
        outputs = [logits.float() for logits in net(batch["image"])]
        loss = sum(cross_entropy(logits, batch["mask"], resize=recipe.resize) for logits in outputs)
        return loss if extra_loss is None else loss + extra_loss(outputs[-1], batch)

    return step


@dataclasses.dataclass(frozen=True)
class _LoadSample:
    """(id, generator) -> `image` and `mask` of a training image."""

    data: Dataset
    masks: Path
    augment: Augment

    def __call__(self, id: str, rng: np.random.Generator) -> Batch:
        image, mask = self.augment(self.data.image(id), read_label(self.masks, self.data, id), rng)
        return {"image": image, "mask": mask}


def _network(data: Dataset, backbone: str, recipe: Recipe) -> nets.DeepLabV2:
    return nets.deeplabv2_resnet101(len(data.classes), backbone=backbone, scales=recipe.scales)


def infer(
    data: Source,
    weights: str | Path,
    out: str | Path,
    *,
    backbone: str = "resnet101",
    recipe: Recipe | None = None,
    crf: bool = True,
    probabilities: bool = False,
    name: str = "seg/predictions",
    device: str = "auto",
    precision: str = "auto",
) -> PredictResult:
    """Label maps of every image, tags or none; leaves `<out>/<name>/<id>.png`.

    Maximum of the logits over scales (with `flip`, averaged with the mirror image's), bilinear to the image's size,
    softmax, dense CRF, argmax. What is there already is skipped.

    Args:
        data: images; a data set, or what `data.load` opens.
        weights: a trained DeepLabV2: ours, or the public one.
        out: run folder.
        backbone: "resnet101" or "small".
        recipe: its `scales`, `flip`, `crf`, `infer_batch` and `augment.to_input` are used; default: the backbone's.
        crf: whether the dense CRF follows.
        probabilities: also write the probabilities beside the PNG, as .npy float16 [C+1, H, W], behind the CRF if there is
            one; `wsss-fast crf` reads them.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used.
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    where = runtime(device, 0, 0, precision, prefer_bf16=recipe.prefer_bf16)
    if recipe.infer_batch < 1:
        raise InputError(f"seg: infer_batch must be >= 1, got {recipe.infer_batch}")
    net = nets.optimize_for_inference(
        nets.load_weights(_network(data, backbone, recipe), weights, complete=True), where
    )
    folder, last = Path(out) / name, recipe.crf if crf else None

    def work() -> dict[str, float]:
        batches, own = unfinished_batches(
            data, recipe.infer_batch, lambda id: (folder / f"{id}.png").is_file()
        )
        todo = sum(map(len, batches))
        with Bar(name, own, done=own - todo) as bar:
            for ids in batches:
                scores = predict(net, np.stack([data.image(i) for i in ids]), recipe, where, last)
                for i, (id, labels) in enumerate(
                    zip(ids, scores.argmax(dim=1).cpu().numpy(), strict=True)
                ):
                    if probabilities:
                        with atomic_write(folder / f"{id}.npy") as temporary:
                            np.save(temporary, scores[i].half().cpu().numpy())
                    write_labels(
                        folder / f"{id}.png", labels
                    )  # last: where it is, everything of this image is
                bar.advance(len(ids))
            speed = todo / max(bar.seconds(), 1e-9)
        return {"images_per_second": sum(distributed.all_gather_objects(speed))}

    stage(
        Path(out),
        name,
        {
            "data": data.fingerprint(),
            "weights": nets.fingerprint(weights),
            "scales": recipe.scales,
            "flip": recipe.flip,
            "to_input": recipe.augment.to_input,
            "crf": last,
            "probabilities": probabilities,
            "dtype": str(where.dtype),
        },
        work,
    )
    return PredictResult(folder)


@torch.inference_mode()
def predict(
    net: nets.DeepLabV2, photos: np.ndarray, recipe: Recipe, where: Runtime, crf: Crf | None
) -> torch.Tensor:
    """Class probabilities of a few images of one size.

    Args:
        net: in eval mode, on the runtime's device.
        photos: uint8 RGB [B, H, W, 3].
        recipe: its `flip` and `augment.to_input` are used.
        where: device and dtype.
        crf: parameters of the dense CRF, or None.

    Returns:
        float32 [B, C+1, H, W], background first.
    """
    images = torch.from_numpy(np.stack([recipe.augment.to_input(photo) for photo in photos])).to(
        where.device
    )
    images = images.contiguous(memory_format=torch.channels_last)
    with where.autocast():
        logits = net(images).float()
        if recipe.flip:
            logits = (logits + net(images.flip(-1)).float().flip(-1)) / 2
    return to_probabilities(logits, photos, crf)


def to_probabilities(logits: torch.Tensor, photos: np.ndarray, crf: Crf | None) -> torch.Tensor:
    """Probabilities at the size of the photos, behind a dense CRF where one is given.

    Args:
        logits: float32 [B, L, h, w].
        photos: uint8 RGB [B, H, W, 3]; the photos themselves, where the public code hands the CRF mean-subtracted ones
            whose negative values wrap around.
        crf: its parameters, or None.

    Returns:
        float32 [B, L, H, W].
    """
    probabilities = nn.functional.interpolate(
        logits, photos.shape[1:3], mode="bilinear", align_corners=False
    ).softmax(dim=1)
    if crf is None:
        return probabilities
    return crf.apply(photos, unary_from_probabilities(probabilities))
