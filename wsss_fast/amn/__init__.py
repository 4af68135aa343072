"""AMN, "Threshold Matters in WSSS" (Lee, Kim and Shim, CVPR 2022): the network (`method.py`) and its road (`road.py`)."""

from wsss_fast.amn.method import RECIPES, Recipe, adam, infer, merge_logits, scorer, train
from wsss_fast.amn.road import PRESETS, ROADS, Road, panels, run
from wsss_fast.road import RunResult

__all__ = ["PRESETS", "RECIPES", "ROADS", "Recipe", "Road", "RunResult", "adam", "infer", "merge_logits", "panels", "run",
           "scorer", "train"]
