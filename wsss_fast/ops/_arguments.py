"""Checks of arguments; a wrong one is a ValueError with the op, the argument and its value."""

import sys
from numbers import Integral, Real
from typing import TypeGuard

import torch
from torch import Tensor

FLOATING_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST = sys.float_info.max
FLOATING = "float16, bfloat16, float32 or float64"  # the same in messages


def argument_error(op: str, name: str, value: object, wanted: str) -> ValueError:
    """The error of one argument: "OP: NAME is VALUE; must be WANTED"."""
    return ValueError(f"{op}: {name} is {describe(value)}; must be {wanted}")


def mismatch_error(op: str, wanted: str, **tensors: Tensor) -> ValueError:
    """The error of tensors that do not go together: "OP: A is [...] but B is [...]; WANTED"."""
    shapes = " but ".join(f"{name} is {list(tensor.shape)}" for name, tensor in tensors.items())
    return ValueError(f"{op}: {shapes}; {wanted}")


def describe(value: object) -> str:
    """A tensor as its dtype and shape; another value as Python writes it, if that is short."""
    if isinstance(value, Tensor):
        layout = "" if value.layout == torch.strided else f" {value.layout}"
        return f"{value.dtype}{layout} {list(value.shape)}"
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"an integer of more than {len(str(10**40)) - 1} digits"
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"a {type(value).__name__}"


def is_dense(value: object) -> TypeGuard[Tensor]:
    """Whether a value is a tensor that is stored as strided memory."""
    return isinstance(value, Tensor) and value.layout == torch.strided


def is_floating(value: object, *dimensions: int) -> TypeGuard[Tensor]:
    """Whether a value is a dense floating point tensor with one of the numbers of dimensions."""
    return (
        isinstance(value, Tensor)
        and value.dtype in FLOATING_DTYPES
        and value.layout == torch.strided
        and (not dimensions or value.dim() in dimensions)
    )


def is_real(value: object) -> TypeGuard[float]:
    """Whether a value is a real number, finite or not, or a tensor that holds one."""
    if isinstance(value, (int, float)):
        return True
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, Real)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite real number, or a tensor that holds one."""
    # Comparisons only: torch.compile may pass symbolic floats.
    if not isinstance(value, (int, float, Tensor)) and isinstance(value, Real):
        value = float(value)  # numpy's half precision would overflow in the comparison
    return is_real(value) and bool(-LARGEST <= value <= LARGEST)


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a value is an integer that torch can pass to a kernel, and no bool."""
    if isinstance(value, bool) or not isinstance(value, (int, Integral)):
        return False
    return bool(-(2**62) <= value <= 2**62)  # type: ignore[operator]  # Integral has no order


def check_device(op: str, name: str, first: Tensor, **others: Tensor | None) -> None:
    """All tensors must be on the device of the first one; None stands for a tensor not given."""
    for other, tensor in others.items():
        if tensor is not None and tensor.device != first.device:
            raise ValueError(f"{op}: {name} is on {first.device} but {other} is on {tensor.device}")
