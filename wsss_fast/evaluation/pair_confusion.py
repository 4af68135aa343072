"""How often classes that look alike are taken for each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsss_fast.data.dataset import Dataset
from wsss_fast.errors import InputError
from wsss_fast.evaluation.confusion_ratio import named_pairs


def class_pairs(data: Dataset, pairs: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Labels of the two classes of each pair "class/class".

    Args:
        data: data set that has the classes.
        pairs: pairs of names; none: neighbours in the class list (1-2, 3-4, ...) if the data set is
            the Shapes benchmark, whose look-alikes these are.

    Raises:
        InputError: a pair is not two different classes of the data set.
    """
    if not pairs and (data.root / "shapes.json").is_file():
        names = data.classes
        pairs = [f"{a}/{b}" for a, b in zip(names[::2], names[1::2], strict=True)]
    found: dict[str, tuple[int, int]] = {}
    for pair, (one, other, _) in zip(pairs, named_pairs(data, pairs), strict=True):
        if other is None:
            raise InputError(f"pairs: {pair!r} must be two classes; the second one is a context")
        found[pair] = one, other
    return found


def pair_confusion(
    confusion: np.ndarray, pairs: Sequence[tuple[int, int]]
) -> tuple[float, list[float]]:
    """Share of confusions with the other class, among a pair's pixels predicted as one of the two.

    Args:
        confusion: number of pixels [L, L]; rows are the truth, columns the prediction.
        pairs: labels of the two classes.

    Returns:
        The share for all pairs together, then that of each pair, 0..1; NaN without such pixels.
    """
    wrong = np.array([confusion[a, b] + confusion[b, a] for a, b in pairs], float)
    right = np.array([confusion[a, a] + confusion[b, b] for a, b in pairs], float)
    with np.errstate(invalid="ignore"):
        shares = wrong / (wrong + right)
        return float(wrong.sum() / (wrong.sum() + right.sum())), shares.tolist()
