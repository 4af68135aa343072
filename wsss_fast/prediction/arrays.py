"""Masks of photos in memory."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import stream
from wsss_fast.errors import InputError
from wsss_fast.prediction.model import Model


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The mask of one image.

    Attributes:
        labels: uint8 [H, W]: 0 background, c + 1 for class c.
        classes: names of the classes.
        probabilities: of background and classes, float32 [C+1, H, W], or None.
        id: name of its file without extension; "" for an array.
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    probabilities: np.ndarray | None = None
    id: str = ""

    def names(self) -> tuple[str, ...]:
        """Names of the classes in the mask, in the order of their labels."""
        return tuple(self.classes[label - 1] for label in np.unique(self.labels) if label)


def check_photo(image: Any, name: str = "images") -> np.ndarray:
    """An array that is a photo, uint8 RGB [H, W, 3].

    Raises:
        InputError: it is something else; with what to do.
    """
    if not isinstance(image, np.ndarray):
        kind = type(image).__name__
        hint = {"Tensor": "image.cpu().numpy()"}.get(kind, 'np.array(image.convert("RGB"))')
        raise InputError(
            f"{name}: is a {kind}; must be an array, uint8 RGB [H, W, 3], such as {hint}"
        )
    shape = list(image.shape)
    if image.dtype == np.uint8 and image.ndim == 3 and shape[2] == 3 and image.size:
        return image
    hint = ""
    if 0 in shape:
        hint = "; it has no pixels"
    elif image.dtype != np.uint8:
        hint = "; levels are 0..255"
    elif image.ndim == 2:
        hint = "; np.stack([image] * 3, axis=-1) makes RGB of gray levels"
    elif image.ndim == 3 and shape[0] == 3:
        hint = "; image.transpose(1, 2, 0) moves the channels"
    elif image.ndim == 3 and shape[2] == 4:
        hint = "; image[..., :3] drops the alpha channel"
    elif image.ndim == 4:
        hint = "; give list(images) for several images"
    raise InputError(f"{name}: is {image.dtype} {shape}; must be uint8 RGB [H, W, 3]{hint}")


@torch.inference_mode()
def predict_photos(
    photos: Sequence[np.ndarray],
    model: Model,
    tags: np.ndarray | None,
    probabilities: bool,
    ids: Sequence[str] | None = None,
) -> Iterator[Prediction]:
    """The mask of each photo; consecutive photos of one size share a forward pass.

    Args:
        photos: uint8 RGB [H, W, 3] each.
        model: the network.
        tags: multi-hot tags, uint8 [N, C]; None for a model that needs none.
        probabilities: whether probabilities are wanted.
        ids: of the photos.

    Raises:
        InputError: scores are NaN or infinite.
    """
    times = stream.Times(model.runtime.device)
    names = ids or [""] * len(photos)
    for numbers in _batches(photos, model.batch_size):
        own = None if tags is None else tags[numbers]
        batch = model.load(np.stack([photos[n] for n in numbers]), own)
        found = model.compute(batch, probabilities, times)
        labels, finite = found.labels.cpu().numpy(), found.finite.cpu().numpy()
        scores = None if found.probabilities is None else found.probabilities.float().cpu().numpy()
        for i, n in enumerate(numbers):
            if not finite[i]:
                raise InputError(
                    f"{names[n] or f'images[{n}]'}: its scores are NaN or infinite; check the "
                    "weights, or use precision fp32"
                )
            one = None if scores is None else scores[i]
            yield Prediction(labels[i], model.classes, one, names[n])


def predict_images(data: Dataset, model: Model, probabilities: bool) -> list[Prediction]:
    """The mask of each image of a data set; see `predict_photos`."""
    tags = data.tags if model.needs_tags else None
    photos = [data.image(id) for id in data.ids]
    return list(predict_photos(photos, model, tags, probabilities, data.ids))


def _batches(photos: Sequence[np.ndarray], most: int) -> Iterator[list[int]]:
    """Numbers of consecutive photos of one size, up to `most` together."""
    for _, run in itertools.groupby(range(len(photos)), key=lambda n: photos[n].shape):
        same = list(run)
        yield from (same[i : i + most] for i in range(0, len(same), most))
