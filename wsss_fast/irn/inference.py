"""Refinement of class maps by a random walk up to the boundaries that IRN predicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from wsss_fast import nets
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine.run_folder import check_out, provenance
from wsss_fast.engine.runtime import resolve_runtime, with_torch_defaults
from wsss_fast.engine.stream import host_tensor
from wsss_fast.errors import InputError
from wsss_fast.irn.recipe import RECIPES, Recipe
from wsss_fast.maps import (
    ClassMaps,
    check_maps,
    load_stored,
    map_files,
    maps_path,
    resize_maps,
    strided_size,
)
from wsss_fast.ops import random_walk
from wsss_fast.stages import masks
from wsss_fast.stages.activate import Maps, Views, ViewsToMaps, maps_stage, unflipped
from wsss_fast.stages.trained import info_of, recipe_of


@dataclasses.dataclass(frozen=True)
class RefineResult:
    """Result of `infer`.

    Attributes:
        maps: folder of the refined class maps, `<id>.npz`.
        masks: folder of the pseudo-masks, `<id>.png`.
    """

    maps: Path
    masks: Path


@with_torch_defaults
def infer(
    data: Source,
    weights: str | Path,
    out: str | Path,
    *,
    maps: str | Path,
    backbone: str | None = None,
    recipe: Recipe | None = None,
    name: str = "irn",
    device: str = "auto",
    precision: str = "auto",
) -> RefineResult:
    """Refine class maps with IRN; writes `<out>/<name>/maps/<id>.npz` and `masks/<id>.png`.

    The maps to the `power`, at stride 4, are spread by `ops.random_walk` up to the boundaries of
    the image and its mirror image, upsampled bilinearly by 4 and divided by the maximum over all
    classes. The pseudo-mask is the argmax of the maps and a constant background score
    of `threshold`. Collective.

    Args:
        data: images and tags: a data set, or an argument of `data.load`.
        weights: weights of a trained IRN: this package's, or the public `res50_irn.pth`.
        out: run folder.
        maps: folder of class maps, as `amn.infer` and `cam.infer` write them; a background row in
            them is not used.
        backbone: "resnet50" or "small"; default: that of the weights, or "resnet50" for weights
            that do not say it.
        recipe: hyper-parameters, of which `power`, `walk_radius`, `beta`, `steps`, `pad`,
            `threshold` and `infer_batch` are used; default: those that the weights were trained
            with, or those of the backbone.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used, or maps are missing.

    Source: IRN, section 4.3, and its public code, as AMN uses it.
    """
    data, info = opened(data), info_of(weights, "irn", backbone=backbone)
    backbone = backbone or (info.backbone if info else "resnet50")
    recipe = recipe_of(weights, info, recipe, RECIPES, backbone)
    runtime = resolve_runtime(device, 0, 0, precision, prefer_bf16=recipe.prefer_bf16)
    check_refinement(recipe)
    folder, out = Path(maps), check_out(out)
    check_maps(folder, data)
    net = nets.load_weights(nets.irn_resnet50(backbone=backbone), weights, complete=True)
    net = nets.optimize_for_inference(net, runtime)
    refined = maps_stage(
        out,
        f"{name}/maps",
        data,
        views_to_maps(net, lambda id: load_maps_for(folder, data, id), recipe),
        scales=(1.0,),
        batch_size=recipe.infer_batch,
        runtime=runtime,
        arguments={
            "maps": provenance(folder, map_files(data)),
            "weights": nets.fingerprint(weights),
            "power": recipe.power,
            "walk_radius": recipe.walk_radius,
            "beta": recipe.beta,
            "steps": recipe.steps,
            "pad": recipe.pad,
        },
    )
    pseudo_masks = masks.make(
        data, refined, out, threshold=recipe.threshold, crf=None, name=f"{name}/masks"
    )
    return RefineResult(refined, pseudo_masks.folder)


def check_refinement(recipe: Recipe) -> None:
    """Raise InputError for numbers of the refinement that cannot be used."""
    if recipe.pad < 1 or recipe.power <= 0 or not 0 <= recipe.threshold <= 1:
        raise InputError(
            "irn: needs pad >= 1, power > 0 and threshold in 0..1, "
            f"got {recipe.pad}, {recipe.power} and {recipe.threshold}"
        )


def views_to_maps(
    net: nets.IrnNet, maps_of: Callable[[str], ClassMaps], recipe: Recipe
) -> ViewsToMaps:
    """The function from views to refined class maps that `stages.activate` calls.

    Args:
        net: IRN, in eval mode.
        maps_of: function from an id to its class maps, without a background row.
        recipe: as in `infer`.
    """

    def network(views: Views) -> list[torch.Tensor]:
        assert views.loaded is not None
        edges = boundaries(net, views.scales[0], recipe.pad)
        return [_walked(maps, edge, recipe) for maps, edge in zip(views.loaded, edges, strict=True)]

    def merge(views: Views, outputs: list[torch.Tensor]) -> list[Maps]:
        assert views.loaded is not None
        return [
            _at_full_size(tuple(maps.keys.tolist()), walked, views.size)
            for maps, walked in zip(views.loaded, outputs, strict=True)
        ]

    return ViewsToMaps(network, merge, maps_of)


def boundaries(net: nets.IrnNet, images: torch.Tensor, pad: int) -> torch.Tensor:
    """Boundary probabilities at stride 4.

    Args:
        net: IRN, in eval mode.
        images: normalised images and then their mirror images, [2B, 3, H, W].
        pad: size multiple in pixels: sides are padded with 0 to multiples of it.

    Returns:
        float32 [B, (H-1)//4+1, (W-1)//4+1] in 0..1: the sigmoid of the mean of the logits of the
        image and of its mirror image.
    """
    return _boundaries(_outputs(net, images, pad)[0], images)


def boundaries_and_displacements(
    net: nets.IrnNet, images: torch.Tensor, pad: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boundary probabilities and displacements at stride 4.

    Args:
        net: IRN, in eval mode.
        images: normalised images and then their mirror images, [2B, 3, H, W].
        pad: size multiple in pixels: sides are padded with 0 to multiples of it.

    Returns:
        The result of `boundaries`, and the displacements (dy, dx) in cells, float32 [B, 2, h, w],
        of the images alone, as in the public code.
    """
    edge, displacement = _outputs(net, images, pad)
    rows, columns = strided_size(*images.shape[-2:])
    own = displacement[: len(images) // 2, :, :rows, :columns].float()
    return _boundaries(edge, images), own


def _outputs(net: nets.IrnNet, images: torch.Tensor, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of the network for the padded images."""
    height, width = images.shape[-2:]
    padded = nn.functional.pad(images, (0, -width % pad, 0, -height % pad))
    return net(padded.contiguous(memory_format=torch.channels_last))


def _boundaries(edge: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    rows, columns = strided_size(*images.shape[-2:])
    logits, mirrored = unflipped(edge[..., :rows, :columns].float())
    return ((logits + mirrored) / 2).sigmoid()[:, 0]


def walk_maps(
    maps: ClassMaps, edge: torch.Tensor, size: tuple[int, int], recipe: Recipe
) -> ClassMaps:
    """Spread the class maps of one image by a random walk.

    Args:
        maps: scores of the classes, without background.
        edge: boundary probabilities [h, w] at stride 4.
        size: size (H, W) of the image.
        recipe: as in `infer`.

    Returns:
        Scores relative to the highest one over all classes and pixels, 0..1.
    """
    keys = tuple(maps.keys.tolist())
    return _at_full_size(keys, _walked(maps, edge, recipe), size).on_host()


def _walked(maps: ClassMaps, edge: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """The maps at stride 4 after the random walk, [K, h, w]."""
    given = on_device(maps, edge.device, recipe)
    return walked(given, edge, recipe) if len(given) else given


def on_device(maps: ClassMaps, device: torch.device, recipe: Recipe) -> torch.Tensor:
    """The maps at stride 4 to the `power`, float32 [K, h, w]."""
    given = host_tensor(maps.strided, device).to(device, non_blocking=True).float()
    return given.clamp_min(0) ** recipe.power


def walked(maps: torch.Tensor, edge: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """`ops.random_walk` with the numbers of a recipe, [K, h, w]."""
    return random_walk(
        maps,
        edge,
        radius=recipe.walk_radius,
        beta=recipe.beta,
        steps=recipe.steps,
    )


def _at_full_size(keys: tuple[int, ...], walked: torch.Tensor, size: tuple[int, int]) -> Maps:
    """Maps relative to their highest score, at stride 4 and at the image's size."""
    if not keys:
        return Maps(keys, walked, walked.new_zeros((0, *size)))
    height, width = size
    high_res = resize_maps(walked, 4 * walked.shape[1], 4 * walked.shape[2])[:, :height, :width]
    highest = high_res.amax()
    # It is 0 where boundaries are everywhere.
    highest = torch.where(highest > 0, highest, 1.0)
    return Maps(keys, walked / highest, high_res / highest)


def load_maps_for(folder: Path, data: Dataset, id: str) -> ClassMaps:
    """Class maps of an image, without a background row; InputError for another size."""
    maps, wanted = load_stored(folder, id).foreground(), strided_size(*data.size(id))
    if len(maps.keys) and maps.strided.shape[1:] != wanted:
        raise InputError(
            f"{maps_path(folder, id)}: strided maps are {maps.strided.shape[1:]}, "
            f"but the image needs {wanted}"
        )
    return maps
