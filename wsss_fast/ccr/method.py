"""CCR's maps: a classifier, as it is, asked again and again about crops of an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from wsss_fast import cam, nets
from wsss_fast.cam.method import MapsResult
from wsss_fast.ccr.crops import BUFFERS, boxes, centres_of_mass
from wsss_fast.ccr.erasing import ErasingOptions, cut, paste, run_rounds
from wsss_fast.ccr.padded_batch import PaddedBatch
from wsss_fast.data import Source, opened
from wsss_fast.engine import distributed
from wsss_fast.engine.runtime import runtime
from wsss_fast.errors import InputError
from wsss_fast.maps import ClassMaps, merge_views, resize_maps, strided_size
from wsss_fast.stages.activate import Views, ViewsToMaps, maps_stage, unflipped


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the maps are made; the defaults are the published numbers.

    Attributes:
        ask: how a crop is asked in rounds.
        buffers: px that crops reach past the centre of one class, past the extreme centres of two.
        wrap_crops: let a crop that would begin outside of the image begin as far from its other end, as the public code does
            by accident.
        batch_size: crops that share a pass, each with its mirror image: with the size of an image at the largest scale it
            bounds the memory.
        infer_batch: images of equal size whose crops are asked together.
        prefer_bf16: let precision "auto" mean bf16 where the hardware has it.
    """

    erasing: ErasingOptions = ErasingOptions()
    buffers: tuple[int, int] = BUFFERS
    wrap_crops: bool = False
    batch_size: int = 4
    infer_batch: int = 1
    prefer_bf16: bool = False

    def __post_init__(self) -> None:
        if min(self.buffers) < 1 or self.batch_size < 1:
            raise InputError(
                f"ccr: buffers and batch_size must be >= 1, got {self.buffers} and {self.batch_size}"
            )


RECIPES = {
    "resnet38": Recipe(),
    "resnet50": Recipe(),
    # Each class on its own: with joint masking, pictures with several classes lose on CAM; and three rounds: two more bring
    # nothing (benchmarks/RESULTS.md).
    "small": Recipe(
        erasing=ErasingOptions(scales=(1.0, 0.75, 1.5), rounds=3, masking="class"),
        batch_size=8,
        infer_batch=128,
        prefer_bf16=True,
    ),
}


def infer(
    data: Source,
    weights: str | Path,
    out: str | Path,
    *,
    backbone: str = "resnet38",
    recipe: Recipe | None = None,
    name: str = "ccr/maps",
    device: str = "auto",
    precision: str = "auto",
) -> MapsResult:
    """Class-conditional response maps of every image, from a classifier as it is; leaves `<out>/<name>/<id>.npz`.

    The image's class activation maps give the centre of mass of each present class; the image is cut around the centres
    (`stages.split.boxes`). A crop is asked up to `rounds` times: its maps over all scales and mirror images are summed and
    divided, per class, by (their maximum + 1e-5); the running maximum over rounds is its response; where that reaches
    `masked_from` for any class, the next round sees the crop's mean colour. Crops are put back by maximum.

    Args:
        data: images and tags; a data set, or what `data.load` opens. An image without tags gets no map.
        weights: a trained classifier, of `cam.train` or public: ResNet-38's, or IRN's and AMN's `res50_cam.pth`.
        out: run folder.
        backbone: "resnet38" (published), "resnet50" or "small".
        recipe: numbers of the procedure; default: the backbone's.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used; maps of the classifier that are not finite.

    Source: CCR, section 3.2 and its public code.
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    where = runtime(device, 0, 0, precision, prefer_bf16=recipe.prefer_bf16)
    # Half the time where the processor has a matrix unit; maps differ by up to 6e-5 (measured: ResNet-38, five rounds).
    net = nets.optimize_for_inference(
        nets.load_weights(cam.network(data, backbone), weights, complete=True), where, split=True
    )
    rounds: list[int] = []
    return MapsResult(
        maps_stage(
            Path(out),
            name,
            data,
            views_to_maps(PaddedBatch(net, where.device), data.image, recipe, rounds.extend),
            scales=recipe.erasing.scales,
            batch_size=recipe.infer_batch,
            runtime=where,
            arguments={
                "weights": nets.fingerprint(weights),
                "erasing": recipe.erasing,
                "buffers": recipe.buffers,
                "wrap_crops": recipe.wrap_crops,
            },
            notes=lambda: {
                "rounds": distributed.all_reduce_sum(
                    np.bincount(rounds, minlength=recipe.erasing.rounds + 1)
                )[1:]
            },
        )
    )


def views_to_maps(
    net: PaddedBatch,
    image_of: Callable[[str], np.ndarray],
    recipe: Recipe,
    seen: Callable[[list[int]], None] = lambda rounds: None,
) -> ViewsToMaps:
    """CCR as a views_to_maps for `stages.activate`.

    Args:
        net: the classifier.
        image_of: the photo of an id, uint8 RGB [H, W, 3].
        recipe: see `infer`.
        seen: is told how many rounds each crop took.
    """

    def score(views: Views) -> list[ClassMaps]:
        bases = base_maps(net, views)
        crops, known, places = [], [], []
        for id, tags, base in zip(views.ids, views.tags, bases, strict=True):
            classes = tags.nonzero()[:, 0]
            unit = base.amax(dim=(1, 2), keepdim=True) if recipe.erasing.unit == "image" else None
            cuts = boxes(
                centres_of_mass(base.cpu().numpy()),
                views.size,
                buffers=recipe.buffers,
                wrap_crops=recipe.wrap_crops,
            )
            places.append(list(dict.fromkeys(cuts)))
            for box in places[-1]:
                crops.append(cut(id, image_of(id), box, classes, recipe.erasing.scales, unit))
                known.append(
                    base if box == (0, views.size[0], 0, views.size[1]) else None
                )  # asked as a whole already
        answers = run_rounds(net, crops, recipe.erasing, batch_size=recipe.batch_size, known=known)
        seen([part.rounds for parts in answers for part in parts])
        responses = iter([torch.cat([part.response for part in parts]) for parts in answers])
        return [
            _result(tags, [next(responses) for _ in own], own, views.size)
            for tags, own in zip(views.tags, places, strict=True)
        ]

    return score


def base_maps(net: PaddedBatch, views: Views) -> list[torch.Tensor]:
    """Maps of the present classes of each whole image, summed over views at its size, float32 [K, H, W].

    Raises:
        InputError: they are not finite.
    """
    summed = []
    for scale in views.scales:
        images, mirrored = unflipped(net([scale])[0].float())
        summed.append(images + mirrored)
    bases = [
        merge_views([view[i][tags > 0] for view in summed], *views.size)
        if tags.any()
        else tags.new_zeros(0, *views.size)
        for i, tags in enumerate(views.tags)
    ]
    for id, base in zip(views.ids, bases, strict=True):
        if not base.isfinite().all():
            raise InputError(
                f"ccr: the classifier's maps of {id} are not finite; look at its weights, or use precision fp32"
            )
    return bases


def _result(
    tags: torch.Tensor, responses: list[torch.Tensor], places: list, size: tuple[int, int]
) -> ClassMaps:
    keys = (tags.nonzero()[:, 0] + 1).cpu().numpy().astype(np.int16)
    if not responses:
        return ClassMaps(
            keys, np.zeros((0, *strided_size(*size)), np.float32), np.zeros((0, *size), np.float32)
        )
    whole = paste(responses, places, size)
    return ClassMaps(
        keys, resize_maps(whole, *strided_size(*size)).cpu().numpy(), whole.cpu().numpy()
    )
