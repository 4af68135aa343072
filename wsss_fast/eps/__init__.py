"""EPS, "Railroad is not a Train" (Lee, Lee, Lee and Shim, CVPR 2021): the network (`method.py`), its pipeline (`pipeline.py`) and the
paper's analyses (`analyses.py`)."""

from wsss_fast.eps.analyses import analyse
from wsss_fast.eps.method import (
    COCO,
    RECIPES,
    InferResult,
    Recipe,
    infer,
    losses,
    sgd,
    train,
    views_to_maps,
)
from wsss_fast.eps.pipeline import PIPELINES, PRESETS, Pipeline, run
from wsss_fast.pipeline import AnalysesResult, RunResult

__all__ = [
    "AnalysesResult",
    "COCO",
    "InferResult",
    "PRESETS",
    "RECIPES",
    "PIPELINES",
    "Recipe",
    "Pipeline",
    "RunResult",
    "analyse",
    "infer",
    "losses",
    "run",
    "views_to_maps",
    "sgd",
    "train",
]
