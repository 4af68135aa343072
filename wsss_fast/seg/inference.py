"""Predictions of a trained segmentation network."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from wsss_fast import nets
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import distributed, stream
from wsss_fast.engine.files import atomic_write
from wsss_fast.engine.progress import Bar
from wsss_fast.engine.run_folder import check_out
from wsss_fast.engine.runtime import Runtime, resolve_runtime, with_torch_defaults
from wsss_fast.errors import InputError
from wsss_fast.ops import unary_from_probabilities
from wsss_fast.readers.label_maps import write_labels
from wsss_fast.runs import resolve_preset
from wsss_fast.seg.presets import PRESETS, RECIPES
from wsss_fast.seg.recipe import Recipe, enlarged, network
from wsss_fast.stages.activate import unfinished_batches
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.labels import label_stage
from wsss_fast.stages.trained import check_backbone, info_of, recipe_of, with_classes
from wsss_fast.thresholds import best_row


@dataclasses.dataclass(frozen=True)
class PredictResult:
    """Result of `infer`.

    Attributes:
        predictions: folder of the predicted label maps, `<id>.png`, and of the probabilities,
            `<id>.npy`, if they were requested.
    """

    predictions: Path


@with_torch_defaults
def infer(
    data: Source,
    weights: str | Path,
    out: str | Path,
    *,
    preset: str | None = None,
    backbone: str | None = None,
    recipe: Recipe | None = None,
    crf: bool = True,
    probabilities: bool = False,
    name: str = "seg/predictions",
    device: str = "auto",
    precision: str = "auto",
) -> PredictResult:
    """Predict the label map of every image, tagged or not; writes `<out>/<name>/<id>.png`.

    The maximum of the logits over the network's scales (with `flip`, averaged with the mirror
    image's), resized bilinearly to the image's size, softmax, dense CRF, argmax; with
    `recipe.test_scales`, merged over these. Finished images are skipped. Collective.

    Args:
        data: images: a data set, or an argument of `data.load`.
        weights: weights of a trained network: this package's, or a public DeepLabV2's. Images
            without class names get those of the weights.
        out: run folder.
        preset: name of a published recipe, as for `train`.
        backbone: "resnet101", "vgg16", "resnet38" or "small"; default: the preset's, or that of
            the weights, or "resnet101" for weights that do not say it.
        recipe: hyper-parameters, of which `head`, `scales`, `test_scales`, `test_merge`, `flip`,
            `resize` "aligned", `crf`, `infer_batch`, `augment.to_input` and, for `test_scales`,
            `augment.linear` are used; default: those of the preset, or those that the weights were
            trained with, or those of the backbone.
        crf: whether a dense CRF refines the probabilities.
        probabilities: whether the probabilities are written, too, as `<id>.npy`, float16
            [C+1, H, W], after CRF refinement if there is any; `wsss-fast crf` reads them.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used.
    """
    data = opened(data, tags=False)
    info = info_of(weights, "seg", data=data, backbone=backbone)
    data = with_classes(data, info)
    if preset is not None or info is None:
        chosen = resolve_preset("seg infer", PRESETS, RECIPES, preset, backbone, recipe)
        backbone, recipe = chosen.backbone, chosen.numbers
        check_backbone(weights, info, backbone, f"preset {preset!r}: backbone")
    else:
        backbone = info.backbone
    recipe = recipe_of(weights, info, recipe, RECIPES, backbone)
    runtime = resolve_runtime(device, 0, 0, precision, prefer_bf16=recipe.prefer_bf16)
    if recipe.infer_batch < 1:
        raise InputError(f"seg: infer_batch must be >= 1, got {recipe.infer_batch}")
    net = nets.load_weights(network(data, backbone, recipe), weights, complete=True)
    net = nets.optimize_for_inference(net, runtime)
    out = check_out(out)
    folder = out / name

    predictor = Predictor(net, recipe, runtime, recipe.crf if crf else None)

    def work() -> dict[str, Any]:
        return _write_all(data, predictor, folder, name, probabilities)

    arguments = {
        "data": data.fingerprint(),
        "weights": nets.fingerprint(weights),
        "probabilities": probabilities,
        "dtype": str(runtime.dtype),
        **predictor.arguments(),
    }
    arrays = [f"{id}.npy" for id in data.ids] if probabilities else []
    label_stage(out, name, data, arguments, work, more_files=arrays)
    return PredictResult(folder)


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A network and how it predicts.

    Attributes:
        net: the network, in eval mode, on the runtime's device.
        recipe: hyper-parameters; `scales` and `head` are the network's own.
        runtime: device and dtype.
        crf: parameters of the dense CRF, or None.
    """

    net: nets.DeepLab
    recipe: Recipe
    runtime: Runtime
    crf: Crf | None

    def arguments(self) -> dict[str, Any]:
        """What predictions depend on beside the network, by name."""
        recipe = self.recipe
        found: dict[str, Any] = {
            "scales": recipe.scales,
            "flip": recipe.flip,
            "to_input": recipe.augment.to_input,
            "crf": self.crf,
        }
        # Earlier versions lacked these; they are left out at their only value then.
        if recipe.resize == "aligned":
            found["resize"] = recipe.resize
        if recipe.test_scales:
            found |= {"test_scales": recipe.test_scales, "test_merge": recipe.test_merge}
            found["linear"] = recipe.augment.linear
        return found

    def inputs(self, photos: Sequence[np.ndarray]) -> torch.Tensor:
        """Network inputs, float32 [B, 3, H, W], of photos of one size, uint8 RGB [H, W, 3]."""
        return torch.from_numpy(np.stack([self.recipe.augment.to_input(one) for one in photos]))

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """float32 [B, C+1, h, w], on the device; [B, C+1, H, W] with `test_scales` or "aligned"."""
        images = inputs.contiguous(memory_format=torch.channels_last)
        size, recipe = images.shape[-2:], self.recipe
        with self.runtime.autocast():
            if not recipe.test_scales:
                logits = self._of_one_size(images)
                return enlarged(logits, size, recipe) if recipe.resize == "aligned" else logits
            merged = None
            for scale in recipe.test_scales:
                logits = self._of_one_size(self._resized(images, scale))
                found = enlarged(logits, size, recipe)
                if recipe.test_merge != "logits":
                    found = found.softmax(dim=1)
                if merged is None:
                    merged = found
                elif recipe.test_merge == "max":
                    merged = torch.maximum(merged, found)
                else:
                    merged += found
        assert merged is not None
        if recipe.test_merge == "logits":
            return merged / len(recipe.test_scales)
        # The softmax that follows divides by the sum.
        return merged.clamp_min(torch.finfo(merged.dtype).tiny).log()

    def predict(
        self, photos: torch.Tensor, inputs: torch.Tensor, times: stream.Times
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Labels, whether an image's logits are finite, and probabilities.

        Args:
            photos: uint8 RGB [B, H, W, 3], on the device.
            inputs: `inputs` of them, on the device.
            times: to which the time of network and CRF is added.

        Returns:
            uint8 [B, H, W], bool [B] and float32 [B, C+1, H, W], on the device.
        """
        with times.computing():
            logits = self.logits(inputs)
        scores = to_probabilities(logits, photos, self.crf, times)
        finite = logits.sum(dim=(1, 2, 3), dtype=torch.float64).isfinite()
        return best_row(scores)[0], finite, scores

    def _of_one_size(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.net(images).float()
        if self.recipe.flip:
            logits = (logits + self.net(images.flip(-1)).float().flip(-1)) / 2
        return logits

    def _resized(self, images: torch.Tensor, scale: float) -> torch.Tensor:
        """Network inputs at a scale, by OpenCV's filters: bilinear or bicubic, as in training."""
        linear = self.recipe.augment.linear
        size = [max(1, int(n * scale) if linear else round(n * scale)) for n in images.shape[-2:]]
        if size == list(images.shape[-2:]):
            return images
        mode = "bilinear" if linear else "bicubic"
        resized = nn.functional.interpolate(images, size, mode=mode, align_corners=False)
        return resized.contiguous(memory_format=torch.channels_last)


def _write_all(
    data: Dataset, predictor: Predictor, folder: Path, label: str, probabilities: bool
) -> dict[str, Any]:
    """Predict the images that have no prediction in `folder` yet; returns notes."""
    device = predictor.runtime.device
    times = stream.Times(device)
    suffixes = (".png", ".npy") if probabilities else (".png",)
    present = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    batches, own = unfinished_batches(
        data,
        predictor.recipe.infer_batch,
        device,
        lambda id: all(f"{id}{suffix}" in present for suffix in suffixes),
    )
    todo = sum(map(len, batches))

    def load(ids: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        photos = [data.image(id) for id in ids]
        inputs = predictor.inputs(photos).numpy()
        return stream.host_tensor(np.stack(photos), device), stream.host_tensor(inputs, device)

    def compute(ids: list[str], loaded: tuple[torch.Tensor, torch.Tensor]) -> tuple[Any, ...]:
        photos, inputs = (one.to(device, non_blocking=True) for one in loaded)
        labels, finite, scores = predictor.predict(photos, inputs, times)
        return labels, finite, scores.half() if probabilities else None

    def write(ids: list[str], results: tuple[Any, ...]) -> None:
        for i, id in enumerate(ids):
            if not results[1][i]:
                raise InputError(
                    f"{folder / id}.png: not written: scores are NaN or infinite; check the "
                    "weights, or use --precision fp32"
                )
            if probabilities:
                with atomic_write(folder / f"{id}.npy") as temporary:
                    np.save(temporary, results[2][i].numpy())
            # The PNG is last: an image that has one is finished.
            write_labels(folder / f"{id}.png", results[0][i].numpy())

    def size_of(ids: list[str]) -> int:
        height, width = data.size(ids[0])
        channels = 3 + 12 + 1 + 2 * probabilities * (1 + len(data.classes))
        return len(ids) * height * width * channels

    with Bar(label, own, done=own - todo) as bar, torch.inference_mode():
        steps = stream.Steps(load, compute, write, lambda ids, _: bar.advance(len(ids)), size_of)
        stream.run(batches, steps, times)
        speed = todo / max(bar.seconds(), 1e-9)
    speeds = distributed.all_gather_objects(speed)
    return {"images_per_second": sum(speeds), "time": times.notes()}


@torch.inference_mode()
def predict(
    net: nets.DeepLab, photos: np.ndarray, recipe: Recipe, runtime: Runtime, crf: Crf | None
) -> torch.Tensor:
    """Class probabilities of a few photos of one size.

    Args:
        net: the network, in eval mode, on the runtime's device.
        photos: uint8 RGB [B, H, W, 3].
        recipe: hyper-parameters; `scales` and `head` are the network's own.
        runtime: device and dtype.
        crf: parameters of the dense CRF, or None.

    Returns:
        float32 [B, C+1, H, W], background first.
    """
    predictor = Predictor(net, recipe, runtime, crf)
    logits = predictor.logits(predictor.inputs(list(photos)).to(runtime.device))
    return to_probabilities(logits, photos, crf)


def to_probabilities(
    logits: torch.Tensor,
    photos: np.ndarray | torch.Tensor,
    crf: Crf | None,
    times: stream.Times | None = None,
) -> torch.Tensor:
    """Class probabilities at the size of the photos, refined by a dense CRF if one is given.

    Args:
        logits: float32 [B, L, h, w].
        photos: uint8 RGB [B, H, W, 3]. The public code gives the CRF mean-subtracted photos, whose
            negative values wrap around.
        crf: parameters of the dense CRF, or None.
        times: to which the time of the CRF is added.

    Returns:
        float32 [B, L, H, W].
    """
    probabilities = nn.functional.interpolate(
        logits, photos.shape[1:3], mode="bilinear", align_corners=False
    ).softmax(dim=1)
    if crf is None:
        return probabilities
    with contextlib.nullcontext() if times is None else times.computing():
        # The stage looks for logits that are not finite itself.
        unary = unary_from_probabilities(probabilities)
        return crf.apply(photos, unary, check=times is None)
