"""CCR, "Inferring the Class Conditional Response Map for WSSS" (Sun, Zhang and Barnes, WACV 2022): fuller maps without
re-training (`method.py`), saliency beside the pseudo-masks (`refinement.py`), the road over both (`road.py`), and what the
procedure does (`analyses.py`)."""

from wsss_fast.ccr.analyses import analyse
from wsss_fast.ccr.method import RECIPES, Recipe, base_maps, infer, scorer
from wsss_fast.ccr.refinement import REFINEMENTS, Refinement, train
from wsss_fast.ccr.road import PRESETS, ROADS, Road, panels, run
from wsss_fast.road import RunResult
from wsss_fast.stages.response import Rounds

__all__ = ["PRESETS", "RECIPES", "REFINEMENTS", "ROADS", "Recipe", "Refinement", "Road", "Rounds", "RunResult", "analyse",
           "base_maps", "infer", "panels", "run", "scorer", "train"]
