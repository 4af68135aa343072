"""Learning-rate schedules: frozen dataclasses, called with the progress of the training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, TypeVar, cast

from wsss_fast.engine.ranges import COUNT, NOT_NEGATIVE, SHARE, Range
from wsss_fast.engine.serialize import later
from wsss_fast.errors import InputError

S = TypeVar("S", bound=Callable[[float], float])


@dataclasses.dataclass(frozen=True)
class Poly:
    """Polynomial decay: factor (1 - progress)^power, progress = step / steps before the update.

    Attributes:
        power: exponent.
        warmup: share of the training over which the factor also rises linearly from 0.
        stairs: number of equal parts of the training with a constant factor, or None.
        every: number of updates after which the factor changes, whatever the length of the
            training, or None; without both, it changes at every update.
    """

    ranges: ClassVar = {"power": NOT_NEGATIVE, "warmup": SHARE, "stairs": COUNT, "every": COUNT}
    exclusive: ClassVar = ("stairs", "every")

    power: float = 0.9
    warmup: float = 0.0
    stairs: int | float | None = None
    every: int | None = later(None)

    def __post_init__(self):
        if self.stairs is not None and self.every is not None:
            raise InputError(
                f"schedule: got stairs {self.stairs} and every {self.every}; one of them must be "
                "None"
            )

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


def for_updates(schedule: S, total: int) -> S:
    """The schedule for a training of `total` updates: `every` of a `Poly` becomes its `stairs`."""
    if not isinstance(schedule, Poly) or schedule.every is None:
        return schedule
    whole, rest = divmod(total, schedule.every)
    stairs = total / schedule.every if rest else whole
    return cast(S, dataclasses.replace(schedule, stairs=stairs, every=None))
