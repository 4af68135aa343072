"""Unary energies for `dense_crf`, from label maps and from probabilities."""

import math

import torch
from torch import Tensor

from ._arguments import (
    FLOATING,
    argument_error,
    is_dense,
    is_floating,
    is_integer,
    is_number,
)
from ._library import has_data


def unary_from_labels(
    labels: Tensor,
    num_labels: int,
    *,
    gt_prob: float = 0.7,
    unsure_label: int | None = None,
    check: bool = True,
) -> Tensor:
    """Energies of a label map that is right with probability `gt_prob`.

    -log(gt_prob) for a pixel's own label, -log((1 - gt_prob) / (L - 1)) for the others; log(L) for
    every label where the pixel is `unsure_label`. With one label there are no others, and the
    energy is 0.

    Args:
        labels: [..., H, W] integers in 0..num_labels-1, or `unsure_label` (which takes precedence
            over a label of that value).
        num_labels: L >= 1; every value 0..L-1 is a label.
        gt_prob: probability that a pixel's label is right, strictly between 0 and 1.
        unsure_label: value of pixels whose label is unknown, usually 255; None: there is none.
        check: whether to look for wrong labels, for which a GPU has to be waited for; without it
            their energies are NaN.

    Returns:
        [..., L, H, W] float32 energies on the device of `labels`.

    Raises:
        ValueError: a wrong argument, with its name and value. Inside torch.compile, torch.export
            and torch.vmap, where values cannot be inspected, the energies of a wrong label are NaN.

    >>> unary_from_labels(torch.tensor([[0, 1]]), 3, gt_prob=0.5).exp().reciprocal()
    tensor([[[0.5000, 0.2500]],
    <BLANKLINE>
            [[0.2500, 0.5000]],
    <BLANKLINE>
            [[0.2500, 0.2500]]])
    """
    _check_labels(labels, num_labels, gt_prob, unsure_label)
    given, labels = labels, labels.long()
    if unsure_label is None:
        unsure = torch.zeros_like(labels, dtype=torch.bool)
    else:
        unsure = labels == unsure_label
    if given.dtype == torch.uint64:
        unsure = unsure & (labels >= 0)  # values from 2^63 on have become negative
    wrong = ~unsure & ((labels < 0) | (labels >= num_labels))
    if check and has_data(labels):
        _refuse_labels(given, wrong, num_labels, unsure_label)
    own = labels.masked_fill(unsure | wrong, 0).unsqueeze(-3)  # [..., 1, H, W]
    other = -math.log((1.0 - gt_prob) / (num_labels - 1)) if num_labels > 1 else 0.0
    shape = (*labels.shape[:-2], num_labels, *labels.shape[-2:])
    energies = torch.full(shape, other, dtype=torch.float32, device=labels.device)
    sure, unsure = -math.log(gt_prob) if num_labels > 1 else 0.0, unsure.unsqueeze(-3)
    unknown, wrong = math.log(num_labels), wrong.unsqueeze(-3)
    if has_data(labels):
        energies.scatter_(-3, own, sure).masked_fill_(unsure, unknown)
        return energies if check else energies.masked_fill_(wrong, math.nan)
    # torch.vmap needs a copy.
    energies = energies.scatter(-3, own, sure).masked_fill(unsure, unknown)
    return energies.masked_fill(wrong, math.nan)


def _refuse_labels(
    labels: Tensor, wrong: Tensor, num_labels: int, unsure_label: int | None
) -> None:
    if not wrong.any():
        return
    allowed = f"0..{num_labels - 1}"
    if unsure_label is not None:
        allowed += f" or unsure_label={unsure_label}"
    found = labels.flatten()[int(wrong.flatten().to(torch.uint8).argmax())].item()
    raise ValueError(f"unary_from_labels: labels holds {found}; must be {allowed}")


def _check_labels(
    labels: Tensor, num_labels: int, gt_prob: float, unsure_label: int | None
) -> None:
    op = "unary_from_labels"
    if (
        not is_dense(labels)
        or labels.is_floating_point()
        or labels.is_complex()
        or labels.dtype == torch.bool
        or labels.dim() < 2
    ):
        raise argument_error(op, "labels", labels, "integers [..., H, W]")
    if not is_integer(num_labels) or num_labels < 1:
        raise argument_error(op, "num_labels", num_labels, "an integer >= 1")
    if not is_number(gt_prob) or not 0.0 < gt_prob < 1.0:
        raise argument_error(op, "gt_prob", gt_prob, "a number strictly between 0 and 1")
    if unsure_label is not None and not is_integer(unsure_label):
        raise argument_error(op, "unsure_label", unsure_label, "an integer or None")


def unary_from_probabilities(probabilities: Tensor, *, clip: float = 1e-5) -> Tensor:
    """Energies -log(clamp(p, clip, 1)).

    Differentiable in `probabilities`.

    Args:
        probabilities: [..., L, H, W] floating point; need not sum to 1.
        clip: smallest probability, in (0, 1]; keeps the energy finite where p is 0.

    Returns:
        The same shape, float32.

    Raises:
        ValueError: a wrong argument, with its name and value.

    >>> unary_from_probabilities(torch.tensor([[[0.5]], [[0.0]]])).flatten()
    tensor([ 0.6931, 11.5129])
    """
    op = "unary_from_probabilities"
    if not is_floating(probabilities):
        raise argument_error(op, "probabilities", probabilities, f"{FLOATING} [..., L, H, W]")
    if not is_number(clip) or not 0.0 < clip <= 1.0:
        raise argument_error(op, "clip", clip, "a number in (0, 1]")
    return -probabilities.to(torch.float32).clamp(clip, 1.0).log()
