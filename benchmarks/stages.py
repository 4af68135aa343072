"""The stages that `every_stage.py` runs, and what they write."""

import json
from pathlib import Path
from typing import Any

ARTEFACTS = (".npz", ".png")
TRAININGS = ("cam", "amn", "irn", "seg", "eps", "refined")
INFERENCES = (
    "cam/maps",
    "seeds",
    "amn/maps",
    "irn/maps",
    "irn/masks",
    "masks",
    "seg/predictions",
    "eps/maps",
    "eps/crf-masks",
    "ccr/maps",
)


def notes(folder: Path) -> dict[str, Any]:
    """What a finished stage recorded in its done.json."""
    return json.loads((folder / "done.json").read_text())["notes"]
