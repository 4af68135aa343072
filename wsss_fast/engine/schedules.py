"""Learning-rate schedules: frozen dataclasses, called with the progress of the training."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from wsss_fast.engine.ranges import COUNT, NOT_NEGATIVE, SHARE, Range


@dataclasses.dataclass(frozen=True)
class Poly:
    """Polynomial decay: factor (1 - progress)^power, progress = step / steps before the update.

    Attributes:
        power: exponent.
        warmup: share of the training over which the factor also rises linearly from 0.
        stairs: number of equal parts of the training with a constant factor (2000 stairs of 20,000
            updates change it every 10), or None to change it at every update.
    """

    ranges: ClassVar = {"power": NOT_NEGATIVE, "warmup": SHARE, "stairs": COUNT}

    power: float = 0.9
    warmup: float = 0.0
    stairs: int | None = None

    def __call__(self, progress: float) -> float:
        # step / steps * stairs may fall short of a whole number by rounding
        reached = (
            progress
            if self.stairs is None
            else math.floor(progress * self.stairs + 1e-6) / self.stairs
        )
        return (1.0 - reached) ** self.power * (
            min(1.0, progress / self.warmup) if self.warmup else 1.0
        )


@dataclasses.dataclass(frozen=True)
class OneCycle:
    """Cosine from `start` up to 1, then down to `end` (Smith and Topin, 2019).

    Attributes:
        warmup: share of the training with a rising factor.
        start: factor at the beginning.
        end: factor at the end.
    """

    ranges: ClassVar = {"warmup": Range(0, 0.999), "start": NOT_NEGATIVE, "end": NOT_NEGATIVE}

    warmup: float = 0.3
    start: float = 0.04
    end: float = 4e-6

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return (
                self.start + (1 - self.start) * (1 - math.cos(math.pi * progress / self.warmup)) / 2
            )
        down = math.pi * (progress - self.warmup) / (1 - self.warmup)
        return self.end + (1 - self.end) * (1 + math.cos(down)) / 2


@dataclasses.dataclass(frozen=True)
class Constant:
    """The peak learning rate throughout."""

    def __call__(self, progress: float) -> float:
        return 1.0


Schedule = Poly | OneCycle | Constant
