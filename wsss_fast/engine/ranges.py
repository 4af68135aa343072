"""Ranges of the numbers of recipes and pipelines, checked all together before work starts."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from wsss_fast.errors import InputError


@dataclasses.dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`; of a tuple, each number.

    Attributes:
        low: smallest number, or the limit below all numbers.
        high: largest number, or the limit above all numbers.
        open: whether the limits themselves are left out.
        some: whether a tuple needs at least one number.
    """

    low: float = -math.inf
    high: float = math.inf
    open: bool = False
    some: bool = False

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, tuple):
            return bool(value or not self.some) and all(each in self for each in value)
        inside = self.low < value < self.high if self.open else self.low <= value <= self.high
        return math.isfinite(value) and inside

    def __str__(self) -> str:
        kind = "one or more numbers " if self.some else ""
        if self.high >= COUNT.high:
            return f"{kind or 'a finite number '}{'>' if self.open else '>='} {self.low:g}"
        if self.open:
            return f"{kind}> {self.low:g} and < {self.high:g}"
        return f"{kind}in {self.low:g}..{self.high:,.15g}"


@dataclasses.dataclass(frozen=True)
class Each:
    """Tuples with a range for each of their numbers."""

    ranges: tuple[Range, ...]

    def __contains__(self, values: Any) -> bool:
        return all(v in allowed for v, allowed in zip(values, self.ranges, strict=True))

    def __str__(self) -> str:
        return "in turn " + ", ".join(map(str, self.ranges))


SHARE = Range(0, 1)
NOT_NEGATIVE = Range(0)
POSITIVE = Range(0, open=True)
COUNT = Range(1, 10**12)
PIXELS = Range(1, 16_384)  # sides of images, crops and multiples of them; distances in them
SCALE = Range(0, 64, open=True)
SCALES = Range(0, 64, open=True, some=True)

# Of every training recipe.
TRAINING = {"batch_size": COUNT, "lr": NOT_NEGATIVE, "infer_batch": COUNT}


def check(value: Any, name: str) -> None:
    """Check the numbers of a recipe, a pipeline, and of the dataclasses in it.

    Args:
        value: a dataclass. Its class variable `ranges` has a `Range`, or a tuple of choices, by
            field; fields that are None are not checked. Its method `check_together`, if it has one,
            gets `name` and raises for numbers that do not fit each other.
        name: of the value, as on the command line.

    Raises:
        InputError: a number is outside of its range, or not finite.
    """
    allowed = getattr(type(value), "ranges", {})
    for field in dataclasses.fields(value):
        given, path = getattr(value, field.name), f"{name}.{field.name}"
        if dataclasses.is_dataclass(given):
            check(given, path)
        elif given is not None and field.name in allowed and given not in allowed[field.name]:
            raise InputError(f"{path}: got {given!r}, must be {_text(allowed[field.name])}")
    if hasattr(value, "check_together"):
        value.check_together(name)


def check_order(value: Any, name: str, low: str, high: str) -> None:
    """Raise InputError if the field `low` of a dataclass is larger than its field `high`."""
    lower, upper = getattr(value, low), getattr(value, high)
    if lower > upper:
        raise InputError(f"{name}: {low} {lower} must not be above {high} {upper}")


def _text(allowed: Any) -> str:
    return f"one of {', '.join(allowed)}" if isinstance(allowed, tuple) else str(allowed)
