"""Gaussian filters on a permutohedral lattice: schemas, fakes, autograd, public functions."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import reference
from ._arguments import FLOATING, argument_error, is_floating, is_number, is_real
from ._library import call, define

MAX_DIMENSIONS = 16
# As in csrc/math/lattice.h: the key of a vertex holds d quotients in at most 127 bits, of which the
# remainder takes 5, ...
COORDINATE_BITS = 122
# ... and a float32 still resolves the quotients below this bound.
MAX_QUOTIENT = 2.0**21


def _fake_lattice(features):
    points, corners = features.shape[0], features.shape[1] + 1
    vertices = torch.library.get_ctx().new_dynamic_size()
    row = features.new_empty(points, corners, dtype=torch.int32)
    weight = features.new_empty(points, corners, dtype=torch.float32)
    entry = features.new_empty(points * corners, dtype=torch.int32)
    first = features.new_empty(vertices + 1, dtype=torch.int32)
    next_, previous = (features.new_empty(corners, vertices, dtype=torch.int32) for _ in range(2))
    return row, weight, entry, first, next_, previous


def _fake_filter(row, weight, entry, first, next_, previous, values, reverse):
    return torch.empty(values.shape, dtype=values.dtype, device=values.device)


def _setup_context(ctx, inputs, output):
    *lattice, _, ctx.reverse = inputs
    ctx.save_for_backward(*lattice)


def _backward(ctx, grad):
    if ctx.needs_input_grad[1]:
        raise NotImplementedError(
            "the lattice filter is differentiable in values only; pass features.detach()"
        )
    # The filter is linear in values, and its transpose blurs in the reverse order.
    return *[None] * 6, _filter_op(*ctx.saved_tensors, grad, not ctx.reverse), None


# features [N, d] float32 -> for M vertices (each backend numbers them its own way):
# row int32 [N, d+1]: vertex of each corner, ordered by remainder;
# weight float32 [N, d+1]: barycentric;
# entry int32 [N*(d+1)]: flat indices into row, sorted by vertex;
# first int32 [M+1]: start of each vertex's entries;
# next, previous int32 [d+1, M]: neighbours along each direction, -1 for none
_lattice_op = define(
    "permutohedral_lattice(Tensor features)"
    " -> (Tensor row, Tensor weight, Tensor entry, Tensor first, Tensor next, Tensor previous)",
    reference=reference.permutohedral_lattice,
    fake=_fake_lattice,
)

# values [N, c] float32 or float64 -> the same: splat, blur along directions 0..d (d..0 if reverse),
# slice
_filter_op = define(
    "lattice_filter(Tensor row, Tensor weight, Tensor entry, Tensor first, Tensor next,"
    " Tensor previous, Tensor values, bool reverse) -> Tensor",
    reference=reference.lattice_filter,
    fake=_fake_filter,
    backward=_backward,
    once=False,
    setup_context=_setup_context,
)


def permutohedral_filter(features: Tensor, values: Tensor) -> Tensor:
    """Gaussian filter of values at points of a feature space.

        out_i = sum_j exp(-|f_i - f_j|^2 / 2) v_j, the sum including j = i

    The sum is approximated on a permutohedral lattice, whose results are smaller than the exact
    sum: 0.91 of it for d = 1, 0.87 for 2, 0.81 for 3 where points lie densely, and less where they
    are few, since the blur only passes through vertices of simplices that hold points. So normalise
    by filtered ones: out / permutohedral_filter(features, ones). To filter several times, keep a
    `PermutohedralLattice`.

    On CUDA, lattices of more than 8 dimensions, or with more vertices than 64-bit keys can name,
    are built by the CPU kernel; filtering stays on the device.

    Differentiable in `values`, any number of times; not in `features`.

    Args:
        features: [N, d] floating point, divided by the standard deviations, finite; 1 <= d <= 16.
            Used in float32.
        values: [N, c] floating point, on the device of `features`.

    Returns:
        [N, c]; float64 (and accumulated so) for float64 values, else float32.

    Raises:
        ValueError: a wrong argument, with its name and value.

    Source: Adams, Baek and Davis 2010.

    >>> features = torch.tensor([[0.0], [0.0], [9.0], [9.0]])
    >>> permutohedral_filter(features, torch.tensor([[1.0], [3.0], [5.0], [0.0]])).flatten()
    tensor([3.3333, 3.3333, 3.7693, 3.7693])
    """
    return PermutohedralLattice(features).filter(values)


class PermutohedralLattice:
    """The lattice of `permutohedral_filter` for given features, built once for several filters.

    Args:
        features: [N, d] floating point, divided by the standard deviations, finite; 1 <= d <= 16.
            Used in float32.

    Attributes:
        points: N.
        dimensions: d.
        vertices: number of vertices; a filter needs memory for 2 * vertices * c values.
        device: device of the features.

    Raises:
        ValueError: a wrong argument, with its name and value.

    >>> lattice = PermutohedralLattice(torch.zeros(4, 2))
    >>> lattice.points, lattice.dimensions, lattice.vertices
    (4, 2, 3)
    >>> lattice.filter(torch.ones(4, 1)).flatten()
    tensor([3.6000, 3.6000, 3.6000, 3.6000])
    """

    def __init__(self, features: Tensor):
        _check_features(features)
        self.points, self.dimensions = features.shape
        self.device = features.device
        self._lattice = call(_lattice_op, features.to(torch.float32))

    @property
    def vertices(self) -> int:
        return self._lattice[3].numel() - 1

    def filter(self, values: Tensor, *, transpose: bool = False) -> Tensor:
        """Filter `values` [N, c] -> [N, c], as `permutohedral_filter`.

        `transpose` applies the transposed filter: its blur directions are in reverse order, which
        matters where vertices are missing.
        """
        op = "permutohedral_filter"
        if not is_floating(values, 2) or values.shape[0] != self.points:
            raise argument_error(op, "values", values, f"{FLOATING} [{self.points}, c]")
        if values.device != self.device:
            raise ValueError(f"{op}: values is on {values.device} but features is on {self.device}")
        values = values if values.dtype == torch.float64 else values.to(torch.float32)
        return call(_filter_op, *self._lattice, values, bool(transpose))


def pixel_features(
    height: int, width: int, sxy: tuple[float, ...], image: Tensor, srgb: tuple[float, ...]
) -> Tensor:
    """Features [H*W, 2+C] of an image's pixels, row by row: x / sx, y / sy, levels / srgb.

    `image` is [C, H, W] float32.
    """
    x = torch.arange(width, device=image.device, dtype=torch.float32) / image.new_tensor(sxy[0])
    y = torch.arange(height, device=image.device, dtype=torch.float32) / image.new_tensor(sxy[1])
    levels = image / image.new_tensor(srgb)[:, None, None]
    planes = [x.expand(1, height, width), y[:, None].expand(1, height, width), levels]
    return torch.cat(planes).flatten(1).t()


def check_sigmas(name: str, value: Any, count: int) -> tuple[float, ...]:
    """`count` standard deviations from a number or a sequence of as many; ValueError otherwise.

    `name` starts with the op, as in "dense_crf: gaussian sxy".
    """
    op, _, argument = name.partition(": ")
    given = tuple(value) if isinstance(value, (tuple, list)) else (value,) * count
    if len(given) != count or not all(is_real(sigma) for sigma in given):
        raise argument_error(op, argument, value, f"a number or {count} of them")
    if not all(is_number(sigma) and sigma > 0.0 for sigma in given):
        raise argument_error(op, argument, value, "finite and > 0")
    return tuple(float(sigma) for sigma in given)


def coordinates_fit(bounds: list[tuple[float, float]]) -> bool:
    """Whether keys can name all vertices of a lattice over features within `bounds` [d].

    The same computation is in csrc/math/lattice.h.
    """
    d = len(bounds)
    scale = [math.sqrt(2.0 / 3.0) * (d + 1) / math.sqrt((i + 1) * (i + 2)) for i in range(d)]
    low, high = ([b[side] * s for b, s in zip(bounds, scale, strict=True)] for side in (0, 1))
    bits = 0
    for j in range(d):
        below = (sum(low[j:]) - (j * high[j - 1] if j else 0.0)) / (d + 1)
        above = (sum(high[j:]) - (j * low[j - 1] if j else 0.0)) / (d + 1)
        if not -MAX_QUOTIENT < below <= above < MAX_QUOTIENT:
            return False
        # Four cells of margin: rounding, the rank fix, the vertex's wrap, a step to a neighbour.
        bits += (math.ceil(above) - math.floor(below) + 8).bit_length()
    return bits <= COORDINATE_BITS


def pixel_keys_fit(
    height: int, width: int, sigmas: Sequence[float], levels: Sequence[float]
) -> bool:
    """Whether keys can name the vertices of a lattice over an image's pixels.

    `sigmas`: standard deviations along x, along y and of each channel; `levels`: lowest and
    highest.
    """
    if not height or not width:
        return True
    sx, sy, *channels = sigmas
    bounds = [(0.0, (width - 1) / sx), (0.0, (height - 1) / sy)]
    return coordinates_fit(bounds + [(levels[0] / s, levels[1] / s) for s in channels])


def _check_features(features: Tensor) -> None:
    op = "permutohedral_filter"
    if not is_floating(features, 2) or not 1 <= features.shape[1] <= MAX_DIMENSIONS:
        wanted = f"{FLOATING} [N, d], d in 1..{MAX_DIMENSIONS}"
        raise argument_error(op, "features", features, wanted)
    if features.device.type == "meta":
        raise ValueError(f"{op}: features is on meta; a lattice needs values")
    # The native kernel repeats what follows.
    if torch.compiler.is_compiling() or not features.numel():
        return
    low, high = (bound.tolist() for bound in features.detach().to(torch.float32).aminmax(dim=0))
    if not all(math.isfinite(v) for v in low + high):
        raise ValueError(f"{op}: features has NaN or infinite values")
    # The lattice holds the origin, too: its vertices exist where 4 does not divide N.
    if not coordinates_fit([(min(a, 0.0), max(b, 0.0)) for a, b in zip(low, high, strict=True)]):
        raise ValueError(
            f"{op}: features span too much for the lattice's keys; use larger deviations"
        )
