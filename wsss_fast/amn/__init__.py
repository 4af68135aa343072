"""AMN, "Threshold Matters in WSSS" (Lee, Kim and Shim, CVPR 2022): the network (`method.py`) and its pipeline (`pipeline.py`)."""

from wsss_fast.amn.method import RECIPES, Recipe, adam, infer, merge_logits, train, views_to_maps
from wsss_fast.amn.pipeline import PIPELINES, PRESETS, Pipeline, panels, run
from wsss_fast.pipeline import RunResult

__all__ = [
    "PRESETS",
    "RECIPES",
    "PIPELINES",
    "Recipe",
    "Pipeline",
    "RunResult",
    "adam",
    "infer",
    "merge_logits",
    "panels",
    "run",
    "views_to_maps",
    "train",
]
