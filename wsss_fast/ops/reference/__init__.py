"""Every op in plain PyTorch: slow, short, float64-capable; what the kernels are tested against."""

from .aamr_loss import aamr_loss, aamr_loss_grad
from .amx_conv2d import amx_conv2d
from .dense_crf import dense_crf
from .label_conditioned import (
    label_conditioned_activation,
    label_conditioned_logits,
    label_conditioned_logits_backward,
    resized_activation,
)
from .lattice import lattice_filter, permutohedral_filter, permutohedral_lattice
from .pixel_loss import pixel_bce, pixel_bce_grad, pixel_cross_entropy, pixel_cross_entropy_grad
from .random_walk import random_walk
from .saliency_loss import saliency_loss, saliency_loss_grad

__all__ = [
    "aamr_loss",
    "aamr_loss_grad",
    "dense_crf",
    "label_conditioned_activation",
    "label_conditioned_logits",
    "label_conditioned_logits_backward",
    "lattice_filter",
    "permutohedral_filter",
    "permutohedral_lattice",
    "pixel_bce",
    "pixel_bce_grad",
    "pixel_cross_entropy",
    "pixel_cross_entropy_grad",
    "random_walk",
    "resized_activation",
    "saliency_loss",
    "saliency_loss_grad",
    "amx_conv2d",
]
