"""CCR's whole road: from a classifier over response maps and IRN to pseudo-masks and a segmentation network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from wsss_fast import amn, cam, irn, nets, report
from wsss_fast.ccr.method import RECIPES, Recipe, infer
from wsss_fast.ccr.refinement import REFINEMENTS, Refinement, train
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.road import Preset, RunResult, segment, setting
from wsss_fast.run import runtime, write_config
from wsss_fast.stages import masks, saliency, score
from wsss_fast.stages import seeds as seed_stage
from wsss_fast.stages.seeds import Crf


@dataclasses.dataclass(frozen=True)
class Road:
    """Every number of the whole road; the defaults are published for VOC, with IRN in the place of PSA's random walk.

    Attributes:
        cam: of the classifier, for its maps, and for its training where no weights are given.
        cam_threshold: background score at which CAM is reported beside its best one.
        ccr: of the response maps.
        ccr_threshold: background score at which they are reported beside their best one.
        cam_crf_threshold: the same for CAM behind the CRF.
        ccr_crf_threshold: the same for response maps behind the CRF; makes the masks where `refine` is "crf".
        crf: of the seeds and behind maps.
        irn_fg_threshold: of the seeds from response maps that IRN learns from.
        irn_bg_threshold: likewise.
        irn: of IRN, whose `threshold` makes the pseudo-masks.
        irn_mask_threshold: background score of IRN's maps behind the CRF.
        refine: what makes the pseudo-masks of response maps: "irn", "irn+crf", or "crf", which leaves IRN out.
        seg: of the segmentation network and the saliency beside its masks.
    """

    cam: cam.Recipe = cam.RECIPES["resnet38"]
    cam_threshold: float = 0.20
    ccr: Recipe = RECIPES["resnet38"]
    ccr_threshold: float = 0.25
    cam_crf_threshold: float = 0.25
    ccr_crf_threshold: float = 0.25
    crf: Crf = Crf()
    irn_fg_threshold: float = 0.45
    irn_bg_threshold: float = 0.15
    irn: irn.Recipe = irn.RECIPES["resnet50"]
    irn_mask_threshold: float = 0.25
    refine: Literal["irn", "irn+crf", "crf"] = "irn"
    seg: Refinement = REFINEMENTS["resnet101"]


_SMALL = amn.ROADS["small"]
ROADS = {
    "resnet38": Road(),
    "resnet50": Road(cam=cam.RECIPES["resnet50"], ccr=RECIPES["resnet50"]),
    "small": Road(cam=_SMALL.cam, cam_threshold=_SMALL.cam_threshold, cam_crf_threshold=_SMALL.cam_crf_threshold,
                  ccr=RECIPES["small"], ccr_threshold=0.74, ccr_crf_threshold=0.62, crf=_SMALL.crf, irn_fg_threshold=0.80,
                  irn_bg_threshold=0.50, irn=_SMALL.irn, irn_mask_threshold=_SMALL.irn_mask_threshold, refine="irn+crf",
                  seg=REFINEMENTS["small"]),
}
PRESETS = {"voc": Preset("resnet38", ROADS["resnet38"]), "shapes": Preset("small", ROADS["small"])}


def run(data: Source, out: str | Path, *, preset: Literal["voc", "shapes"] | None = None, backbone: str | None = None,
        weights: str | Path | None = None, irn_weights: str | Path | None = None, seg_weights: str | Path | None = None,
        road: Road | None = None, until: Literal["masks", "seg"] = "seg", val: Source | None = None, device: str = "auto",
        seed: int = 0, workers: int = 0, precision: str = "auto") -> RunResult:
    """From a classifier to a segmentation network: CAM, response maps, IRN, pseudo-masks, DeepLabV2 with saliency.

    Every stage is scored where masks exist. Finished stages and figures are skipped, so a killed run goes on when repeated.

    Args:
        data: images, tags and, unless `road.seg.weight` is 0 or `until` "masks", a saliency map for every id; a data set or
            what `data.load` opens. Masks, where there are any, are only used to score.
        out: run folder; gets cam/, ccr/, irn/, masks/ (those behind a CRF), seg/, config.json, metrics.json and report.html.
        preset: a published setting: "voc" or "shapes" (the embedded benchmark); gives `backbone` and `road`.
        backbone: of the classifier: "resnet38" (published), "resnet50" or "small"; default: the preset's, or "resnet38".
        weights: of the trained classifier; without it one is trained from random weights.
        irn_weights: where IRN's backbone starts, ImageNet's ResNet-50; without it "resnet50" and "small" start from the
            classifier.
        seg_weights: where the segmentation network starts, DeepLab's COCO initialisation; "small" starts from the classifier
            without it.
        road: every number of the road; default: the preset's, or the backbone's.
        until: "seg" for the whole road, "masks" to end with the pseudo-masks.
        val: images that the segmentation network predicts; without it that predicts `data`.
        device: auto, cpu, cuda or cuda:N.
        seed: of initialisation, shuffling and augmentation.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used, a missing saliency map, or `out` holds stages made with other
            arguments.
        RunError: a loss became infinite.

    Source: Sun, Zhang and Barnes, WACV 2022.
    """
    data, out = opened(data), Path(out)
    backbone, road = setting("ccr.run", PRESETS, ROADS, preset, backbone, road)
    nets.check(backbone, weights, {**nets.BACKBONES, **nets.SALIENCY_BACKBONES})
    data.check_masks()
    if until == "seg" and road.seg.weight:
        saliency.check(data)
    shared = {"backbone": backbone, "device": device, "precision": precision}
    where = runtime(device, seed, workers, precision, prefer_bf16=False)
    write_config(out, "ccr.run", {"data": data.fingerprint(), "weights": weights, "irn_weights": irn_weights,
                                  "seg_weights": seg_weights, "road": road, "until": until, "seed": seed, "workers": workers,
                                  **shared})
    crf_device, extra = str(where.device), {}
    if weights is None:
        trained = cam.train(data, out, recipe=road.cam, val=val, seed=seed, workers=workers, **shared)
        weights, extra = trained.weights, {"mean_ap": trained.mean_ap}
    cams = cam.infer(data, weights, out, recipe=road.cam, **shared)
    score.maps(out, "cam", data, cams.maps, fixed=road.cam_threshold, crf=road.crf, fixed_crf=road.cam_crf_threshold,
               device=crf_device, extra=extra)
    responses = infer(data, weights, out, recipe=road.ccr, **shared)
    score.maps(out, "ccr", data, responses.maps, fixed=road.ccr_threshold, crf=road.crf, fixed_crf=road.ccr_crf_threshold,
               device=crf_device)
    made = _pseudo_masks(data, out, responses.maps, road, irn_weights or (weights if backbone != "resnet38" else None), seed,
                         workers, {**shared, "backbone": "small" if backbone == "small" else "resnet50"}, crf_device)
    metrics = score.masks(out, "masks", data, made)

    predictions = seg_metrics = None
    if until == "seg":
        predictions, seg_metrics = segment(
            data, out, made, opened(val) if val is not None else data, road.seg.seg, small=backbone == "small",
            weights=seg_weights or (weights if backbone == "small" else None), seed=seed, workers=workers, device=device,
            precision=precision, train=lambda *args, **options: train(*args, **{**options, "recipe": road.seg},
                                                                      maps=responses.maps))
    page = report.write(out, data, panels(data, out, made), title="CCR: from a classifier to masks",
                        curves={"CAM": "cam", "CCR": "ccr", **({} if road.refine == "crf" else {"IRN": "irn"})})
    return RunResult(out, made, metrics, page, predictions, seg_metrics)


def _pseudo_masks(data: Dataset, out: Path, maps: Path, road: Road, weights: str | Path | None, seed: int, workers: int,
                  shared: dict[str, str], crf_device: str) -> Path:
    """Response maps through IRN and, or, the CRF, as `road.refine` says; the folder of masks."""
    threshold = road.ccr_crf_threshold
    if road.refine != "crf":
        learned = seed_stage.make(data, maps, out, fg_threshold=road.irn_fg_threshold, bg_threshold=road.irn_bg_threshold,
                                  crf=road.crf, name="irn/seeds", device=crf_device)
        score.seeds(out, "irn/seeds", data, learned.folder)
        boundaries = irn.train(data, out, seeds=learned.folder, weights=weights, recipe=road.irn, seed=seed, workers=workers,
                               **shared)
        refined = irn.infer(data, boundaries.weights, out, maps=maps, recipe=road.irn, **shared)
        score.maps(out, "irn", data, refined.maps, fixed=road.irn.threshold, crf=road.crf, fixed_crf=road.irn_mask_threshold,
                   device=crf_device)
        if road.refine == "irn":
            return refined.masks
        maps, threshold = refined.maps, road.irn_mask_threshold
    return masks.make(data, maps, out, threshold=threshold, crf=road.crf, device=crf_device).folder


def panels(data: Dataset, out: Path, made: Path) -> dict[str, report.Panel]:
    """The columns of the picture grid of a run whose pseudo-masks are in `made`: title -> picture of an id."""
    saliency_column = {"saliency": report.salient(data)} if all(i in data.saliencies for i in data.ids) else {}
    return {"image": report.photo(data), "truth": report.truth(data), **saliency_column,
            "CAM": report.heat(data, out / "cam/maps"), "CCR map": report.heat(data, out / "ccr/maps"),
            "mask": report.labels(data, made)}
