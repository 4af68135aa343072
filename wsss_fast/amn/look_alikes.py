"""What a trained AMN takes a pixel for when every class of the data set is allowed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from wsss_fast import nets
from wsss_fast.amn.recipe import Recipe
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import distributed
from wsss_fast.engine.progress import Bar
from wsss_fast.engine.runtime import resolve_runtime, with_torch_defaults
from wsss_fast.engine.transfer import move_to_device
from wsss_fast.evaluation.metrics import confusion_matrix
from wsss_fast.stages.activate import make_views, same_size_batches, unflipped


@with_torch_defaults
@torch.inference_mode()
def unfiltered_confusion(
    data: Dataset,
    weights: str | Path,
    recipe: Recipe,
    *,
    backbone: str = "resnet50",
    device: str = "auto",
    precision: str = "auto",
) -> np.ndarray:
    """Confusion matrix of the argmax over all classes, whether an image is tagged with them or not.

    The logits are those of the image at its own size and of its mirror image. Collective.

    Args:
        data: data set with masks; ids without a mask are not counted.
        weights: weights of a trained AMN.
        recipe: hyper-parameters, of which `condition_at`, `infer_batch` and `prefer_bf16` are used.
        backbone: "resnet50" or "small".
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Returns:
        int64 [C+1, C+1]: number of pixels; rows are the truth, columns the prediction.
    """
    runtime, data = (
        resolve_runtime(device, 0, 0, precision, prefer_bf16=recipe.prefer_bf16),
        data.with_masks(),
    )
    labels = len(data.classes) + 1
    net = nets.amn_resnet50(len(data.classes), backbone=backbone, condition_at=recipe.condition_at)
    move_to_device(nets.load_weights(net, weights, complete=True), runtime.device).eval()
    total = np.zeros((labels, labels), np.int64)
    batches = distributed.shard(list(same_size_batches(data, data.ids, recipe.infer_batch)))
    with Bar("argmax over all classes", sum(map(len, batches))) as bar:
        for ids in batches:
            views = make_views(data, ids, (1.0,), runtime.device)
            with runtime.autocast():
                logits = net(views.scales[0], torch.cat([views.tags, views.tags])).float()
            images, mirrored = unflipped(logits)
            full = torch.nn.functional.interpolate(images + mirrored, views.size, mode="bilinear")
            for id, predicted in zip(ids, full.argmax(1).cpu().numpy(), strict=True):
                total += confusion_matrix(data.mask(id), predicted, labels)
            bar.advance(len(ids))
    return distributed.all_reduce_sum(total)
