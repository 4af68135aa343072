"""CCR's response maps: crops of an image are classified repeatedly, with iterative erasing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from wsss_fast import cam, nets
from wsss_fast.cam.inference import MapsResult
from wsss_fast.ccr.crops import Box, boxes, centres_of_mass
from wsss_fast.ccr.erasing import Crop, cut, paste, run_rounds
from wsss_fast.ccr.padded_batch import PaddedBatch
from wsss_fast.ccr.recipe import RECIPES, Recipe
from wsss_fast.data import Source, opened
from wsss_fast.engine import distributed
from wsss_fast.engine.run_folder import check_out
from wsss_fast.engine.runtime import resolve_runtime, with_torch_defaults
from wsss_fast.errors import InputError
from wsss_fast.maps import resize_maps, strided_size
from wsss_fast.ops import merge_maps
from wsss_fast.stages.activate import Maps, Views, ViewsToMaps, maps_stage
from wsss_fast.stages.trained import info_of


@with_torch_defaults
def infer(
    data: Source,
    weights: str | Path,
    out: str | Path,
    *,
    backbone: str | None = None,
    recipe: Recipe | None = None,
    name: str = "ccr/maps",
    device: str = "auto",
    precision: str = "auto",
) -> MapsResult:
    """Compute CCR's response maps with a trained classifier; writes `<out>/<name>/<id>.npz`.

    The centre of mass of each present class is computed from the image's class activation maps, and
    the image is cut into overlapping crops around the centres. A crop is classified up to `rounds`
    times: its maps over all scales and mirror images are summed and divided, per class, by (their
    maximum + 1e-5). The response is the running maximum over the rounds; where it reaches
    `masked_from` for any class, the next round sees the crop's mean colour. The responses of the
    crops are merged by their maximum. The classifier is not trained. Collective.

    Args:
        data: images and tags: a data set, or an argument of `data.load`. An image without tags gets
            no map.
        weights: weights of a trained classifier: `cam.train`'s, or the public ResNet-38's, or IRN's
            and AMN's `res50_cam.pth`.
        out: run folder.
        backbone: "resnet38" (published), "resnet50" or "small"; default: that of the weights, or
            "resnet38" for weights that do not say it.
        recipe: hyper-parameters of the maps; default: those of the backbone.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used, or maps of the classifier are not finite.

    Source: CCR, section 3.2, and its public code.
    """
    data = opened(data)
    info = info_of(weights, "cam", data=data, backbone=backbone)
    backbone = backbone or (info.backbone if info else "resnet38")
    recipe = recipe or RECIPES.get(backbone, Recipe())
    runtime = resolve_runtime(device, 0, 0, precision, prefer_bf16=recipe.prefer_bf16)
    net = nets.load_weights(cam.network(data, backbone), weights, complete=True)
    # On CPUs with a matrix unit this halves the time; maps differ by up to 6e-5 (measured with
    # ResNet-38 and five rounds).
    net = nets.optimize_for_inference(net, runtime, amx=True)
    rounds: list[int] = []
    max_rounds = recipe.erasing.rounds

    def notes() -> dict[str, np.ndarray]:
        counts = np.bincount(rounds, minlength=max_rounds + 1)
        return {"rounds": distributed.all_reduce_sum(counts)[1:]}

    return MapsResult(
        maps_stage(
            check_out(out),
            name,
            data,
            views_to_maps(PaddedBatch(net, runtime.device), data.image, recipe, rounds.extend),
            scales=recipe.erasing.scales,
            batch_size=recipe.infer_batch,
            runtime=runtime,
            arguments={
                "weights": nets.fingerprint(weights),
                "erasing": recipe.erasing,
                "buffers": recipe.buffers,
                "wrap_crops": recipe.wrap_crops,
            },
            notes=notes,
        )
    )


def views_to_maps(
    net: PaddedBatch,
    image_of: Callable[[str], np.ndarray],
    recipe: Recipe,
    on_rounds: Callable[[list[int]], None] = lambda rounds: None,
) -> ViewsToMaps:
    """The function from views to class maps that `stages.activate` calls.

    Args:
        net: the classifier.
        image_of: function from an id to its photo, uint8 RGB [H, W, 3].
        recipe: hyper-parameters, see `infer`.
        on_rounds: function called with the number of rounds of each crop.
    """

    def network(views: Views) -> list[Maps]:
        crops: list[Crop] = []
        first_maps: list[torch.Tensor | None] = []
        places: list[list[Box]] = []
        whole, present = (0, views.size[0], 0, views.size[1]), views.present()
        assert views.loaded is not None
        for id, image, own, base in zip(
            views.ids, views.loaded, present, base_maps(net, views), strict=True
        ):
            classes = torch.tensor(own, dtype=torch.int64, device=base.device)
            unit = base.amax(dim=(1, 2), keepdim=True) if recipe.erasing.unit == "image" else None
            cuts = boxes(
                centres_of_mass(base.cpu().numpy()),
                views.size,
                buffers=recipe.buffers,
                wrap_crops=recipe.wrap_crops,
            )
            places.append(list(dict.fromkeys(cuts)))
            for box in places[-1]:
                crops.append(cut(id, image, box, classes, recipe.erasing.scales, unit))
                first_maps.append(base if box == whole else None)
        results = run_rounds(
            net, crops, recipe.erasing, batch_size=recipe.batch_size, first_maps=first_maps
        )
        on_rounds([part.rounds for parts in results for part in parts])
        responses = iter([torch.cat([part.final_response() for part in p]) for p in results])
        return [
            _merge_crops(classes, [next(responses) for _ in own], own, views)
            for classes, own in zip(present, places, strict=True)
        ]

    return ViewsToMaps(network, lambda views, maps: maps, image_of)


def base_maps(net: PaddedBatch, views: Views) -> list[torch.Tensor]:
    """Class activation maps of the present classes of each whole image, summed over the views.

    Returns:
        float32 [K, H, W] for each image.

    Raises:
        InputError: they are not finite.
    """
    outputs = [net([scale])[0] for scale in views.scales]
    merged = merge_maps(outputs, views.present(), views.size, kind="sum", strided=False)
    bases = [maps.full for maps in merged]
    for id, base in zip(views.ids, bases, strict=True):
        if not base.isfinite().all():
            raise InputError(
                f"ccr: the classifier's maps of {id} are not finite; check its weights, or use "
                "precision fp32"
            )
    return bases


def _merge_crops(
    classes: tuple[int, ...], responses: list[torch.Tensor], places: list[Box], views: Views
) -> Maps:
    """Class maps of an image from the responses of its crops."""
    size, keys = views.size, tuple(c + 1 for c in classes)
    if not responses:
        none = views.tags.new_zeros
        return Maps(keys, none((0, *strided_size(*size))), none((0, *size)))
    whole = paste(responses, places, size)
    return Maps(keys, resize_maps(whole, *strided_size(*size)), whole)
