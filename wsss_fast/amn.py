"""AMN, "Threshold Matters in WSSS" (Lee, Kim and Shim, CVPR 2022): activation manipulation network and its whole road."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from wsss_fast import cam, irn, nets, report, seg
from wsss_fast.cam import MapsResult, TrainResult
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.label_folder import check_label_folder, read_label
from wsss_fast.data.transforms import Augment, resize_labels
from wsss_fast.errors import InputError
from wsss_fast.fit import Batch, Samples, constant, fit, poly
from wsss_fast.maps import ClassMaps, resize_maps, strided_size
from wsss_fast.ops import pixel_cross_entropy
from wsss_fast.progress import say
from wsss_fast.run import provenance, runtime, set_seed, stage, write_config
from wsss_fast.stages import masks, score
from wsss_fast.stages import seeds as seed_stage
from wsss_fast.stages.activate import Scorer, Views, activate, unflipped
from wsss_fast.stages.evaluate import Metrics
from wsss_fast.stages.seeds import Crf


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the AMN is trained and its maps are made; the defaults are the published numbers.

    Attributes:
        epochs: passes over the images.
        batch_size: images an update.
        lr: of the backbone.
        head_lr: of the label scale and the dilated convolutions.
        weight_decay: L2 in Adam.
        smoothing: label smoothing, 0..1: the label gets 1 - smoothing, the rest is shared by the other classes.
        balance: mean over background and mean over foreground pixels count the same.
        condition_at: where the label scale acts: "layer4", "layer3", "layer2" or None (no label conditioning).
        present_only: softmax over background and present classes instead of all.
        augment: of images and seeds.
        scales: of the views whose logits are averaged, each with its mirror image.
        infer_batch: images of equal size that share a pass at inference; photos at scale 2 are large, so 1.
        schedule: progress -> factor on the learning rates.
        prefer_bf16: let precision "auto" mean bf16 where the hardware has it.
    """

    epochs: int = 5
    batch_size: int = 16
    lr: float = 5e-6
    head_lr: float = 1e-4
    weight_decay: float = 1e-4
    smoothing: float = 0.4
    balance: bool = True
    condition_at: str | None = "layer4"
    present_only: bool = False
    augment: Augment = Augment(crop=512, scale=(0.5, 1.5))
    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    infer_batch: int = 1
    schedule: Callable[[float], float] = dataclasses.field(default_factory=constant)
    prefer_bf16: bool = False


def adam(net: nets.AmnNet, recipe: Recipe) -> torch.optim.Optimizer:
    """Adam with weight decay as L2, as published: the backbone at `lr`, what is new at `head_lr`."""
    groups = [{"params": [p for p in net.backbone.parameters() if p.requires_grad], "lr": recipe.lr},
              {"params": net.head_parameters(), "lr": recipe.head_lr}]
    return torch.optim.Adam(groups, weight_decay=recipe.weight_decay)


@dataclasses.dataclass(frozen=True)
class Road:
    """Every number of the whole road, from the classifier to the segmentation network; the defaults are published for VOC.

    Attributes:
        cam: of the classifier.
        cam_threshold: background score at which CAM is reported beside its best one.
        cam_crf_threshold: the same for CAM behind the CRF.
        fg_threshold: of the seeds.
        bg_threshold: of the seeds.
        crf: of the seeds.
        amn: of the AMN.
        amn_threshold: background score at which AMN maps are reported beside their best one.
        mask_threshold: background score of AMN maps behind the CRF.
        mask_crf: of AMN maps.
        irn_fg_threshold: of the seeds from AMN maps that IRN learns from.
        irn_bg_threshold: likewise.
        irn: of IRN, whose `threshold` makes the pseudo-masks.
        irn_mask_threshold: background score of IRN's maps behind the CRF.
        refine: what makes the pseudo-masks of AMN maps: "irn" as published, "irn+crf", or "crf", which leaves IRN out.
        seg: of the segmentation network.
    """

    cam: cam.Recipe = cam.RECIPES["resnet50"]
    cam_threshold: float = 0.25
    cam_crf_threshold: float = 0.25
    fg_threshold: float = 0.30
    bg_threshold: float = 0.05
    crf: Crf = Crf()
    amn: Recipe = Recipe()
    amn_threshold: float = 0.25
    mask_threshold: float = 0.25
    mask_crf: Crf = Crf()
    irn_fg_threshold: float = 0.45
    irn_bg_threshold: float = 0.15
    irn: irn.Recipe = irn.RECIPES["resnet50"]
    irn_mask_threshold: float = 0.25
    refine: Literal["irn", "irn+crf", "crf"] = "irn"
    seg: seg.Recipe = seg.RECIPES["resnet101"]


# 128 px images: appearance kernel scaled with the image, wider colour tolerance for its noise
_SMALL_CRF = Crf(bilateral=(25.0, 13.0, 10.0))

RECIPES = {
    "resnet50": Recipe(),
    "small": Recipe(epochs=8, lr=3e-4, head_lr=3e-3, augment=Augment(crop=128, scale=(0.8, 1.3)),
                    scales=(1.0, 0.75, 1.5), infer_batch=16, schedule=poly(warmup=0.05), prefer_bf16=True),
}
ROADS = {
    "resnet50": Road(),
    "small": Road(cam=cam.RECIPES["small"], cam_threshold=0.42, cam_crf_threshold=0.30, fg_threshold=0.40,
                  bg_threshold=0.12, crf=_SMALL_CRF, amn=RECIPES["small"], amn_threshold=0.56, mask_threshold=0.50,
                  mask_crf=_SMALL_CRF, irn_fg_threshold=0.55, irn_bg_threshold=0.30, irn=irn.RECIPES["small"],
                  irn_mask_threshold=0.30, refine="irn+crf",                  seg=seg.RECIPES["small"]),
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published setting by name: the networks' backbone and every number."""

    backbone: str
    road: Road


PRESETS = {
    "voc": Preset("resnet50", ROADS["resnet50"]),
    "coco": Preset("resnet50", Road(irn=dataclasses.replace(irn.RECIPES["resnet50"], threshold=0.22, pad=1))),
    "shapes": Preset("small", ROADS["small"]),
}


def train(data: Source, out: str | Path, *, seeds: str | Path, backbone: str = "resnet50",
          weights: str | Path | None = None, recipe: Recipe | None = None, name: str = "amn", device: str = "auto",
          seed: int = 0, workers: int = 0, precision: str = "auto") -> TrainResult:
    """Train the AMN on seeds by the per-pixel classification loss; leaves `<out>/<name>/weights.pth`.

    Args:
        data: images and tags; a data set, or what `data.load` opens.
        out: run folder.
        seeds: folder of seed PNGs (0 background, 1..C, 255 ignored), as `seeds.make` leaves them.
        backbone: "resnet50" or "small".
        weights: where the net starts, see `nets.load_weights`: ImageNet's ResNet-50 as published, or a CAM classifier.
        recipe: numbers of the training; default: the backbone's.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        seed: of initialisation, shuffling, augmentation and dropout.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used, a missing seed.
        RunError: the loss became infinite.

    Source: AMN, section 3.2 and 3.3 (eq. 2-5).
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    where = runtime(device, seed, workers, precision, prefer_bf16=recipe.prefer_bf16)
    folder = check_label_folder(Path(seeds), data, "seeds")
    set_seed(seed)
    net = nets.amn_resnet50(len(data.classes), backbone=backbone, condition_at=recipe.condition_at)
    if weights is not None:
        nets.load_weights(net, weights)
    else:
        say(f"{name}: no weights given, so the backbone starts from random ones; the published numbers start from ImageNet's")
    out = Path(out)
    file = out / name / "weights.pth"

    def work() -> dict[str, object]:
        history = fit(net, _step(recipe), Samples(data.ids, _sampler(data, folder, recipe.augment), seed),
                      optimizer=adam(net, recipe), schedule=recipe.schedule,
                      epochs=recipe.epochs, batch_size=recipe.batch_size, runtime=where, label=f"train {name}")
        nets.save_weights(net, file)
        return {"losses": history.losses, "samples_per_second": history.samples_per_second}

    notes = stage(out, name, {"data": data.fingerprint(), "seeds": provenance(folder), "backbone": backbone,
                              "weights": nets.fingerprint(weights), "recipe": recipe, "seed": seed,
                              "dtype": str(where.dtype)}, work)
    return TrainResult(file, notes["losses"])


def infer(data: Source, weights: str | Path, out: str | Path, *, seeds: str | Path, backbone: str = "resnet50",
          recipe: Recipe | None = None, name: str = "amn/maps", device: str = "auto",
          precision: str = "auto") -> MapsResult:
    """AMN maps of every image; leaves `<out>/<name>/<id>.npz` with the background as row 0.

    Logits of each scale, averaged with the mirror image's, resized bilinearly and averaged over scales; softmax over
    all channels; background and present classes kept. Where the seed is not background, a row is replaced by
    (x - min) / (max - min + 1e-5), min and max over the image. Dropout is off (the public code leaves it on).

    Args:
        data: images and tags; a data set, or what `data.load` opens.
        weights: a trained AMN: ours, or the public `res50_amn.pth`.
        out: run folder.
        seeds: folder of seed PNGs.
        backbone: "resnet50" or "small".
        recipe: its `scales`, `present_only`, `condition_at` and `infer_batch` are used; default: the backbone's.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used.
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    where = runtime(device, 0, 0, precision, prefer_bf16=recipe.prefer_bf16)
    folder = check_label_folder(Path(seeds), data, "seeds")
    net = nets.amn_resnet50(len(data.classes), backbone=backbone, condition_at=recipe.condition_at)
    net = nets.prepared(nets.load_weights(net, weights, complete=True), where)
    out = Path(out)

    def work() -> dict[str, float]:
        to_maps = scorer(net, lambda id: read_label(folder, data, id), recipe.present_only)
        speed = activate(data, to_maps, out / name, scales=recipe.scales, batch_size=recipe.infer_batch, runtime=where,
                         label=name)
        return {"images_per_second": speed}

    stage(out, name, {"data": data.fingerprint(), "seeds": provenance(folder), "weights": nets.fingerprint(weights),
                      "scales": recipe.scales, "present_only": recipe.present_only, "dtype": str(where.dtype)}, work)
    return MapsResult(out / name)


def scorer(net: nets.AmnNet, seed_of: Callable[[str], np.ndarray], present_only: bool = False) -> Scorer:
    """AMN as a scorer for `stages.activate`; `seed_of` gives the seed of an id, uint8 [H, W]."""
    def to_maps(views: Views) -> list[ClassMaps]:
        labels = torch.cat([views.tags, views.tags])
        logits = []
        for scale in views.scales:
            images, mirrored = unflipped(net(scale, labels).float())
            logits.append((images + mirrored) / 2)  # [B, C+1, h_s, w_s]
        return [merge_logits([view[i] for view in logits], tags, seed_of(id), views.size, present_only)
                for i, (id, tags) in enumerate(zip(views.ids, views.tags, strict=True))]
    return to_maps


def merge_logits(views: list[torch.Tensor], tags: torch.Tensor, seed: np.ndarray, size: tuple[int, int],
                 present_only: bool = False) -> ClassMaps:
    """Maps of one image from the logits of its scales.

    Args:
        views: logits [C+1, h_s, w_s] of each scale.
        tags: multi-hot [C].
        seed: uint8 [H, W].
        size: (H, W).
        present_only: softmax over background and present classes only.
    """
    kept = torch.cat([tags.new_ones(1), tags]).nonzero()[:, 0]
    strided, high_res = (_normalised(views, kept, seed, each, present_only) for each in (strided_size(*size), size))
    return ClassMaps(kept.cpu().numpy().astype(np.int16), strided, high_res)


def _normalised(views: list[torch.Tensor], kept: torch.Tensor, seed: np.ndarray, size: tuple[int, int],
                present_only: bool) -> np.ndarray:
    chosen = [view[kept] for view in views] if present_only else views
    logits = torch.stack([resize_maps(view, *size) for view in chosen]).mean(dim=0)
    scores = logits.softmax(dim=0)
    scores = scores if present_only else scores[kept]
    low, high = (f(scores, dim=(1, 2), keepdim=True) for f in (torch.amin, torch.amax))
    stretched = (scores - low) / (high - low + 1e-5)
    uncertain = torch.from_numpy(resize_labels(seed, *size) != 0).to(scores.device)
    return torch.where(uncertain, stretched, scores).cpu().numpy()


def _step(recipe: Recipe) -> Callable[[nn.Module, Batch], torch.Tensor]:
    def step(net: nn.Module, batch: Batch) -> torch.Tensor:
        logits = net(batch["image"], batch["tags"])
        return pixel_cross_entropy(logits, batch["seed"], smoothing=recipe.smoothing, balance=recipe.balance)
    return step


def _sampler(data: Dataset, seeds: Path, augment: Augment) -> Callable[[str, np.random.Generator], Batch]:
    def make(id: str, rng: np.random.Generator) -> Batch:
        image, seed = augment(data.image(id), read_label(seeds, data, id), rng)
        return {"image": image, "seed": seed, "tags": torch.from_numpy(data.tags_of(id).astype(np.float32))}
    return make


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What the whole road left.

    Attributes:
        out: the run folder.
        masks: folder of pseudo-masks.
        metrics: of the pseudo-masks on the ids that have a true mask; None if there are none.
        report: the page of pictures.
        predictions: folder of the segmentation network's masks; None if it was left out.
        seg_metrics: of these; None without true masks.
    """

    out: Path
    masks: Path
    metrics: Metrics | None
    report: Path
    predictions: Path | None = None
    seg_metrics: Metrics | None = None


def run(data: Source, out: str | Path, *, preset: Literal["voc", "coco", "shapes"] | None = None,
        backbone: str | None = None, weights: str | Path | None = None, seg_weights: str | Path | None = None,
        road: Road | None = None, until: Literal["masks", "seg"] = "seg", val: Source | None = None, device: str = "auto",
        seed: int = 0, workers: int = 0, precision: str = "auto") -> RunResult:
    """From image tags to a segmentation network: classifier, CAM, seeds, AMN, AMN maps, IRN, pseudo-masks, DeepLabV2.

    Every stage is scored where masks exist. Finished stages and figures are skipped: a second call only reads the true masks
    and writes the page again, and a killed one goes on at the stage it was in (at the image, where that stage makes maps).

    Args:
        data: images and tags, a data set or what `data.load` opens; masks, where there are any, are only used to score.
        out: run folder; gets cam/, seeds/, amn/, irn/, masks/ (those behind a CRF), seg/, config.json, metrics.json
            and report.html.
        preset: a published setting: "voc", "coco" or "shapes" (the embedded benchmark); gives `backbone` and `road`.
        backbone: "resnet50" (the published recipe) or "small" (from scratch, for laptops and small images); default: the
            preset's, or "resnet50".
        weights: where classifier, AMN and IRN start, ImageNet's ResNet-50 as published; without it AMN and IRN start from the
            classifier.
        seg_weights: where the segmentation network starts, DeepLab's COCO initialisation as published; "small" starts from
            the classifier without it.
        road: every number of the road; default: the preset's, or the backbone's.
        until: "seg" for the whole road, "masks" to end with the pseudo-masks.
        val: tagged images on which the classifier's mean average precision is measured, and which the segmentation network
            predicts; without it that predicts `data`.
        device: auto, cpu, cuda or cuda:N.
        seed: of initialisation, shuffling, augmentation and dropout.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used, or `out` holds stages made with other arguments.
        RunError: a loss became infinite.

    Source: Lee, Kim and Shim, CVPR 2022.
    """
    data, out = opened(data), Path(out)
    backbone, road = _setting(preset, backbone, road)
    nets.check(backbone, weights)
    data.check_masks()
    shared = {"backbone": backbone, "device": device, "precision": precision}
    where = runtime(device, seed, workers, precision, prefer_bf16=False)
    write_config(out, "amn.run", {"data": data.fingerprint(), "weights": weights, "seg_weights": seg_weights, "road": road,
                                  "until": until, "seed": seed, "workers": workers, **shared})
    crf_device = str(where.device)

    classifier = cam.train(data, out, weights=weights, recipe=road.cam, val=val, seed=seed, workers=workers, **shared)
    start = weights or classifier.weights
    cams = cam.infer(data, classifier.weights, out, recipe=road.cam, **shared)
    score.maps(out, "cam", data, cams.maps, fixed=road.cam_threshold, crf=road.crf,
               fixed_crf=road.cam_crf_threshold, device=crf_device, extra={"mean_ap": classifier.mean_ap})

    seeds = seed_stage.make(data, cams.maps, out, fg_threshold=road.fg_threshold, bg_threshold=road.bg_threshold,
                            crf=road.crf, device=crf_device)
    score.seeds(out, "seeds", data, seeds.folder)

    manipulated = train(data, out, seeds=seeds.folder, weights=start, recipe=road.amn, seed=seed, workers=workers, **shared)
    amns = infer(data, manipulated.weights, out, seeds=seeds.folder, recipe=road.amn, **shared)
    score.maps(out, "amn", data, amns.maps, fixed=road.amn_threshold, crf=road.mask_crf, fixed_crf=road.mask_threshold,
               device=crf_device)

    final, threshold = amns.maps, road.mask_threshold
    if road.refine != "crf":
        learned = seed_stage.make(data, amns.maps, out, fg_threshold=road.irn_fg_threshold, bg_threshold=road.irn_bg_threshold,
                                  crf=road.mask_crf, name="irn/seeds", device=crf_device)
        score.seeds(out, "irn/seeds", data, learned.folder)
        boundaries = irn.train(data, out, seeds=learned.folder, weights=start, recipe=road.irn, seed=seed, workers=workers,
                               **shared)
        refined = irn.infer(data, boundaries.weights, out, maps=amns.maps, recipe=road.irn, **shared)
        score.maps(out, "irn", data, refined.maps, fixed=road.irn.threshold, crf=road.mask_crf,
                   fixed_crf=road.irn_mask_threshold, device=crf_device)
        final, threshold = refined.maps, road.irn_mask_threshold
    if road.refine == "irn":
        made = refined.masks
    else:
        made = masks.make(data, final, out, threshold=threshold, crf=road.mask_crf, device=crf_device).folder
    metrics = score.masks(out, "masks", data, made)

    predictions = seg_metrics = None
    if until == "seg":
        predictions, seg_metrics = _segment(data, out, made, opened(val) if val is not None else data, backbone,
                                            seg_weights or (start if backbone == "small" else None), road, seed, workers,
                                            device, precision)
    page = report.write(out, data, panels(data, out, made), title="AMN: from image tags to masks",
                        curves={"CAM": "cam", "AMN": "amn", **({} if road.refine == "crf" else {"IRN": "irn"})})
    return RunResult(out, made, metrics, page, predictions, seg_metrics)


def _setting(preset: str | None, backbone: str | None, road: Road | None) -> tuple[str, Road]:
    if preset is not None and preset not in PRESETS:
        raise InputError(f"amn.run: preset is {preset!r}; must be one of {', '.join(PRESETS)}")
    if preset is None:
        backbone = backbone or "resnet50"
        return backbone, road or ROADS.get(backbone, Road())
    chosen = PRESETS[preset]
    if backbone not in (None, chosen.backbone):
        raise InputError(f"amn.run: preset {preset!r} is for backbone {chosen.backbone!r}, got {backbone!r}")
    return chosen.backbone, road or chosen.road


def _segment(data: Dataset, out: Path, made: Path, unseen: Dataset, backbone: str, weights: str | Path | None, road: Road,
             seed: int, workers: int, device: str, precision: str) -> tuple[Path, Metrics | None]:
    """The segmentation network, trained on the pseudo-masks, and what it predicts."""
    shared = {"backbone": "small" if backbone == "small" else "resnet101", "recipe": road.seg, "device": device,
              "precision": precision}
    trained = seg.train(data, out, masks=made, weights=weights, seed=seed, workers=workers, **shared)
    predictions = seg.infer(unseen, trained.weights, out, **shared).predictions
    return predictions, score.masks(out, f"seg on {unseen.split}", unseen, predictions)


def panels(data: Dataset, out: Path, made: Path) -> dict[str, report.Panel]:
    """The columns of the picture grid of a run whose pseudo-masks are in `made`: title -> picture of an id."""
    return {"image": report.photo(data), "truth": report.truth(data), "CAM": report.heat(data, out / "cam/maps"),
            "seed": report.labels(data, out / "seeds"), "AMN map": report.heat(data, out / "amn/maps"),
            "mask": report.labels(data, made)}
