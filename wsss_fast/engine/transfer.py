"""Batches and networks on their device, and single values back, without waiting for the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import torch
from torch import nn

from wsss_fast.engine.samples import Batch

DeviceBatch = dict[str, torch.Tensor]
T = TypeVar("T")


def to_device(batch: Batch, device: torch.device) -> DeviceBatch:
    """Move a batch; [B, C, H, W] tensors become channels_last, which convolutions prefer.

    The host does not wait for the copy of pinned memory.
    """
    moved = {}
    for name, value in batch.items():
        layout = torch.channels_last if value.ndim == 4 else torch.preserve_format
        moved[name] = value.to(device, non_blocking=True, memory_format=layout)
    return moved


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[DeviceBatch]:
    """Each batch on the device.

    On CUDA they are copied on a stream of their own: the host is ahead of the device, so a batch is
    copied while the update before it is computed.

    Args:
        batches: from a loader; in pinned memory for CUDA.
        device: where they go.
    """
    if device.type != "cuda":
        for batch in batches:
            yield to_device(batch, device)
        return
    copies = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(copies):
            moved = to_device(batch, device)
        compute = torch.cuda.current_stream(device)
        compute.wait_stream(copies)
        for value in moved.values():
            value.record_stream(compute)  # its memory is in use until the update has ended
        yield moved


def move_to_device(net: nn.Module, device: torch.device) -> nn.Module:
    """Move `net`, its 2-d convolutions in channels_last."""
    net.to(device)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


class LateFlag:
    """A flag of each update, read without waiting: on CUDA, that of the update before.

    Args:
        device: where the flags are computed.
    """

    def __init__(self, device: torch.device):
        on_cuda = device.type == "cuda"
        self._count, self._age = 0, 2 if on_cuda else 1
        self._kept = torch.zeros(2, pin_memory=on_cuda)  # flags of the last two updates
        self._events = [torch.cuda.Event() for _ in range(2)] if on_cuda else []

    def note(self, flag: torch.Tensor) -> None:
        """Copy the flag of the newest update, a scalar that is not 0 where the flag is set."""
        place = self._count % 2
        self._kept[place].copy_(flag, non_blocking=True)
        if self._events:
            self._events[place].record()
        self._count += 1

    def read(self, *, newest: bool = False) -> bool:
        """The flag of the last update whose value is there, or, waiting for it, of the newest."""
        age = 1 if newest else self._age
        if self._count < age:
            return False
        place = (self._count - age) % 2
        if self._events:
            self._events[place].synchronize()
        return bool(self._kept[place])


class LateValues(Generic[T]):
    """Small tensors of a device, read in order once they are on the host, without waiting.

    Args:
        device: where they are computed.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._on_their_way: deque[tuple[T, torch.Tensor, torch.cuda.Event | None]] = deque()

    def note(self, values: torch.Tensor, about: T) -> None:
        """Copy `values`, a vector; `about` comes back with them."""
        on_cuda = values.is_cuda
        kept = torch.empty(values.shape, dtype=values.dtype, pin_memory=on_cuda)
        kept.copy_(values, non_blocking=True)
        event = torch.cuda.Event() if on_cuda else None
        if event is not None:
            event.record()
        self._on_their_way.append((about, kept, event))

    def arrived(self, *, wait: bool = False) -> Iterator[tuple[T, list[float]]]:
        """What has arrived since the last call; all that was noted, if `wait`."""
        while self._on_their_way:
            about, kept, event = self._on_their_way[0]
            if event is not None and wait:
                event.synchronize()
            if event is not None and not event.query():
                return
            self._on_their_way.popleft()
            yield about, kept.tolist()
