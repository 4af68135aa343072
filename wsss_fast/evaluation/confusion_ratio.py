"""EPS' confusion ratio: how much of what co-occurs with a class is mistaken for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from wsss_fast.data.class_names import clean_name, read_classes
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import distributed, stream
from wsss_fast.errors import InputError
from wsss_fast.readers.label_maps import IGNORE, read_labels


def confusion_ratios(
    data: Dataset, pairs: Sequence[str], labels: Callable[[str], np.ndarray]
) -> dict[str, float]:
    """Confusion ratio of each pair "target/coincident", such as "train/rails".

    ratio = (coincident pixels predicted as the target) / (target pixels predicted as the target)

    The coincident class is a class of the data set, or a context: something that is not a class,
    whose pixels are in `<root>/context/<id>.png`. The file `context/classes.txt` (one name per
    line, label 1 first) names its labels, shapes.json those of the Shapes benchmark. Pixels whose
    mask is 255 are not counted.

    Collective: each process counts its shard of the images.

    Args:
        data: data set with masks; ids without a mask are not counted.
        pairs: pairs of names, separated by a slash.
        labels: function from an id to its prediction, uint8 [H, W] of 0..C.

    Returns:
        Ratio >= 0 by pair, in the given order: infinite if the target was never predicted
        correctly, but confused; NaN if neither.

    Raises:
        InputError: a pair is not two names, a name is unknown, or a context PNG is missing or of
            another size than its mask.

    Source: EPS, CVPR 2021, co-occurrence analysis.
    """
    if not pairs:
        return {}
    data = data.with_masks()
    named = named_pairs(data, pairs)
    confused, hit = np.zeros(len(pairs), np.int64), np.zeros(len(pairs), np.int64)
    contexts = any(context is not None for _, _, context in named)

    def count(id: str) -> np.ndarray:
        truth, predicted = data.mask(id), labels(id)
        around = _context(data, id, truth) if contexts else truth
        found = np.zeros((2, len(pairs)), np.int64)
        for n, (target, coincident, context) in enumerate(named):
            as_target = (predicted == target) & (truth != IGNORE)
            is_coincident = truth == coincident if context is None else around == context
            found[:, n] = (as_target & is_coincident).sum(), (as_target & (truth == target)).sum()
        return found

    def add(id: str, found: np.ndarray) -> None:
        nonlocal confused, hit
        confused, hit = confused + found[0], hit + found[1]

    own = distributed.shard(data.ids)
    stream.scan(own, count, add, torch.device("cpu"), "confusion ratios", data.size)
    confused, hit = distributed.all_reduce_sum(np.stack([confused, hit]))
    with np.errstate(divide="ignore", invalid="ignore"):
        return dict(zip(pairs, (confused / hit).tolist(), strict=True))


def named_pairs(data: Dataset, pairs: Sequence[str]) -> list[tuple[int, int | None, int | None]]:
    """Labels (target, coincident class, coincident context) of each pair; one of the last is None.

    Raises:
        InputError: a pair is not two names, or a name is unknown.
    """
    return [_labels_of(pair, data) for pair in pairs]


def _labels_of(pair: str, data: Dataset) -> tuple[int, int | None, int | None]:
    names = [clean_name(name) for name in pair.split("/")]
    if len(names) != 2 or names[0] == names[1]:
        raise InputError(
            f"pairs: {pair!r} is not a target and another class, separated by a slash, "
            "as in train/rails"
        )
    target, coincident = names
    if target not in data.classes:
        raise InputError(
            f"pairs: {target!r} in {pair!r} is not a class of {data.name} "
            f"({', '.join(data.classes)})"
        )
    if coincident in data.classes:
        return data.classes.index(target) + 1, data.classes.index(coincident) + 1, None
    known = _context_names(data.root)
    if coincident not in known:
        contexts = ", ".join(known) or f"none: no {data.root / 'context' / 'classes.txt'}"
        raise InputError(
            f"pairs: {coincident!r} in {pair!r} is neither a class of {data.name} nor one of its "
            f"contexts ({contexts})"
        )
    return data.classes.index(target) + 1, None, known[coincident]


def _context_names(root: Path) -> dict[str, int]:
    """Label of each context by its name."""
    names, shapes = root / "context" / "classes.txt", root / "shapes.json"
    if names.is_file():
        return {name: n for n, name in enumerate(read_classes(names), 1)}
    if not shapes.is_file():
        return {}
    try:
        contexts = json.loads(shapes.read_text())["contexts"]
        return {str(name): int(label) for name, label in contexts.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{shapes}: does not name the benchmark's contexts ({error})") from None


def _context(data: Dataset, id: str, truth: np.ndarray) -> np.ndarray:
    path = data.root / "context" / f"{id}.png"
    context = read_labels(path)
    if context.shape != truth.shape:
        raise InputError(
            f"{path}: is {context.shape}, but the mask {data.masks[id]} is {truth.shape}"
        )
    return context
