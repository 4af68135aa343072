"""CCR, "Inferring the Class Conditional Response Map for WSSS" (Sun, Zhang and Barnes, WACV 2022): fuller maps without
re-training, and a segmentation network that takes saliency only where the maps agree with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from wsss_fast import cam, nets, seg
from wsss_fast.cam import MapsResult, TrainResult
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.label_folder import read_label
from wsss_fast.data.transforms import Augment, resize_image
from wsss_fast.errors import InputError
from wsss_fast.fit import Batch, place
from wsss_fast.maps import ClassMaps, check_maps, load_maps, merge_views, resize_maps, strided_size
from wsss_fast.nets.unequal import UnequalMaps
from wsss_fast.ops import aamr_loss
from wsss_fast.run import provenance, runtime, stage
from wsss_fast.stages import saliency
from wsss_fast.stages.activate import Scorer, Views, activate, unflipped
from wsss_fast.stages.response import Rounds, cut, paste, respond
from wsss_fast.stages.split import BUFFERS, boxes, centres_of_mass


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
        threshold: background score of maps, 0..1, at which they are reported beside their best one.
        prefer_bf16: let precision "auto" mean bf16 where the hardware has it.
    """

    ask: Rounds = Rounds()
    buffers: tuple[int, int] = BUFFERS
    wrap_crops: bool = False
    batch_size: int = 4
    infer_batch: int = 1
    threshold: float = 0.25
    prefer_bf16: bool = False

    def __post_init__(self) -> None:
        if min(self.buffers) < 1 or self.batch_size < 1:
            raise InputError(f"ccr: buffers and batch_size must be >= 1, got {self.buffers} and {self.batch_size}")
        if not 0 <= self.threshold <= 1:
            raise InputError(f"ccr: threshold must be in 0..1, got {self.threshold}")


RECIPES = {
    "resnet38": Recipe(),
    "resnet50": Recipe(),
    "small": Recipe(ask=Rounds(scales=(1.0, 0.75, 1.5)), batch_size=8, infer_batch=128, prefer_bf16=True),
}


def infer(data: Source, weights: str | Path, out: str | Path, *, backbone: str = "resnet38", recipe: Recipe | None = None,
          name: str = "ccr/maps", device: str = "auto", precision: str = "auto") -> MapsResult:
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
    net = nets.load_weights(cam.network(data, backbone), weights, complete=True)
    place(net, where.device).eval()
    out, rounds = Path(out), []

    def work() -> dict[str, object]:
        to_maps = scorer(UnequalMaps(net, where.device), data.image, recipe, rounds.extend)
        speed = activate(data, to_maps, out / name, scales=recipe.ask.scales, batch_size=recipe.infer_batch, runtime=where,
                         label=name)
        return {"images_per_second": speed, "rounds": np.bincount(rounds, minlength=recipe.ask.rounds + 1)[1:]}

    stage(out, name, {"data": data.fingerprint(), "weights": nets.fingerprint(weights), "ask": recipe.ask,
                      "buffers": recipe.buffers, "wrap_crops": recipe.wrap_crops, "dtype": str(where.dtype)}, work)
    return MapsResult(out / name)


def scorer(net: UnequalMaps, image_of: Callable[[str], np.ndarray], recipe: Recipe,
           seen: Callable[[list[int]], None] = lambda rounds: None) -> Scorer:
    """CCR as a scorer for `stages.activate`.

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
            unit = base.amax(dim=(1, 2), keepdim=True) if recipe.ask.unit == "image" else None
            cuts = boxes(centres_of_mass(base.cpu().numpy()), views.size, buffers=recipe.buffers, wrap_crops=recipe.wrap_crops)
            places.append(list(dict.fromkeys(cuts)))
            for box in places[-1]:
                crops.append(cut(id, image_of(id), box, classes, recipe.ask.scales, unit))
                known.append(base if box == (0, views.size[0], 0, views.size[1]) else None)  # asked as a whole already
        answers = respond(net, crops, recipe.ask, batch_size=recipe.batch_size, known=known)
        seen([part.rounds for parts in answers for part in parts])
        responses = iter([torch.cat([part.response for part in parts]) for parts in answers])
        return [_result(tags, [next(responses) for _ in own], own, views.size)
                for tags, own in zip(views.tags, places, strict=True)]
    return score


def base_maps(net: UnequalMaps, views: Views) -> list[torch.Tensor]:
    """Maps of the present classes of each whole image, summed over views at its size, float32 [K, H, W].

    Raises:
        InputError: they are not finite.
    """
    summed = []
    for scale in views.scales:
        images, mirrored = unflipped(net([scale])[0].float())
        summed.append(images + mirrored)
    bases = [merge_views([view[i][tags > 0] for view in summed], *views.size) if tags.any() else tags.new_zeros(0, *views.size)
             for i, tags in enumerate(views.tags)]
    for id, base in zip(views.ids, bases, strict=True):
        if not base.isfinite().all():
            raise InputError(f"ccr: the classifier's maps of {id} are not finite; look at its weights, or use precision fp32")
    return bases


def _result(tags: torch.Tensor, responses: list[torch.Tensor], places: list, size: tuple[int, int]) -> ClassMaps:
    keys = (tags.nonzero()[:, 0] + 1).cpu().numpy().astype(np.int16)
    if not responses:
        return ClassMaps(keys, np.zeros((0, *strided_size(*size)), np.float32), np.zeros((0, *size), np.float32))
    whole = paste(responses, places, size)
    return ClassMaps(keys, resize_maps(whole, *strided_size(*size)).cpu().numpy(), whole.cpu().numpy())


@dataclasses.dataclass(frozen=True)
class Refinement:
    """How the segmentation network is trained: `seg.Recipe`'s numbers, and those of the loss beside the cross-entropy.

    Attributes:
        seg: of the network.
        weight: of `ops.aamr_loss` beside the cross-entropies, >= 0; 0 leaves saliency out.
        salient: saliency, 0..1, from which a pixel is salient.
        active: response from which a pixel is active; above 1 no pixel is, so that all that is not salient is background.
        overlap: share of a salient region, 0..1, that must be active for it to count; 0 takes every salient region.
    """

    seg: seg.Recipe = seg.RECIPES["resnet101"]
    weight: float = 0.5
    salient: float = 0.5
    active: float = 0.2
    overlap: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise InputError(f"ccr: weight must be >= 0, got {self.weight}")
        for name in ("salient", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"ccr: {name} must be in 0..1, got {getattr(self, name)}")
        if not abs(self.active) < float("inf"):
            raise InputError(f"ccr: active must be finite, got {self.active}")

    def everywhere(self) -> Refinement:
        """Plain saliency supervision: every pixel is pulled to its saliency, also where the maps contradict it."""
        return dataclasses.replace(self, active=2.0, overlap=0.0)


REFINEMENTS = {"resnet101": Refinement(), "small": Refinement(seg=seg.RECIPES["small"])}


def train(data: Source, out: str | Path, *, masks: str | Path, maps: str | Path, backbone: str = "resnet101",
          weights: str | Path | None = None, recipe: Refinement | None = None, name: str = "seg", device: str = "auto",
          seed: int = 0, workers: int = 0, precision: str = "auto") -> TrainResult:
    """Train DeepLabV2 on pseudo-masks and saliency; leaves `<out>/<name>/weights.pth`, which `seg.infer` takes.

    The loss is `seg.train`'s plus `weight` times `ops.aamr_loss` of the largest logits over the scales: with F the
    probability of anything but background, S the saliency and R the highest response of a present class, the mean binary
    cross-entropy of F against S over Omega. Omega are the pixels with S < `salient` and R < `active`, and the salient regions
    of which at least the share `overlap` has R >= `active`. So an object that is not salient, but has a response, is left
    alone, and so is what is salient without one. The formula is this project's reconstruction: the authors published none
    of its code.

    Args:
        data: images and a saliency map for every id (8 or 16-bit PNGs, bright where something is salient, of any size); a
            data set, or what `data.load` opens.
        out: run folder.
        masks: folder of label PNGs (0 background, 1..C, 255 ignored).
        maps: folder of response maps, of `ccr.infer`.
        backbone: "resnet101" or "small".
        weights: where the net starts, see `seg.train`.
        recipe: numbers of the training; default: the backbone's.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        seed: of initialisation, shuffling and augmentation.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used, a missing mask, map or saliency map.
        RunError: the loss became infinite.

    Source: CCR, section 3.3, as far as its abstract tells.
    """
    data, recipe = opened(data), recipe or REFINEMENTS.get(backbone, Refinement())
    shared = {"masks": masks, "backbone": backbone, "weights": weights, "recipe": recipe.seg, "name": name, "device": device,
              "seed": seed, "workers": workers, "precision": precision}
    if recipe.weight == 0:
        return seg.learn(data, out, **shared)
    folder = Path(maps)
    check_maps(folder, data)
    saliency.check(data)
    numbers = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if f.name != "seg"}
    return seg.learn(data, out, **shared, beside=_refinement(recipe),
                     sampler=lambda data, masks, augment: _sampler(data, masks, folder, augment),
                     depends={"maps": provenance(folder), "saliency": provenance(data.saliencies[data.ids[0]].parent),
                              "refinement": numbers})


def _refinement(recipe: Refinement) -> seg.Beside:
    def loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        salient, silent, _ = batch["maps"].unbind(1)
        return recipe.weight * aamr_loss(logits, salient, 1 - silent, salient=recipe.salient, active=recipe.active,
                                         overlap=recipe.overlap)
    return loss


def _sampler(data: Dataset, masks: Path, maps: Path, augment: Augment) -> seg.Sampler:
    def make(id: str, rng: np.random.Generator) -> Batch:
        image, mask, levels = augment.with_maps(data.image(id), read_label(masks, data, id), _levels(data, maps, id), rng)
        return {"image": image, "mask": mask, "maps": levels}
    return make


def _levels(data: Dataset, maps: Path, id: str) -> np.ndarray:
    """Saliency and 255 - response as uint8 [H, W, 3]; the last channel is 0.

    What lies outside of the image is 0 in a crop: not salient, and with the response turned round active, so that the loss
    says nothing about it.
    """
    height, width = data.size(id)
    scores = load_maps(maps, id).foreground().at_size(height, width)
    response = scores.max(axis=0, initial=0.0).clip(0, 1)
    levels = np.zeros((height, width, 3), np.uint8)
    levels[..., 0] = np.rint(resize_image(data.saliency_levels(id), height, width).mean(axis=2))
    levels[..., 1] = np.rint(255 * (1 - response))
    return levels
