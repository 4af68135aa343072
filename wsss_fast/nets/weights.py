"""Weights from our own files, torchvision's and the public checkpoints'; strict, and never unpickled."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from wsss_fast.errors import InputError
from wsss_fast.run import atomic_write

# The public nets register their modules several times; these prefixes only repeat `resnet50.*`, `classifier.*`, `label_enc.*`.
_ALIASES = ("backbone.", "newly_added.", "stage1.", "stage2.", "stage3.", "stage4.", "stage5.")
# public name -> ours; `classifier.1.cR.*` (one convolution a dilation) is stacked into `weight` and `bias`.
_RENAMES = ((r"^resnet50\.", "backbone."), (r"^classifier\.weight$", "head.weight"), (r"^label_enc\.", "label_scale."))
_ASPP = re.compile(r"^classifier\.1\.c(\d+)\.(weight|bias)$")


def save_weights(net: nn.Module, path: Path) -> None:
    """Write the state dict of `net`, atomically, readable with `weights_only=True`."""
    with atomic_write(path) as temporary:
        torch.save({k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}, temporary)


def load_weights(net: nn.Module, source: str | Path | Mapping[str, torch.Tensor]) -> nn.Module:
    """Fill `net` in place from a file or state dict and return it.

    Understood: this package's own files; the public `res50_cam` and `res50_amn` (with or without their repeated names
    and a DataParallel "module." prefix); a torchvision ResNet-50, which fills the backbone and leaves the head as it is;
    a CAM classifier of this package for an AMN, which fills the backbone.

    Raises:
        InputError: the file is missing or no state dict, or names or shapes do not fit; they are named.
    """
    name, state = _read(source)
    own = net.state_dict()
    state = {k.removeprefix("module."): v for k, v in state.items()}
    given = _to_own_names(state)
    torchvision = "layer1.0.conv1.weight" in state
    if torchvision or ("head.weight" in given and "head.weight" not in own):  # a backbone for another task's head
        given = {k: v for k, v in given.items() if k.startswith("backbone.")}
        wanted = [k for k in own if k.startswith("backbone.")]
    else:
        wanted = list(own)
    missing = [k for k in wanted if k not in given]
    unexpected = [k for k in given if k not in own]
    # torch < 0.4 files lack this counter, and nothing here reads it
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    wrong = [f"{k} is {tuple(given[k].shape)}, needs {tuple(own[k].shape)}"
             for k in given if k in own and given[k].shape != own[k].shape]
    problems = [f"{what}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
                for what, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", wrong)) if names]
    if problems:
        raise InputError(f"{name}: these weights do not fit {type(net).__name__} ({'; '.join(problems)})")
    net.load_state_dict({**own, **given})
    return net


def _read(source: str | Path | Mapping[str, torch.Tensor]) -> tuple[str, Mapping[str, torch.Tensor]]:
    if isinstance(source, Mapping):
        name, state = "weights", source
    else:
        name = str(source)
        if not Path(source).is_file():
            raise InputError(f"{name}: no such weights file")
        try:
            state = torch.load(source, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"{name}: not a file of weights only ({first[:160]})") from None
        if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
            state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()) or not state:
        raise InputError(f"{name}: holds no state dict (names with tensors)")
    return name, state


def _to_own_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if any(k.startswith("resnet50.") for k in state):
        return _from_public(state)
    if "layer1.0.conv1.weight" in state:  # torchvision; fc is another task's head
        return {f"backbone.{k}": v for k, v in state.items() if not k.startswith("fc.")}
    return dict(state)


def _from_public(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    result, branches = {}, {"weight": {}, "bias": {}}
    for key, value in state.items():
        if key.startswith(_ALIASES):
            continue
        aspp = _ASPP.match(key)
        if aspp:
            branches[aspp[2]][int(aspp[1])] = value
            continue
        if key.startswith("resnet50.fc."):
            continue
        for pattern, new in _RENAMES:
            key = re.sub(pattern, new, key)
        result[key] = value
    for name, parts in branches.items():
        if parts:
            result[name] = torch.stack([parts[i] for i in sorted(parts)])
    return result


def fingerprint(source: str | Path | Mapping[str, torch.Tensor] | None) -> str | None:
    """A short hash of a weights file's bytes, or of the names and values of a state dict."""
    if source is None:
        return None
    digest = hashlib.sha256()
    if isinstance(source, Mapping):
        for name, value in source.items():
            digest.update(name.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    else:
        if not Path(source).is_file():
            raise InputError(f"{source}: no such weights file")
        with Path(source).open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:16]
