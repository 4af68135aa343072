"""The CAM classifier: the first stage of AMN, IRN and CCR. Image tags in, class activation maps out."""

from wsss_fast.cam.method import (
    RECIPES,
    MapsResult,
    Recipe,
    infer,
    mean_ap,
    merge,
    network,
    sgd,
    train,
    views_to_maps,
)

__all__ = [
    "RECIPES",
    "MapsResult",
    "Recipe",
    "infer",
    "mean_ap",
    "merge",
    "network",
    "sgd",
    "train",
    "views_to_maps",
]
