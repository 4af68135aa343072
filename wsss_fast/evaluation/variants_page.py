"""Cells and curves of the pages that compare variants of a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def percent(value: float | None) -> str:
    """A share 0..1 in %; empty without a value."""
    return "" if value is None or not np.isfinite(value) else f"{100 * value:.1f}"


def at_best(record: Mapping[str, Any]) -> str:
    """mIoU in % at the best threshold, and this threshold."""
    return f"{percent(record['miou'])} @ {record['best_threshold']:.2f}"


def at_fixed(record: Mapping[str, Any]) -> str:
    """mIoU in % at the threshold chosen beforehand, and this threshold."""
    return f"{percent(record['miou_at_fixed'])} @ {record['fixed_threshold']:.2f}"


def difference(record: Mapping[str, Any], to: Mapping[str, Any]) -> str:
    """Difference of two mIoUs at their best thresholds, in points."""
    return f"{100 * (record['miou'] - to['miou']):+.1f}"


def curve_points(record: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Points (threshold, mIoU) of a record's threshold curve."""
    curve = record["curve"]
    return list(zip(curve["thresholds"], curve["miou"], strict=True))
