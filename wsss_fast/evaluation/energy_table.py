"""The trainings of a run that had a dense energy loss: its numbers, and the parts of the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsss_fast.evaluation import stage_times

EXPLANATION = (
    "The dense energy loss is added to the supervised loss, which is that of the labels. It is "
    "negative, and the lower, the more similar the classes of similar pixels are. Both are means "
    "over the first epoch → over the last one; done.json of the training has those of all epochs."
)
_HEAD = (
    *("training", "weight", "sigma (levels)", "sigma (pixels)", "resolution"),
    *("supervised loss", "energy loss"),
)


def weight(done: Mapping[str, Any]) -> float | None:
    """The weight of the energy loss in a stage's done.json; None for a stage without one."""
    energy = _energy(done)
    return None if energy is None else energy["weight"]


def rows(out: Path) -> tuple[Sequence[str], list[list[str]]]:
    """Heads and cells of the table, as text; no row for a training without the loss."""
    found = []
    for name, done in stage_times.finished(out):
        energy, parts = _energy(done), done["notes"].get("loss_parts")
        if energy and parts:
            numbers = ("weight", "sigma_rgb", "sigma_xy", "scale_factor")
            cells = [f"{energy[number]:g}" for number in numbers]
            found.append([name, *cells, *map(_first_and_last, parts.values())])
    return _HEAD, found


def _energy(done: Mapping[str, Any]) -> Mapping[str, Any] | None:
    recipe = done["arguments"].get("recipe")
    return recipe.get("energy") if isinstance(recipe, dict) else None


def _first_and_last(means: Sequence[float]) -> str:
    first, last = f"{means[0]:.4g}", f"{means[-1]:.4g}"
    return f"{first} → {last}" if len(means) > 1 else first
