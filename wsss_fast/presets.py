"""Presets: the numbers, lists and initial weights that a published result was made with."""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, Literal, NamedTuple, TypeVar

P = TypeVar("P")


@dataclasses.dataclass(frozen=True)
class Published:
    """A number as its source prints it.

    Attributes:
        record: record of metrics.json that measures the same, such as "amn", "masks" or "seg".
        value: mIoU (or AP50) in %.
        what: what was measured, and on which images.
        source: where the number is printed.
        sure: whether the number was found in the source itself.
    """

    record: str
    value: float
    what: str
    source: str
    sure: bool = True


@dataclasses.dataclass(frozen=True)
class Start:
    """Initial weights of a network.

    Attributes:
        argument: parameter that takes the file: "weights", "seg_weights" or "irn_weights".
        what: which weights, with the usual name of the file.
        where: who publishes them.
        sure: whether the source names them.
    """

    argument: str
    what: str
    where: str
    sure: bool = True


@dataclasses.dataclass(frozen=True)
class Row:
    """How a published result was made, apart from the numbers of the recipes.

    Attributes:
        layout: layout of the data set: "voc" or "coco".
        split: list of the images that the networks are trained on.
        score_on: list of the images whose class maps and pseudo-masks are scored.
        val_split: list of the images that the segmentation network predicts, or None.
        truth: folder of the true masks.
        starts: initial weights.
        published: the results.
        source: repository or paper that the numbers come from.
        unsure: what no source settles, a sentence each; the help shows them.
    """

    layout: Literal["voc", "coco"]
    split: str
    score_on: str
    truth: str
    val_split: str | None = None
    starts: tuple[Start, ...] = ()
    published: tuple[Published, ...] = ()
    source: str = ""
    unsure: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Preset(Generic[P]):
    """A setting by name.

    Attributes:
        backbone: backbone of the networks.
        numbers: the recipe, or all numbers of a pipeline.
        row: how the published result was made; None if nothing was published.
    """

    backbone: str
    numbers: P
    row: Row | None = None


class Difference(NamedTuple):
    """A number of a run that is not the preset's.

    Attributes:
        name: place of the number, as in "seg.updates".
        value: the run's.
        preset: the preset's.
    """

    name: str
    value: Any
    preset: Any


def differences(numbers: Any, preset: Any, name: str = "") -> list[Difference]:
    """Numbers of a recipe or pipeline that differ from those of a preset.

    Args:
        numbers: a dataclass.
        preset: the same of the preset. Where both have a part of another type, such as another
            optimizer, the whole part is one difference.
        name: place of both, in front of the names of their fields.
    """
    if type(numbers) is not type(preset) or not dataclasses.is_dataclass(numbers):
        return [] if numbers == preset else [Difference(name, numbers, preset)]
    found = []
    for field in dataclasses.fields(numbers):
        place = f"{name}.{field.name}" if name else field.name
        found += differences(getattr(numbers, field.name), getattr(preset, field.name), place)
    return found
