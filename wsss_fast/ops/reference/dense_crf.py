"""Dense CRF mean field in plain PyTorch: the definition, and the fallback where nothing can be compiled."""

import math

import torch
from torch import Tensor


class PermutohedralLattice:
    """Gaussian filter exp(-|f_i - f_j|^2 / 2) over N points by a permutohedral lattice (Adams et al. 2010).

    Splat, blur along the d+1 lattice directions, slice; only vertices that a point touches exist.
    `features` [N, d], any floating dtype, already divided by the standard deviations.

    pydensecrf fills its last block of four points with zero features, and these create vertices; vertices decide
    where the blur can pass, so for equal numbers the origin's vertices exist here too when 4 does not divide N.
    """

    def __init__(self, features: Tensor):
        points, d = features.shape
        if points % 4:
            features = torch.cat([features, features.new_zeros(1, d)])
        quotient, rank, weight = _enclosing_simplex(features)  # [N, d+1], [N, d+1], [N, d+1]
        # Coordinate j of the simplex' vertex r is (d+1) * a_j + r: all coordinates agree modulo d+1.
        remainder = torch.arange(d + 1, device=features.device)
        wraps = rank[:, None, :d] > d - remainder[:, None]  # [N, d+1, d]
        a = quotient[:, None, :d] - wraps.long()  # [N, d+1, d]
        low = a.amin((0, 1)) - 1
        extent = (a.amax((0, 1)) + 2 - low).tolist()
        if math.prod(extent) * (d + 1) >= 2**63:
            raise ValueError(f"dense_crf: a lattice of {extent} cells does not fit 64-bit keys; use larger sigmas")
        stride = torch.tensor([(d + 1) * math.prod(extent[:j]) for j in range(d)], device=features.device)
        keys = ((a - low) * stride).sum(-1) + remainder  # [N, d+1]
        self.keys, vertex = torch.unique(keys, return_inverse=True)  # [M] sorted, [N, d+1]
        self.vertex, self.weight = vertex[:points], weight[:points]
        # One step along direction j: -1 on every coordinate, then +(d+1) on coordinate j (none for the last).
        wrapped = self.keys % (d + 1) == 0
        back = torch.where(wrapped, d - stride.sum(), -torch.ones_like(self.keys))
        steps = stride.tolist() + [0]
        ahead = [self._find(self.keys + back + step) for step in steps]
        count = self.keys.numel()
        # Missing neighbours point at a row of zeros appended after the M vertices.
        self.neighbours = []  # d+1 pairs of [M]
        for next_ in ahead:
            previous = torch.full_like(next_, count)
            here = torch.arange(count, device=features.device)
            found = next_ < count
            previous[next_[found]] = here[found]
            self.neighbours.append((next_, previous))
        self.scale = 1.0 / (1.0 + 2.0**-d)

    def _find(self, keys: Tensor) -> Tensor:
        count = self.keys.numel()
        place = torch.searchsorted(self.keys, keys).clamp_(max=count - 1)
        return torch.where(self.keys[place] == keys, place, count)

    def __call__(self, values: Tensor) -> Tensor:
        """Filter `values` [N, C]; differentiable in them."""
        lattice = values.new_zeros(self.keys.numel(), values.shape[1])  # [M, C]
        corners = range(self.vertex.shape[1])
        for r in corners:
            lattice = lattice.index_add(0, self.vertex[:, r], values * self.weight[:, r, None])
        nothing = values.new_zeros(1, values.shape[1])
        for next_, previous in self.neighbours:
            padded = torch.cat([lattice, nothing])  # [M+1, C]
            lattice = lattice + 0.5 * (padded.index_select(0, next_) + padded.index_select(0, previous))
        out = torch.zeros_like(values)
        for r in corners:
            out = out + lattice.index_select(0, self.vertex[:, r]) * self.weight[:, r, None]
        return out * self.scale


def _enclosing_simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per point: the remainder-0 vertex divided by d+1, the rank of each coordinate, barycentric weights (page 5)."""
    points, d = features.shape
    # Rounded where pydensecrf rounds: 8-bit images often lie on a simplex boundary, where one ulp picks the vertices.
    deviation = features.new_tensor(math.sqrt(2.0 / 3.0) * (d + 1)).item()
    scale = [deviation * (1.0 / math.sqrt((i + 1) * (i + 2))) for i in range(d)]
    scaled = features * features.new_tensor(scale)  # [N, d]
    elevated = features.new_zeros(points, d + 1)
    total = features.new_zeros(points)
    for j in range(d, 0, -1):
        elevated[:, j] = total - j * scaled[:, j - 1]
        total = total + scaled[:, j - 1]
    elevated[:, 0] = total
    rounded = torch.round(elevated * (1.0 / (d + 1)))
    excess = rounded.sum(1).long()  # [N]
    delta = elevated - rounded * (d + 1)
    rank = torch.zeros(points, d + 1, dtype=torch.long, device=features.device)
    for i in range(d):
        for j in range(i + 1, d + 1):
            below = (delta[:, i] < delta[:, j]).long()
            rank[:, i] += below
            rank[:, j] += 1 - below
    # Rounding may leave the plane sum(x) = 0; move the coordinates that were rounded the furthest.
    rank = rank + excess[:, None]
    quotient = rounded.long() + (rank < 0).long() - (rank > d).long()
    rank = rank % (d + 1)
    offset = (elevated - (quotient * (d + 1)).to(elevated.dtype)) * (1.0 / (d + 1))
    weight = features.new_zeros(points, d + 2)
    weight.scatter_add_(1, d - rank, offset)
    weight.scatter_add_(1, d + 1 - rank, -offset)
    weight[:, 0] += 1.0 + weight[:, d + 1]
    return quotient, rank, weight[:, : d + 1]


def _normalised(features: Tensor, weight: float):
    """weight * n_i * n_j * k(f_i, f_j) with n = 1 / sqrt(sum_j k): the symmetric normalisation."""
    lattice = PermutohedralLattice(features)
    ones = features.new_ones(features.shape[0], 1)
    norm = (lattice(ones) + 1e-20).rsqrt()  # [N, 1]
    return lambda values: weight * norm * lattice(norm * values)


def _coordinates(height: int, width: int, like: Tensor) -> Tensor:
    """Pixel positions [H*W, 2] as (x, y), row by row."""
    y = torch.arange(height, device=like.device, dtype=like.dtype)
    x = torch.arange(width, device=like.device, dtype=like.dtype)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1).reshape(-1, 2)


def _mean_field(energies: Tensor, filters: list, iterations: int) -> Tensor:
    """Mean field of one image: `energies` [S, L, N] -> Q [S, L, N]."""
    s, labels, points = energies.shape
    q = torch.softmax(-energies, 1)
    for _ in range(iterations):
        channels = q.reshape(s * labels, points).t()  # [N, S*L]
        message = sum(f(channels) for f in filters).t().reshape(s, labels, points)
        q = torch.softmax(message - energies, 1)
    return q


def dense_crf(
    image: Tensor,
    unary: Tensor,
    *,
    gaussian: tuple[float, float] | None = (3.0, 3.0),
    bilateral: tuple[float, float, float] | None = (50.0, 5.0, 10.0),
    iterations: int = 10,
) -> Tensor:
    """The definition of `wsss_fast.ops.dense_crf`: same arguments, no checks; float64 in gives float64 out.

    Q <- softmax_L(-unary + sum_m w_m n_m * K_m (n_m * Q)), Q_0 = softmax(-unary). Differentiable in `unary`.
    """
    dtype = torch.float64 if unary.dtype == torch.float64 else torch.float32
    height, width = image.shape[-2:]
    energies = unary.to(dtype)
    stacked = energies.reshape(unary.shape[0], -1, unary.shape[-3], height * width) if unary.numel() else energies
    terms = [term for term in (gaussian, bilateral) if term is not None and term[-1] != 0]
    if not terms or iterations == 0 or unary.numel() == 0:
        return torch.softmax(-energies, -3)
    xy = _coordinates(height, width, energies)  # [N, 2]
    spatial = []
    if gaussian in terms:
        spatial = [_normalised(xy / energies.new_tensor(gaussian[0]), gaussian[1])]
    out = []
    for b in range(unary.shape[0]):
        filters = list(spatial)
        if bilateral in terms:
            sxy, srgb, weight = bilateral
            rgb = image[b].reshape(3, -1).t().to(dtype)  # [N, 3]
            features = torch.cat([xy / energies.new_tensor(sxy), rgb / energies.new_tensor(srgb)], 1)
            filters.append(_normalised(features, weight))
        out.append(_mean_field(stacked[b], filters, iterations))
    return torch.stack(out).reshape(unary.shape)
