"""EPS, "Railroad is not a Train" (Lee, Lee, Lee and Shim, CVPR 2021): the network (`method.py`), its road (`road.py`) and the
paper's analyses (`analyses.py`)."""

from wsss_fast.eps.analyses import analyse
from wsss_fast.eps.method import COCO, RECIPES, InferResult, Recipe, infer, losses, scorer, sgd, train
from wsss_fast.eps.road import PRESETS, ROADS, Road, run
from wsss_fast.road import AnalysesResult, RunResult

__all__ = ["AnalysesResult", "COCO", "InferResult", "PRESETS", "RECIPES", "ROADS", "Recipe", "Road", "RunResult", "analyse",
           "infer", "losses", "run", "scorer", "sgd", "train"]
