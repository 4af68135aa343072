"""State dicts, tensors by name, from checkpoints of torch, safetensors and MXNet.

Nothing but tensors and plain values is unpickled. Checkpoints hold their weights under many keys,
and wrappers such as DataParallel and torch.compile rename them: `read` finds the one state dict in
a file and removes what wrappers add, or names what it finds instead.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsss_fast.engine.files import damaged_entry
from wsss_fast.errors import InputError
from wsss_fast.readers import first_bytes, mxnet, weight_files

StateDict = dict[str, torch.Tensor]

# Keys under which checkpoints keep the weights to use, beside other networks.
_USUAL = (
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "module",
    "weights",
    "params",
)
_AVERAGED = re.compile(r"(^|_)(ema|swa|teacher|average[d]?)(_|$)")
_NOT_WEIGHTS = re.compile(r"optim|sched|scaler|criterion|loss|hook|callback")
_DEEPEST = 4
# Modules that wrap another one: DataParallel, torch.compile, FSDP, activation checkpointing.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Names of the whole network inside of a training module.
_OUTER = ("model", "net", "network")

_LOAD_ERRORS = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    AssertionError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)


def read(path: Path) -> StateDict:
    """The state dict in a file, under the names of the network alone.

    Args:
        path: a file that `torch.load` can read with weights_only, safetensors, or MXNet's
            `.params`; or what `weight_files.files` finds as several.

    Raises:
        InputError: the file is missing, is damaged, is something else, or holds no state dict or
            several; one line with the file's name.
    """
    try:
        first, *parts = weight_files.files(path)
        return unwrapped(_of_parts(first, parts) if parts else _content(first))
    except InputError as error:
        message = str(error)
        named = message.startswith((f"{path}:", f"{path}{os.sep}"))
        raise InputError(message if named else f"{path}: {message}") from None


def _of_parts(index: Path, parts: Sequence[Path]) -> dict[str, Any]:
    """The tensors of several files, as their index lists them."""
    listed = weight_files.read_index(index)
    state: dict[str, Any] = {}
    for part in parts:
        try:
            content = _content(part)
        except InputError as error:
            raise InputError(f"{part}: {error}") from None
        names = [name for name, file in listed.items() if file == part.name]
        has = content if isinstance(content, Mapping) else {}
        missing = next((name for name in names if name not in has), None)
        if missing is not None:
            raise InputError(f"{part}: has no tensor {missing}, which {index.name} lists")
        state.update({name: has[name] for name in names})
    return state


def unwrapped(content: Any) -> StateDict:
    """The one state dict in the content of a checkpoint, without what wrappers add to names.

    Raises:
        InputError: there is none, or several.
    """
    state = _without_wrappers(_the_one_state_dict(content))
    for name, value in state.items():
        if problem := _unusable(name, value):
            raise InputError(f"the tensor {name} {problem}")
    return state


def _content(path: Path) -> Any:
    """What a file holds, read according to its first bytes."""
    try:
        what = first_bytes.describe(path)
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})") from None
    if what is not None:
        raise InputError(f"not a file of weights only: it is {what}")
    if mxnet.is_params(path):
        return mxnet.read_params(path)
    if _is_safetensors(path, start):
        return _read_safetensors(path)
    if start.startswith(b"PK"):
        _check_archive(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_HARMLESS):
            warnings.simplefilter("ignore")  # of storage types that are deprecated
            return torch.load(path, map_location="cpu", weights_only=True)
    except _LOAD_ERRORS as error:
        pickled = start.startswith(b"\x80") and not re.search("GLOBAL|unpack|EOF", str(error))
        why = "it is a pickle that torch.save did not write" if pickled else _reason(error)
        raise InputError(f"not a file of weights only: {why}") from None


def _numpy_values() -> list[Any]:
    """NumPy's numbers and arrays, such as a best score beside the weights."""
    core = getattr(np, "_core", None) or np.core
    kinds = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}
    # NumPy 2 renamed the module; files of either version name their own.
    functions: list[Any] = [
        (getattr(core.multiarray, name), f"{module}.multiarray.{name}")
        for name in ("scalar", "_reconstruct")
        for module in ("numpy.core", "numpy._core")
    ]
    return [*functions, np.dtype, np.ndarray, *kinds]


class _Unused:
    """Stands for an object whose content is not looked at."""


_LIGHTNING = (
    "lightning_fabric.utilities.data",
    "lightning.fabric.utilities.data",
    "pytorch_lightning.utilities.parsing",
    "lightning.pytorch.utilities.parsing",
)
# Plain values that training scripts store beside the weights. None of them runs code.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    *_numpy_values(),
    # Settings beside the weights of Lightning, and the log beside those of OpenMMLab, neither of
    # which is needed, nor has to be installed.
    *((dict, f"{module}.AttributeDict") for module in _LIGHTNING),
    (_Unused, "mmengine.logging.history_buffer.HistoryBuffer"),
]


def _is_safetensors(path: Path, start: bytes) -> bool:
    """Whether a file starts with the length of a JSON header that the file can hold."""
    if path.suffix == ".safetensors":
        return True
    if len(start) < 9 or start[8:9] != b"{":
        return False
    return 2 <= struct.unpack("<Q", start[:8])[0] <= path.stat().st_size


def _read_safetensors(path: Path) -> StateDict:
    import safetensors
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (safetensors.SafetensorError, *_LOAD_ERRORS) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"truncated or damaged, not a safetensors file ({first})") from None


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a safetensors file holds beside its tensors; empty for other files.

    Raises:
        InputError: the file cannot be read, or is no safetensors file but is called like one.
    """
    import safetensors

    try:
        what = first_bytes.describe(path)
        with path.open("rb") as file:
            start = file.read(16)
        if not _is_safetensors(path, start):
            return {}
        if what is not None:
            raise InputError(f"{path}: not a file of weights only: it is {what}")
        with safetensors.safe_open(path, framework="pt") as content:
            return dict(content.metadata() or {})
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except safetensors.SafetensorError as error:
        first = (str(error).strip() or "unreadable").splitlines()[0]
        raise InputError(
            f"{path}: truncated or damaged, not a safetensors file ({first})"
        ) from None


def _check_archive(path: Path) -> None:
    """Raise InputError for a zip archive that torch did not write, or that is damaged.

    torch does not compare the checksums: it would return other numbers than were saved.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            damaged = damaged_entry(archive)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error):
        raise InputError(
            "not a file of weights only: truncated or damaged, the archive's end is missing; "
            "get the file again"
        ) from None
    if any(name.endswith("/constants.pkl") for name in names):
        raise InputError(
            "not a file of weights only: it is a TorchScript program; "
            "save its state_dict() with torch.save"
        )
    if not any(name.endswith("/data.pkl") for name in names):
        what = "arrays of NumPy (.npz)" if names and all(n.endswith(".npy") for n in names) else ""
        what = what or f"a zip archive of {len(names)} files"
        first = f", first {names[0]}" if names else ""
        raise InputError(f"not a file of weights only: it is {what}{first}; unpack it first")
    if damaged:
        raise InputError(f"damaged: the checksum of {damaged} in it is wrong; get the file again")


def _reason(error: BaseException) -> str:
    """Why torch refused a file, in a few words."""
    text = str(error)
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return (
            f"it holds a {found[1]} object, and only tensors and plain values are unpickled, since "
            "anything else may run code; save net.state_dict() alone"
        )
    if re.search(r"miniz|PytorchStreamReader|inline_container|unpack requires|Ran out|EOF", text):
        return "truncated or damaged; get the file again"
    if "Invalid magic number" in text or "Weights only load failed" in text:
        return "torch cannot read it as a checkpoint"
    first = (text.strip() or type(error).__name__).splitlines()[0]
    return f"torch cannot read it ({first[:100]})"


def _the_one_state_dict(content: Any) -> Mapping[str, Any]:
    """The state dict in `content`, which may lie under keys; InputError without exactly one."""
    if not isinstance(content, Mapping):
        raise InputError(f"holds no state dict (tensors by name), but a {type(content).__name__}")
    if not content:
        raise InputError("holds no state dict (tensors by name): it is empty")
    if "param_groups" in content and "state" in content:
        raise InputError("holds the state of an optimizer, no state dict (tensors by name)")
    found = dict(_state_dicts(content, "", _DEEPEST))
    if not found:
        raise InputError(f"holds no state dict (tensors by name){_odd_entry(content)}")
    if len(found) == 1:
        return next(iter(found.values()))
    usual = [name for name in found if name.rpartition(".")[2] in _USUAL]
    others = [name for name in found if name not in usual]
    if len(usual) == 1 and not any(_AVERAGED.search(name.lower()) for name in others):
        return found[usual[0]]
    names = list(found)[:6]
    raise InputError(
        f"holds {len(found)} state dicts ({', '.join(names)}"
        f"{', ...' if len(found) > len(names) else ''}); save the one to use alone, as in "
        f"torch.save(torch.load(file)[{names[0].split('.')[0]!r}], 'weights.pth')"
    )


def _state_dicts(content: Mapping, place: str, depth: int) -> Iterator[tuple[str, Mapping]]:
    """State dicts in nested mappings, with their dotted keys."""
    names = list(content)
    if not names or not all(isinstance(name, str) for name in names):
        return
    tensors = sum(isinstance(value, torch.Tensor) for value in content.values())
    # A name with dots is a module's: what else the mapping holds is an error that is told.
    if tensors == len(names) or (tensors and any("." in name for name in names)):
        yield place, content
        return
    for name, value in content.items():
        if isinstance(value, Mapping) and depth and not _NOT_WEIGHTS.search(name.lower()):
            yield from _state_dicts(value, f"{place}.{name}" if place else name, depth - 1)


def _odd_entry(content: Mapping) -> str:
    """What the first entry is that makes a mapping no state dict."""
    for name, value in content.items():
        if not isinstance(name, str):
            return f": its keys are of type {type(name).__name__}, as in {name!r}"
        if not isinstance(value, torch.Tensor):
            return f": {name} is of type {type(value).__name__}"
    return ""


def _without_wrappers(state: Mapping[str, Any]) -> StateDict:
    """Names without the parts that wrappers add, wherever they stand."""
    odd = next((name for name, v in state.items() if not isinstance(v, torch.Tensor)), None)
    if odd is not None:
        kind = type(state[odd]).__name__
        raise InputError(f"holds no state dict (tensors by name): {odd} is of type {kind}")
    if "n_averaged" in state and any(name.startswith("module.") for name in state):
        state = {k: v for k, v in state.items() if k != "n_averaged"}  # of AveragedModel
    result: StateDict = {}
    for name, value in state.items():
        short = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if short in result:
            raise InputError(f"has two tensors for {short}, with and without a wrapper's name")
        result[short] = value
    for outer in _OUTER:
        # Beside the network there may be the weights of the classes in a loss.
        inner = {k: v for k, v in result.items() if not _NOT_WEIGHTS.search(k.partition(".")[0])}
        if inner and all(name.startswith(f"{outer}.") for name in inner):
            result = {k.removeprefix(f"{outer}."): v for k, v in inner.items()}
    return result


def _unusable(name: str, value: torch.Tensor) -> str | None:
    """Why a tensor cannot be a weight, or None."""
    if value.device.type == "meta":
        return "has no values (device meta); save the network after its weights were loaded"
    if value.is_nested:
        return "is a nested tensor; weights have one shape"
    if value.layout != torch.strided:
        return f"is sparse ({str(value.layout).removeprefix('torch.')}); save it as .to_dense()"
    if value.is_quantized:
        return f"is quantized ({str(value.dtype).removeprefix('torch.')}); save it .dequantize()d"
    if value.is_complex():
        return f"is complex ({str(value.dtype).removeprefix('torch.')}); weights are real"
    if value.is_floating_point():
        numbers = value.detach().float()
        # The extremes are NaN or infinite where any number is, and take a tenth of the time.
        if numbers.numel() and not all(x.isfinite() for x in numbers.aminmax()):
            wrong = int((~numbers.isfinite()).sum())
            return (
                f"has {wrong} of {value.numel()} values that are NaN, infinite or beyond float32; "
                "use weights from before the training diverged"
            )
        if name.endswith(("running_var", "moving_var")) and bool((value < 0).any()):
            return "has variances below 0"
    return None
