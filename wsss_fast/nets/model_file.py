"""A trained model as one safetensors file that says what it is: network, classes, recipe, version.

The tensors have this package's names. The file's metadata has `format` ("pt", as other programs
expect), a key for each field of `ModelInfo`, as JSON, and `weights`: the fingerprint of the
weights.pth beside it that holds the same tensors.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from safetensors.torch import save
from torch import nn

from wsss_fast._version import __version__
from wsss_fast.engine import ranges
from wsss_fast.engine.files import atomic_write
from wsss_fast.engine.marker import MODEL_FILE
from wsss_fast.engine.serialize import check_keys, from_jsonable, jsonable
from wsss_fast.errors import InputError
from wsss_fast.nets.constructors import (
    amn_resnet50,
    cam_classifier,
    deeplab,
    eps_resnet38,
    irn_resnet50,
)
from wsss_fast.nets.weights import fingerprint, finite_state, load_weights
from wsss_fast.readers import state_dicts

R = TypeVar("R")

NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "cam": cam_classifier,
    "amn": amn_resnet50,
    "eps": eps_resnet38,
    "irn": irn_resnet50,
    "seg": deeplab,
}
_FORMAT = {"format": "pt"}


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What a model file says about its network.

    Attributes:
        network: "cam", "amn", "eps", "irn" or "seg".
        options: keyword arguments of the network's constructor, such as `backbone`; `build` has
            the constructors.
        classes: names of the classes, without background, in the order of their labels 1..C.
        recipe: hyper-parameters of the training and of inference, as `serialize.jsonable` gives
            them; None if they are not known.
        version: of wsss-fast that wrote the file.
    """

    network: str
    options: Mapping[str, Any]
    classes: tuple[str, ...]
    recipe: Mapping[str, Any] | None = None
    version: str = __version__

    @property
    def backbone(self) -> str:
        """Name of the backbone."""
        return self.options["backbone"]

    def recipe_as(self, kind: type[R]) -> R | None:
        """The recipe as a dataclass of a method, such as `seg.Recipe`; None if it is not known.

        Raises:
            InputError: it is not such a recipe, has functions that are not this package's, or a
                number is out of its range.
        """
        if self.recipe is None:
            return None
        found = from_jsonable(self.recipe, kind, "recipe")
        ranges.check(found, "recipe")
        return found

    def build(self) -> nn.Module:
        """The network with random weights.

        Raises:
            InputError: there is no such network.
        """
        make = NETWORKS[self.network]
        takes_classes = "num_classes" in inspect.signature(make).parameters
        return make(*((len(self.classes),) if takes_classes else ()), **self.options)


def model_info(
    network: str, classes: tuple[str, ...], recipe: Any = None, **options: Any
) -> ModelInfo:
    """What a file says about a network that this version trained.

    Args:
        network: as in `ModelInfo`.
        classes: names of the classes, without background.
        recipe: a dataclass, or None.
        options: keyword arguments of the network's constructor.

    Raises:
        InputError: the recipe has something that no file can hold, such as a lambda.
    """
    found = None if recipe is None else jsonable(recipe, "recipe")
    return _checked(network, jsonable(options), list(classes), found, __version__)


def save_model(
    net: nn.Module, path: str | Path, info: ModelInfo, *, weights: Path | None = None
) -> None:
    """Write a network and what it is as one safetensors file, atomically.

    Args:
        net: the network.
        path: file to write.
        info: what it is.
        weights: file that holds the same tensors, beside `path`; `read_info` of it reads this file.

    Raises:
        RunError: a value is NaN or infinite, as after a training that diverged.
    """
    texts = {
        "network": info.network,
        "options": json.dumps(jsonable(dict(info.options))),
        "classes": json.dumps(list(info.classes), ensure_ascii=False),
        "recipe": json.dumps(info.recipe),
        "version": info.version,
    }
    beside = {} if weights is None else {"weights": str(fingerprint(weights))}
    content = save(finite_state(net, Path(path)), {**_FORMAT, **texts, **beside})
    with atomic_write(Path(path)) as temporary:
        temporary.write_bytes(content)


def read_info(path: str | Path) -> ModelInfo | None:
    """What a model file says about its network; None for weights that come without it.

    Args:
        path: a file that `save_model` wrote; a weights file, such as a training's weights.pth, with
            its model.safetensors beside it; or the folder of a training.

    Raises:
        InputError: the file is missing or damaged, or says something that is impossible.
    """
    path = Path(path)
    if path.is_dir() and (path / MODEL_FILE).is_file():
        path = path / MODEL_FILE
    if path.is_dir():
        return None
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    texts = state_dicts.read_metadata(path)
    if _is_ours(texts):
        return _parse(path, texts)
    model = path.with_name(MODEL_FILE)
    if path == model or not model.is_file():
        return None
    try:
        texts = state_dicts.read_metadata(model)
    except InputError as error:
        raise InputError(f"{error}; remove it to use {path.name} without it") from None
    # Another file in the folder of a training has other weights.
    if not _is_ours(texts) or texts.get("weights") != fingerprint(path):
        return None
    return _parse(model, texts)


def load_model(path: str | Path) -> tuple[nn.Module, ModelInfo]:
    """A network with its weights, in eval mode, and what the file says about it.

    Args:
        path: as for `read_info`.

    Raises:
        InputError: the file is missing, damaged, or does not say which network it is of; or its
            weights do not fit.
    """
    path = Path(path)
    info = read_info(path)
    if info is None:
        raise InputError(
            f"{path}: does not say which network it is of; "
            "`wsss-fast convert model ... --to safetensors` makes a file that does"
        )
    return load_weights(info.build(), path, complete=True).eval(), info


def is_model_of(model: Path, weights: Path) -> bool:
    """Whether `model` is a readable model file with the tensors of `weights`."""
    try:
        texts = state_dicts.read_metadata(model)
    except InputError:
        return False
    return _is_ours(texts) and texts.get("weights") == fingerprint(weights)


def _is_ours(texts: Mapping[str, str]) -> bool:
    return {"network", "options", "classes", "recipe", "version"} <= texts.keys()


def _parse(path: Path, texts: Mapping[str, str]) -> ModelInfo:
    found = {}
    for key in ("options", "classes", "recipe"):
        try:
            found[key] = json.loads(texts[key])
        except (ValueError, RecursionError):
            raise InputError(f"{path}: its metadata {key!r} is not JSON") from None
    version = texts["version"]
    try:
        return _checked(texts["network"], **found, version=version)
    except InputError as error:
        other = "" if version == __version__ else f"; version {version} of wsss-fast wrote it"
        raise InputError(f"{path}: metadata: {error}{other}") from None


def _checked(network: str, options: Any, classes: Any, recipe: Any, version: str) -> ModelInfo:
    """`ModelInfo` of JSON; InputError for what no network has."""
    if network not in NETWORKS:
        raise InputError(f"network: got {network!r}, must be one of {', '.join(NETWORKS)}")
    make = NETWORKS[network]
    hints = get_type_hints(make)
    known = [
        name
        for name, parameter in inspect.signature(make).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    if not isinstance(options, dict) or "backbone" not in options:
        raise InputError(f"options: must be a mapping with a backbone, got {options!r:.100}")
    check_keys(options, known, "options")
    values = {
        name: from_jsonable(value, hints[name], f"options.{name}")
        for name, value in options.items()
    }
    right = isinstance(classes, list) and all(
        isinstance(n, str) and n and n.isprintable() for n in classes
    )
    if not right or not classes or len(set(classes)) < len(classes):
        raise InputError("classes: must be a list of different printable names")
    if not isinstance(recipe, dict | None):
        raise InputError(f"recipe: must be a mapping or null, got {recipe!r:.100}")
    return ModelInfo(network, values, tuple(classes), recipe, version)
