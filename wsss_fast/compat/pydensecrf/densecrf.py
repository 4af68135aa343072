"""pydensecrf.densecrf: fully connected CRFs over numpy arrays.

The model: minimise KL(Q) = sum_i sum_l Q_il (log Q_il + U_il + sum_m P^m_il) over Q, the mean
field, by repeating Q = softmax_l(-U - sum_m P^m) from Q = softmax_l(-U); P^m = mu_m (F_m Q) with
F_m the normalised Gaussian filter of term m and mu_m its label compatibility: -w (Potts), diag(w),
or (W + W^T) / 2.

Differences to pydensecrf: wrong shapes, for which it reads past the end of arrays, are ValueErrors;
arrays need not be contiguous; matrices are numpy arrays. Its kernel parameters are all ones until
they are learned, which its interface does not offer, so all kernel types give equal results in
both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from wsss_fast import ops
from wsss_fast.ops.dense_crf import MAX_ITERATIONS, MAX_LABELS
from wsss_fast.ops.lattice import pixel_features

from ._checks import Compatibility, Sigmas, as_array, float32_array, sigmas, whole_number
from ._checks import compatibility as compatibility_of


class KernelType(IntEnum):
    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(IntEnum):
    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


CONST_KERNEL, DIAG_KERNEL, FULL_KERNEL = KernelType
NO_NORMALIZATION, NORMALIZE_BEFORE, NORMALIZE_AFTER, NORMALIZE_SYMMETRIC = NormalizationType


class Unary:
    """Energies of every label at every point; see `ConstUnary` and `LogisticUnary`."""

    def __init__(self, energies: np.ndarray):
        self.energies = energies  # [nlabels, N] float32


class ConstUnary(Unary):
    """Given energies `u` [nlabels, N] float32."""

    def __init__(self, u: np.ndarray):
        super().__init__(float32_array("ConstUnary: u", u, 2).copy())


class LogisticUnary(Unary):
    """Energies L f of a linear model: `L` [nlabels, features], `f` [features, N], both float32."""

    def __init__(self, L: np.ndarray, f: np.ndarray):
        weights, features = (
            float32_array("LogisticUnary: L", L, 2),
            float32_array("LogisticUnary: f", f, 2),
        )
        if weights.shape[1] != features.shape[0]:
            raise ValueError(
                f"LogisticUnary: L is {list(weights.shape)} but f is {list(features.shape)}; "
                "the number of features must match"
            )
        super().__init__(weights @ features)


class DenseCRF:
    """Fully connected CRF over `npoints` points with `nlabels` labels."""

    def __init__(self, npoints: int, nlabels: int):
        self._points = whole_number("DenseCRF: npoints", npoints, 1)
        self._labels = whole_number("DenseCRF: nlabels", nlabels, 1)
        self._energies = np.zeros((self._labels, self._points), np.float32)
        self._terms: list[_Term] = []

    def setUnary(self, unary: Unary) -> None:
        """Set the energies [nlabels, N], those of a `ConstUnary` or a `LogisticUnary`."""
        if not isinstance(unary, Unary):
            raise ValueError(
                f"setUnary: got {type(unary).__name__}; must be a ConstUnary or a LogisticUnary"
            )
        needed = (self._labels, self._points)
        if unary.energies.shape != needed:
            raise ValueError(
                f"setUnary: energies are {list(unary.energies.shape)}; must be {list(needed)}"
            )
        if np.isnan(unary.energies).any():
            raise ValueError("setUnary: energies have NaN values")
        # An energy of +infinity is a probability of 0.
        if np.isneginf(unary.energies).any() or np.isposinf(unary.energies).all(0).any():
            raise ValueError(
                "setUnary: energies have -infinity, or only +infinity at a point; "
                "at least one label of a point needs a finite energy"
            )
        self._energies = unary.energies

    def setUnaryEnergy(self, u: np.ndarray, f: np.ndarray | None = None) -> None:
        """Set energies -log p: `u` [nlabels, N] float32, or those of `LogisticUnary(u, f)`."""
        self.setUnary(ConstUnary(u) if f is None else LogisticUnary(u, f))

    def addPairwiseEnergy(
        self,
        features: np.ndarray,
        compat: Compatibility,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add the term of the kernel exp(-|f_i - f_j|^2 / 2).

        Args:
            features: [d, N] float32, divided by the standard deviations.
            compat: a number (Potts), [nlabels] (diagonal) or [nlabels, nlabels] float32.
            kernel: a `KernelType`.
            normalization: a `NormalizationType`.
        """
        features = float32_array("addPairwiseEnergy: features", features, 2)
        if features.shape[1] != self._points:
            raise ValueError(
                f"addPairwiseEnergy: features is {list(features.shape)}; "
                f"must be [d, {self._points}]"
            )
        if not np.isfinite(features).all():
            raise ValueError("addPairwiseEnergy: features has NaN or infinite values")
        columns = torch.from_numpy(features.T.copy())  # [N, d]
        self._add("addPairwiseEnergy", lambda: columns, compat, kernel, normalization, None)

    def _add(
        self,
        method: str,
        features: Callable[[], Tensor],
        compat: Compatibility,
        kernel: int,
        normalization: int,
        image_term: _ImageTerm | None,
    ) -> None:
        for name, kind, value in (
            ("kernel", KernelType, kernel),
            ("normalization", NormalizationType, normalization),
        ):
            if value not in tuple(kind):
                names = ", ".join(member.name for member in kind)
                raise ValueError(f"{method}: {name} is {value!r}; must be one of {names}")
        compatibility = compatibility_of(method, compat, self._labels)
        self._terms.append(
            _Term(features, compatibility, NormalizationType(normalization), image_term)
        )

    def inference(self, niter: int, /) -> np.ndarray:
        """Q [nlabels, N] after `niter` >= 0 mean field steps."""
        steps = whole_number("inference: niter", niter, 0, MAX_ITERATIONS)
        q = self._start()
        for _ in range(steps):
            q = self._step(q)
        return q.numpy()

    def startInference(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Q of step 0, and two unused arrays, which pydensecrf's `stepInference` needs."""
        return self._start().numpy(), np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)

    def stepInference(self, Q: np.ndarray, tmp1: np.ndarray, tmp2: np.ndarray, /) -> None:
        """One mean field step, in place on `Q`; the other two arrays are not used."""
        self._check_q("stepInference", Q)
        if not Q.flags.writeable:
            raise ValueError("stepInference: Q is read-only; pass a copy")
        Q[...] = self._step(_planes(Q)).numpy()

    def klDivergence(self, Q: np.ndarray, /) -> float:
        """KL(Q) as in the module's docstring: without the model's unknown partition function."""
        self._check_q("klDivergence", Q)
        q = _planes(Q)
        energies = _planes(self._energies)
        if self._terms:
            energies = energies + sum(term(q) for term in self._terms)
        q, energies = q.double(), energies.double()
        inner = q * (q.clamp(min=1e-20).log() + energies)
        return float(inner.where(q != 0, 0.0).sum())  # infinite energies count 0 where Q is 0

    def _start(self) -> Tensor:
        # [L, N], since torch is slow along a short last dimension.
        return torch.softmax(-_planes(self._energies), 0)

    def _step(self, q: Tensor) -> Tensor:
        score = -_planes(self._energies)
        for term in self._terms:
            score = score - term(q)
        return torch.softmax(score, 0)

    def _check_q(self, method: str, q: np.ndarray) -> None:
        needed = (self._labels, self._points)
        if not isinstance(q, np.ndarray) or q.dtype != np.float32 or q.shape != needed:
            got = f"{q.dtype} {list(q.shape)}" if isinstance(q, np.ndarray) else type(q).__name__
            raise ValueError(f"{method}: Q is {got}; must be a float32 array {list(needed)}")


class DenseCRF2D(DenseCRF):
    """Fully connected CRF over the pixels of an image, row by row: N = w * h."""

    def __init__(self, w: int, h: int, nlabels: int):
        self._width = whole_number("DenseCRF2D: w", w, 1)
        self._height = whole_number("DenseCRF2D: h", h, 1)
        super().__init__(self._width * self._height, nlabels)

    def addPairwiseGaussian(
        self,
        sxy: Sigmas,
        compat: Compatibility,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add the spatial term.

        Args:
            sxy: standard deviation in pixels, or (along x, along y).
            compat, kernel, normalization: as for `addPairwiseEnergy`.
        """
        method = "addPairwiseGaussian"
        term = _ImageTerm(sigmas(f"{method}: sxy", sxy, 2))
        self._add(method, lambda: self._features(term), compat, kernel, normalization, term)

    def addPairwiseBilateral(
        self,
        sxy: Sigmas,
        srgb: Sigmas,
        rgbim: np.ndarray,
        compat: Compatibility,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add the appearance term.

        Args:
            sxy: standard deviation in pixels, or (along x, along y).
            srgb: standard deviation in levels, or one for each of the three channels.
            rgbim: [h, w, 3] uint8.
            compat, kernel, normalization: as for `addPairwiseEnergy`.
        """
        method = "addPairwiseBilateral"
        positions, levels = sigmas(f"{method}: sxy", sxy, 2), sigmas(f"{method}: srgb", srgb, 3)
        rgbim = as_array(f"{method}: rgbim", rgbim)
        if rgbim.ndim != 3 or rgbim.shape[2] != 3:
            raise ValueError(
                f"{method}: rgbim is {list(rgbim.shape)}; must be [h, w, 3]. For other images, "
                "pass the features of utils.create_pairwise_bilateral to addPairwiseEnergy"
            )
        needed = (self._height, self._width, 3)
        if rgbim.shape != needed or rgbim.dtype != np.uint8:
            raise ValueError(
                f"{method}: rgbim is {rgbim.dtype} {list(rgbim.shape)}; "
                f"must be uint8 {list(needed)}"
            )
        image = torch.from_numpy(rgbim.transpose(2, 0, 1).copy())  # [3, h, w]
        term = _ImageTerm(positions, levels, image)
        self._add(method, lambda: self._features(term), compat, kernel, normalization, term)

    def inference(self, niter: int, /) -> np.ndarray:
        """Q [nlabels, N] after `niter` >= 0 mean field steps, by `ops.dense_crf` where possible."""
        steps = whole_number("inference: niter", niter, 0, MAX_ITERATIONS)
        parameters = self._dense_crf_parameters()
        if parameters is None or not np.isfinite(self._energies).all():
            return super().inference(steps)
        image, gaussian, bilateral = parameters
        unary = torch.from_numpy(self._energies).reshape(1, self._labels, self._height, self._width)
        q = ops.dense_crf(image, unary, gaussian=gaussian, bilateral=bilateral, iterations=steps)
        return q.reshape(self._labels, self._points).numpy()

    def _dense_crf_parameters(self) -> tuple | None:
        """image, gaussian and bilateral for `ops.dense_crf`; None if that has another model."""
        if self._labels > MAX_LABELS or not all(t.is_symmetric_potts() for t in self._terms):
            return None
        gaussian: tuple | None = None
        bilateral: tuple | None = None
        image = None
        for term in self._terms:
            if term.image_term is None:
                return None
            if term.image_term.image is None and gaussian is None:
                gaussian = (term.image_term.sxy, term.compatibility)
            elif term.image_term.image is not None and bilateral is None:
                image = term.image_term.image[None]
                bilateral = (term.image_term.sxy, term.image_term.srgb, term.compatibility)
            else:  # a second term of a kind
                return None
        return image, gaussian, bilateral

    def _features(self, term: _ImageTerm) -> Tensor:
        height, width = self._height, self._width
        # Not of torch's default dtype and device, which users may have set.
        none = torch.empty(0, height, width, dtype=torch.float32, device="cpu")
        levels = none if term.image is None else term.image.float()
        return pixel_features(height, width, term.sxy, levels, term.srgb)


@dataclass(frozen=True)
class _ImageTerm:
    """A term over the pixels of an image, which `ops.dense_crf` may compute."""

    sxy: tuple[float, ...]
    srgb: tuple[float, ...] = ()
    image: Tensor | None = None  # [3, h, w] uint8


@dataclass(frozen=True)
class _Term:
    """P = mu(F Q) for Q [L, N]; its lattice is built at first use."""

    features: Callable[[], Tensor]  # -> [N, d]
    compatibility: float | Tensor  # Potts w, diagonal [L] or symmetric matrix [L, L]
    normalization: NormalizationType
    image_term: _ImageTerm | None

    def is_symmetric_potts(self) -> bool:
        potts = isinstance(self.compatibility, float) and self.compatibility >= 0.0
        return potts and self.normalization == NORMALIZE_SYMMETRIC

    @cached_property
    def _lattice(self) -> tuple[ops.PermutohedralLattice, Tensor | None, Tensor | None]:
        """The lattice, and the factors [N] before and after its filter, None for 1."""
        features = self.features()
        lattice = ops.PermutohedralLattice(features)
        if self.normalization == NO_NORMALIZATION:
            return lattice, None, None
        total = lattice.filter(features.new_ones(len(features), 1))[:, 0] + 1e-20
        if self.normalization == NORMALIZE_SYMMETRIC:
            return lattice, total.rsqrt(), total.rsqrt()
        norm = total.reciprocal()
        if self.normalization == NORMALIZE_BEFORE:
            return lattice, norm, None
        return lattice, None, norm

    def __call__(self, q: Tensor) -> Tensor:
        lattice, before, after = self._lattice
        columns = (q if before is None else q * before).t()
        message = lattice.filter(columns).t().contiguous()  # [L, N]
        if after is not None:
            message *= after
        if isinstance(self.compatibility, float):
            return -self.compatibility * message
        if self.compatibility.dim() == 1:
            return message * self.compatibility[:, None]
        return self.compatibility @ message


def _planes(rows: np.ndarray) -> Tensor:
    """[L, N] as a tensor, not copied if contiguous and writeable."""
    return torch.from_numpy(np.require(rows, requirements=("C", "W")))
