"""What a trained network is run with: the arguments of an inference, else what its file says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from wsss_fast import nets
from wsss_fast.data.class_names import alike
from wsss_fast.data.dataset import Dataset
from wsss_fast.errors import InputError

R = TypeVar("R")

_KINDS = {
    "cam": "a CAM classifier",
    "amn": "an AMN",
    "eps": "an EPS network",
    "irn": "an IRN",
    "seg": "a segmentation network",
}
# Hyper-parameters that change the network itself, not only how it is used.
_OF_NETWORK = ("head", "condition_at")


def info_of(
    weights: str | Path | Mapping[str, Any],
    network: str,
    *,
    data: Dataset | None = None,
    backbone: str | None = None,
) -> nets.ModelInfo | None:
    """What the file of trained weights says, which must agree with what is given; None if nothing.

    Args:
        weights: a file or a state dict.
        network: that the command needs, as in `nets.ModelInfo`.
        data: images whose classes must be those of the network; None where it does not matter.
        backbone: name that the caller gave, or None.

    Raises:
        InputError: the file is missing or damaged, or is of another network, backbone or classes;
            the message names both.
    """
    if isinstance(weights, Mapping):
        return None
    info = nets.read_info(weights)
    if info is None:
        return None
    if info.network != network:
        raise InputError(
            f"{weights}: is {_KINDS[info.network]}, but {_KINDS[network]} is needed here"
        )
    check_backbone(weights, info, backbone)
    if data is not None and data.classes:
        _check_classes(Path(weights), info.classes, data)
    return info


def check_backbone(
    weights: str | Path, info: nets.ModelInfo | None, backbone: str | None, given: str = "backbone"
) -> None:
    """Raise InputError if a given backbone is not that of the weights; `given` names its source."""
    if info is not None and backbone not in (None, info.backbone):
        raise InputError(
            f"{given}: got {backbone!r}, but the backbone of {weights} is {info.backbone!r}; "
            "leave it out"
        )


def recipe_of(
    weights: str | Path,
    info: nets.ModelInfo | None,
    recipe: R | None,
    defaults: Mapping[str, R],
    backbone: str,
) -> R:
    """The given recipe, else that of the file, else that of the backbone.

    Args:
        weights: the file, for errors.
        info: what it says, as `info_of` returns it.
        recipe: that the caller gave, or None.
        defaults: recipes by backbone; the first one serves unknown backbones, which the network's
            constructor reports.
        backbone: of the network.

    Raises:
        InputError: the given recipe is of another network than the file's weights, or the file's
            recipe cannot be read.
    """
    usual = next(iter(defaults.values()))
    if info is not None and recipe is not None:
        _check_recipe(weights, info, recipe)
    if info is not None and recipe is None:
        try:
            recipe = info.recipe_as(type(usual))
        except InputError as error:
            raise InputError(f"{weights}: its {error}; give a recipe") from None
    return recipe or defaults.get(backbone, usual)


def with_classes(data: Dataset, info: nets.ModelInfo | None) -> Dataset:
    """`data`; if it has no class names, as a folder of images, with those of the network."""
    if info is None or data.classes:
        return data
    tags = np.zeros((len(data), len(info.classes)), np.uint8)
    return dataclasses.replace(data, classes=info.classes, tags=tags)


def _check_recipe(weights: str | Path, info: nets.ModelInfo, recipe: Any) -> None:
    for name in _OF_NETWORK:
        own = info.options.get(name)
        if name in info.options and getattr(recipe, name, own) != own:
            raise InputError(
                f"recipe.{name}: got {getattr(recipe, name)!r}, but {weights} has {name} {own!r}"
            )


def _check_classes(weights: Path, own: tuple[str, ...], data: Dataset) -> None:
    if [alike(name) for name in own] == [alike(name) for name in data.classes]:
        return
    text = f"{weights}: was trained for {len(own)} classes, but {data.root} has {len(data.classes)}"
    if len(own) == len(data.classes):
        pairs = enumerate(zip(own, data.classes, strict=True), 1)
        n, (one, other) = next((n, pair) for n, pair in pairs if alike(pair[0]) != alike(pair[1]))
        text = f"{weights}: its class {n} is {one!r}, but that of {data.root} is {other!r}"
    raise InputError(
        f"{text}; a classes.txt in the folder of the data sets names and order of its classes"
    )
