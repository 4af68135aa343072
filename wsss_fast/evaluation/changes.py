"""What a refinement changed: labels before and after, scored where there are true masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from wsss_fast.engine import distributed, stream
from wsss_fast.errors import InputError
from wsss_fast.evaluation.metrics import Metrics, confusion_matrix, metrics_of
from wsss_fast.readers.label_maps import IGNORE
from wsss_fast.readers.photos import image_size
from wsss_fast.stages.paired_files import Files

_LABELS = 256
Labels = Callable[[Files, tuple[int, int]], np.ndarray]  # of a photo of (H, W): uint8 [H, W]


@dataclasses.dataclass(frozen=True)
class Changes:
    """Labels of many maps before and after their refinement.

    Attributes:
        changed: share of the known pixels whose label changed, in 0..1, by name of the map.
        filled: share of all pixels that were unsure and have a label now.
        before: metrics of the labels before, on the pixels that were not unsure; None without true
            masks.
        after: metrics of the labels after, on the same pixels.
        everywhere: metrics of the labels after on all pixels that have a label; None if that is
            `after`.
        problems: why maps or true masks could not be compared, each with its file.
    """

    changed: dict[str, float]
    filled: float
    before: Metrics | None
    after: Metrics | None
    everywhere: Metrics | None
    problems: tuple[str, ...]

    def mean(self) -> float:
        """Mean share of changed pixels of an image."""
        return float(np.mean(list(self.changed.values()))) if self.changed else 0.0

    def most_changed(self) -> list[str]:
        """Names of the maps, those that changed most first."""
        return sorted(self.changed, key=lambda name: (-self.changed[name], name))


@dataclasses.dataclass
class _Counts:
    """Pixels of the maps of one process."""

    changed: dict[str, float] = dataclasses.field(default_factory=dict)
    pixels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(2, np.int64))
    # Rows are the truth, columns the labels before, after, and after where they were unsure.
    confusion: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros((3, _LABELS, _LABELS), np.int64)
    )
    scored: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)


def compare(
    files: Sequence[Files],
    before: Labels,
    after: Labels,
    truth: Mapping[str, Callable[[], np.ndarray]],
    unsure: int | None,
    classes: Sequence[str] = (),
) -> Changes:
    """Compare the labels of maps with those of the refined maps.

    Collective: each process reads its shard of the maps.

    Args:
        files: photos, maps and refined maps, which exist.
        before: labels of a map.
        after: labels of its refined map.
        truth: functions that read the true label map, by name of the map.
        unsure: label of unknown pixels, or None.
        classes: class names, for the metrics; default: "label 1" and so on.
    """
    counts = _Counts()
    by_name = {one.map.stem: one for one in files}

    def load(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None] | InputError:
        try:
            size = image_size(by_name[name].photo)
            pair = before(by_name[name], size), after(by_name[name], size)
            return *pair, _true_labels(truth, name, size)
        except InputError as error:
            return error

    def add(
        name: str, loaded: tuple[np.ndarray, np.ndarray, np.ndarray | None] | InputError
    ) -> None:
        if isinstance(loaded, InputError):
            counts.problems.append(str(loaded))
        else:
            _add(counts, name, *loaded, unsure)

    own = distributed.shard(list(by_name))
    size_of = lambda name: _size(by_name[name].photo)  # noqa: E731
    stream.scan(own, load, add, torch.device("cpu"), "compare", size_of)
    return _changes(distributed.all_gather_objects(counts), classes)


def _size(photo: Path) -> tuple[int, int]:
    try:
        return image_size(photo)
    except InputError:
        return 0, 0


def _true_labels(
    truth: Mapping[str, Callable[[], np.ndarray]], name: str, size: tuple[int, int]
) -> np.ndarray | None:
    if name not in truth:
        return None
    labels = truth[name]()
    if labels.shape != size:
        raise InputError(f"true mask of {name}: is {labels.shape}, but its photo is {size}")
    return labels


def _add(
    counts: _Counts,
    name: str,
    before: np.ndarray,
    after: np.ndarray,
    truth: np.ndarray | None,
    unsure: int | None,
) -> None:
    if unsure is None:
        known = labelled = np.ones(before.shape, bool)
    else:
        known, labelled = before != unsure, after != unsure
    counts.changed[name] = float((before != after)[known].mean()) if known.any() else 0.0
    counts.pixels += (np.count_nonzero(~known & labelled), known.size)
    if truth is None:
        return
    counts.scored += 1
    for place, (labels, where) in enumerate(
        ((before, known & labelled), (after, known & labelled), (after, ~known & labelled))
    ):
        if where.any():
            seen = np.where(where, truth, IGNORE)
            counts.confusion[place] += confusion_matrix(seen, labels, _LABELS)


def _changes(parts: Sequence[_Counts], classes: Sequence[str]) -> Changes:
    """The result from the counts of all processes."""
    changed = {name: share for part in parts for name, share in part.changed.items()}
    filled, pixels = np.sum([part.pixels for part in parts], axis=0)
    problems = tuple(problem for part in parts for problem in part.problems)
    scored = sum(part.scored for part in parts)
    if not scored:
        return Changes(changed, filled / max(pixels, 1), None, None, None, problems)
    confusion = np.sum([part.confusion for part in parts], axis=0)  # [3, 256, 256]
    met = np.flatnonzero(confusion.any(axis=(0, 1)) | confusion.any(axis=(0, 2)))
    highest = max(int(met.max(initial=0)), len(classes))
    names = [*classes, *(f"label {label}" for label in range(len(classes) + 1, highest + 1))]
    kept = confusion[:, : highest + 1, : highest + 1]

    def metrics(counted: np.ndarray) -> Metrics:
        return metrics_of(counted, names, scored, len(changed))

    everywhere = metrics(kept[1] + kept[2]) if kept[2].any() else None
    return Changes(
        changed, filled / pixels, metrics(kept[0]), metrics(kept[1]), everywhere, problems
    )
