"""The only training loop: it knows nothing of methods; a step function turns a batch into a loss."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from wsss_fast.errors import InputError, RunError
from wsss_fast.progress import Bar
from wsss_fast.run import Runtime

Batch = Mapping[str, torch.Tensor]


class Samples(Dataset):
    """Training samples whose randomness depends only on (seed, epoch, image), whatever process makes them.

    Args:
        ids: image ids.
        make: (id, generator) -> one sample, a dict of tensors.
        seed: of all samples.
    """

    def __init__(self, ids: tuple[str, ...], make: Callable[[str, np.random.Generator], Batch], seed: int):
        self.ids, self.make, self.seed = ids, make, seed

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> Batch:
        epoch, index = divmod(position, len(self.ids))  # positions run on over epochs, so workers need no epoch state
        return self.make(self.ids[index], np.random.default_rng([self.seed, epoch, index]))


class _Batches(Sampler):
    """Positions of each batch of one epoch: a shuffle that depends on (seed, epoch); the last, short batch is dropped."""

    def __init__(self, count: int, batch_size: int, seed: int):
        self.count, self.batch_size, self.seed, self.epoch = count, batch_size, seed, 0

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count) + self.epoch * self.count
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start:start + self.batch_size].tolist()


@dataclasses.dataclass(frozen=True)
class History:
    """What training left to report: mean loss of each epoch, and samples a second."""

    losses: list[float]
    samples_per_second: float


def poly(power: float = 0.9, warmup: float = 0.0) -> Callable[[float], float]:
    """Polynomial decay of the learning rate: factor (1 - progress)^power; progress = step / steps, before the update.

    Over the first `warmup` share of training the factor also rises linearly from 0.
    """
    return lambda progress: (1.0 - progress) ** power * (min(1.0, progress / warmup) if warmup else 1.0)


def one_cycle(warmup: float = 0.3, start: float = 0.04, end: float = 4e-6) -> Callable[[float], float]:
    """Cosine up from `start` to 1 over the first `warmup` share of training, cosine down to `end` (Smith & Topin 2019)."""
    def factor(progress: float) -> float:
        if progress < warmup:
            return start + (1 - start) * (1 - math.cos(math.pi * progress / warmup)) / 2
        return end + (1 - end) * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2
    return factor


def constant() -> Callable[[float], float]:
    """No schedule."""
    return lambda progress: 1.0


def fit(net: nn.Module, step: Callable[[nn.Module, Batch], torch.Tensor], samples: Samples, *,
        optimizer: torch.optim.Optimizer, schedule: Callable[[float], float], epochs: int, batch_size: int,
        runtime: Runtime, label: str) -> History:
    """Train `net` in place.

    Args:
        net: moved to the runtime's device and put in train mode.
        step: (net, batch on the device) -> scalar loss; runs under the runtime's autocast.
        samples: training samples.
        optimizer: over parameters of `net`, with the peak learning rate of each group.
        schedule: progress in [0, 1) -> factor on every group's learning rate, set before each update.
        epochs: passes over the samples.
        batch_size: images an update; a short last batch is dropped.
        runtime: device, seed, workers, dtype.
        label: what the progress bar calls this.

    Raises:
        InputError: fewer samples than one batch, or an impossible number.
        RunError: the loss is not finite.
    """
    if epochs < 1 or batch_size < 1:
        raise InputError(f"{label}: epochs and batch size must be >= 1, got {epochs} and {batch_size}")
    if len(samples) < batch_size:
        raise InputError(f"{label}: {len(samples)} images are fewer than one batch of {batch_size}")
    batches = _Batches(len(samples), batch_size, runtime.seed)
    loader = DataLoader(samples, batch_sampler=batches, num_workers=runtime.workers,
                        persistent_workers=runtime.workers > 0, pin_memory=runtime.device.type == "cuda")
    place(net, runtime.device).train()
    peaks = [group["lr"] for group in optimizer.param_groups]
    total, done, losses = epochs * len(batches), 0, []
    with Bar(label, total * batch_size) as bar:
        for epoch in range(epochs):
            batches.epoch = epoch
            summed = torch.zeros((), device=runtime.device)
            for batch in loader:
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * schedule(done / total)
                summed += _update(net, step, to_device(batch, runtime.device), optimizer, runtime)
                done += 1
                bar.advance(batch_size, f"epoch {epoch + 1}/{epochs}" + (f" loss {losses[-1]:.4f}" if losses else ""))
            losses.append(_finite(summed.item() / len(batches), label, epoch))
        seconds = bar.seconds()
    net.eval()
    return History(losses, total * batch_size / seconds)


def _update(net: nn.Module, step, batch: Batch, optimizer: torch.optim.Optimizer, runtime: Runtime) -> torch.Tensor:
    with runtime.autocast():
        loss = step(net, batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def _finite(loss: float, label: str, epoch: int) -> float:
    if not math.isfinite(loss):
        raise RunError(f"{label}: the loss became {loss} in epoch {epoch + 1}; lower the learning rate or use --precision fp32")
    return loss


def to_device(batch: Batch, device: torch.device) -> dict[str, Any]:
    """Move a batch; images [B, 3, H, W] become channels_last, which convolutions prefer on CPU and GPU alike."""
    return {name: value.to(device, non_blocking=True, memory_format=torch.channels_last) if value.ndim == 4
            else value.to(device, non_blocking=True) for name, value in batch.items()}


def place(net: nn.Module, device: torch.device) -> nn.Module:
    """Move `net`, its 2-d convolutions in channels_last; other parameters (stacked branches, say) have no such layout."""
    net.to(device)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    return net
