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
from wsss_fast.maps import ClassMaps, resize_maps, strided_size
from wsss_fast.stages.activate import Views, ViewsToMaps, maps_stage, unflipped


@with_torch_defaults
def infer(
    data: Source,
    weights: str | Path,
    out: str | Path,
    *,
    seeds: str | Path,
    backbone: str = "resnet50",
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
        backbone: "resnet50" or "small".
        recipe: hyper-parameters, of which `scales`, `present_only`, `condition_at` and
            `infer_batch` are used; default: those of the backbone.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used.
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
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

    def to_maps(views: Views) -> list[ClassMaps]:
        labels = torch.cat([views.tags, views.tags])
        logits = []
        for scale in views.scales:
            images, mirrored = unflipped(net(scale, labels).float())
            logits.append((images + mirrored) / 2)  # [B, C+1, h_s, w_s]
        return [
            merge_logits([view[i] for view in logits], tags, seed_of(id), views.size, present_only)
            for i, (id, tags) in enumerate(zip(views.ids, views.tags, strict=True))
        ]

    return to_maps


def merge_logits(
    views: list[torch.Tensor],
    tags: torch.Tensor,
    seed: np.ndarray,
    size: tuple[int, int],
    present_only: bool = False,
) -> ClassMaps:
    """Class maps of one image from the logits of its scales.

    Args:
        views: logits [C+1, h_s, w_s] of each scale.
        tags: multi-hot [C].
        seed: uint8 [H, W].
        size: size (H, W) of the image.
        present_only: as in `Recipe`.
    """
    kept = torch.cat([tags.new_ones(1), tags]).nonzero()[:, 0]
    strided, high_res = (
        _normalised(views, kept, seed, each, present_only) for each in (strided_size(*size), size)
    )
    return ClassMaps(kept.cpu().numpy().astype(np.int16), strided, high_res)


def _normalised(
    views: list[torch.Tensor],
    kept: torch.Tensor,
    seed: np.ndarray,
    size: tuple[int, int],
    present_only: bool,
) -> np.ndarray:
    """Scores of the kept channels at one size, rescaled to 0..1 where the seed is foreground."""
    chosen = [view[kept] for view in views] if present_only else views
    logits = torch.stack([resize_maps(view, *size) for view in chosen]).mean(dim=0)
    scores = logits.softmax(dim=0)
    scores = scores if present_only else scores[kept]
    low, high = (f(scores, dim=(1, 2), keepdim=True) for f in (torch.amin, torch.amax))
    stretched = (scores - low) / (high - low + 1e-5)
    not_background = torch.from_numpy(resize_labels(seed, *size) != 0).to(scores.device)
    return torch.where(not_background, stretched, scores).cpu().numpy()
