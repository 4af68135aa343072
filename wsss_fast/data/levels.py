"""From network inputs back to photos: their levels, and which pixels of a crop they cover."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from wsss_fast.data.transforms import MEAN, MEAN_BGR, STD, normalise, subtract_mean
from wsss_fast.errors import InputError

ToInput = Callable[[np.ndarray], np.ndarray]

# By `to_input`: factor and summand of each channel of an input, and its channels of R, G, B.
_INVERSES: dict[ToInput, tuple[list[float], list[float], tuple[int, int, int]]] = {
    normalise: ((255 * STD).tolist(), (255 * MEAN).tolist(), (0, 1, 2)),
    subtract_mean: ([1.0] * 3, MEAN_BGR.tolist(), (2, 1, 0)),
}


def check_to_input(to_input: ToInput, name: str) -> None:
    """Raise InputError, with the name of `to_input`, unless `rgb_levels` can undo it."""
    if to_input not in _INVERSES:
        known = " or ".join(one.__name__ for one in _INVERSES)
        raise InputError(f"{name}: got {to_input!r}; must be {known}, whose inverse is known")


def rgb_levels(inputs: torch.Tensor, to_input: ToInput) -> torch.Tensor:
    """Levels of the photos that network inputs were made of, on the device of the inputs.

    Args:
        inputs: float32 [B, 3, H, W].
        to_input: `transforms.normalise` or `transforms.subtract_mean`.

    Returns:
        float32 RGB [B, 3, H, W] in 0..255; padding has the mean colour.
    """
    factors, summands, channels = _INVERSES[to_input]
    planes = [inputs[:, c] * factors[c] + summands[c] for c in channels]
    return torch.stack(planes, dim=1).clamp_(0, 255)


def photo_pixels(inputs: torch.Tensor) -> torch.Tensor:
    """Where the photos are in crops [B, 3, H, W] of `Augment`, float32 [B, H, W]: 1, in padding 0.

    Padding is 0 in all channels, which no whole level is: a mean colour has decimals.
    """
    return (inputs != 0).any(dim=1).to(torch.float32)
