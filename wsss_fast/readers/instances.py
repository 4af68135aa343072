"""Object masks of one image with classes and scores: one file per image, not pickled."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from wsss_fast.engine.files import atomic_write
from wsss_fast.errors import InputError
from wsss_fast.readers.arrays import load_arrays

_NAMES = ("numbers", "labels", "scores")


@dataclasses.dataclass(frozen=True)
class Instances:
    """The objects found in one image; they do not overlap.

    Attributes:
        numbers: number of the object of each pixel, uint16 [H, W]: 0 none, 1..N the objects.
        labels: label of the class of each object, int16 [N] of 1..C.
        scores: score of each object, float32 [N] in 0..1, descending.
    """

    numbers: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def masks(self) -> np.ndarray:
        """The mask of each object, bool [N, H, W]."""
        return self.numbers == np.arange(1, len(self) + 1)[:, None, None]


def instances_path(folder: Path, id: str) -> Path:
    """File of the objects of one image."""
    return folder / f"{id}.npz"


def save_instances(folder: Path, id: str, found: Instances) -> None:
    """Write `<folder>/<id>.npz` (numbers, labels, scores; compressed), atomically."""
    with atomic_write(instances_path(folder, id)) as temporary:
        np.savez_compressed(
            temporary,
            numbers=found.numbers.astype(np.uint16),
            labels=found.labels.astype(np.int16),
            scores=found.scores.astype(np.float32),
        )


def load_instances(folder: Path, id: str, num_classes: int, size: tuple[int, int]) -> Instances:
    """Read what `save_instances` wrote.

    Args:
        folder: of the files.
        id: of the image.
        num_classes: number of classes.
        size: size (H, W) of the image.

    Raises:
        InputError: the file is missing or damaged, its arrays do not match, it is of an image of
            another size, or a label is not a class.
    """
    path = instances_path(folder, id)
    try:
        arrays = load_arrays(path, _NAMES, "instances")
    except FileNotFoundError:
        raise InputError(f"{path}: no instances for id {id!r}") from None
    if missing := [name for name in _NAMES if name not in arrays]:
        raise InputError(f"{path}: needs {', '.join(_NAMES)}; {missing[0]} is not there")
    numbers, labels, scores = (arrays[name] for name in _NAMES)
    if numbers.shape != size or labels.ndim != 1 or labels.shape != scores.shape:
        raise InputError(
            f"{path}: needs numbers {list(size)}, labels [N] and scores [N], has "
            f"{list(numbers.shape)}, {list(labels.shape)} and {list(scores.shape)}"
        )
    for name, values, low, high in (
        ("numbers", numbers, 0, len(labels)),
        ("labels", labels, 1, num_classes),
    ):
        whole = values.dtype.kind in "iu"
        if not whole or (values.size and not low <= values.min() <= values.max() <= high):
            raise InputError(f"{path}: {name} must be whole numbers in {low}..{high}")
    return Instances(numbers.astype(np.uint16), labels.astype(np.int16), scores.astype(np.float32))
