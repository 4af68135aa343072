"""The only training loop: it knows nothing of methods; a step function turns a batch into a loss."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from wsss_fast.engine import distributed
from wsss_fast.engine.checkpoint import Checkpoints
from wsss_fast.engine.ddp import TrainStepModule, no_grad_sync, sync_batch_norm, wrap_ddp
from wsss_fast.engine.progress import Bar, say
from wsss_fast.engine.runtime import Runtime
from wsss_fast.engine.samples import Batch, Samples, _Batches
from wsss_fast.engine.signals import (
    Stopped,
    block_signals_while_starting,
    defer_signals,
    ignore_first_sigterm,
    stop,
    stop_requested,
)
from wsss_fast.errors import InputError, RunError


@dataclasses.dataclass(frozen=True)
class History:
    """What training left to report: mean loss of each epoch, and samples a second."""

    losses: list[float]
    samples_per_second: float


def fit(
    net: nn.Module,
    step: Callable[[nn.Module, Batch], torch.Tensor],
    samples: Samples,
    *,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[float], float],
    batch_size: int,
    runtime: Runtime,
    label: str,
    epochs: int | None = None,
    updates: int | None = None,
    accumulate: int = 1,
    checkpoints: Checkpoints | None = None,
) -> History:
    """Train `net` in place; with checkpoints, from the newest of them on, to the same weights as without interruption.

    Args:
        net: moved to the runtime's device and put in train mode.
        step: (net, batch on the device) -> scalar loss; runs under the runtime's autocast.
        samples: training samples.
        optimizer: over parameters of `net`, with the peak learning rate of each group.
        schedule: progress in [0, 1) -> factor on every group's learning rate, set before each update.
        batch_size: images an update, of all processes together; a short last batch is dropped.
        runtime: device, seed, workers, dtype.
        label: what the progress bar calls this.
        epochs: passes over the samples; or
        updates: of the weights, over as many passes as it takes.
        accumulate: parts that a batch is cut into; their mean loss is differentiated part by part, to save memory.
        checkpoints: where the state is kept now and then; removed by the caller once the weights are safe.

    Raises:
        InputError: fewer samples than one batch, or an impossible number.
        RunError: the loss is not finite.
    """
    length = updates if epochs is None else epochs
    if length is None or length < 1 or batch_size < 1:
        raise InputError(
            f"{label}: {'updates' if epochs is None else 'epochs'} and batch size must be >= 1, "
            f"got {length} and {batch_size}"
        )
    if accumulate < 1 or batch_size % (accumulate * distributed.world_size()):
        processes = (
            f" for each of {distributed.world_size()} processes"
            if distributed.world_size() > 1
            else ""
        )
        raise InputError(
            f"{label}: a batch of {batch_size} cannot be cut into {accumulate} equal parts{processes}"
        )
    if len(samples) < batch_size:
        raise InputError(f"{label}: {len(samples)} images are fewer than one batch of {batch_size}")
    batches = _Batches(len(samples), batch_size, runtime.seed, accumulate)
    loader = DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=runtime.workers,
        persistent_workers=runtime.workers > 0,
        pin_memory=runtime.device.type == "cuda",
        worker_init_fn=_begin_loading,
        generator=torch.Generator(),
    )  # its own: it must not move the one that dropout draws from
    place(net, runtime.device).train()
    peaks = [group["lr"] for group in optimizer.param_groups]
    whole = len(batches)
    total = updates if epochs is None else epochs * whole
    epochs = -(-total // whole)
    at = TrainingState(net, optimizer, runtime.device)
    if checkpoints is not None and (kept := checkpoints.newest()) is not None:
        at.load(kept)
        if (
            at.done % whole == 0 and len(at.losses) < at.done // whole
        ):  # kept between an epoch's last update and its end
            at.finish_epoch(at.done // whole - 1, whole, label)
        say(f"{label}: goes on behind update {at.done} of {total}")
    before = at.done
    with Bar(label, total * batch_size, done=before * batch_size) as bar, sync_batch_norm(net):
        module = wrap_ddp(TrainStepModule(net, step), optimizer, runtime.device)
        try:
            with defer_signals():  # a signal waits until all processes have made an update
                for epoch in range(before // whole, epochs):
                    batches.epoch, batches.skip, batches.limit = (
                        epoch,
                        at.done - epoch * whole,
                        total - at.done,
                    )
                    with (
                        block_signals_while_starting()
                        if runtime.workers
                        else contextlib.nullcontext()
                    ):
                        loaded = iter(loader)
                    for batch in loaded:
                        _seed_dropout(runtime.seed, at.done)
                        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                            group["lr"] = peak * schedule(at.done / total)
                        at.update(module, to_device(batch, runtime.device), runtime, accumulate)
                        bar.advance(
                            batch_size,
                            f"epoch {epoch + 1}/{epochs}"
                            + (f" loss {at.losses[-1]:.4f}" if at.losses else ""),
                        )
                        if checkpoints is not None and checkpoints.due():
                            checkpoints.save(at.done, at.state())
                        if at.should_stop():
                            stop()
                    at.finish_epoch(epoch, at.done - epoch * whole, label)
        except Stopped:
            if checkpoints is not None and at.done > before and not at.updating:
                checkpoints.save(at.done, at.state())
            raise
        except distributed.PeerExited:
            raise  # the last checkpoint is good
        except RunError:
            if checkpoints is not None:
                checkpoints.clear()  # going on from there would end the same way
            raise
        seconds = bar.seconds()
    net.eval()
    return History(at.losses, (total - before) * batch_size / seconds)


def _begin_loading(number: int) -> None:
    """The first thing that loader process `number` does."""
    ignore_first_sigterm()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the training's has ended.

    torch looks at the parent process' id for that, which under forkserver is the fork server's, and that one waits for the
    loader processes: a training that was killed would leave them all behind.
    """
    multiprocessing.parent_process().join()
    os._exit(1)


def _seed_dropout(seed: int, update: int) -> None:
    """Let dropout depend on (seed, update, process) only: so it needs no state to go on from, and differs between processes."""
    torch.manual_seed(
        int(np.random.SeedSequence([seed, update, distributed.rank()]).generate_state(1)[0])
    )


class TrainingState:
    """Where a training is: what has to be kept to go on from there to the very same weights.

    Nothing random has a state: samples depend on (seed, epoch, image), dropout on (seed, update, process).
    """

    def __init__(self, net: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device):
        self.net, self.optimizer = net, optimizer
        self.summed = torch.zeros((), device=device)  # of the losses of the epoch at hand
        self.done, self.losses, self.updating = 0, [], False
        self._stops = torch.zeros((), device=device)

    def state(self) -> dict[str, Any]:
        return {
            "done": self.done,
            "losses": self.losses,
            "summed": self.summed,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, kept: dict[str, Any]) -> None:
        self.net.load_state_dict(kept["net"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.summed.copy_(kept["summed"])
        self.done, self.losses = kept["done"], list(kept["losses"])

    def update(self, module: nn.Module, batch: Batch, runtime: Runtime, accumulate: int) -> None:
        """One update of the weights. A process that is interrupted in its middle has nothing worth keeping."""
        self.updating = True
        with distributed.translate_errors():
            loss = _update(module, batch, self.optimizer, runtime, accumulate)
        asked = torch.full_like(loss, stop_requested())
        loss, self._stops = distributed.all_reduce_mean(torch.stack([loss, asked])).unbind()
        self.summed += loss
        self.done, self.updating = self.done + 1, False

    def should_stop(self) -> bool:
        """Whether any process was, when all made the last update; all say the same."""
        return stop_requested() if distributed.world_size() == 1 else bool(self._stops)

    def finish_epoch(self, epoch: int, count: int, label: str) -> None:
        """Note the mean loss of an epoch of `count` updates. Raises RunError if it is not finite."""
        self.losses.append(_finite(self.summed.item() / count, label, epoch))
        self.summed.zero_()


def _update(
    module: nn.Module,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    runtime: Runtime,
    accumulate: int = 1,
) -> torch.Tensor:
    optimizer.zero_grad(set_to_none=True)
    parts = {name: values.chunk(accumulate) for name, values in batch.items()}
    summed = torch.zeros((), device=runtime.device)
    for i in range(accumulate):
        with no_grad_sync(module, wanted=i + 1 < accumulate):
            with runtime.autocast():
                loss = module({name: values[i] for name, values in parts.items()}) / accumulate
            loss.backward()
        summed += loss.detach()
    optimizer.step()
    return summed


def _finite(loss: float, label: str, epoch: int) -> float:
    if not math.isfinite(loss):
        raise RunError(
            f"{label}: the loss became {loss} in epoch {epoch + 1}; lower the learning rate or use --precision fp32"
        )
    return loss


def to_device(batch: Batch, device: torch.device) -> dict[str, Any]:
    """Move a batch; images [B, 3, H, W] become channels_last, which convolutions prefer on CPU and GPU alike."""
    return {
        name: value.to(device, non_blocking=True, memory_format=torch.channels_last)
        if value.ndim == 4
        else value.to(device, non_blocking=True)
        for name, value in batch.items()
    }


def place(net: nn.Module, device: torch.device) -> nn.Module:
    """Move `net`, its 2-d convolutions in channels_last; other parameters (stacked branches, say) have no such layout."""
    net.to(device)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    return net
