"""wsss-fast: pixel masks from image tags. See README.md; `wsss_fast.info()` says which kernels are in use."""

from wsss_fast import amn, cam, ccr, compat, convert, data, eps, evaluation, irn, nets, ops, seg
from wsss_fast._native import info
from wsss_fast.errors import InputError, RunError
from wsss_fast.evaluation.confusion_ratio import confusion_ratios
from wsss_fast.evaluation.curves import threshold_curve
from wsss_fast.evaluation.metrics import evaluate
from wsss_fast.stages import seeds

__all__ = [
    "InputError",
    "RunError",
    "amn",
    "cam",
    "ccr",
    "compat",
    "confusion_ratios",
    "convert",
    "data",
    "eps",
    "evaluate",
    "evaluation",
    "info",
    "irn",
    "nets",
    "ops",
    "seeds",
    "seg",
    "threshold_curve",
]
__version__ = "0.1.0"
