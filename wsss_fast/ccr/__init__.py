"""CCR, "Inferring the Class Conditional Response Map for WSSS" (Sun, Zhang and Barnes, WACV 2022): fuller maps without
re-training (`method.py`), saliency beside the pseudo-masks (`refinement.py`), the pipeline over both (`pipeline.py`), and what the
procedure does (`analyses.py`)."""

from wsss_fast.ccr.analyses import analyse
from wsss_fast.ccr.erasing import ErasingOptions
from wsss_fast.ccr.method import RECIPES, Recipe, base_maps, infer, views_to_maps
from wsss_fast.ccr.pipeline import PIPELINES, PRESETS, Pipeline, panels, run
from wsss_fast.ccr.refinement import REFINEMENTS, Refinement, train
from wsss_fast.pipeline import RunResult

__all__ = [
    "PRESETS",
    "RECIPES",
    "REFINEMENTS",
    "PIPELINES",
    "Recipe",
    "Refinement",
    "Pipeline",
    "ErasingOptions",
    "RunResult",
    "analyse",
    "base_maps",
    "infer",
    "panels",
    "run",
    "views_to_maps",
    "train",
]
