"""Goals and predictions of the rows on a GPU, as in gpu_goals.json; standard library only."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

FILE = Path(__file__).with_name("gpu_goals.json")
MS, RATE = "ms", "images_per_s"
# How often as fast as eager PyTorch or torch's own op, measured in the same run.
OVER = {"over_eager": "eager", "over_torch": "torch"}


@dataclasses.dataclass(frozen=True)
class Goal:
    """What a row should take, and what it is predicted to take.

    Attributes:
        target: one of `ms`, `images_per_s`, `over_eager` and `over_torch`, and its number; empty:
            not slower than the version before.
        memory: largest peak memory, as a multiple of the version before.
        predicted: milliseconds, or images per second where the row is given so.
        bound: what the predicted time is bound by.
        why: how it was predicted, in one line.
    """

    target: Mapping[str, float] = dataclasses.field(default_factory=dict)
    memory: float | None = None
    predicted: float | None = None
    bound: str = ""
    why: str = ""

    def value(self, images: int | None, baselines: Mapping[str, float]) -> float | None:
        """The target in the row's unit: images per second if the row has images, else ms.

        Args:
            images: images of a call, for rows that are given in images per second.
            baselines: milliseconds of `eager` and `torch`, as far as they were measured.
        """
        for kind, number in self.target.items():
            if kind in (MS, RATE):
                return number
            if ms := baselines.get(OVER[kind]):
                return in_unit(ms / number, images)
        return None

    def text(self) -> str:
        """The target in words."""
        for kind, number in self.target.items():
            if kind in OVER:
                return f"{number:g}x {OVER[kind]}"
            return f"{number:,g} {'ms' if kind == MS else 'images/s'}"
        return "-"


def in_unit(ms: float, images: int | None) -> float:
    """Images per second of a call with images, or the milliseconds themselves."""
    return 1e3 * images / ms if images else ms


def read() -> dict[str, Goal]:
    """The goals by the names of the rows."""
    return {name: Goal(**entry) for name, entry in json.loads(FILE.read_text()).items()}
