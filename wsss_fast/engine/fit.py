"""The training loop of all methods; a step function turns a batch into a loss."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from wsss_fast import _native
from wsss_fast.engine import distributed, transfer
from wsss_fast.engine.checkpoint import Checkpoints
from wsss_fast.engine.ddp import (
    Loss,
    Step,
    TrainStepModule,
    no_grad_sync,
    sync_batch_norm,
    wrap_ddp,
)
from wsss_fast.engine.optimizers import use_fused
from wsss_fast.engine.progress import Bar, say
from wsss_fast.engine.run_log import RunLog
from wsss_fast.engine.runtime import Runtime, compiled
from wsss_fast.engine.samples import EpochBatches, Samples
from wsss_fast.engine.schedules import for_updates
from wsss_fast.engine.signals import (
    Stopped,
    block_signals_while_starting,
    defer_signals,
    ignore_first_sigterm,
    raise_stopped,
    stop_requested,
)
from wsss_fast.errors import InputError, RunError


@dataclasses.dataclass(frozen=True)
class Length:
    """Length of a training, and the size of its batches.

    Attributes:
        batch_size: images per update, of all processes together; a short last batch is dropped.
        epochs: passes over the samples; or
        updates: of the weights, over as many passes as they need.
        accumulate: equal parts that a batch is cut into; their mean loss is differentiated part by
            part, to save memory.
    """

    batch_size: int
    epochs: int | None = None
    updates: int | None = None
    accumulate: int = 1

    def check(self, samples: int, label: str) -> None:
        """Raise InputError for impossible numbers, naming them."""
        given = self.updates if self.epochs is None else self.epochs
        if given is None or given < 1 or self.batch_size < 1:
            kind = "updates" if self.epochs is None else "epochs"
            raise InputError(
                f"{label}: {kind} and batch size must be >= 1, got {given} and {self.batch_size}"
            )
        world = distributed.world_size()
        if self.accumulate < 1 or self.batch_size % (self.accumulate * world):
            each = f" for each of {world} processes" if world > 1 else ""
            raise InputError(
                f"{label}: a batch of {self.batch_size} cannot be divided into "
                f"{self.accumulate} equal parts{each}"
            )
        if samples < self.batch_size:
            raise InputError(
                f"{label}: {samples} images are fewer than one batch of {self.batch_size}"
            )


def check_lengths(samples: int, **lengths: Length) -> None:
    """Raise InputError for a length, by training, that `samples` images do not allow."""
    for name, length in lengths.items():
        length.check(samples, f"train {name}")


@dataclasses.dataclass(frozen=True)
class History:
    """Result of a training.

    Attributes:
        losses: mean loss of each epoch.
        samples_per_second: images per second of this call.
        parts: mean of each named part of the loss, by epoch; empty if the step names none.
    """

    losses: list[float]
    samples_per_second: float
    parts: dict[str, list[float]] = dataclasses.field(default_factory=dict)


def fit(
    net: nn.Module,
    step: Step,
    samples: Samples,
    *,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[float], float],
    length: Length,
    runtime: Runtime,
    label: str,
    checkpoints: Checkpoints | None = None,
    log: Path | None = None,
) -> History:
    """Train `net` in place. Collective.

    With checkpoints, a training resumes from the newest one and ends with the weights of an
    uninterrupted run.

    Args:
        net: moved to the runtime's device and put in train mode.
        step: (net, batch on the device) -> loss, a scalar or its parts by name; runs under the
            runtime's autocast.
        samples: training samples.
        optimizer: over parameters of `net`, with the peak learning rate of each group.
        schedule: progress in [0, 1) -> factor on every group's learning rate, set before each
            update.
        length: epochs or updates, batch size, accumulation.
        runtime: device, seed, loader processes, dtype.
        label: of the progress bar.
        checkpoints: where the state is kept; the caller removes them once the weights are written.
        log: folder of `log.csv` (see `RunLog`); None: no log.

    Raises:
        InputError: fewer samples than one batch, or an impossible number.
        RunError: the loss is not finite.
    """
    length.check(len(samples), label)
    batches = EpochBatches(len(samples), length.batch_size, runtime.seed, length.accumulate)
    loader = _loader(samples, batches, runtime)
    transfer.move_to_device(net, runtime.device).train()
    peaks = [group["lr"] for group in optimizer.param_groups]
    per_epoch = len(batches)
    total = length.updates if length.epochs is None else length.epochs * per_epoch
    assert total is not None  # checked above
    schedule = for_updates(schedule, total)
    epochs = -(-total // per_epoch)
    images = length.batch_size
    rows = RunLog(log, runtime.device, images=images, per_epoch=per_epoch, total=total)
    state = TrainingState(net, optimizer, runtime.device, rows)
    if checkpoints is not None and (kept := checkpoints.newest()) is not None:
        state.load(kept)
        # Kept between an epoch's last update and its end?
        if state.done % per_epoch == 0 and len(state.losses) < state.done // per_epoch:
            state.finish_epoch(state.done // per_epoch - 1, per_epoch, label)
        say(f"{label}: resumes after update {state.done} of {total}")
    before = state.done
    with Bar(label, total * images, done=before * images) as bar, sync_batch_norm(net), rows:
        network = compiled(net) if runtime.compile else net
        module = wrap_ddp(TrainStepModule(network, step), optimizer, runtime.device)
        try:
            with defer_signals():  # a signal waits until all processes have finished an update
                for epoch in range(before // per_epoch, epochs):
                    batches.epoch = epoch
                    batches.skip = state.done - epoch * per_epoch
                    batches.limit = total - state.done
                    for batch in transfer.on_device(_started(loader, runtime), runtime.device):
                        _seed_dropout(runtime.seed, state.done)
                        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                            group["lr"] = peak * schedule(state.done / total)
                        state.update(module, batch, runtime, length.accumulate)
                        bar.advance(images, f"epoch {epoch + 1}/{epochs}{state.last_losses()}")
                        if checkpoints is not None and checkpoints.due():
                            checkpoints.save(state.done, state.to_dict())
                        if state.should_stop():
                            raise_stopped()
                    if state.should_stop(newest=True):
                        raise_stopped()
                    state.finish_epoch(epoch, state.done - epoch * per_epoch, label)
        except Stopped:
            if checkpoints is not None and state.done > before and not state.updating:
                checkpoints.save(state.done, state.to_dict())
            raise
        except distributed.PeerExited:
            raise  # the last checkpoint is good
        except RunError:
            if checkpoints is not None:
                checkpoints.clear()  # resuming from them would fail in the same way
            raise
        seconds = bar.seconds()
    net.eval()
    return History(state.losses, (total - before) * images / seconds, state.parts)


def _loader(samples: Samples, batches: EpochBatches, runtime: Runtime) -> DataLoader:
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=runtime.workers,
        persistent_workers=runtime.workers > 0,
        pin_memory=runtime.device.type == "cuda",
        worker_init_fn=functools.partial(_start_worker, native=_native.load("cpu")),
        generator=torch.Generator(),  # its own: it must not advance the one that dropout uses
    )


def _started(loader: DataLoader, runtime: Runtime) -> Any:
    """An iterator over the loader, whose processes start protected from signals."""
    with block_signals_while_starting() if runtime.workers else contextlib.nullcontext():
        return iter(loader)


def _start_worker(number: int, *, native: bool) -> None:
    """Runs first in loader process `number`; `native` if the training has the native library."""
    ignore_first_sigterm()
    if native:  # a process that is not forked loads it from the cache
        _native.load("cpu")
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exit this process when the training has exited.

    torch looks at the parent process' id for that. Under forkserver the parent is the fork server,
    which waits for the loader processes, so a killed training would leave them all running.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _seed_dropout(seed: int, update: int) -> None:
    """Let dropout depend on (seed, update, process) only: resuming needs no random state."""
    words = np.random.SeedSequence([seed, update, distributed.rank()]).generate_state(1)
    torch.manual_seed(int(words[0]))


class TrainingState:
    """Progress of a training: what a checkpoint holds to resume to the same weights.

    No random state is part of it: samples depend on (seed, epoch, image), dropout on (seed, update,
    process).

    Attributes:
        done: updates made.
        losses: mean loss of each finished epoch.
        loss_sum: sum of the losses of the current epoch.
        parts: mean of each named part of the loss, for each finished epoch.
        part_sums: sum of each named part in the current epoch.
        updating: whether an update is under way; a process interrupted then has nothing to keep.

    Args:
        log: gets the losses of each update.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        log: RunLog | None = None,
    ):
        self.net, self.optimizer, self.device, self.log = net, optimizer, device, log
        use_fused(optimizer.param_groups, device)
        self.loss_sum = torch.zeros((), device=device)
        self.done, self.updating = 0, False
        self.losses: list[float] = []
        self.parts: dict[str, list[float]] = {}
        self.part_sums: dict[str, torch.Tensor] = {}
        self._stop = transfer.LateFlag(device)

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "done": self.done,
            "losses": self.losses,
            "loss_sum": self.loss_sum,
            "parts": self.parts,
            "part_sums": self.part_sums,
            "log": None if self.log is None else self.log.state(),
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, kept: dict[str, Any]) -> None:
        """Continue from what `to_dict` returned."""
        self.net.load_state_dict(kept["net"])
        use_fused(kept["optimizer"]["param_groups"], self.device)  # another device's may be kept
        self.optimizer.load_state_dict(kept["optimizer"])
        self.loss_sum.copy_(kept["loss_sum"])
        self.done, self.losses = kept["done"], list(kept["losses"])
        # Of a loss without named parts, an earlier version kept neither.
        self.parts = {name: list(means) for name, means in kept.get("parts", {}).items()}
        self.part_sums = {
            name: total.to(self.device) for name, total in kept.get("part_sums", {}).items()
        }
        if self.log is not None:
            self.log.resume(self.done, kept.get("log"))

    def update(
        self, module: nn.Module, batch: dict[str, torch.Tensor], runtime: Runtime, accumulate: int
    ) -> None:
        """Update the weights once. Collective."""
        self.updating = True
        with distributed.translate_errors():
            loss = _update(module, batch, self.optimizer, runtime, accumulate)
        names, values = [*_named(loss)], [*_named(loss).values()]
        if distributed.world_size() > 1:
            stop = torch.full_like(values[0], stop_requested())
            *values, stops = distributed.all_reduce_mean(torch.stack([*values, stop])).unbind()
            self._stop.note(stops)
        self.loss_sum += _sum(values)
        for name, value in zip(names, values, strict=True):
            if name != _WHOLE:
                self.part_sums[name] = self.part_sums.get(name, torch.zeros_like(value)) + value
        self.done, self.updating = self.done + 1, False
        if self.log is not None:
            by_name = dict(zip(names, values, strict=True))
            self.log.add(self.done, by_name, self.optimizer.param_groups)

    def should_stop(self, *, newest: bool = False) -> bool:
        """Whether any process had received a signal at the last update; all agree.

        Several processes on CUDA look at the update before, whose exchange has ended, unless
        `newest` is set, which waits.
        """
        return stop_requested() if distributed.world_size() == 1 else self._stop.read(newest=newest)

    def finish_epoch(self, epoch: int, count: int, label: str) -> None:
        """Note the mean loss of an epoch of `count` updates; RunError if it is not finite."""
        loss = self.loss_sum.item() / count
        if not math.isfinite(loss):
            raise RunError(
                f"{label}: the loss became {loss} in epoch {epoch + 1}; "
                "lower the learning rate or use --precision fp32"
            )
        self.losses.append(loss)
        self.loss_sum.zero_()
        for name, total in self.part_sums.items():
            self.parts.setdefault(name, []).append(total.item() / count)
            total.zero_()

    def last_losses(self) -> str:
        """The losses of the last finished epoch, for the progress bar."""
        if not self.losses:
            return ""
        named = ", ".join(f"{name} {means[-1]:.4f}" for name, means in self.parts.items())
        return f" loss {self.losses[-1]:.4f}" + (f" ({named})" if named else "")


def _update(
    module: nn.Module,
    batch: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    runtime: Runtime,
    accumulate: int = 1,
) -> Loss:
    """Update the weights once; the loss as the step returns it, its mean over the batch's parts."""
    optimizer.zero_grad(set_to_none=True)
    parts = {name: values.chunk(accumulate) for name, values in batch.items()}
    means: dict[str, torch.Tensor] = {}
    for i in range(accumulate):
        with no_grad_sync(module, enabled=i + 1 < accumulate):
            with runtime.autocast():
                loss = module({name: values[i] for name, values in parts.items()})
                shares = {name: value / accumulate for name, value in _named(loss).items()}
                total = _sum([*shares.values()])
            total.backward()
        for name, share in shares.items():
            earlier = means.get(name, torch.zeros((), device=runtime.device))
            means[name] = earlier + share.detach()
    optimizer.step()
    return means.get(_WHOLE, means)


_WHOLE = ""  # the name of a loss without named parts


def _named(loss: Loss) -> dict[str, torch.Tensor]:
    return loss if isinstance(loss, dict) else {_WHOLE: loss}


def _sum(values: Sequence[torch.Tensor]) -> torch.Tensor:
    return sum(values[1:], start=values[0])
