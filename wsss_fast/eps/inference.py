"""Class maps and pseudo-masks of a trained EPS network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from wsss_fast import nets
from wsss_fast.cam.inference import relative_maps
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine.run_folder import check_out
from wsss_fast.engine.runtime import resolve_runtime, with_torch_defaults
from wsss_fast.eps import alpha_crf
from wsss_fast.eps.recipe import RECIPES, Recipe, check_recipe
from wsss_fast.stages import masks
from wsss_fast.stages.activate import Views, ViewsToMaps, maps_stage
from wsss_fast.stages.trained import info_of, recipe_of


@dataclasses.dataclass(frozen=True)
class InferResult:
    """Result of `infer`.

    Attributes:
        maps: folder of the class maps, `<id>.npz`.
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
    backbone: str | None = None,
    recipe: Recipe | None = None,
    crf: bool = False,
    name: str = "eps",
    device: str = "auto",
    precision: str = "auto",
) -> InferResult:
    """Compute EPS' maps and pseudo-masks; writes `<out>/<name>/maps/<id>.npz` and `masks/<id>.png`.

    The softmax over classes and background of each scale and its mirror image is resized bilinearly
    and summed; present classes are kept, each divided by (its maximum + 1e-5). The pseudo-mask is
    the argmax of the maps and a constant background score of `threshold`. With `crf` it is that of
    the dense CRF of the maps and a background score of (1 - highest map)^alpha, in the folder
    `crf-masks`. Saliency maps are not needed. Collective.

    Args:
        data: images and tags: a data set, or an argument of `data.load`.
        weights: weights of a trained EPS network: this package's, or the public one.
        out: run folder.
        backbone: "resnet38" or "small"; default: that of the weights, or "resnet38" for weights
            that do not say it.
        recipe: hyper-parameters, of which `scales`, `threshold`, `crf` and `infer_batch` are used;
            default: those that the weights were trained with, or those of the backbone.
        crf: whether a dense CRF refines the pseudo-masks.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used.

    Source: EPS' public code; section 4.1.
    """
    data = opened(data)
    info = info_of(weights, "eps", data=data, backbone=backbone)
    backbone = backbone or (info.backbone if info else "resnet38")
    recipe = recipe_of(weights, info, recipe, RECIPES, backbone)
    runtime = resolve_runtime(device, 0, 0, precision, prefer_bf16=recipe.prefer_bf16)
    check_recipe(recipe, data)
    net = nets.eps_resnet38(len(data.classes), backbone=backbone)
    net = nets.load_weights(net, weights, complete=True)
    net = nets.optimize_for_inference(net, runtime, amx=True)
    out = check_out(out)
    maps = maps_stage(
        out,
        f"{name}/maps",
        data,
        views_to_maps(net),
        scales=recipe.scales,
        batch_size=recipe.infer_batch,
        runtime=runtime,
        arguments={"weights": nets.fingerprint(weights)},
    )
    crf_device = str(runtime.device)
    return InferResult(
        maps,
        pseudo_masks(data, maps, out, recipe=recipe, crf=crf, name=name, device=crf_device),
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
    """Pseudo-masks of any class maps by EPS' rules. Collective.

    Args:
        data: images and tags.
        maps: folder of the class maps.
        out: run folder.
        recipe: hyper-parameters, of which `threshold` or `crf` is used.
        crf: whether a dense CRF refines the pseudo-masks.
        name: sub-folder of `out`.
        device: device of the CRF.

    Returns:
        The folder `<out>/<name>/masks`, or `<out>/<name>/crf-masks` after CRF refinement.
    """
    if crf:
        return alpha_crf.make(
            data, maps, out, crf=recipe.crf, name=f"{name}/crf-masks", device=device
        ).folder
    return masks.make(
        data, maps, out, threshold=recipe.threshold, crf=None, name=f"{name}/masks"
    ).folder


def views_to_maps(net: nets.EpsNet) -> ViewsToMaps:
    """The function from views to class maps that `stages.activate` calls; `net` in eval mode."""

    def network(views: Views) -> list[torch.Tensor]:
        return [net(scale)[1].float().softmax(dim=1)[:, 1:] for scale in views.scales]

    return ViewsToMaps(network, relative_maps)
