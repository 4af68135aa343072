"""What training on several processes needs so that it computes what one process would on the whole batch."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from wsss_fast.engine import distributed


class TrainStepModule(nn.Module):
    """A network with the step that makes its loss, as one module: DistributedDataParallel sees nothing but `forward`."""

    def __init__(self, net: nn.Module, step: Callable[[nn.Module, Any], torch.Tensor]):
        super().__init__()
        self.net, self.step = net, step

    def forward(self, batch: Any) -> torch.Tensor:
        return self.step(self.net, batch)


def wrap_ddp(
    module: TrainStepModule, optimizer: torch.optim.Optimizer, device: torch.device
) -> nn.Module:
    """The module such that its gradients are the means over all processes; alone, the module itself."""
    if distributed.world_size() == 1:
        return module
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for parameter in (
        module.parameters()
    ):  # DistributedDataParallel waits for the gradients of all that ask for one
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in trained)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # torch 2.13 renames `broadcast_buffers`, which 2.10 knows as this only
        # Buffers need no broadcast: batch-norm's statistics are of the whole batch on every process (`sync_batch_norm`).
        return DistributedDataParallel(
            module,
            device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )


@contextlib.contextmanager
def no_grad_sync(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Let gradients add up on each process where `wanted`, for all parts of a batch but the last."""
    with (
        module.no_sync()
        if wanted and isinstance(module, DistributedDataParallel)
        else contextlib.nullcontext()
    ):
        yield


def global_mean(loss: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """Weigh a loss that is a mean over `number` things of this process, so that its mean over processes is the mean over all.

    Args:
        loss: scalar; 0 where `number` is.
        number: how many things it is the mean of, a scalar on the loss' device.
    """
    if distributed.world_size() == 1:
        return loss
    number = number.to(loss.dtype)
    return loss * (number / distributed.all_reduce_mean(number).clamp_min(1e-12))


@contextlib.contextmanager
def sync_batch_norm(net: nn.Module) -> Iterator[None]:
    """Let batch-norms in train mode normalise by mean and variance of the whole batch, not of this process' share of it.

    torch's SyncBatchNorm does this on GPUs only. Shares are of equal size.
    """
    norms = (
        [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        if distributed.world_size() > 1
        else []
    )
    for norm in norms:
        norm.forward = functools.partial(_normalised, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _normalised(norm: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    if not norm.training:
        return nn.BatchNorm2d.forward(norm, x)
    with torch.autocast(x.device.type, enabled=False):
        out, mean, variance = _Normalised.apply(x.float(), norm.weight, norm.bias, norm.eps)
    with torch.no_grad():
        number = distributed.world_size() * x.numel() // x.shape[1]
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (number / max(number - 1, 1)), norm.momentum)
    return out.to(x.dtype)


class _Normalised(torch.autograd.Function):
    """Batch-norm by the statistics of all processes' shares; one exchange forward and one backward.

    With x_hat = (x - mean) / std, means over all shares: d x = w / std (dy - mean(dy) - x_hat mean(dy x_hat)).
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, ...]:
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        shares = distributed.all_gather_tensor(torch.stack([mean, variance]))  # [count, 2, C]
        mean = shares[:, 0].mean(dim=0)
        variance = (shares[:, 1] + (shares[:, 0] - mean).square()).mean(dim=0)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return (
            nn.functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps),
            mean,
            variance,
        )

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        deviation = (variance + ctx.eps).rsqrt()
        straight, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, variance, mean, deviation, False, ctx.eps, [True, True, True]
        )
        factor = weight * deviation
        number = x.numel() // x.shape[1]
        along, level = (
            distributed.all_reduce_mean(torch.stack([of_weight, of_bias])) / number
        )  # means of dy x_hat and of dy
        slope = factor * deviation * along
        offset = factor * level - slope * mean
        own = straight.addcmul_(x, -slope[:, None, None]).sub_(offset[:, None, None])
        return own, of_weight, of_bias, None
