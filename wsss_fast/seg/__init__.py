"""DeepLabV2, the segmentation network that is trained on pseudo-masks."""

from wsss_fast.seg.method import (
    RECIPES,
    ExtraLoss,
    PredictResult,
    Recipe,
    infer,
    learn,
    predict,
    sgd,
    to_probabilities,
    train,
)

__all__ = [
    "RECIPES",
    "ExtraLoss",
    "PredictResult",
    "Recipe",
    "infer",
    "learn",
    "predict",
    "sgd",
    "to_probabilities",
    "train",
]
