"""Class maps of a trained activation manipulation network (AMN)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from wsss_fast import nets
from wsss_fast.amn.recipe import RECIPES, Recipe
from wsss_fast.cam.inference import MapsResult
from wsss_fast.data import Source, opened
from wsss_fast.data.label_folder import check_label_folder, label_files, read_label
from wsss_fast.data.transforms import resize_labels
from wsss_fast.engine.run_folder import check_out, provenance
from wsss_fast.engine.runtime import resolve_runtime, with_torch_defaults
from wsss_fast.engine.stream import host_tensor
from wsss_fast.maps import strided_size
from wsss_fast.ops import MergedMaps, merge_maps
from wsss_fast.stages.activate import Maps, Views, ViewsToMaps, maps_stage
from wsss_fast.stages.trained import info_of, recipe_of


@with_torch_defaults
def infer(
    data: Source,
    weights: str | Path,
    out: str | Path,
    *,
    seeds: str | Path,
    backbone: str | None = None,
    recipe: Recipe | None = None,
    name: str = "amn/maps",
    device: str = "auto",
    precision: str = "auto",
) -> MapsResult:
    """Compute the AMN maps of every image; writes `<out>/<name>/<id>.npz`, background as row 0.

    The logits of each scale are averaged with the mirror image's, resized bilinearly and averaged
    over the scales; then follows a softmax over all channels, of which background and present
    classes are kept. Where the seed is not background, a row is replaced by
    (x - min) / (max - min + 1e-5), with min and max over the image. Dropout is off (the public code
    leaves it on). Collective.

    Args:
        data: images and tags: a data set, or an argument of `data.load`.
        weights: weights of a trained AMN: this package's, or the public `res50_amn.pth`.
        out: run folder.
        seeds: folder of seed PNGs, as in the training.
        backbone: "resnet50" or "small"; default: that of the weights, or "resnet50" for weights
            that do not say it.
        recipe: hyper-parameters, of which `scales`, `present_only`, `condition_at` and
            `infer_batch` are used; default: those that the weights were trained with, or those of
            the backbone.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used.
    """
    data = opened(data)
    info = info_of(weights, "amn", data=data, backbone=backbone)
    backbone = backbone or (info.backbone if info else "resnet50")
    recipe = recipe_of(weights, info, recipe, RECIPES, backbone)
    runtime = resolve_runtime(device, 0, 0, precision, prefer_bf16=recipe.prefer_bf16)
    folder = check_label_folder(Path(seeds), data, "seeds")
    net = nets.amn_resnet50(len(data.classes), backbone=backbone, condition_at=recipe.condition_at)
    net = nets.optimize_for_inference(nets.load_weights(net, weights, complete=True), runtime)
    to_maps = views_to_maps(net, lambda id: read_label(folder, data, id), recipe.present_only)
    return MapsResult(
        maps_stage(
            check_out(out),
            name,
            data,
            to_maps,
            scales=recipe.scales,
            batch_size=recipe.infer_batch,
            runtime=runtime,
            arguments={
                "seeds": provenance(folder, label_files(data)),
                "weights": nets.fingerprint(weights),
                "present_only": recipe.present_only,
                "condition_at": recipe.condition_at,
            },
        )
    )


def views_to_maps(
    net: nets.AmnNet, seed_of: Callable[[str], np.ndarray], present_only: bool = False
) -> ViewsToMaps:
    """The function from views to class maps that `stages.activate` calls.

    Args:
        net: the AMN, in eval mode.
        seed_of: function from an id to its seed, uint8 [H, W].
        present_only: as in `Recipe`.
    """
    device = next(net.parameters()).device

    def network(views: Views) -> list[torch.Tensor]:
        labels = torch.cat([views.tags, views.tags])
        return [net(scale, labels) for scale in views.scales]

    def merge(views: Views, outputs: list[torch.Tensor]) -> list[Maps]:
        channels = [(0, *(c + 1 for c in own)) for own in views.present()]
        assert views.loaded is not None
        strided, full = (
            torch.stack([mask.to(device, non_blocking=True) for mask in masks])
            for masks in zip(*views.loaded, strict=True)
        )
        merged = merge_maps(
            outputs,
            channels,
            views.size,
            kind="softmax",
            foreground=MergedMaps(strided, full),
            present_only=present_only,
        )
        return [Maps.of(keys, maps) for keys, maps in zip(channels, merged, strict=True)]

    return ViewsToMaps(network, merge, lambda id: _foreground(seed_of(id), device))


def _foreground(seed: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a seed is not background, bool at the strided and at the full size, for the device."""
    strided = resize_labels(seed, *strided_size(*seed.shape))
    return host_tensor(strided != 0, device), host_tensor(seed != 0, device)
