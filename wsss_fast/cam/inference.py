"""Class activation maps of a trained CAM classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from wsss_fast import nets
from wsss_fast.cam.recipe import RECIPES, Recipe, network
from wsss_fast.data import Source, opened
from wsss_fast.engine.run_folder import check_out
from wsss_fast.engine.runtime import resolve_runtime, with_torch_defaults
from wsss_fast.ops import merge_maps
from wsss_fast.stages.activate import Maps, Views, ViewsToMaps, maps_stage
from wsss_fast.stages.trained import info_of, recipe_of


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
    backbone: str | None = None,
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
        backbone: "resnet50", "resnet38" (EPS' baseline, CCR's classifier) or "small"; default: that
            of the weights, or "resnet50" for weights that do not say it.
        recipe: hyper-parameters, of which `scales`, `align` and `infer_batch` are used; default:
            those that the weights were trained with, or those of the backbone.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used.
    """
    data = opened(data)
    info = info_of(weights, "cam", data=data, backbone=backbone)
    backbone = backbone or (info.backbone if info else "resnet50")
    recipe = recipe_of(weights, info, recipe, RECIPES, backbone)
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

    def network(views: Views) -> list[torch.Tensor]:
        return [net.maps(scale) for scale in views.scales]

    return ViewsToMaps(network, lambda views, outputs: relative_maps(views, outputs, align))


def relative_maps(views: Views, outputs: Sequence[torch.Tensor], align: int = 1) -> list[Maps]:
    """Class maps of the present classes: views resized, summed, divided by (maximum + 1e-5).

    Args:
        views: the batch.
        outputs: maps >= 0 of all classes, [2B, C, h_s, w_s] for each scale.
        align: size multiple in pixels: views are resized to H and W rounded up to multiples of it,
            then cropped. AMN's and IRN's public code uses 16, which keeps the cells of the maps
            aligned with the pixels, EPS' uses 1.
    """
    classes = views.present()
    merged = merge_maps(outputs, classes, views.size, align=align)
    return [
        Maps.of(tuple(c + 1 for c in own), maps) for own, maps in zip(classes, merged, strict=True)
    ]
