"""Unary energies for `dense_crf`, from label maps and from probabilities."""

import math

import torch
from torch import Tensor


def unary_from_labels(
    labels: Tensor, num_labels: int, *, gt_prob: float = 0.7, unsure_label: int | None = None
) -> Tensor:
    """Energies of a label map that is right with probability `gt_prob`.

    -log(gt_prob) for a pixel's own label, -log((1 - gt_prob) / (L - 1)) for the others; log(L) for every label where
    the pixel is `unsure_label`. With one label there are no others, and the energy is 0.

    Args:
        labels: [..., H, W] integers in 0..num_labels-1, or `unsure_label` (which wins over a label of that value).
        num_labels: L >= 1; every value 0..L-1 is a label.
        gt_prob: strictly between 0 and 1.
        unsure_label: value that says "could be anything", usually 255; None: there is none.

    Returns:
        [..., L, H, W] float32 energies on the device of `labels`.

    Raises ValueError, naming the argument and what it got.

    >>> unary_from_labels(torch.tensor([[0, 1]]), 3, gt_prob=0.5).exp().reciprocal()
    tensor([[[0.5000, 0.2500]],
    <BLANKLINE>
            [[0.2500, 0.5000]],
    <BLANKLINE>
            [[0.2500, 0.2500]]])
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"unary_from_labels: labels is {labels.dtype}; must be integers")
    if labels.dim() < 2:
        raise ValueError(f"unary_from_labels: labels is {list(labels.shape)}; must be [..., H, W]")
    if num_labels < 1:
        raise ValueError(f"unary_from_labels: num_labels is {num_labels}; must be >= 1")
    if not 0.0 < gt_prob < 1.0:
        raise ValueError(
            f"unary_from_labels: gt_prob is {gt_prob}; must be strictly between 0 and 1"
        )
    labels = labels.long()
    unsure = (
        labels == unsure_label
        if unsure_label is not None
        else torch.zeros_like(labels, dtype=torch.bool)
    )
    wrong = ~unsure & ((labels < 0) | (labels >= num_labels))
    if wrong.any():
        value = labels[wrong][0].item()
        raise ValueError(
            f"unary_from_labels: labels holds {value}; must be 0..{num_labels - 1}"
            + (f" or unsure_label={unsure_label}" if unsure_label is not None else "")
        )
    own = labels.masked_fill(unsure, 0).unsqueeze(-3)  # [..., 1, H, W]
    other = -math.log((1.0 - gt_prob) / (num_labels - 1)) if num_labels > 1 else 0.0
    shape = (*labels.shape[:-2], num_labels, *labels.shape[-2:])
    energies = torch.full(shape, other, dtype=torch.float32, device=labels.device)
    energies.scatter_(-3, own, -math.log(gt_prob) if num_labels > 1 else 0.0)
    return energies.masked_fill_(unsure.unsqueeze(-3), math.log(num_labels))


def unary_from_probabilities(probabilities: Tensor, *, clip: float = 1e-5) -> Tensor:
    """Energies -log(clamp(p, clip, 1)).

    Args:
        probabilities: [..., L, H, W] floating; need not sum to 1.
        clip: smallest probability, in (0, 1]; keeps the energy finite where p is 0.

    Returns:
        The same shape, float32. Differentiable in `probabilities`.

    Raises ValueError, naming the argument and what it got.

    >>> unary_from_probabilities(torch.tensor([[[0.5]], [[0.0]]])).flatten()
    tensor([ 0.6931, 11.5129])
    """
    if not probabilities.is_floating_point():
        raise ValueError(
            f"unary_from_probabilities: probabilities is {probabilities.dtype}; must be floating"
        )
    if not 0.0 < clip <= 1.0:
        raise ValueError(f"unary_from_probabilities: clip is {clip}; must be in (0, 1]")
    return -probabilities.to(torch.float32).clamp(clip, 1.0).log()
