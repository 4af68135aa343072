"""Check of true masks: which cannot be used, and which do not fit the tags."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from wsss_fast.engine import distributed, remarks
from wsss_fast.engine.progress import track
from wsss_fast.errors import InputError
from wsss_fast.readers.label_maps import IGNORE

_Key = tuple[str, int, int]  # path, size and time of a mask file


@dataclasses.dataclass
class MaskChecks:
    """What was found in masks, kept for all parts of a data set so that each is checked once.

    Attributes:
        category_ids: numbers of the classes in the file of tags, if they are no labels: masks of
            other code may hold them.
        labels: by file, the labels that occur in it, 255 included.
    """

    category_ids: tuple[int, ...] = ()
    labels: dict[_Key, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def check(
        self,
        masks: Mapping[str, Path],
        read: Callable[[str], np.ndarray],
        tags_of: Callable[[str], np.ndarray] | None,
    ) -> dict[str, str]:
        """Read the masks that were not checked before, and compare them with the tags.

        Collective: each process reads its shard of them.

        Args:
            masks: mask file of each id.
            read: function from an id to its mask; raises InputError if that cannot be used.
            tags_of: function from an id to its tags, uint8 [C]; None if there are no tags, with
                which nothing is compared then.

        Returns:
            By id, the reason why a mask cannot be used.

        Raises:
            InputError: no mask shows a class although images are tagged, all pixels are 255, or the
                masks hold category ids instead of labels.
        """
        keys = {id: _key(path) for id, path in masks.items()}
        new = [id for id, key in keys.items() if key not in self.labels]
        if not new:
            return {}
        labels, reasons = _read_all(new, read)
        tags = {
            id: frozenset((np.flatnonzero(tags_of(id)) + 1).tolist() if tags_of else ())
            for id in labels
        }
        if labels and len(new) == len(masks):
            _check_foreground(labels, tags, masks)
        if tags_of is not None:
            _check_numbering(self.category_ids, labels, tags, masks)
            _compare(labels, tags, masks)
        self.labels.update({keys[id]: values for id, values in labels.items()})
        return reasons


def _key(path: Path) -> _Key:
    try:
        stat = path.stat()
    except OSError:
        return str(path), -1, -1
    return str(path), stat.st_size, stat.st_mtime_ns


def _read_all(
    ids: Sequence[str], read: Callable[[str], np.ndarray]
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Labels of each mask that can be used, and the reason for each other one. Collective."""

    def labels_or_reason(id: str) -> tuple[int, ...] | str:
        try:
            return tuple(np.flatnonzero(np.bincount(read(id).ravel(), minlength=256)).tolist())
        except InputError as error:
            return str(error)

    own = distributed.shard(ids)
    # Threads suffice, since decoding releases the interpreter lock.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as readers:
        verdicts = track(readers.map(labels_or_reason, own), "check masks", total=len(own))
        own_found = dict(zip(own, verdicts, strict=True))
    found: dict[str, tuple[int, ...] | str] = {}
    for part in distributed.all_gather_objects(own_found):
        found.update(part)
    labels, reasons = {}, {}
    for id in ids:
        verdict = found[id]
        if isinstance(verdict, str):
            reasons[id] = verdict
        else:
            labels[id] = verdict
    return labels, reasons


def _check_foreground(
    labels: Mapping[str, tuple[int, ...]],
    tags: Mapping[str, frozenset[int]],
    masks: Mapping[str, Path],
) -> None:
    """Refuse masks that all show nothing but background and 255."""
    values = sorted({value for found in labels.values() for value in found})
    if any(0 < value < IGNORE for value in values):
        return
    first, count = masks[next(iter(labels))], len(labels)
    if values == [IGNORE]:
        raise InputError(
            f"{first}: all pixels of the {count} true masks are {IGNORE} (ignored); nothing can be "
            "scored"
        )
    if any(tags.values()):
        cure = (
            f"{IGNORE} means ignored here; write an object's pixels as the label of its class, "
            "1 for the first one"
            if IGNORE in values
            else "their images are tagged, though; are these the right masks?"
        )
        raise InputError(
            f"{first}: the {count} true masks hold {' and '.join(map(str, values))} only, which "
            f"shows no class; {cure}"
        )
    for id in labels:
        text = "true masks show background only, so nothing else is scored"
        remarks.add(text, masks[id], unit="mask", of=count)


# What masks of other code hold instead of labels, and what added to it is the category id.
_NUMBERINGS = (("category ids", 0), ("category ids - 1, as in COCO-Stuff's maps", 1))


def _check_numbering(
    category_ids: Sequence[int],
    labels: Mapping[str, tuple[int, ...]],
    tags: Mapping[str, frozenset[int]],
    masks: Mapping[str, Path],
) -> None:
    """Refuse masks whose labels fit the tags of their images only in another numbering."""
    label_of = {category: label for label, category in enumerate(category_ids, 1)}
    if all(category == label for category, label in label_of.items()):
        return
    shown = {id: {v for v in found if 0 < v < IGNORE} for id, found in labels.items()}
    for title, step in _NUMBERINGS:
        only: dict[bool, list[str]] = {True: [], False: []}  # masks that fit in one way, by it
        for id, values in shown.items():
            as_labels = values <= tags[id]
            if as_labels != ({label_of.get(v + step) for v in values} <= tags[id]):
                only[as_labels].append(id)
        if only[True] or not only[False]:
            continue
        first = only[False][0]
        raise InputError(
            f"{masks[first]}: has {_numbers(shown[first])}, which are {title} of the tags "
            f"{_numbers(tags[first])}, not labels; labels are 1..{len(category_ids)} in the order "
            "of the category ids (wsss-fast import coco writes such masks)"
        )


def _compare(
    labels: Mapping[str, tuple[int, ...]],
    tags: Mapping[str, frozenset[int]],
    masks: Mapping[str, Path],
) -> None:
    """Remarks on masks that do not fit the tags of their images."""
    for id, found in labels.items():
        shown = {value for value in found if 0 < value < IGNORE}
        if shown - tags[id]:
            remarks.add(
                "true masks have labels that are not among their image's tags",
                f"{masks[id]} has {_numbers(shown)}, tags {_numbers(tags[id])}",
                unit="mask",
                of=len(labels),
            )
        if tags[id] and not shown & tags[id]:
            only = f"{masks[id]} has {_numbers(found)}, tags {_numbers(tags[id])}"
            remarks.add(
                "true masks show none of their image's tags", only, unit="mask", of=len(labels)
            )


def _numbers(labels: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(labels))) or "none"
