"""What the cases of `gpu_ops.py` share: their type, random numbers, gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

ToDevice = Callable[[Tensor], Tensor]
Call = Callable[[ToDevice], Iterable[Tensor]]
Case = tuple[str, torch.dtype, Call]  # name of the op, dtype, call


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def with_gradients(result: Tensor, *leaves: Tensor) -> list[Tensor]:
    """A result, and the gradients of the sum of its squares."""
    return [result.detach(), *torch.autograd.grad(result.float().square().sum(), leaves)]
