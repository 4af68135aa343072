"""IRN, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (CVPR 2019)."""

from wsss_fast.irn.method import (
    RECIPES,
    Recipe,
    RefineResult,
    adamw,
    boundaries,
    infer,
    mean_displacement,
    sgd,
    train,
    views_to_maps,
    walk_maps,
)

__all__ = [
    "RECIPES",
    "Recipe",
    "RefineResult",
    "adamw",
    "boundaries",
    "infer",
    "mean_displacement",
    "sgd",
    "train",
    "views_to_maps",
    "walk_maps",
]
