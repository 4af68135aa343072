"""Training of the CAM classifier on image tags."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wsss_fast import nets
from wsss_fast.cam.recipe import RECIPES, Recipe, network
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.transforms import Augment, normalise
from wsss_fast.engine import distributed, stream
from wsss_fast.engine.optimizers import backbone_and_head
from wsss_fast.engine.progress import Bar, say
from wsss_fast.engine.run_folder import amend, check_out, read_notes
from wsss_fast.engine.runtime import Runtime, resolve_runtime, set_seed, with_torch_defaults
from wsss_fast.engine.samples import Batch, Samples
from wsss_fast.engine.serialize import exact
from wsss_fast.evaluation.metrics import average_precision
from wsss_fast.stages import training
from wsss_fast.stages.activate import same_size_batches
from wsss_fast.stages.training import TrainResult


@with_torch_defaults
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
    """Train the CAM classifier on image tags; writes `<out>/<name>/weights.pth`.

    `model.safetensors` next to it holds the same weights, and says network, classes and recipe.

    Collective.

    Args:
        data: images and tags: a data set, or an argument of `data.load`.
        out: run folder.
        backbone: "resnet50", "resnet38" (EPS' baseline, CCR's classifier) or "small".
        weights: initial weights, see `nets.load_weights`; published: ImageNet's.
        recipe: hyper-parameters of the training; default: those of the backbone.
        val: tagged images on which the mean average precision is measured.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        seed: seed of initialisation, shuffling and augmentation.
        workers: number of loader processes; 0 loads in the training process.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used.
        RunError: the loss is not finite.

    Source: Zhou et al., CVPR 2016; recipe of IRN (CVPR 2019), as AMN uses it.
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    runtime = resolve_runtime(
        *(device, seed, workers, precision),
        prefer_bf16=recipe.prefer_bf16,
        compile=recipe.compile,
    )
    set_seed(seed)
    net = network(data, backbone)
    if weights is not None:
        nets.load_weights(net, weights)
    elif backbone != "small":
        say(
            f"{name}: no weights given, so the {backbone} starts from random ones; "
            "the published numbers start from ImageNet's"
        )
    held_out = None if val is None else opened(val)
    out = check_out(out)
    trained = training.train(
        net,
        _step,
        Samples(data.ids, _LoadSample(data, recipe.augment), seed),
        out,
        name,
        optimizer=recipe.optimizer(backbone_and_head(net, recipe.lr, recipe.head_lr_scale)),
        schedule=recipe.schedule,
        length=recipe.length(),
        runtime=runtime,
        info=nets.model_info("cam", data.classes, recipe, backbone=backbone),
        arguments={
            "data": data.fingerprint(),
            "backbone": backbone,
            "weights": nets.fingerprint(weights),
            "recipe": training.fields_except(recipe, "scales", "align", "infer_batch"),
        },
    )
    if held_out is None:
        return trained

    size = recipe.batch_size

    def measure() -> float:
        return mean_ap(nets.load_weights(net, trained.weights), held_out, runtime, size)

    return dataclasses.replace(trained, mean_ap=_measured_once(out, name, held_out, measure))


def _measured_once(out: Path, name: str, val: Dataset, measure: Callable[[], float]) -> float:
    """The mean average precision on `val` in the stage's notes, measured if it is not there yet.

    It is no part of the training, which another validation set does not change. Collective.
    """
    of = exact(val.fingerprint())
    found = distributed.run_on_main(lambda: read_notes(out, name))
    if found.get("mean_ap_of") != of:
        found = {"mean_ap": measure(), "mean_ap_of": of}
        amend(out, name, found)
    return found["mean_ap"]


def mean_ap(net: nn.Module, data: Dataset, runtime: Runtime, batch_size: int) -> float:
    """Mean over the classes of the average precision of predicted tags. Collective.

    Args:
        net: classifier, moved to the runtime's device and put in eval mode.
        data: tagged images; each is classified at its own size.
        runtime: device and dtype.
        batch_size: number of images of equal size that share a forward pass.

    Returns:
        Mean average precision, 0..1.
    """
    net.to(runtime.device).eval()
    own: dict[str, np.ndarray] = {}
    device = runtime.device

    def load(ids: list[str]) -> torch.Tensor:
        return stream.host_tensor(np.stack([normalise(data.image(id)) for id in ids]), device)

    def compute(ids: list[str], images: torch.Tensor) -> torch.Tensor:
        on_device = images.to(device, non_blocking=True)
        with runtime.autocast():
            return net(on_device.contiguous(memory_format=torch.channels_last)).float()

    def size_of(ids: list[str]) -> int:
        return 12 * len(ids) * math.prod(data.size(ids[0]))

    batches = distributed.shard(list(same_size_batches(data, data.ids, batch_size)))
    with Bar("mAP", sum(map(len, batches))) as bar, torch.inference_mode():

        def done(ids: list[str], scores: np.ndarray) -> None:
            own.update(zip(ids, scores, strict=True))
            bar.advance(len(ids))

        steps = stream.Steps(load, compute, lambda _, scores: scores.numpy(), done, size_of)
        stream.run(batches, steps, stream.Times(device))
    scores_of = {k: v for part in distributed.all_gather_objects(own) for k, v in part.items()}
    all_scores = np.stack([scores_of[i] for i in data.ids])
    return float(np.nanmean(average_precision(all_scores, data.tags)))


@dataclasses.dataclass(frozen=True)
class _LoadSample:
    """(id, generator) -> `image` and `tags` of a training image."""

    data: Dataset
    augment: Augment

    def __call__(self, id: str, rng: np.random.Generator) -> Batch:
        image, _ = self.augment(self.data.photo(id), None, rng)
        return {"image": image, "tags": torch.from_numpy(self.data.tags_of(id).astype(np.float32))}


def _step(net: nn.Module, batch: Batch) -> torch.Tensor:
    return nn.functional.multilabel_soft_margin_loss(net(batch["image"]).float(), batch["tags"])
