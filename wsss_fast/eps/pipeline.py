"""EPS' whole pipeline: from image tags and saliency maps to pseudo-masks and a segmentation network, its baseline beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from wsss_fast import cam, nets, seg
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine.run_folder import write_config
from wsss_fast.engine.runtime import runtime
from wsss_fast.eps.method import COCO, RECIPES, Recipe, infer, pseudo_masks, train
from wsss_fast.errors import InputError
from wsss_fast.evaluation import report, run_scores
from wsss_fast.evaluation.confusion_ratio import named_pairs
from wsss_fast.pipeline import Preset, RunResult, resolve_preset, segment
from wsss_fast.stages import saliency


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Every number of the whole pipeline; the defaults are those published for VOC.

    Attributes:
        baseline: also train the classifier without saliency that the paper compares with; its maps show the gain, and
            find saliency maps that are inverted. Its pseudo-masks are made as EPS' are. It costs as much as EPS itself.
        cam: of that classifier.
        cam_threshold: background score at which its maps are reported beside their best one.
        eps: of EPS, whose `threshold` makes the pseudo-masks.
        crf: whether the dense CRF with alpha makes the pseudo-masks instead; published without.
        pairs: "target/coincident" names whose confusion ratio is recorded where there are masks, of maps at
            `eps.threshold` and of pseudo-masks; see `confusion_ratios`.
        seg: of the segmentation network.
    """

    baseline: bool = True
    cam: cam.Recipe = cam.RECIPES["resnet38"]
    cam_threshold: float = 0.20
    eps: Recipe = RECIPES["resnet38"]
    crf: bool = False
    pairs: tuple[str, ...] = ()
    seg: seg.Recipe = seg.RECIPES["resnet101"]


PIPELINES = {
    "resnet38": Pipeline(),
    "small": Pipeline(
        cam=cam.RECIPES["small"],
        cam_threshold=0.42,
        eps=RECIPES["small"],
        crf=True,
        pairs=("train/rails", "boat/water"),
        seg=seg.RECIPES["small"],
    ),
}
PRESETS = {
    "voc": Preset("resnet38", PIPELINES["resnet38"]),
    "coco": Preset(
        "resnet38",
        Pipeline(
            eps=COCO,
            cam=dataclasses.replace(
                cam.RECIPES["resnet38"],
                updates=COCO.updates,
                batch_size=COCO.batch_size,
                augment=COCO.augment,
            ),
        ),
    ),
    "shapes": Preset("small", PIPELINES["small"]),
}


def run(
    data: Source,
    out: str | Path,
    *,
    preset: Literal["voc", "coco", "shapes"] | None = None,
    backbone: str | None = None,
    weights: str | Path | None = None,
    seg_weights: str | Path | None = None,
    pipeline: Pipeline | None = None,
    until: Literal["masks", "seg"] = "seg",
    val: Source | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int = 0,
    precision: str = "auto",
) -> RunResult:
    """From tags and saliency to a segmentation network: classifier baseline, EPS, EPS maps, pseudo-masks, DeepLabV2.

    Every stage is scored where masks exist. Finished stages and figures are skipped, so a killed run goes on when repeated.

    Args:
        data: images, tags and a saliency map for every id, a data set or what `data.load` opens; masks, where there are
            any, are only used to score.
        out: run folder; gets cam/, eps/, seg/, config.json, metrics.json and report.html.
        preset: a published setting: "voc", "coco" or "shapes" (the embedded benchmark); gives `backbone` and `pipeline`.
        backbone: "resnet38" (the published recipe) or "small" (from scratch, for laptops and small images); default: the
            preset's, or "resnet38".
        weights: where EPS and its baseline start, ImageNet's ResNet-38 as published.
        seg_weights: where the segmentation network starts, DeepLab's COCO initialisation as published; "small" starts from
            EPS without it.
        pipeline: every number of the pipeline; default: the preset's, or the backbone's.
        until: "seg" for the whole pipeline, "masks" to end with the pseudo-masks.
        val: images that the segmentation network predicts; without it that predicts `data`.
        device: auto, cpu, cuda or cuda:N.
        seed: of initialisation, shuffling, augmentation and dropout.
        workers: loader processes; 0 loads in this one.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file that cannot be used, a missing saliency map, or `out` holds stages made with other
            arguments.
        RunError: a loss became infinite.

    Source: Lee, Lee, Lee and Shim, CVPR 2021.
    """
    data, out = opened(data), Path(out)
    backbone, pipeline = resolve_preset("eps.run", PRESETS, PIPELINES, preset, backbone, pipeline)
    nets.check(backbone, weights, nets.SALIENCY_BACKBONES)
    pairs = pairs_of(
        data, pipeline.pairs, asked=preset != "shapes" and pipeline is not PIPELINES["small"]
    )
    data.check_masks()
    shared = {"backbone": backbone, "device": device, "precision": precision}
    where = runtime(device, seed, workers, precision, prefer_bf16=False)
    saliency.check(data)
    write_config(
        out,
        "eps.run",
        {
            "data": data.fingerprint(),
            "weights": weights,
            "seg_weights": seg_weights,
            "pipeline": pipeline,
            "until": until,
            "seed": seed,
            "workers": workers,
            **shared,
        },
    )

    cams = None
    if pipeline.baseline:
        classifier = cam.train(
            data,
            out,
            weights=weights,
            recipe=pipeline.cam,
            val=val,
            seed=seed,
            workers=workers,
            **shared,
        )
        cams = cam.infer(data, classifier.weights, out, recipe=pipeline.cam, **shared).maps
        run_scores.maps(
            out,
            "cam",
            data,
            cams,
            fixed=pipeline.cam_threshold,
            crf=None,
            extra={"mean_ap": classifier.mean_ap},
            pairs=pairs,
            pairs_at=pipeline.eps.threshold,
        )
        compared = pseudo_masks(
            data,
            cams,
            out,
            recipe=pipeline.eps,
            crf=pipeline.crf,
            name="cam",
            device=str(where.device),
        )
        run_scores.masks(out, "cam masks", data, compared, pairs=pairs)

    trained = train(
        data,
        out,
        maps=cams,
        weights=weights,
        recipe=pipeline.eps,
        seed=seed,
        workers=workers,
        **shared,
    )
    made = infer(data, trained.weights, out, recipe=pipeline.eps, crf=pipeline.crf, **shared)
    run_scores.maps(
        out, "eps", data, made.maps, fixed=pipeline.eps.threshold, crf=None, pairs=pairs
    )
    metrics = run_scores.masks(out, "masks", data, made.masks, pairs=pairs)

    predictions = seg_metrics = None
    if until == "seg":
        predictions, seg_metrics = segment(
            data,
            out,
            made.masks,
            opened(val) if val is not None else data,
            pipeline.seg,
            small=backbone == "small",
            weights=seg_weights or (trained.weights if backbone == "small" else None),
            seed=seed,
            workers=workers,
            device=device,
            precision=precision,
        )
    page = report.write(
        out,
        data,
        panels(data, out, made.masks),
        title="EPS: from image tags and saliency to masks",
        curves={**({"CAM": "cam"} if pipeline.baseline else {}), "EPS": "eps"},
    )
    return RunResult(out, made.masks, metrics, page, predictions, seg_metrics)


def pairs_of(data: Dataset, pairs: tuple[str, ...], *, asked: bool) -> tuple[str, ...]:
    """`pairs` where the data has their names; those of a preset are left out on other data, those `asked` for are refused.

    Raises:
        InputError: a name that the data does not have.
    """
    try:
        named_pairs(data, pairs)
    except InputError:
        if asked:
            raise
        return ()
    return pairs


def panels(data: Dataset, out: Path, made: Path) -> dict[str, report.Panel]:
    """The columns of the picture grid of a run whose pseudo-masks are in `made`: title -> picture of an id."""
    baseline = (
        {"CAM": report.heat(data, out / "cam/maps")}
        if (out / "cam/maps/done.json").is_file()
        else {}
    )
    return {
        "image": report.photo(data),
        "truth": report.truth(data),
        "saliency": report.salient(data),
        **baseline,
        "EPS map": report.heat(data, out / "eps/maps"),
        "mask": report.labels(data, made),
    }
