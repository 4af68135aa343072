"""Tags of the images to predict: from a file, a data set, or names in memory."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsss_fast.data.class_names import alike
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.tag_file import TagFile
from wsss_fast.errors import InputError
from wsss_fast.prediction.model import Model


def tagged(data: Dataset, tags: Path | None, model: Model) -> Dataset:
    """The data set with the classes of a model and, if it needs them, with tags.

    Images that a file of tags does not have are moved to `broken`.

    Args:
        data: the images.
        tags: file of tags; None for those of the data set.
        model: the network.

    Raises:
        InputError: the model needs tags and there are none, or they are of other classes.
    """
    if not model.needs_tags:
        return data
    if tags is None:
        if not data.tagged:
            csv = data.root / "labels.csv"
            such = f", such as {csv}" if csv.is_file() else ""
            raise InputError(
                f"tags: the {model.network} needs the tags of the images; give a file of them{such}"
            )
        if [*map(alike, data.classes)] != [*map(alike, model.classes)]:
            raise InputError(
                f"classes: the data set has {', '.join(data.classes)}, but the model "
                f"{', '.join(model.classes)}"
            )
        return data
    found = TagFile(tags).by_id(data.ids, model.classes)
    if not found:
        raise InputError(f"{tags}: has tags of none of the images, whose first is {data.ids[0]!r}")
    lacking = {
        id: f"{data.images[id]}: {tags} has no tags of it" for id in data.ids if id not in found
    }
    kept = data.only([id for id in data.ids if id in found])
    return dataclasses.replace(
        kept,
        classes=model.classes,
        tags=np.stack([found[id] for id in kept.ids]),
        tagged=True,
        broken={**data.broken, **lacking},
    )


def tags_of_names(
    names: Sequence[Sequence[str]], classes: Sequence[str], name: str = "tags"
) -> np.ndarray:
    """Multi-hot tags, uint8 [N, C], of the class names of each image.

    Raises:
        InputError: an unknown name.
    """
    rows = np.zeros((len(names), len(classes)), np.uint8)
    for n, own in enumerate(names):
        if isinstance(own, str):
            raise InputError(f"{name}: got {own!r} for an image; give a list of class names")
        for one in own:
            if one not in classes:
                near = difflib.get_close_matches(str(one), classes, 1, 0.6)
                hint = f"did you mean {near[0]!r}?" if near else f"has {', '.join(classes)}"
                raise InputError(f"{name}: {one!r} is not a class of the model; {hint}")
            rows[n, classes.index(one)] = 1
    return rows
