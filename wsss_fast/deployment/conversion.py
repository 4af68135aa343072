"""The command `convert model`: a trained model as another kind of file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from wsss_fast import nets
from wsss_fast.deployment.graph import SegmentationGraph
from wsss_fast.deployment.writers import write_onnx, write_torch_export
from wsss_fast.engine.files import atomic_write
from wsss_fast.engine.progress import say
from wsss_fast.errors import InputError
from wsss_fast.prediction.kinds import seg_recipe
from wsss_fast.prediction.opening import ModelOptions, describe_weights
from wsss_fast.seg.recipe import Recipe

_SUFFIXES = {
    "safetensors": ".safetensors",
    "public": ".pth",
    "onnx": ".onnx",
    "torch-export": ".pt2",
}


def convert_model(
    weights: Path,
    out: Path,
    *,
    to: Literal["safetensors", "public", "onnx", "torch-export"],
    model: ModelOptions = ModelOptions(),
) -> Path:
    """Write a trained model as another kind of file.

    "safetensors" says what the model is: network, classes, recipe, version (`nets.ModelInfo`).
    "public" is a state dict under the names of the papers' code. "onnx" and "torch-export" are
    segmentation networks as one graph: `image`, float32 [N, 3, H, W], RGB / 255 minus ImageNet's
    mean, divided by its standard deviation, to `probabilities`, float32 [N, C+1, H, W], background
    first, for any N, and any H and W from 32. The CRF, mirror images and test scales of `seg infer`
    are not part of it. Both are compared with the network before they are written.

    Args:
        weights: a training's weights.pth or model.safetensors, or a public checkpoint.
        out: file to write: .safetensors, .pth, .onnx or .pt2.
        to: the kind of file.
        model: what weights do not say that come without a model file.

    Raises:
        InputError: the weights cannot be used, `out` has another suffix, the network has no such
            form, or onnx is not installed.
        RunError: what was exported computes something else.
    """
    wanted = _SUFFIXES[to]
    if out.suffix.lower() != wanted:
        raise InputError(f"out: {out} must end in {wanted} for --to {to}")
    if out.is_dir() or (out.exists() and out.samefile(weights)):
        what = "a directory" if out.is_dir() else "the file to convert"
        raise InputError(f"out: {out} is {what}; name another file")
    info = describe_weights(weights, model, gives_masks=False)
    if to == "safetensors" and not model.classes and nets.read_info(weights) is None:
        raise InputError(
            f"{weights}: does not name its classes, which are part of a model file; give --classes"
        )
    if to in ("onnx", "torch-export") and info.network != "seg":
        raise InputError(
            f"{weights}: is of network {info.network!r}; --to {to} takes segmentation networks only"
        )
    net: Any = nets.load_weights(info.build(), weights, complete=True).eval()
    if to == "safetensors":
        nets.save_model(net, out, info)
    elif to == "public":
        _write_public(net, out)
    else:
        _write_graph(net, out, info, to, model.preset)
    say(f"{out}: {_text(info)}")
    return out


def _write_public(net: nn.Module, out: Path) -> None:
    content = io.BytesIO()
    torch.save(nets.public_state_dict(net), content)
    with atomic_write(out) as temporary:
        temporary.write_bytes(content.getbuffer())


def _write_graph(
    net: nets.DeepLab, out: Path, info: nets.ModelInfo, to: str, preset: str | None
) -> None:
    recipe = info.recipe_as(Recipe) or seg_recipe(preset, info.backbone, info.options.get("head"))
    graph = SegmentationGraph(net, recipe.augment.to_input, recipe.resize == "aligned")
    write = write_onnx if to == "onnx" else write_torch_export
    difference = write(graph, out, info)
    if difference is None:
        say(f"{out}: not compared with the network, since onnxruntime is not installed")
    else:
        say(f"{out}: probabilities differ from the network's by at most {difference:.1g}")
    left_out = [
        text
        for text, used in (
            ("mirror images", recipe.flip),
            (f"test scales {', '.join(map(str, recipe.test_scales))}", bool(recipe.test_scales)),
        )
        if used
    ]
    if left_out:
        say(f"{out}: without the {' and the '.join(left_out)} that `seg infer` uses")


def _text(info: nets.ModelInfo) -> str:
    """What a model is, in a line."""
    more = "".join(
        f", {name.replace('_', ' ')} {_shown(value)}"
        for name, value in info.options.items()
        if name != "backbone" and value not in (None, ())
    )
    return f"network {info.network}, backbone {info.backbone}{more}, {len(info.classes)} classes"


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
