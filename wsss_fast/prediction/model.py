"""A trained network, ready to predict: what segmentation networks and class maps have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from wsss_fast.engine import stream
from wsss_fast.engine.runtime import Runtime


class Batch(NamedTuple):
    """Images of one size.

    Attributes:
        photos: uint8 RGB [B, H, W, 3], on the CPU.
        inputs: what `Model.prepare` made of them.
        tags: multi-hot tags, uint8 [B, C]; None for a model that needs none.
    """

    photos: torch.Tensor
    inputs: torch.Tensor | None
    tags: np.ndarray | None


class Predicted(NamedTuple):
    """What a model predicts, on its device.

    Attributes:
        labels: uint8 [B, H, W] of 0..C.
        finite: bool [B]; labels of an image where it is False mean nothing.
        probabilities: of background and classes, float32 [B, C+1, H, W], if they were requested.
    """

    labels: torch.Tensor
    finite: torch.Tensor
    probabilities: torch.Tensor | None


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained network, ready to predict; `open_model` makes it of a weights file.

    Attributes:
        network: what it is, in words.
        classes: class names; class c has label c + 1.
        needs_tags: whether it needs the tags of the images.
        gives_probabilities: whether it computes probabilities: class maps are none before a CRF.
        batch_size: number of images of equal size that share a forward pass.
        runtime: device and dtype.
        arguments: what the masks depend on, by name.
        prepare: photos of one size, uint8 RGB [B, H, W, 3], -> the network's inputs, on the CPU;
            called in threads.
        compute: (batch, whether probabilities are wanted, where the time is added) -> masks.
    """

    network: str
    classes: tuple[str, ...]
    needs_tags: bool
    gives_probabilities: bool
    batch_size: int
    runtime: Runtime
    arguments: dict[str, Any]
    prepare: Callable[[np.ndarray], torch.Tensor | None]
    compute: Callable[[Batch, bool, stream.Times], Predicted]

    def load(self, photos: np.ndarray, tags: np.ndarray | None) -> Batch:
        """A batch in memory from which the device can copy.

        Args:
            photos: uint8 RGB [B, H, W, 3].
            tags: as in `Batch`.
        """
        inputs, device = self.prepare(photos), self.runtime.device
        if inputs is not None:
            inputs = stream.host_tensor(inputs.numpy(), device)
        return Batch(stream.host_tensor(photos, device), inputs, tags)
