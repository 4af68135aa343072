"""The least work of an op, and the rate of a plain torch call that does as much on this machine."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable

import torch

_COPIED = 256 << 20  # bytes, more than caches hold
_REPEATS = 3


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Work that no implementation of a row can avoid.

    Attributes:
        work: FLOP or bytes.
        plain: matmul or copy, the plain call whose rate is the bound.
        plain_work: FLOP or bytes of one plain call.
        prepare: device -> a function that runs the plain call.
    """

    work: float
    plain: str
    plain_work: float
    prepare: Callable[[torch.device], Callable[[], object]]

    @property
    def unit(self) -> str:
        """GFLOP/s or GB/s."""
        return "GFLOP/s" if self.plain == "matmul" else "GB/s"

    def plain_rate(self, device: torch.device) -> float:
        """The plain call's rate in `unit`: the median of three calls after a warm-up."""
        call, times = self.prepare(device), []
        for _ in range(1 + _REPEATS):
            synchronise(device)
            start = time.perf_counter()
            call()
            synchronise(device)
            times.append(time.perf_counter() - start)
        return self.plain_work / statistics.median(times[1:]) / 1e9


def matmul(
    m: int, k: int, n: int, *, products: int = 1, dtype: torch.dtype = torch.float32
) -> Roofline:
    """The multiply-adds of `products` products [m, k] x [k, n]; the plain call is one of them."""

    def prepare(device: torch.device) -> Callable[[], object]:
        left = torch.randn(m, k, device=device).to(dtype)
        right = torch.randn(k, n, device=device).to(dtype)
        return lambda: left @ right

    work = 2.0 * m * k * n
    return Roofline(products * work, "matmul", work, prepare)


def copy(size: int) -> Roofline:
    """`size` bytes read or written once; the plain call copies 256 MiB, twice that of traffic."""

    def prepare(device: torch.device) -> Callable[[], object]:
        source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    return Roofline(size, "copy", 2.0 * _COPIED, prepare)


def synchronise(device: torch.device) -> None:
    """Wait for a CUDA device; does nothing for the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
