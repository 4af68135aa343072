"""Operators on torch tensors; each has native kernels, and falls back to `ops.reference`."""

from . import reference
from .aamr_loss import aamr_loss
from .bilateral import BilateralLattice, bilateral_filter
from .dense_crf import dense_crf
from .dense_energy_loss import dense_energy_loss
from .image_views import image_views
from .label_conditioned import label_conditioned_activation, label_conditioned_logits
from .lattice import PermutohedralLattice, permutohedral_filter
from .merge_maps import MergedMaps, merge_maps
from .pixel_adaptive_refine import pixel_adaptive_refine
from .pixel_loss import pixel_bce, pixel_cross_entropy
from .random_walk import random_walk
from .saliency_loss import SaliencyLoss, saliency_loss
from .unary import unary_from_labels, unary_from_probabilities

__all__ = [
    "BilateralLattice",
    "MergedMaps",
    "PermutohedralLattice",
    "SaliencyLoss",
    "aamr_loss",
    "bilateral_filter",
    "dense_crf",
    "dense_energy_loss",
    "image_views",
    "label_conditioned_activation",
    "label_conditioned_logits",
    "merge_maps",
    "permutohedral_filter",
    "pixel_adaptive_refine",
    "pixel_bce",
    "pixel_cross_entropy",
    "random_walk",
    "reference",
    "saliency_loss",
    "unary_from_labels",
    "unary_from_probabilities",
]
