"""Where and how a stage computes: device, seed, loader processes, precision."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
import re
import sys
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar, cast

import torch
from torch import nn

from wsss_fast.engine import distributed
from wsss_fast.errors import InputError, RunError

P = ParamSpec("P")
R = TypeVar("R")

PRECISIONS = ("auto", "fp32", "bf16")
_LARGEST_SEED = 2**63 - 1  # of torch's generators
_MOST_WORKERS = 1024  # more than any machine has cores for


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Where and how a stage computes.

    Attributes:
        device: torch device.
        seed: of initialisation, shuffling and augmentation.
        workers: loader processes; 0 loads in the training process.
        dtype: float32, or bfloat16 for autocast.
        compile: whether trainings compile their network by torch.compile.
    """

    device: torch.device
    seed: int
    workers: int
    dtype: torch.dtype
    compile: bool = False

    def autocast(self) -> torch.autocast:
        """A context that computes in `dtype`."""
        enabled = self.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)


def with_torch_defaults(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator: in the function, new tensors are float32 on the CPU, whatever the user has set.

    Networks and losses of another default dtype or device would not fit the images.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        dtype, device = torch.get_default_dtype(), torch.get_default_device()
        torch.set_default_dtype(torch.float32)
        # The context costs time in every call of torch, so it is entered only where it is needed.
        on_cpu = contextlib.nullcontext() if device.type == "cpu" else torch.device("cpu")
        try:
            with on_cpu:
                return function(*args, **kwargs)
        finally:
            torch.set_default_dtype(dtype)

    return wrapped


def resolve_runtime(
    device: str,
    seed: int,
    workers: int,
    precision: str,
    *,
    prefer_bf16: bool,
    compile: bool = False,
) -> Runtime:
    """Check the four arguments that every command shares and resolve their "auto". Collective.

    Args:
        device: auto, cpu, cuda or cuda:N.
        seed: >= 0.
        workers: loader processes, >= 0.
        precision: fp32, bf16, or auto: bf16 where the recipe and the hardware allow it, else fp32.
        prefer_bf16: whether the recipe allows it.
        compile: whether the recipe compiles the network of a training.

    Raises:
        InputError: an unknown or unavailable device, a negative seed or worker count, an unknown
            precision; workers for a script whose loader processes would run it again.
    """
    if not re.fullmatch(r"auto|cpu|cuda|cuda:[0-9]+", device):
        raise InputError(f"device: got {device!r}, must be auto, cpu, cuda or cuda:N")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            f"device: got {device!r}, but torch {torch.__version__} finds no CUDA device"
        )
    if device.startswith("cuda:") and int(device[5:]) >= torch.cuda.device_count():
        raise InputError(
            f"device: got {device!r}, but there are {torch.cuda.device_count()} devices, "
            f"cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        )
    if precision not in PRECISIONS:
        raise InputError(f"precision: got {precision!r}, must be one of {', '.join(PRECISIONS)}")
    if seed < 0 or workers < 0:
        raise InputError(f"seed and workers must be >= 0, got seed={seed}, workers={workers}")
    if seed > _LARGEST_SEED or workers > _MOST_WORKERS:
        raise InputError(
            f"seed must be <= {_LARGEST_SEED} and workers <= {_MOST_WORKERS}, "
            f"got seed={seed}, workers={workers}"
        )
    # Checked before anything is written to the run folder.
    if workers and getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InputError(
            "workers: a loader process runs the script again where Python does not fork; "
            'put the calls of the script under `if __name__ == "__main__":`'
        )
    name = distributed.process_device(device)
    bf16 = precision == "bf16" or (precision == "auto" and prefer_bf16 and _computes_bf16(name))
    dtype = torch.bfloat16 if bf16 else torch.float32
    return Runtime(torch.device(name), seed, workers, dtype, compile)


def _computes_bf16(device: str) -> bool:
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def compiled(net: nn.Module) -> nn.Module:
    """`net`, which torch.compile compiles at its first call; the parameters are the same.

    Dropout draws the random numbers that it draws without a compiler, so that results differ by
    rounding only.

    Raises:
        InputError: torch has no compiler here.
    """
    try:
        # Sizes do not change within a training, whose short last batch is dropped.
        return cast(nn.Module, torch.compile(net, dynamic=False, options={"fallback_random": True}))
    except RuntimeError as error:
        text = str(error).strip().partition("\n")[0]
        raise InputError(f"compile: got True, but torch cannot compile here ({text})") from None


@contextlib.contextmanager
def compiler_errors(label: str) -> Iterator[None]:
    """Shorten the errors of torch's compiler to a RunError of one line."""
    try:
        yield
    except RuntimeError as error:
        found = sys.modules.get("torch._dynamo.exc")  # slow to import, and there once it was used
        if found is None or not isinstance(error, found.TorchDynamoException):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = next((x for x in lines if not x.startswith("backend=")), type(error).__name__)
        raise RunError(
            f"{label}: torch.compile failed ({text}); leave `compile` of the recipe off"
        ) from None


def set_seed(seed: int) -> None:
    """Seed torch's global generators (weight initialisation and dropout).

    Training samples use generators of their own.
    """
    torch.manual_seed(seed)
