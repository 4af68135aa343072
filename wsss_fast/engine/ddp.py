"""Training on several processes with the results of one process on the whole batch."""

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

# What a training step returns: its loss, a scalar, or the parts of it by name, whose sum it is.
Loss = torch.Tensor | dict[str, torch.Tensor]
Step = Callable[[nn.Module, Any], Loss]  # (network, batch) -> loss


class TrainStepModule(nn.Module):
    """A network and its loss function as one module, whose `forward` DDP can wrap."""

    def __init__(self, net: nn.Module, step: Step):
        super().__init__()
        self.net, self.step = net, step

    def forward(self, batch: Any) -> Loss:
        return self.step(self.net, batch)


def wrap_ddp(
    module: TrainStepModule, optimizer: torch.optim.Optimizer, device: torch.device
) -> nn.Module:
    """The module with gradients averaged over all processes; in a single process the module itself.

    Collective.
    """
    if distributed.world_size() == 1:
        return module
    # DistributedDataParallel waits for the gradients of all parameters that require one.
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in trained)
    with warnings.catch_warnings():
        # torch 2.13 renames `broadcast_buffers`; torch 2.10 knows only this name.
        warnings.simplefilter("ignore", FutureWarning)
        # Buffers need no broadcast: `sync_batch_norm` gives every process the whole batch's.
        return DistributedDataParallel(
            module,
            device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )


@contextlib.contextmanager
def no_grad_sync(module: nn.Module, enabled: bool) -> Iterator[None]:
    """Accumulate gradients locally where `enabled`: for all parts of a batch but the last."""
    with contextlib.ExitStack() as stack:
        if enabled and isinstance(module, DistributedDataParallel):
            stack.enter_context(module.no_sync())
        yield


def global_mean(loss: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """Weight a local mean so that its mean over processes is that over all elements. Collective.

    Args:
        loss: scalar, the mean over `number` elements of this process; 0 where `number` is.
        number: count of elements, a scalar on the loss' device.
    """
    if distributed.world_size() == 1:
        return loss
    number = number.to(loss.dtype)
    return loss * (number / distributed.all_reduce_mean(number).clamp_min(1e-12))


@contextlib.contextmanager
def sync_batch_norm(net: nn.Module) -> Iterator[None]:
    """Let batch-norms in train mode use mean and variance of the whole batch of all processes.

    torch's SyncBatchNorm does this on GPUs only. All processes have equally many images.
    """
    several = distributed.world_size() > 1
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)] if several else []
    for norm in norms:
        norm.forward = functools.partial(_batch_norm, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _batch_norm(norm: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    if not norm.training:
        return nn.BatchNorm2d.forward(norm, x)
    with torch.autocast(x.device.type, enabled=False):
        out, mean, variance = _SyncedBatchNorm.apply(x.float(), norm.weight, norm.bias, norm.eps)
    with torch.no_grad():
        number = distributed.world_size() * x.numel() // x.shape[1]
        assert norm.num_batches_tracked is not None and norm.momentum is not None
        assert norm.running_mean is not None and norm.running_var is not None
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (number / max(number - 1, 1)), norm.momentum)
    return out.to(x.dtype)


class _SyncedBatchNorm(torch.autograd.Function):
    """Batch-norm with the statistics of all processes; one exchange forward and one backward.

    With x_hat = (x - mean) / std and means over all processes:
    d x = w / std (dy - mean(dy) - x_hat mean(dy x_hat)).
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, ...]:
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        shares = distributed.all_gather_tensor(torch.stack([mean, variance]))  # [world, 2, C]
        mean = shares[:, 0].mean(dim=0)
        variance = (shares[:, 1] + (shares[:, 0] - mean).square()).mean(dim=0)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        out = nn.functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        return out, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        deviation = (variance + ctx.eps).rsqrt()
        straight, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            grads[0],
            x,
            weight,
            mean,
            variance,
            mean,
            deviation,
            False,
            ctx.eps,
            [True, True, True],
        )
        factor = weight * deviation
        number = x.numel() // x.shape[1]
        # means of dy x_hat and of dy
        along, level = distributed.all_reduce_mean(torch.stack([of_weight, of_bias])) / number
        slope = factor * deviation * along
        offset = factor * level - slope * mean
        own = straight.addcmul_(x, -slope[:, None, None]).sub_(offset[:, None, None])
        return own, of_weight, of_bias, None
