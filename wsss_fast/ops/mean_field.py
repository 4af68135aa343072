"""Gradient of the dense CRF's mean field, in closed form over the lattice filters."""

import torch
from torch import Tensor

from .lattice import PermutohedralLattice, pixel_features


def mean_field_gradient(
    grad: Tensor, image: Tensor, unary: Tensor, gaussian, bilateral, iterations: int
) -> Tensor:
    """d(sum(grad * Q)) / d unary for the Q of `dense_crf`; the arguments are its schema's.

    With Q_t = softmax(Z_t), Z_0 = -U and Z_t = -U + A Q_(t-1), where A = sum_m w_m n_m K_m n_m, the reverse recursion is
        g_T = grad,  h_t = Q_t (g_t - sum_L g_t Q_t),  g_(t-1) = A^T h_t,  dU = -(h_0 + ... + h_T).
    A^T filters with the transposed lattices. The forward pass keeps nothing for this: image by image, all Q_t are
    computed again and kept while that image is worked on, iterations + 1 times the size of its unaries.
    """
    batch, sets, labels, height, width = unary.shape
    out = torch.empty_like(unary, memory_format=torch.contiguous_format)
    if not unary.numel():
        return out
    positions = image.new_empty(0, height, width)
    spatial = (
        [_Term(pixel_features(height, width, gaussian[:2], positions, ()), gaussian[-1], unary)]
        if gaussian
        else []
    )
    for b in range(batch):
        terms = list(spatial)
        if bilateral:
            features = pixel_features(height, width, bilateral[:2], image[b], bilateral[2:-1])
            terms.append(_Term(features, bilateral[-1], unary))

        def message(q, transpose=False, terms=terms):
            columns = q.reshape(height * width, sets * labels)
            return (
                sum(term(columns, transpose) for term in terms).reshape(q.shape)
                if terms
                else torch.zeros_like(q)
            )

        energies = _pixels_first(unary[b])  # [N, S, L]
        steps = [torch.softmax(-energies, -1)]
        for _ in range(iterations):
            steps.append(torch.softmax(message(steps[-1]) - energies, -1))
        g = _pixels_first(grad[b])
        total = torch.zeros_like(energies)
        while steps:
            q = steps.pop()
            h = q * (g - (g * q).sum(-1, keepdim=True))
            total -= h
            if steps:
                g = message(h, transpose=True)
        out[b] = total.permute(1, 2, 0).reshape(out[b].shape)
    return out


def _pixels_first(maps: Tensor) -> Tensor:
    """[S, L, H, W] -> [H*W, S, L]."""
    return maps.flatten(2).permute(2, 0, 1)


class _Term:
    """q [N, c] -> weight * n * K (n * q), n = (K 1)^(-1/2), in the dtype of `like`."""

    def __init__(self, features: Tensor, weight: float, like: Tensor):
        self.lattice = PermutohedralLattice(features)
        self.weight = weight
        self.norm = (
            self.lattice.filter(like.new_ones(features.shape[0], 1)) + 1e-20
        ).rsqrt()  # [N, 1]

    def __call__(self, q: Tensor, transpose: bool) -> Tensor:
        return self.weight * self.norm * self.lattice.filter(self.norm * q, transpose=transpose)
