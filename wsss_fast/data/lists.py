"""The published image lists of VOC12 and COCO14, and which of them a data set is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from wsss_fast.data.dataset import Dataset

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
# COCO's 80 categories in ascending order of their ids, which have gaps.
COCO_CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse"),
    *("remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
    "toothbrush",
)
# Images of each list. VOC's trainaug is train and the images that SBD labels (1464 + 6820 + 2298),
# in no case those of val and test.
VOC_COUNTS = {"train": 1464, "trainaug": 10_582, "val": 1449, "test": 1456}
# All images of the JSON files, and those that have an annotation.
COCO_COUNTS = {
    "train": 82_783,
    "train-annotated": 82_081,
    "val": 40_504,
    "val-annotated": 40_137,
}


@dataclasses.dataclass(frozen=True)
class _Published:
    """What tells the published data set from others of its layout."""

    title: str
    counts: dict[str, int]
    ids: str
    example: str
    classes: tuple[str, ...]


_PUBLISHED = {
    "voc": _Published("VOC12", VOC_COUNTS, r"20\d\d_\d{6}", "2007_000032", VOC_CLASSES),
    "coco": _Published(
        "COCO14",
        COCO_COUNTS,
        r"COCO_(train|val)2014_\d{12}",
        "COCO_train2014_000000000009",
        COCO_CLASSES,
    ),
}
_OTHER_NAMES = {"train_aug": "trainaug"}


@dataclasses.dataclass(frozen=True)
class ListInfo:
    """Which published list a data set is.

    Attributes:
        name: of the list; of a file of ids, the list it is by its number of images, else its name.
        expected: number of images of the published list; None if there is no such list.
        is_real: whether the data set is the published one, as far as number of images, form of the
            ids and classes tell.
        why_not: what differs; empty if nothing does.
    """

    name: str
    expected: int | None
    is_real: bool
    why_not: str


def identify(data: Dataset) -> ListInfo:
    """Which published list `data` is, and whether it can be the real one."""
    known = _PUBLISHED.get(data.layout)
    name = _OTHER_NAMES.get(data.split, data.split)
    if known is None:
        kind = f"a folder with {data.layout}" if data.layout else "not read from a folder"
        return ListInfo(name, None, False, f"{data.name} is {kind}, neither VOC12 nor COCO14")
    if name not in known.counts:
        name = _by_count(data, known) or _file_name(name)
    expected = known.counts.get(name)
    reasons = []
    if data.classes != known.classes:
        reasons.append(f"its classes are not {known.title}'s {len(known.classes)} in order")
    odd = next((id for id in data.ids if not re.fullmatch(known.ids, id)), None)
    if odd is not None:
        reasons.append(f"id {odd!r} is not like {known.title}'s {known.example!r}")
    if expected is None:
        reasons.append(f"{known.title} has no list {name!r} ({', '.join(known.counts)})")
    elif len(data) != expected:
        left_out = f" ({len(data.broken)} left out as broken)" if data.broken else ""
        reasons.append(f"{name} has {len(data)} images{left_out}, {known.title}'s {expected}")
    return ListInfo(name, expected, not reasons, "; ".join(reasons))


def published_classes(ids: Iterable[str]) -> tuple[str, tuple[str, ...]] | None:
    """Name and classes of the published data set whose ids these can be, or None."""
    ids = list(ids)
    return next(
        (
            (known.title, known.classes)
            for known in _PUBLISHED.values()
            if ids and all(re.fullmatch(known.ids, id) for id in ids)
        ),
        None,
    )


def _by_count(data: Dataset, known: _Published) -> str:
    """The list that a file of ids is, by its number of images; counts of lists differ."""
    of_split = data.split.partition(":")[0] if data.layout == "coco" else ""
    return next(
        (
            name
            for name, count in known.counts.items()
            if count == len(data) and name.startswith(of_split)
        ),
        "",
    )


def _file_name(split: str) -> str:
    """The name of a list that was given as a file."""
    return Path(split).stem if "/" in split else split


class PublishedRow(Protocol):
    """What the lists of a published result are taken from, as `wsss_fast.presets.Row`."""

    @property
    def layout(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def score_on(self) -> str: ...
    @property
    def val_split(self) -> str | None: ...
    @property
    def truth(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class RowLists:
    """Lists and masks of a published result on a data set, where that has them.

    Attributes:
        split: list of the images.
        val_split: list of the validation images; None for none.
        truth: folder of the true masks; None for the usual ones.
        score_on: list of the images that are scored; None for the usual one.
        lacks: by name of the option, that the data set does not have the result's.
        found: whether the data set has the layout and the classes of the result's.
    """

    split: str = "train"
    val_split: str | None = None
    truth: str | None = None
    score_on: str | None = None
    lacks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    found: bool = False
