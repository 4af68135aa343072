"""Class activation maps of a trained CAM classifier."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from wsss_fast import nets
from wsss_fast.cam.recipe import RECIPES, Recipe, network
from wsss_fast.data import Source, opened
from wsss_fast.engine.run_folder import check_out
from wsss_fast.engine.runtime import resolve_runtime, with_torch_defaults
from wsss_fast.maps import ClassMaps, merge_views, strided_size
from wsss_fast.stages.activate import Views, ViewsToMaps, maps_stage, unflipped


@dataclasses.dataclass(frozen=True)
class MapsResult:
    """Result of an inference that writes class maps.

    Attributes:
        maps: folder of the class maps, `<id>.npz`.
    """

    maps: Path


@with_torch_defaults
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
    """Compute the class activation maps of every image; writes `<out>/<name>/<id>.npz`.

    ReLU(W f) of each scale and its mirror image, resized bilinearly and summed; present classes
    only, each divided by (its maximum + 1e-5). Collective.

    Args:
        data: images and tags: a data set, or an argument of `data.load`.
        weights: weights of a trained classifier: this package's, or the public `res50_cam.pth` or
            ResNet-38's.
        out: run folder.
        backbone: "resnet50", "resnet38" (EPS' baseline, CCR's classifier) or "small".
        recipe: hyper-parameters, of which `scales`, `align` and `infer_batch` are used; default:
            those of the backbone.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used.
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    runtime = resolve_runtime(device, 0, 0, precision, prefer_bf16=recipe.prefer_bf16)
    net = nets.load_weights(network(data, backbone), weights, complete=True)
    net = nets.optimize_for_inference(net, runtime)
    return MapsResult(
        maps_stage(
            check_out(out),
            name,
            data,
            views_to_maps(net, recipe.align),
            scales=recipe.scales,
            batch_size=recipe.infer_batch,
            runtime=runtime,
            arguments={"weights": nets.fingerprint(weights), "align": recipe.align},
        )
    )


def views_to_maps(net: nets.CamNet, align: int = 16) -> ViewsToMaps:
    """The function from views to class maps that `stages.activate` calls.

    Args:
        net: the classifier, in eval mode.
        align: as in `Recipe`.
    """

    def to_maps(views: Views) -> list[ClassMaps]:
        summed = []
        for scale in views.scales:
            images, mirrored = unflipped(net.maps(scale).float())
            summed.append(images + mirrored)  # [B, C, h_s, w_s]
        return [
            merge_maps([view[i] for view in summed], tags, views.size, align)
            for i, tags in enumerate(views.tags)
        ]

    return to_maps


def merge_maps(
    views: list[torch.Tensor], tags: torch.Tensor, size: tuple[int, int], align: int = 1
) -> ClassMaps:
    """Class maps of one image: views of the present classes, resized, summed and normalised.

    The sum is divided by (its maximum + 1e-5).

    Args:
        views: maps >= 0, [C, h_s, w_s] each.
        tags: multi-hot [C].
        size: size (H, W) of the image.
        align: size multiple in pixels: views are resized to H and W rounded up to multiples of it,
            then cropped. AMN's and IRN's public code uses 16, which keeps the cells of the maps
            aligned with the pixels, EPS' uses 1.
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
    aligned = merge_views(kept, -(-height // align) * align, -(-width // align) * align)
    strided, high_res = (
        maps / (maps.amax(dim=(1, 2), keepdim=True) + 1e-5)
        for maps in (strided, aligned[:, :height, :width])
    )
    keys = (present + 1).cpu().numpy().astype(np.int16)
    return ClassMaps(keys, strided.cpu().numpy(), high_res.cpu().numpy())
