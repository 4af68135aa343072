"""Models from weights files: what they are of, by the file itself or by options."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from wsss_fast import seg
from wsss_fast.data.class_names import check_classes, read_classes
from wsss_fast.engine.runtime import with_torch_defaults
from wsss_fast.errors import InputError
from wsss_fast.nets.model_file import ModelInfo, read_info
from wsss_fast.nets.names import from_public, is_public
from wsss_fast.nets.recognition import recognise
from wsss_fast.prediction.kinds import KINDS, Request, seg_recipe
from wsss_fast.prediction.model import Model
from wsss_fast.readers import state_dicts
from wsss_fast.runs import resolve_preset


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """What a weights file does not say of itself; a model file says it, and must agree.

    Attributes:
        network: what the weights are of: a segmentation network, a CAM classifier, an AMN or EPS'
            network; None: it is recognised by the names in the file.
        backbone: of the network, as in its training; None: it is recognised.
        preset: name of the published setting that it was trained with, as of `seg train`, `amn run`
            or `eps run`; None: the usual one of the backbone.
        classes: names of the classes in the order of their labels, or a file with one per line;
            without them, the classes are called by their labels.
    """

    network: Literal["seg", "cam", "amn", "eps"] | None = None
    backbone: str | None = None
    preset: str | None = None
    classes: tuple[str, ...] = ()


@with_torch_defaults
def open_model(
    weights: str | Path,
    *,
    cam_weights: str | Path | None = None,
    model: ModelOptions = ModelOptions(),
    threshold: float | None = None,
    crf: bool = True,
    device: str = "auto",
    precision: str = "auto",
) -> Model:
    """A trained network, ready to predict: `predict` can be called with it many times.

    The arguments are those of `predict`. Collective.

    Args:
        weights: file of the weights.
        cam_weights: file of the classifier's weights, for an AMN.
        model: what the file does not say of itself.
        threshold: score of the background, for class maps.
        crf: whether a dense CRF refines the masks.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: a file cannot be used, contradicts an argument, or does not say enough.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold: got {threshold}; must be in 0..1")
    info = describe_weights(Path(weights), model)
    cams = None
    if cam_weights is not None:
        if info.network != "amn":
            raise InputError(
                f"cam_weights: is for an AMN only, but {weights} is of {info.network!r}"
            )
        wanted = ModelOptions("cam", info.backbone, None, info.classes)
        cams = (Path(cam_weights), describe_weights(Path(cam_weights), wanted))
    asked = Request(Path(weights), info, cams, model.preset, threshold, crf, device, precision)
    return KINDS[info.network](asked)


def describe_weights(
    weights: Path, options: ModelOptions, *, gives_masks: bool = True
) -> ModelInfo:
    """What the file says about its network, and where it says nothing, what the options say.

    Args:
        weights: the file.
        options: what the file may not say.
        gives_masks: whether a network that gives no masks by itself is an error.

    Raises:
        InputError: the file cannot be used, contradicts an option, or too little is known.
    """
    found, names = read_info(weights), _class_names(options.classes)
    if found is None:
        return _recognised(weights, options, names, gives_masks)
    _check_kind(weights, found.network, gives_masks)
    for argument, wanted, has in (
        ("network", options.network, found.network),
        ("backbone", options.backbone, found.backbone),
        ("classes", names or None, found.classes),
    ):
        if wanted not in (None, has):
            raise InputError(f"{argument}: got {_text(wanted)}, but {weights} has {_text(has)}")
    return found


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else repr(value)


def _class_names(given: Sequence[str]) -> tuple[str, ...]:
    """Names, or those in the file that is given instead of them."""
    if len(given) == 1 and Path(given[0]).is_file():
        return read_classes(Path(given[0]))
    if len(given) == 1 and given[0].lower().endswith(".txt"):
        raise InputError(f"classes: {given[0]}: no such file")
    return check_classes(given, Path("classes")) if given else ()


def _check_kind(weights: Path, network: str, gives_masks: bool) -> None:
    if gives_masks and network not in KINDS:
        raise InputError(f"{weights}: is of network {network!r}, which gives no masks by itself")


def _recognised(
    weights: Path, options: ModelOptions, names: tuple[str, ...], gives_masks: bool
) -> ModelInfo:
    """What plain weights are of, by the options, and by the names and shapes in the file."""
    state = state_dicts.read(weights)
    # EPS' head has the public name of a classifier's: the number of its rows tells.
    given = from_public(state, len(names) or None) if is_public(state) else state
    seen = recognise(given)
    network, backbone = options.network or seen.network, options.backbone or seen.backbone
    if network is None:
        raise InputError(f"{weights}: it is not known which network it is of; give --network")
    _check_kind(weights, network, gives_masks)
    if network == "seg" and options.preset is not None and options.backbone is None:
        chosen = resolve_preset("predict", seg.PRESETS, seg.RECIPES, options.preset, None, None)
        backbone = chosen.backbone
    if backbone is None:
        raise InputError(f"{weights}: its backbone is not known; give --backbone")
    if not names:
        if network != "seg":
            raise InputError(f"{weights}: does not name its classes; give --classes")
        if seen.num_classes is None:
            raise InputError(f"{weights}: its classes are not known; give --classes")
        names = tuple(map(str, range(1, seen.num_classes + 1)))
    more: dict[str, Any] = {}
    if network == "seg":
        recipe = seg_recipe(options.preset, backbone, seen.head)
        more = {"head": recipe.head, "scales": recipe.scales}
    elif network == "amn" and not seen.conditioned:
        more = {"condition_at": None}
    return ModelInfo(network, {"backbone": backbone, **more}, names)
