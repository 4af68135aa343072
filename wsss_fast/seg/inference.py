"""Predictions of a trained segmentation network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wsss_fast import nets
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import distributed
from wsss_fast.engine.files import atomic_write
from wsss_fast.engine.progress import Bar
from wsss_fast.engine.run_folder import check_out
from wsss_fast.engine.runtime import Runtime, resolve_runtime, with_torch_defaults
from wsss_fast.errors import InputError
from wsss_fast.ops import unary_from_probabilities
from wsss_fast.readers.label_maps import write_labels
from wsss_fast.seg.recipe import RECIPES, Recipe, network
from wsss_fast.stages.activate import unfinished_batches
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.seeds import label_stage


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
    backbone: str = "resnet101",
    recipe: Recipe | None = None,
    crf: bool = True,
    probabilities: bool = False,
    name: str = "seg/predictions",
    device: str = "auto",
    precision: str = "auto",
) -> PredictResult:
    """Predict the label map of every image, tagged or not; writes `<out>/<name>/<id>.png`.

    The maximum of the logits over the scales (with `flip`, averaged with the mirror image's),
    resized bilinearly to the image's size, softmax, dense CRF, argmax. Finished images are skipped.
    Collective.

    Args:
        data: images: a data set, or an argument of `data.load`.
        weights: weights of a trained DeepLabV2: this package's, or the public one.
        out: run folder.
        backbone: "resnet101" or "small".
        recipe: hyper-parameters, of which `scales`, `flip`, `crf`, `infer_batch` and
            `augment.to_input` are used; default: those of the backbone.
        crf: whether a dense CRF refines the probabilities.
        probabilities: whether the probabilities are written, too, as `<id>.npy`, float16
            [C+1, H, W], after CRF refinement if there is any; `wsss-fast crf` reads them.
        name: sub-folder of `out`.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used.
    """
    data, recipe = opened(data), recipe or RECIPES.get(backbone, Recipe())
    runtime = resolve_runtime(device, 0, 0, precision, prefer_bf16=recipe.prefer_bf16)
    if recipe.infer_batch < 1:
        raise InputError(f"seg: infer_batch must be >= 1, got {recipe.infer_batch}")
    net = nets.load_weights(network(data, backbone, recipe), weights, complete=True)
    net = nets.optimize_for_inference(net, runtime)
    out, final_crf = check_out(out), recipe.crf if crf else None
    folder = out / name

    def scores_of(photos: np.ndarray) -> torch.Tensor:
        return predict(net, photos, recipe, runtime, final_crf)

    def work() -> dict[str, float]:
        speed = _write_all(data, scores_of, folder, name, recipe.infer_batch, probabilities)
        return {"images_per_second": speed}

    arguments = {
        "data": data.fingerprint(),
        "weights": nets.fingerprint(weights),
        "scales": recipe.scales,
        "flip": recipe.flip,
        "to_input": recipe.augment.to_input,
        "crf": final_crf,
        "probabilities": probabilities,
        "dtype": str(runtime.dtype),
    }
    arrays = [f"{id}.npy" for id in data.ids] if probabilities else []
    label_stage(out, name, data, arguments, work, more_files=arrays)
    return PredictResult(folder)


def _write_all(
    data: Dataset,
    scores_of: Callable[[np.ndarray], torch.Tensor],
    folder: Path,
    label: str,
    batch_size: int,
    probabilities: bool,
) -> float:
    """Predict the images that have no prediction in `folder` yet; returns images per second."""
    suffixes = (".png", ".npy") if probabilities else (".png",)
    present = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    batches, own = unfinished_batches(
        data, batch_size, lambda id: all(f"{id}{suffix}" in present for suffix in suffixes)
    )
    todo = sum(map(len, batches))
    with Bar(label, own, done=own - todo) as bar:
        for ids in batches:
            scores = scores_of(np.stack([data.image(i) for i in ids]))
            all_labels = scores.argmax(dim=1).cpu().numpy()
            for i, (id, labels) in enumerate(zip(ids, all_labels, strict=True)):
                if probabilities:
                    with atomic_write(folder / f"{id}.npy") as temporary:
                        np.save(temporary, scores[i].half().cpu().numpy())
                # The PNG is last: an image that has one is finished.
                write_labels(folder / f"{id}.png", labels)
            bar.advance(len(ids))
        speed = todo / max(bar.seconds(), 1e-9)
    return sum(distributed.all_gather_objects(speed))


@torch.inference_mode()
def predict(
    net: nets.DeepLabV2, photos: np.ndarray, recipe: Recipe, runtime: Runtime, crf: Crf | None
) -> torch.Tensor:
    """Class probabilities of a few photos of one size.

    Args:
        net: the network, in eval mode, on the runtime's device.
        photos: uint8 RGB [B, H, W, 3].
        recipe: hyper-parameters, of which `flip` and `augment.to_input` are used.
        runtime: device and dtype.
        crf: parameters of the dense CRF, or None.

    Returns:
        float32 [B, C+1, H, W], background first.
    """
    inputs = np.stack([recipe.augment.to_input(photo) for photo in photos])
    images = torch.from_numpy(inputs).to(runtime.device)
    images = images.contiguous(memory_format=torch.channels_last)
    with runtime.autocast():
        logits = net(images).float()
        if recipe.flip:
            logits = (logits + net(images.flip(-1)).float().flip(-1)) / 2
    return to_probabilities(logits, photos, crf)


def to_probabilities(logits: torch.Tensor, photos: np.ndarray, crf: Crf | None) -> torch.Tensor:
    """Class probabilities at the size of the photos, refined by a dense CRF if one is given.

    Args:
        logits: float32 [B, L, h, w].
        photos: uint8 RGB [B, H, W, 3]. The public code gives the CRF mean-subtracted photos, whose
            negative values wrap around.
        crf: parameters of the dense CRF, or None.

    Returns:
        float32 [B, L, H, W].
    """
    probabilities = nn.functional.interpolate(
        logits, photos.shape[1:3], mode="bilinear", align_corners=False
    ).softmax(dim=1)
    if crf is None:
        return probabilities
    return crf.apply(photos, unary_from_probabilities(probabilities))
