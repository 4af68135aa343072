"""The models of each kind of network: how its outputs become masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from wsss_fast import amn, eps, nets, seg
from wsss_fast.engine import stream
from wsss_fast.engine.runtime import Runtime, resolve_runtime
from wsss_fast.errors import InputError
from wsss_fast.nets.model_file import MODEL_FILE, ModelInfo
from wsss_fast.prediction import from_maps
from wsss_fast.prediction.from_maps import MapsOf, SeedNumbers, ToMask
from wsss_fast.prediction.model import Batch, Model, Predicted
from wsss_fast.runs import resolve_preset
from wsss_fast.seg.inference import Predictor
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.trained import recipe_of

R = TypeVar("R")


class Request(NamedTuple):
    """What `open_model` was asked for.

    Attributes:
        weights: the file.
        info: what it is of.
        cams: the file of the classifier of an AMN and what it is of, or None.
        preset, threshold, crf, device, precision: as for `open_model`.
    """

    weights: Path
    info: ModelInfo
    cams: tuple[Path, ModelInfo] | None
    preset: str | None
    threshold: float | None
    crf: bool
    device: str
    precision: str

    def runtime(self, recipe: Any) -> Runtime:
        """Device and dtype for a network with a recipe. Collective."""
        return resolve_runtime(self.device, 0, 0, self.precision, prefer_bf16=recipe.prefer_bf16)


class _Loaded(NamedTuple):
    """A network ready for inference, its runtime, and what identifies it."""

    net: Any
    runtime: Runtime
    identity: dict[str, Any]


def seg_recipe(preset: str | None, backbone: str, head: str | None) -> seg.Recipe:
    """The recipe of a preset, or the usual one of a backbone with a head."""
    recipe = resolve_preset("predict", seg.PRESETS, seg.RECIPES, preset, backbone, None).numbers
    # The network's constructor knows the heads.
    changes: dict[str, Any] = {} if preset is not None or head is None else {"head": head}
    return dataclasses.replace(recipe, **changes)


def seg_model(asked: Request) -> Model:
    """A segmentation network; its masks are those of `seg infer`."""
    info = asked.info
    if asked.threshold is not None:
        raise InputError(
            "threshold: a segmentation network has none: a pixel has the most probable label"
        )
    if info.recipe is not None and asked.preset is not None:
        raise InputError(
            f"preset: got {asked.preset!r}, but {asked.weights} has its own recipe; leave it out"
        )
    recipe = _recipe(asked, seg_recipe(asked.preset, info.backbone, info.options.get("head")))
    net, where, identity = _load(asked.weights, info, asked.runtime(recipe))
    predictor = Predictor(net, recipe, where, recipe.crf if asked.crf else None)

    def compute(batch: Batch, probabilities: bool, times: stream.Times) -> Predicted:
        assert batch.inputs is not None
        photos, inputs = (
            one.to(where.device, non_blocking=True) for one in (batch.photos, batch.inputs)
        )
        labels, finite, scores = predictor.predict(photos, inputs, times)
        return Predicted(labels, finite, scores if probabilities else None)

    return Model(
        network="segmentation network",
        classes=info.classes,
        needs_tags=False,
        gives_probabilities=True,
        batch_size=recipe.infer_batch,
        runtime=where,
        arguments={**identity, **predictor.arguments()},
        prepare=lambda photos: predictor.inputs([*photos]),
        compute=compute,
    )


def cam_model(asked: Request) -> Model:
    """A CAM classifier; its masks are those of `cam infer` and `stages.masks`."""
    numbers = _classifier_numbers(asked, asked.info)
    recipe = _recipe(asked, numbers.cam)
    net, where, identity = _load(asked.weights, asked.info, asked.runtime(recipe))
    maps = from_maps.of_classifier(net, recipe.scales, recipe.align, where)
    identity |= {"scales": recipe.scales, "align": recipe.align}
    to_mask = ToMask(numbers.cam_threshold, None)
    if asked.crf:
        # EPS' pipeline refines no masks of its classifier.
        is_amn = isinstance(numbers, amn.Pipeline)
        to_mask = (
            ToMask(numbers.cam_crf_threshold, numbers.crf)
            if is_amn
            else dataclasses.replace(to_mask, crf=Crf())
        )
    return _map_model(asked, "CAM classifier", recipe.infer_batch, where, identity, maps, to_mask)


def amn_model(asked: Request) -> Model:
    """An AMN; its masks are those of `amn infer` and `stages.masks`."""
    info = asked.info
    numbers = _numbers(amn, asked.preset, info.backbone)
    recipe = _recipe(asked, numbers.amn)
    net, where, identity = _load(asked.weights, info, asked.runtime(recipe))
    seeds = SeedNumbers(numbers.fg_threshold, numbers.bg_threshold, numbers.crf)
    cams = None
    identity |= {"scales": recipe.scales, "present_only": recipe.present_only, "seeds": None}
    if asked.cams is not None:
        file, cam_info = asked.cams
        usual = _classifier_numbers(asked, cam_info).cam
        cam_recipe = recipe_of(file, cam_info, None, {cam_info.backbone: usual}, cam_info.backbone)
        cam_net, _, cam_identity = _load(file, cam_info, where)
        cams = from_maps.of_classifier(cam_net, cam_recipe.scales, cam_recipe.align, where)
        identity["seeds"] = {**cam_identity, **seeds._asdict(), "scales": cam_recipe.scales}
    maps = from_maps.of_amn(net, recipe.scales, recipe.present_only, where, cams, seeds)
    refine = numbers.refine
    to_mask = ToMask(numbers.amn_threshold, None)
    if asked.crf:
        to_mask = ToMask(refine.crf_threshold, refine.crf)
    return _map_model(asked, "AMN", recipe.infer_batch, where, identity, maps, to_mask)


def eps_model(asked: Request) -> Model:
    """EPS' network; its masks are those of `eps infer`."""
    info = asked.info
    recipe = _recipe(asked, _numbers(eps, asked.preset, info.backbone).eps)
    net, where, identity = _load(asked.weights, info, asked.runtime(recipe), amx=True)
    maps = from_maps.of_eps(net, recipe.scales, where)
    identity |= {"scales": recipe.scales}
    if asked.crf and asked.threshold is not None:
        raise InputError(
            "threshold: EPS' CRF computes the score of the background itself; switch the CRF "
            "off, or leave it out"
        )
    to_mask = ToMask(recipe.threshold, recipe.crf if asked.crf else None)
    return _map_model(asked, "EPS network", recipe.infer_batch, where, identity, maps, to_mask)


# By the name of the network in a model file.
KINDS: Mapping[str, Callable[[Request], Model]] = {
    "seg": seg_model,
    "cam": cam_model,
    "amn": amn_model,
    "eps": eps_model,
}


def _classifier_numbers(asked: Request, info: ModelInfo) -> Any:
    """The numbers of the pipeline that a classifier belongs to."""
    return _numbers(eps if info.backbone == "resnet38" else amn, asked.preset, info.backbone)


def _numbers(method: Any, preset: str | None, backbone: str) -> Any:
    """The numbers of a method's pipeline: those of the preset, or the usual ones."""
    presets, pipelines = method.PRESETS, method.PIPELINES
    return resolve_preset("predict", presets, pipelines, preset, backbone, None).numbers


def _recipe(asked: Request, usual: R) -> R:
    """The recipe in the weights file, or the usual one."""
    info = asked.info
    return recipe_of(asked.weights, info, None, {info.backbone: usual}, info.backbone)


def _load(weights: Path, info: ModelInfo, where: Runtime, *, amx: bool = False) -> _Loaded:
    file = weights / MODEL_FILE if (weights / MODEL_FILE).is_file() else weights
    net = nets.load_weights(info.build(weights), file, complete=True)
    identity = {
        "network": info.network,
        "weights": nets.fingerprint(net.state_dict()),
        "dtype": str(where.dtype),
        **info.options,
    }
    return _Loaded(nets.optimize_for_inference(net, where, amx=amx), where, identity)


def _map_model(
    asked: Request,
    network: str,
    batch_size: int,
    where: Runtime,
    identity: dict[str, Any],
    maps: MapsOf,
    to_mask: ToMask,
) -> Model:
    if asked.threshold is not None:
        to_mask = dataclasses.replace(to_mask, threshold=asked.threshold)
    return Model(
        network=network,
        classes=asked.info.classes,
        needs_tags=True,
        gives_probabilities=to_mask.crf is not None,
        batch_size=batch_size,
        runtime=where,
        arguments={**identity, "threshold": to_mask.threshold, "crf": to_mask.crf},
        prepare=lambda photos: None,
        compute=from_maps.masks_of(maps, to_mask, len(asked.info.classes)),
    )
