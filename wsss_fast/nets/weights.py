"""Weights from this package's files, torchvision and public checkpoints; strict, no unpickling."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import nn

from wsss_fast.data.transforms import MEAN, MEAN_BGR, STD
from wsss_fast.engine.files import atomic_write
from wsss_fast.errors import InputError, RunError
from wsss_fast.nets import recognition
from wsss_fast.nets.backbone import Backbone
from wsss_fast.nets.library_names import to_torchvision
from wsss_fast.nets.names import from_mxnet, from_public, is_public, is_torchvision_vgg16
from wsss_fast.nets.resnet import CaffeResNet101
from wsss_fast.nets.vgg16 import Vgg16
from wsss_fast.readers import state_dicts, weight_files

Net = TypeVar("Net", bound=nn.Module)


def save_weights(net: nn.Module, path: Path) -> None:
    """Write the state dict of `net` atomically; it can be read with `weights_only=True`.

    Raises:
        RunError: a value is NaN or infinite, as after a training that diverged.
    """
    state = finite_state(net, path)
    # Saving to a path, torch would store the temporary name, and hide the error of a full disk.
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def finite_state(net: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """The state dict of `net` on the host, to be written to `path`.

    Raises:
        RunError: a value is NaN or infinite, as after a training that diverged.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    wrong = [k for k, v in state.items() if v.is_floating_point() and not bool(v.isfinite().all())]
    if wrong:
        raise RunError(
            f"{path}: not written: {wrong[0]}"
            f"{f' and {len(wrong) - 1} more tensors have' if len(wrong) > 1 else ' has'} values "
            "that are NaN or infinite; the training diverged: use a lower learning rate, or "
            "another precision"
        )
    return state


def load_weights(
    net: Net, source: str | Path | Mapping[str, torch.Tensor], *, complete: bool = False
) -> Net:
    """Fill `net` in place from a file or state dict and return it.

    Complete networks: files of this package; the public `res50_cam`, `res50_amn`, `res50_irn`,
    ResNet-38 of EPS and of its classifier, and segmentation networks, see `public_state_dict`, with
    or without their repeated names and DataParallel's "module." prefix.

    Backbones only, which leave the head as it is: torchvision's ResNet-50, ResNet-101 and VGG16,
    `deeplabv1_resnet101-coco.pth` and `-imagenet.pth`, the DeepLab site's VGG16 of ImageNet as
    `vgg16_20M.pth` or `deeplab_largeFOV.pth`, ImageNet's ResNet-38 as MXNet's `.params` or as
    `.pth`, a network for another task. torchvision's networks expect RGB images with another
    normalisation than DeepLab's; their first convolution is converted, which is exact except at the
    image's border. Of torchvision's VGG16, fc6 and fc7 are not used. The same backbones are found
    in the files of other libraries, see `nets.library_names`.

    Weights may lie under a key of a checkpoint or in a directory, and wrappers may have renamed
    them, see `readers.state_dicts`.

    Args:
        net: a network of this package.
        source: a file that `torch.load` can read with weights_only, safetensors, MXNet's
            `.params`, a directory of one of them, also in several parts, or a state dict.
        complete: raise an error for weights that leave the head as it is, as inference needs.

    Raises:
        InputError: the file is missing or holds no state dict, a tensor has values that are not
            finite, or names or shapes do not match the network; the message lists them.
    """
    name, state = _read(source)
    try:
        given, headless = _to_own_names(state, net)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    own = net.state_dict()
    wanted = list(own)
    everything = given
    if not complete and (headless or _is_of_another_task(given, own)):
        given = {k: v for k, v in given.items() if k.startswith("backbone.")}
        wanted = [k for k in own if k.startswith("backbone.")]
    if problems := _problems(given, own, wanted):
        if headless and complete:
            problems = f"{problems}; they are of a backbone alone"
        why = recognition.describe_mismatch(everything, net, problems)
        raise InputError(f"{name}: these weights do not fit {type(net).__name__} ({why})")
    net.load_state_dict({**own, **given})
    return net


def check_backbone(source: str | Path, backbone: Backbone) -> None:
    """Check that a weights file can be read and that its backbone is `backbone`.

    Raises:
        InputError: as `load_weights`.
    """
    name, state = _read(source)
    net: Any = SimpleNamespace(backbone=backbone, num_classes=None)
    try:
        given, _ = _to_own_names(state, net)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    given = {k: v for k, v in given.items() if k.startswith("backbone.")}
    own = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    if problems := _problems(given, own, list(own)):
        why = recognition.describe_mismatch(given, net, problems)
        raise InputError(f"{name}: these weights do not fit {type(backbone).__name__} ({why})")


def _problems(
    given: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], wanted: list[str]
) -> str:
    """What does not match: missing, unexpected and differently shaped tensors; "" for nothing."""
    # Files of torch < 0.4 lack this counter, which is not used here.
    missing = [k for k in wanted if k not in given and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in given if k not in own]
    both = [k for k in given if k in own]
    shapes = [
        f"{k} is {tuple(given[k].shape)}, needs {tuple(own[k].shape)}"
        for k in both
        if given[k].shape != own[k].shape
    ]
    types = [
        f"{k} is {str(given[k].dtype).removeprefix('torch.')}, needs floating point"
        for k in both
        if own[k].is_floating_point() and not given[k].is_floating_point()
    ]
    return "; ".join(
        f"{what}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("wrong shape", shapes),
            ("wrong type", types),
        )
        if names
    )


def _is_of_another_task(given: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> bool:
    """Whether there are parameters outside of the backbone, and none of them is in the network."""
    heads = [{k for k in names if not k.startswith("backbone.")} for names in (given, own)]
    return bool(heads[0]) and not heads[0] & heads[1]


def _read(source: str | Path | Mapping[str, Any]) -> tuple[str, state_dicts.StateDict]:
    """The name of the source, for errors, and its state dict."""
    if not isinstance(source, (str, Path, Mapping)):
        kind = type(source).__name__
        hint = "; pass its state_dict()" if isinstance(source, nn.Module) else ""
        raise InputError(f"weights: is a {kind}, must be a file or a state dict{hint}")
    if not isinstance(source, Mapping):
        return str(source), state_dicts.read(Path(source))
    try:
        return "weights", state_dicts.unwrapped(source)
    except InputError as error:
        raise InputError(f"weights: {error}") from None


def _to_own_names(
    state: Mapping[str, torch.Tensor], net: Any
) -> tuple[dict[str, torch.Tensor], bool]:
    """The state under this package's names, and whether it never has a head of this package."""
    state = to_torchvision(state)
    if "layer1.0.conv1.weight" in state:
        state = {k: v for k, v in state.items() if not k.startswith("fc.")}
        if isinstance(net.backbone, CaffeResNet101):
            state = _for_bgr(state, "conv1", "bn1.running_mean")
        return {f"backbone.{k}": v for k, v in state.items()}, True
    num_classes = getattr(net, "num_classes", None)
    # DeepLab's initialisation from COCO or ImageNet: its `base`, with a classifier.
    if "layer1.conv1.conv.weight" in state:
        state = {f"base.{k}": v for k, v in state.items()}
    if any(k.startswith(("arg:", "aux:")) for k in state):  # MXNet's ImageNet classifier
        return from_mxnet(state), True
    if set(state) <= set(net.backbone.state_dict()):  # a backbone of this package alone
        return {f"backbone.{k}": v for k, v in state.items()}, True
    public = is_public(state)
    given = from_public(state, num_classes) if public else dict(state)
    if isinstance(net.backbone, Vgg16):
        given = _for_vgg16(given, net.backbone, is_torchvision_vgg16(state))
    return given, public and all(k.startswith("backbone.") for k in given)


def _for_vgg16(
    given: dict[str, torch.Tensor], backbone: Vgg16, torchvision: bool
) -> dict[str, torch.Tensor]:
    """Weights of VGG16, with fc6 and fc7 only if the backbone has them.

    Those of torchvision are larger, and connect another number of cells: the backbone keeps its
    own.
    """
    if torchvision:
        given = _for_bgr(given, "backbone.layers.conv1_1", "backbone.layers.conv1_1.bias")
    own = {f"backbone.{k}": v for k, v in backbone.state_dict().items() if ".fc" in k}
    given = {k: v for k, v in given.items() if not k.startswith("backbone.layers.fc") or k in own}
    return {**own, **given} if torchvision else given


def _for_bgr(
    state: dict[str, torch.Tensor], convolution: str, constant: str
) -> dict[str, torch.Tensor]:
    """Convert a network for images (RGB / 255 - MEAN) / STD to images BGR - MEAN_BGR.

    The first convolution's input is rescaled, and the constant that remains goes where it is
    exact: it is subtracted from the mean of the batch-norm that follows, or added to the bias.

    Args:
        state: the weights.
        convolution: name of the first convolution.
        constant: name of the tensor that takes the constant, a bias or a `running_mean`.
    """
    scale = 1 / (255 * torch.from_numpy(STD))
    mean_rgb = torch.from_numpy(MEAN_BGR[::-1].copy())
    offset = mean_rgb - 255 * torch.from_numpy(MEAN)  # [3], RGB levels
    first = state.get(f"{convolution}.weight")
    if first is None or first.shape[1:2] != (3,) or constant not in state:
        return state  # a damaged file, which is reported later
    weight = first.double() * scale[:, None, None]  # [K, 3, k, k], RGB
    change = (weight.sum(dim=(2, 3)) * offset).sum(dim=1)  # [K]
    before = state[constant].double()
    after = before - change if constant.endswith("running_mean") else before + change
    changed = {f"{convolution}.weight": weight.flip(1), constant: after}
    return {**state, **{k: v.to(first.dtype) for k, v in changed.items()}}


def fingerprint(source: str | Path | Mapping[str, torch.Tensor] | None) -> str | None:
    """A short hash of a weights file's bytes, or of the names and values of a state dict."""
    if source is None:
        return None
    digest = hashlib.sha256()
    if isinstance(source, Mapping):
        for name, value in _read(source)[1].items():
            values = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
            digest.update(name.encode() + values.numpy().tobytes())
    else:
        for path in weight_files.files(Path(source)):
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()[:16]
