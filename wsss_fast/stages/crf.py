"""The dense CRF of the stages: its parameters as data, and the one call of the op on photos."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import torch

from wsss_fast.engine.ranges import NOT_NEGATIVE, POSITIVE, Each, Range
from wsss_fast.errors import InputError
from wsss_fast.ops import dense_crf, unary_from_labels


@dataclasses.dataclass(frozen=True)
class DenseCrf:
    """Pairwise terms of a dense CRF; the defaults are the published ones for 500x375 photos.

    Attributes:
        gaussian: spatial kernel: standard deviation in pixels, and weight.
        bilateral: appearance kernel: standard deviation in pixels, standard deviation in levels
            0..255, and weight.
        iterations: number of mean-field iterations.
    """

    ranges: ClassVar = {
        "gaussian": Each((POSITIVE, NOT_NEGATIVE)),
        "bilateral": Each((POSITIVE, POSITIVE, NOT_NEGATIVE)),
        "iterations": Range(0, 10_000),
    }

    gaussian: tuple[float, float] = (3.0, 3.0)
    bilateral: tuple[float, float, float] = (50.0, 5.0, 10.0)
    iterations: int = 10

    def apply(
        self, images: np.ndarray | torch.Tensor, unary: torch.Tensor, *, check: bool = True
    ) -> torch.Tensor:
        """Mean-field inference on photos.

        Args:
            images: uint8 RGB [B, H, W, 3].
            unary: energies [B, L, H, W] or [B, S, L, H, W], on the device to compute on.
            check: see `ops.dense_crf`.

        Returns:
            Marginals Q, float32 of `unary`'s shape; they sum to 1 over L.

        Raises:
            InputError: a parameter is out of range for these photos, or the shapes do not match.
        """
        photos = torch.as_tensor(np.array(images) if isinstance(images, np.ndarray) else images)
        try:
            return dense_crf(
                photos.to(unary.device, non_blocking=True).permute(0, 3, 1, 2).contiguous(),
                unary,
                gaussian=self.gaussian,
                bilateral=self.bilateral,
                iterations=self.iterations,
                check=check,
            )
        except ValueError as error:
            raise InputError(str(error)) from None


@dataclasses.dataclass(frozen=True)
class Crf(DenseCrf):
    """Dense CRF over hard labels; see `DenseCrf`.

    Attributes:
        gt_prob: probability that a given label is right, in the open interval (0, 1).
    """

    ranges: ClassVar = {**DenseCrf.ranges, "gt_prob": Range(0, 1, open=True)}

    gt_prob: float = 0.7

    def refine_labels(
        self,
        images: np.ndarray | torch.Tensor,
        labels: np.ndarray | torch.Tensor,
        num_labels: int,
    ) -> torch.Tensor:
        """Most probable labels after mean-field inference on label maps; arguments of `marginals`.

        Returns:
            Labels, uint8 [B, S, H, W].
        """
        q = self.marginals(images, labels, num_labels)
        return q.max(dim=2).indices.to(torch.uint8)  # ten times faster than argmax on a CPU

    def marginals(
        self,
        images: np.ndarray | torch.Tensor,
        labels: np.ndarray | torch.Tensor,
        num_labels: int,
    ) -> torch.Tensor:
        """Mean-field inference on label maps.

        Args:
            images: uint8 RGB [B, H, W, 3].
            labels: S label maps per image, integers [B, S, H, W] of 0..num_labels-1, on the device
                to compute on.
            num_labels: number of labels L, at most 256.

        Returns:
            Marginals Q, float32 [B, S, L, H, W].
        """
        given = torch.as_tensor(labels)
        unary = unary_from_labels(given, num_labels, gt_prob=self.gt_prob, check=False)
        return self.apply(images, unary, check=False)
