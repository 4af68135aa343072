"""IRN's boundaries, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (Ahn, Cho and Kwak,
CVPR 2019), as AMN uses them: class maps are spread by a random walk up to where the network sees a boundary."""

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
from wsss_fast.data.label_folder import check_label_folder, read_label
from wsss_fast.data.transforms import Augment, resize_labels
from wsss_fast.engine import distributed
from wsss_fast.engine.fit import Length
from wsss_fast.engine.optimizers import AdamW, Optimizer, ParameterGroup, Sgd
from wsss_fast.engine.progress import say, track
from wsss_fast.engine.run_folder import provenance
from wsss_fast.engine.runtime import Runtime, runtime, set_seed
from wsss_fast.engine.samples import Batch, Samples
from wsss_fast.engine.schedules import OneCycle, Poly, Schedule
from wsss_fast.errors import InputError
from wsss_fast.irn.relations import relation_losses
from wsss_fast.maps import ClassMaps, check_maps, load_maps, maps_path, resize_maps, strided_size
from wsss_fast.ops import random_walk
from wsss_fast.stages import masks, training
from wsss_fast.stages.activate import Views, ViewsToMaps, maps_stage, unflipped
from wsss_fast.stages.training import TrainResult


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How IRN is trained and maps are refined with it; the defaults are the published numbers for VOC.

    Attributes:
        epochs: passes over the images.
        batch_size: images an update.
        lr: of the boundary branch.
        displacement_lr_scale: the displacement branch's rate over the boundary branch's.
        radius: pixel pairs that are trained on are nearer than this, cells of 4 px.
        augment: of images and seeds.
        power: exponent of the maps before the walk.
        walk_radius: cells that a step of the walk looks at are nearer than this.
        beta: exponent of the affinities.
        steps: of the walk.
        pad: at inference images are padded below and on the right with the mean colour to multiples of this many px, which
            group-norm's statistics then include: 512 for VOC as published, 1 (no padding) for COCO.
        threshold: background score of the pseudo-masks; published: 0.25 for VOC, 0.22 for COCO.
        infer_batch: images of equal size that share a pass at inference.
        optimizer: of both branches.
        schedule: of the learning rates.
        prefer_bf16: let precision "auto" mean bf16 where the hardware has it.
    """

    epochs: int = 3
    batch_size: int = 32
    lr: float = 0.1
    displacement_lr_scale: float = 10.0
    radius: int = 10
    augment: Augment = Augment(crop=512, scale=(0.5, 1.5))
    power: float = 1.3
    walk_radius: int = 5
    beta: float = 10.0
    steps: int = 256
    pad: int = 512
    threshold: float = 0.25
    infer_batch: int = 1
    optimizer: Optimizer = Sgd(weight_decay=1e-4, momentum=1e-4)
    schedule: Schedule = Poly()
    prefer_bf16: bool = False


RECIPES = {
    "resnet50": Recipe(),
    "small": Recipe(
        epochs=6,
        batch_size=16,
        lr=3e-3,
        displacement_lr_scale=1.0,
        radius=5,
        augment=Augment(crop=128, scale=(0.8, 1.3)),
        beta=20.0,
        steps=64,
        pad=1,
        threshold=0.4,
        infer_batch=16,
        optimizer=AdamW(weight_decay=1e-2),
        schedule=OneCycle(),
        prefer_bf16=True,
    ),  # 32x32 cells: 256 steps would cross the map
}


@dataclasses.dataclass(frozen=True)
class RefineResult:
    """What refinement left.

    Attributes:
        maps: folder of refined maps, one `<id>.npz` an image.
        masks: folder of pseudo-masks, one `<id>.png` an image.
    """

    maps: Path
    masks: Path


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
    """Train IRN's branches on seeds, then measure the mean displacement; leaves `<out>/<name>/weights.pth`.

    Args:
        data: images and tags; a data set, or what `data.load` opens.
        out: run folder.
        seeds: folder of seed PNGs (0 background, 1..C, 255 ignored); published: of AMN maps at 0.45 and 0.15.
        backbone: "resnet50" or "small"; it is not trained.
        weights: the backbone, see `nets.load_weights`: ImageNet's ResNet-50 as published; a trained classifier for "small".
        recipe: numbers of the training; default: the backbone's.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        seed: of initialisation, shuffling and augmentation.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used, a missing seed.
        RunError: the loss became infinite.

    Source: IRN, section 4.2.
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    where = runtime(device, seed, workers, precision, prefer_bf16=recipe.prefer_bf16)
    folder = check_label_folder(Path(seeds), data, "seeds")
    set_seed(seed)
    net = nets.irn_resnet50(backbone=backbone)
    if weights is not None:
        nets.load_weights(net, weights)
    else:
        say(
            f"{name}: no weights given, so the backbone, which is not trained here, stays random; "
            "the published numbers have ImageNet's"
        )

    def finish() -> dict[str, object]:
        net.mean_displacement.copy_(
            mean_displacement(net, data, recipe.augment, recipe.batch_size, where)
        )
        return {}

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
        finish=finish,
        arguments={
            "data": data.fingerprint(),
            "seeds": provenance(folder),
            "backbone": backbone,
            "weights": nets.fingerprint(weights),
            "recipe": training.fields_except(
                recipe, "power", "walk_radius", "beta", "steps", "pad", "threshold", "infer_batch"
            ),
        },
    )


def parameter_groups(net: nets.IrnNet, recipe: Recipe) -> list[ParameterGroup]:
    """The boundary branch at the recipe's rate, the displacement branch at its multiple of it."""
    displacement_lr = recipe.lr * recipe.displacement_lr_scale
    return [
        ParameterGroup([("edge", p) for p in net.edge_parameters()], recipe.lr),
        ParameterGroup(
            [("displacement", p) for p in net.displacement_parameters()], displacement_lr
        ),
    ]


def _step(recipe: Recipe) -> Callable[[nn.Module, Batch], torch.Tensor]:
    def step(net: nn.Module, batch: Batch) -> torch.Tensor:
        return relation_losses(*net(batch["image"]), batch["seed"], recipe.radius).total()

    return step


@dataclasses.dataclass(frozen=True)
class _LoadSample:
    """(id, generator) -> `image` and, at the size of the maps, `seed` of a training image."""

    data: Dataset
    seeds: Path
    augment: Augment

    def __call__(self, id: str, rng: np.random.Generator) -> Batch:
        image, seed = self.augment(self.data.image(id), read_label(self.seeds, self.data, id), rng)
        strided = resize_labels(seed.numpy(), *strided_size(*seed.shape))
        return {
            "image": image,
            "seed": torch.from_numpy(strided.copy()),
        }  # Pillow's array cannot be written to


@torch.inference_mode()
def mean_displacement(
    net: nets.IrnNet, data: Dataset, augment: Augment, batch_size: int, where: Runtime
) -> torch.Tensor:
    """Mean over all images of the displacements (dy, dx) that `net` sees in their upper left crop, [2], cells."""
    net.eval().mean_displacement.zero_()
    batches = [data.ids[i : i + batch_size] for i in range(0, len(data), batch_size)]
    summed = torch.zeros(2, dtype=torch.float64)
    for ids in track(distributed.shard(batches), "mean displacement", unit="batch"):
        images = torch.stack(
            [augment.cropped(augment.to_input(data.image(i)), None, 0, 0)[0] for i in ids]
        ).to(where.device)
        with where.autocast():
            _, displacement = net(images.contiguous(memory_format=torch.channels_last))
        summed += displacement.double().mean(dim=(2, 3)).sum(dim=0).cpu()
    return torch.from_numpy(distributed.all_reduce_sum(summed.numpy()) / len(data)).float()


def infer(
    data: Source,
    weights: str | Path,
    out: str | Path,
    *,
    maps: str | Path,
    backbone: str = "resnet50",
    recipe: Recipe | None = None,
    name: str = "irn",
    device: str = "auto",
    precision: str = "auto",
) -> RefineResult:
    """Refine class maps up to boundaries; leaves `<out>/<name>/maps/<id>.npz` and pseudo-masks `<out>/<name>/masks/<id>.png`.

    Maps to the `power` at stride 4, `ops.random_walk` with the boundaries of the image and its mirror image, bilinear
    upsampling by 4, division by the maximum over all classes; the mask is the argmax against `threshold`.

    Args:
        data: images and tags; a data set, or what `data.load` opens.
        weights: a trained IRN: ours, or the public `res50_irn.pth`.
        out: run folder.
        maps: folder of maps as `amn.infer` and `cam.infer` leave them; a background row in them is not used.
        backbone: "resnet50" or "small".
        recipe: its `power`, `walk_radius`, `beta`, `steps`, `pad`, `threshold` and `infer_batch` are used; default: the
            backbone's.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used, missing maps.

    Source: IRN, section 4.3 and its public code, as AMN uses it.
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    where = runtime(device, 0, 0, precision, prefer_bf16=recipe.prefer_bf16)
    if recipe.pad < 1 or recipe.power <= 0 or not 0 <= recipe.threshold <= 1:
        raise InputError(
            "irn: needs pad >= 1, power > 0 and threshold in 0..1, "
            f"got {recipe.pad}, {recipe.power} and {recipe.threshold}"
        )
    folder, out = Path(maps), Path(out)
    check_maps(folder, data)
    net = nets.optimize_for_inference(
        nets.load_weights(nets.irn_resnet50(backbone=backbone), weights, complete=True), where
    )
    to_maps = views_to_maps(net, lambda id: _walkable(folder, data, id), recipe)
    refined = maps_stage(
        out,
        f"{name}/maps",
        data,
        to_maps,
        scales=(1.0,),
        batch_size=recipe.infer_batch,
        runtime=where,
        arguments={
            "maps": provenance(folder),
            "weights": nets.fingerprint(weights),
            "power": recipe.power,
            "walk_radius": recipe.walk_radius,
            "beta": recipe.beta,
            "steps": recipe.steps,
            "pad": recipe.pad,
        },
    )
    made = masks.make(
        data, refined, out, threshold=recipe.threshold, crf=None, name=f"{name}/masks"
    )
    return RefineResult(refined, made.folder)


def views_to_maps(
    net: nets.IrnNet, maps_of: Callable[[str], ClassMaps], recipe: Recipe
) -> ViewsToMaps:
    """IRN as a views_to_maps for `stages.activate`; `maps_of` gives the maps of an id, without a background row."""

    def to_maps(views: Views) -> list[ClassMaps]:
        edges = boundaries(net, views.scales[0], recipe.pad)
        return [
            walk_maps(maps_of(id), edge, views.size, recipe)
            for id, edge in zip(views.ids, edges, strict=True)
        ]

    return to_maps


def boundaries(net: nets.IrnNet, images: torch.Tensor, pad: int) -> torch.Tensor:
    """Boundary probabilities at stride 4.

    Args:
        net: in eval mode.
        images: [2B, 3, H, W] normalised, the images and then their mirror images.
        pad: px; sides are filled up with 0 to multiples of it.

    Returns:
        float32 [B, (H-1)//4+1, (W-1)//4+1] in 0..1: the sigmoid of the mean of both logits.
    """
    height, width = images.shape[-2:]
    padded = nn.functional.pad(images, (0, -width % pad, 0, -height % pad))
    rows, columns = strided_size(height, width)
    logits, mirrored = unflipped(
        net(padded.contiguous(memory_format=torch.channels_last))[0][..., :rows, :columns].float()
    )
    return ((logits + mirrored) / 2).sigmoid()[:, 0]


def walk_maps(
    maps: ClassMaps, edge: torch.Tensor, size: tuple[int, int], recipe: Recipe
) -> ClassMaps:
    """Random walk of one image's maps; scores are shares of the highest one over all classes and pixels, 0..1.

    Args:
        maps: scores of the classes, without background.
        edge: boundary probabilities [h, w] at stride 4.
        size: (H, W).
        recipe: see `infer`.
    """
    if not len(maps.keys):
        return ClassMaps(maps.keys, maps.strided, np.zeros((0, *size), np.float32))
    strided = torch.from_numpy(maps.strided).to(edge.device).clamp_min(0) ** recipe.power
    walked = random_walk(
        strided, edge, radius=recipe.walk_radius, beta=recipe.beta, steps=recipe.steps
    )
    height, width = size
    high_res = resize_maps(walked, 4 * walked.shape[1], 4 * walked.shape[2])[:, :height, :width]
    highest = high_res.amax()
    highest = torch.where(
        highest > 0, highest, 1.0
    )  # boundaries everywhere leave nothing of the maps
    return ClassMaps(
        maps.keys, (walked / highest).cpu().numpy(), (high_res / highest).cpu().numpy()
    )


def _walkable(folder: Path, data: Dataset, id: str) -> ClassMaps:
    maps, wanted = load_maps(folder, id).foreground(), strided_size(*data.size(id))
    if maps.strided.shape[1:] != wanted:
        raise InputError(
            f"{maps_path(folder, id)}: strided maps are {maps.strided.shape[1:]}, but the image needs {wanted}"
        )
    return maps
