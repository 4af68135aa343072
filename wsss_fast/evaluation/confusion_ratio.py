"""EPS' confusion ratio: how much of what stands beside a class is taken for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from wsss_fast.data.dataset import Dataset
from wsss_fast.data.images import IGNORE, read_labels
from wsss_fast.data.listing import read_classes
from wsss_fast.engine import distributed
from wsss_fast.errors import InputError


def confusion_ratios(
    data: Dataset, pairs: Sequence[str], labels: Callable[[str], np.ndarray]
) -> dict[str, float]:
    """Confusion ratio of each pair "target/coincident", e.g. "train/rails": EPS (CVPR 2021), co-occurrence analysis.

    ratio = pixels of the coincident class predicted as the target / pixels of the target predicted as the target

    The coincident class is one of the data set, or a context that is no class: then `<root>/context/<id>.png` says where it
    is. Labels in there are named by `context/classes.txt` (one a line, label 1 first), in the Shapes benchmark by shapes.json.
    Pixels whose mask is 255 count nowhere.

    Args:
        data: data set with masks; ids without a mask are not counted.
        pairs: names, with a slash between.
        labels: prediction of an id, uint8 [H, W] of 0..C.

    Returns:
        The ratios by pair, >= 0, in the given order; infinite if the target was never hit but confused, NaN if neither.

    Raises:
        InputError: a pair that is not two names, an unknown name, a context without its PNG or of another size.
    """
    if not pairs:
        return {}
    data = data.with_masks()
    named = named_pairs(data, pairs)
    confused, hit = np.zeros(len(pairs), np.int64), np.zeros(len(pairs), np.int64)
    contexts = any(context is not None for _, _, context in named)
    for id in distributed.shard(data.ids):
        truth, predicted = data.mask(id), labels(id)
        around = _context(data, id, truth) if contexts else truth
        for n, (target, coincident, context) in enumerate(named):
            as_target = (predicted == target) & (truth != IGNORE)
            there = truth == coincident if context is None else around == context
            confused[n] += int((as_target & there).sum())
            hit[n] += int((as_target & (truth == target)).sum())
    confused, hit = distributed.all_reduce_sum(np.stack([confused, hit]))
    with np.errstate(divide="ignore", invalid="ignore"):
        return dict(zip(pairs, (confused / hit).tolist(), strict=True))


def named_pairs(data: Dataset, pairs: Sequence[str]) -> list[tuple[int, int | None, int | None]]:
    """Labels of each pair: the target's, then the coincident class's and None, or None and the coincident context's.

    Raises:
        InputError: a pair that is not two names, or an unknown name.
    """
    return [_labels_of(pair, data) for pair in pairs]


def _labels_of(pair: str, data: Dataset) -> tuple[int, int | None, int | None]:
    names = [name.strip() for name in pair.split("/")]
    if len(names) != 2 or names[0] == names[1]:
        raise InputError(
            f"pairs: {pair!r} is not a target and another class with a slash between, as in train/rails"
        )
    target, coincident = names
    if target not in data.classes:
        raise InputError(
            f"pairs: {target!r} in {pair!r} is no class of {data.name} ({', '.join(data.classes)})"
        )
    if coincident in data.classes:
        return data.classes.index(target) + 1, data.classes.index(coincident) + 1, None
    known = _context_names(data.root)
    if coincident not in known:
        raise InputError(
            f"pairs: {coincident!r} in {pair!r} is neither a class of {data.name} nor one of its contexts "
            f"({', '.join(known) or 'none: no ' + str(data.root / 'context' / 'classes.txt')})"
        )
    return data.classes.index(target) + 1, None, known[coincident]


def _context_names(root: Path) -> dict[str, int]:
    """Label of each context that is no class."""
    if (root / "context" / "classes.txt").is_file():
        return {name: n for n, name in enumerate(read_classes(root / "context" / "classes.txt"), 1)}
    if not (root / "shapes.json").is_file():
        return {}
    try:
        return {
            str(name): int(label)
            for name, label in json.loads((root / "shapes.json").read_text())["contexts"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{root / 'shapes.json'}: does not name the benchmark's contexts ({error})"
        ) from None


def _context(data: Dataset, id: str, truth: np.ndarray) -> np.ndarray:
    path = data.root / "context" / f"{id}.png"
    context = read_labels(path)
    if context.shape != truth.shape:
        raise InputError(
            f"{path}: is {context.shape}, but the mask {data.masks[id]} is {truth.shape}"
        )
    return context
