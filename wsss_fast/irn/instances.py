"""Object masks from class maps: IRN's displacements tell the objects of a class apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsss_fast import nets
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.transforms import MEAN, STD
from wsss_fast.engine import distributed, ranges, stream
from wsss_fast.engine.progress import Bar, say
from wsss_fast.engine.run_folder import check_out, provenance, stage
from wsss_fast.engine.runtime import Runtime, resolve_runtime, with_torch_defaults
from wsss_fast.errors import InputError
from wsss_fast.irn.clusters import cluster, find_centres
from wsss_fast.irn.inference import (
    boundaries_and_displacements,
    check_refinement,
    load_maps_for,
    on_device,
    walked,
)
from wsss_fast.irn.recipe import INSTANCE_RECIPES, InstanceOptions, InstanceRecipe, Recipe
from wsss_fast.maps import ClassMaps, check_maps, map_files, resize_maps
from wsss_fast.ops import image_views
from wsss_fast.readers.instances import Instances, save_instances
from wsss_fast.regions import regions
from wsss_fast.stages.activate import unfinished_batches
from wsss_fast.stages.trained import info_of

_AT_ONCE = 32  # maps that are upsampled together


@dataclasses.dataclass(frozen=True)
class InstancesResult:
    """Result of `find_instances`.

    Attributes:
        folder: folder of the object masks, `<id>.npz`; see `Instances`.
    """

    folder: Path


@with_torch_defaults
def find_instances(
    data: Source,
    weights: str | Path,
    out: str | Path,
    *,
    maps: str | Path,
    backbone: str | None = None,
    recipe: InstanceRecipe | None = None,
    name: str = "irn/instances",
    device: str = "auto",
    precision: str = "auto",
) -> InstancesResult:
    """Find the objects of each class with IRN; writes `<out>/<name>/<id>.npz`.

    Cells that lead to the same region of small displacements are a group. Each class map is cut
    into its groups, and each part is spread by `ops.random_walk` up to the boundaries. At the
    image's size, relative to the highest score of all, each pixel belongs to its highest part, or
    to the background. A connected region of one part is an object; its score is its highest one.

    A file has `numbers`, uint16 [H, W]: 0 none, 1..N the object of the pixel; `labels`, int16 [N]:
    label of the class, 1..C; `scores`, float32 [N], descending. Collective.

    Args:
        data: images and tags: a data set, or an argument of `data.load`.
        weights: weights of a trained IRN: this package's, or the public `res50_irn.pth`.
        out: run folder.
        maps: folder of class maps, as `cam.infer` writes them; a background row is not used.
        backbone: "resnet50" or "small"; default: that of the weights, or "resnet50" for weights
            that do not say it.
        recipe: hyper-parameters; default: those of the backbone, IRN's own (`INSTANCE_RECIPES`).
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used, or maps are missing.

    Source: IRN, sections 4.2 and 4.3, and its public code.
    """
    data, info = opened(data), info_of(weights, "irn", backbone=backbone)
    backbone = backbone or (info.backbone if info else "resnet50")
    recipe = recipe or INSTANCE_RECIPES.get(backbone, InstanceRecipe())
    walk, objects = recipe.irn, recipe.objects
    runtime = resolve_runtime(device, 0, 0, precision, prefer_bf16=walk.prefer_bf16)
    check_refinement(walk)
    ranges.check(objects, "recipe.objects")
    folder, out = Path(maps), check_out(out)
    check_maps(folder, data)
    net = nets.load_weights(nets.irn_resnet50(backbone=backbone), weights, complete=True)
    if not net.mean_displacement.any():
        say(
            f"{name}: {weights} has no mean displacement, which is subtracted here; IRN's training "
            "measures it at its end, AMN's public code does not"
        )
    net = nets.optimize_for_inference(net, runtime)
    arguments = {
        "data": data.fingerprint(),
        "maps": provenance(folder, map_files(data)),
        "weights": nets.fingerprint(weights),
        "power": walk.power,
        "walk_radius": walk.walk_radius,
        "beta": walk.beta,
        "steps": walk.steps,
        "pad": walk.pad,
        "objects": objects,
        "dtype": str(runtime.dtype),
    }
    finder = _Finder(net, walk, objects, runtime)
    stage(
        out,
        name,
        arguments,
        lambda: _write_all(data, folder, out / name, finder, name),
        files=map_files(data),
    )
    return InstancesResult(out / name)


def parts(maps: torch.Tensor, groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut class maps into the groups of cells.

    Args:
        maps: scores of the classes, float32 [K, h, w].
        groups: number of the group of each cell, int64 [h, w] of 0..N-1.

    Returns:
        The parts that are not 0 everywhere, float32 [M, h, w], class by class, and the row of
        `maps` that each comes from, int64 [M].
    """
    inside = torch.nn.functional.one_hot(groups).permute(2, 0, 1)
    every = (maps[:, None] * inside).flatten(0, 1)
    rows = torch.arange(len(maps), device=maps.device).repeat_interleave(len(inside))
    kept = every.flatten(1).amax(1) > 0
    return every[kept], rows[kept]


def best_part(
    walked: torch.Tensor, size: tuple[int, int], threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The part that each pixel belongs to.

    Args:
        walked: parts after the random walk, float32 [M, h, w] at stride 4.
        size: size (H, W) of the image.
        threshold: score of the background, 0..1.

    Returns:
        Number of the part, int32 [H, W]: 0 background, 1..M; and the highest score of each pixel
        relative to the highest one of all, float32 [H, W] in 0..1.
    """
    best, number = walked.new_zeros(size), torch.zeros(size, dtype=torch.int32).to(walked.device)
    height, width = 4 * walked.shape[1], 4 * walked.shape[2]
    for start in range(0, len(walked), _AT_ONCE):
        full = resize_maps(walked[start : start + _AT_ONCE], height, width)
        score, place = full[:, : size[0], : size[1]].max(dim=0)
        number = torch.where(score > best, place.int() + start + 1, number)
        best = torch.maximum(best, score)
    highest = best.amax()
    best = best / torch.where(highest > 0, highest, 1.0)
    return torch.where(best > threshold, number, 0), best


def detect(number: np.ndarray, best: np.ndarray, labels: np.ndarray, min_area: float) -> Instances:
    """Objects from the part of each pixel: its connected regions, 4-connected.

    Args:
        number: number of the part, int [H, W]: 0 background, 1..M.
        best: score of each pixel, float32 [H, W].
        labels: label of the class of each part, [M].
        min_area: share of the pixels below which the score of an object is 0.

    Returns:
        The objects; the score of each is its highest one.
    """
    region = regions(number)
    names, first, area = np.unique(region, return_index=True, return_counts=True)
    first, area = first[names > 0], area[names > 0]
    score = np.zeros(len(first) + 1, np.float32)
    np.maximum.at(score, region.reshape(-1), best.reshape(-1))
    score = np.where(area < min_area * number.size, 0, score[1:])
    order = np.argsort(-score, kind="stable")
    place = np.zeros(len(order) + 1, np.int64)
    place[1 + order] = np.arange(1, len(order) + 1)
    of_class = labels[number.reshape(-1)[first] - 1]
    return Instances(
        place[region].astype(np.uint16),
        of_class[order].astype(np.int16),
        score[order].astype(np.float32),
    )


@dataclasses.dataclass(frozen=True)
class _Finder:
    """IRN and how it finds objects."""

    net: nets.IrnNet
    recipe: Recipe
    options: InstanceOptions
    runtime: Runtime

    def parts_of(
        self, maps: ClassMaps, edge: torch.Tensor, displacement: torch.Tensor, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """`best_part` of one image, and the labels of its parts."""
        if not len(maps.keys):
            nothing = edge.new_zeros(size)
            return nothing.int(), nothing, np.zeros(0, np.int16)
        if not (edge.isfinite().all() and displacement.isfinite().all()):
            raise InputError(
                "irn instances: boundaries or displacements are NaN or infinite; check the "
                "weights, or use --precision fp32"
            )
        centres = find_centres(displacement, self.options.steps)
        groups = torch.from_numpy(cluster(centres, displacement, self.options.centre))
        scores, rows = parts(on_device(maps, edge.device, self.recipe), groups.to(edge.device))
        number, best = best_part(walked(scores, edge, self.recipe), size, self.options.threshold)
        return number, best, maps.keys[rows.cpu().numpy()]

    def __call__(
        self, photos: torch.Tensor, maps: Sequence[ClassMaps]
    ) -> list[tuple[torch.Tensor, torch.Tensor, np.ndarray]]:
        """`parts_of` every image; photos are uint8 [B, H, W, 3] on the device."""
        dtype = self.runtime.dtype if photos.is_cuda else torch.float32
        (images,) = image_views(photos, (1.0,), mean=tuple(MEAN), std=tuple(STD), dtype=dtype)
        size = photos.shape[1], photos.shape[2]
        fields = boundaries_and_displacements(self.net, images, self.recipe.pad)
        return [self.parts_of(*one, size) for one in zip(maps, *fields, strict=True)]


def _write_all(
    data: Dataset, maps: Path, folder: Path, finder: _Finder, label: str
) -> dict[str, Any]:
    """Write the objects of the images that have no file yet; returns notes. Collective."""
    device, options = finder.runtime.device, finder.options
    present = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    batches, own = unfinished_batches(
        data, finder.recipe.infer_batch, device, lambda id: f"{id}.npz" in present
    )
    todo, times = sum(map(len, batches)), stream.Times(device)

    def load(ids: list[str]) -> tuple[torch.Tensor, list[ClassMaps]]:
        photos = stream.host_tensor(np.stack([data.image(id) for id in ids]), device)
        return photos, [load_maps_for(maps, data, id) for id in ids]

    def compute(ids: list[str], loaded: tuple[torch.Tensor, list[ClassMaps]]) -> list[Any]:
        photos, given = loaded
        with finder.runtime.autocast(), times.computing():
            return finder(photos.to(device, non_blocking=True), given)

    def write(ids: list[str], results: list[Any]) -> None:
        for id, (number, best, labels) in zip(ids, results, strict=True):
            found = detect(number.numpy(), best.numpy(), labels, options.min_area)
            save_instances(folder, id, found)

    def size_of(ids: list[str]) -> int:
        height, width = data.size(ids[0])
        return len(ids) * height * width * (3 + 8)

    with Bar(label, own, done=own - todo) as bar, torch.inference_mode():
        steps = stream.Steps(load, compute, write, lambda ids, _: bar.advance(len(ids)), size_of)
        stream.run(batches, steps, times)
        speed = todo / max(bar.seconds(), 1e-9)
    return {"images_per_second": sum(distributed.all_gather_objects(speed)), "time": times.notes()}
