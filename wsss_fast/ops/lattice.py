"""Gaussian filters on a permutohedral lattice: schemas, fakes, autograd, public function and reusable lattices."""

import math

import torch
from torch import Tensor

from . import reference
from ._library import call, define

MAX_DIMENSIONS = 16
# As csrc/math/lattice.h: a vertex' key holds d quotients in at most 127 bits, of which the remainder takes 5 ...
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
# row int32 [N, d+1]: vertex of each corner, ordered by remainder; weight float32 [N, d+1]: barycentric;
# entry int32 [N*(d+1)]: flat indices into row, sorted by vertex; first int32 [M+1]: where a vertex' entries start;
# next, previous int32 [d+1, M]: neighbours along each direction, -1 for none
_lattice_op = define(
    "permutohedral_lattice(Tensor features)"
    " -> (Tensor row, Tensor weight, Tensor entry, Tensor first, Tensor next, Tensor previous)",
    reference=reference.permutohedral_lattice,
    fake=_fake_lattice,
)

# values [N, c] float32 or float64 -> the same: splat, blur along directions 0..d (d..0 if reverse), slice
_filter_op = define(
    "lattice_filter(Tensor row, Tensor weight, Tensor entry, Tensor first, Tensor next, Tensor previous,"
    " Tensor values, bool reverse) -> Tensor",
    reference=reference.lattice_filter,
    fake=_fake_filter,
    backward=_backward,
    setup_context=_setup_context,
)


def permutohedral_filter(features: Tensor, values: Tensor) -> Tensor:
    """Gaussian filter of values at points of a feature space.

    out_i = sum_j exp(-|f_i - f_j|^2 / 2) v_j, the sum including j = i, approximated on a permutohedral lattice. Its
    scale is below the exact sum's (0.91 of it at d = 1, 0.87 at 2, 0.81 at 3 where points lie densely; less where they
    are few, because the blur only passes through vertices that points touch); so divide by the filtered ones:
    out / permutohedral_filter(features, ones). To filter several times, keep a `PermutohedralLattice`. On CUDA, lattices of
    more than 8 dimensions, or whose vertices 64 bits cannot name, are built by the CPU kernel; filtering stays on the device.

    Args:
        features: [N, d] floating, divided by the standard deviations, finite; 1 <= d <= 16. Used in float32.
        values: [N, c] floating, on the device of `features`.

    Returns:
        [N, c]; float64 (and accumulated so) for float64 values, else float32.

    Differentiable in `values`, any number of times; not in `features`.
    Raises ValueError, naming the argument and what it got.
    Source: Adams, Baek and Davis 2010.

    >>> features = torch.tensor([[0.0], [0.0], [9.0], [9.0]])
    >>> permutohedral_filter(features, torch.tensor([[1.0], [3.0], [5.0], [0.0]])).flatten()
    tensor([3.3333, 3.3333, 3.7693, 3.7693])
    """
    return PermutohedralLattice(features).filter(values)


class PermutohedralLattice:
    """The lattice of `permutohedral_filter` for given features, built once and used for any number of filters.

    Args:
        features: [N, d] floating, divided by the standard deviations, finite; 1 <= d <= 16. Used in float32.

    Attributes: `points` N, `dimensions` d, `vertices` (how many the points touch; memory of a filter is
    2 * vertices * c values), `device`. Raises ValueError as `permutohedral_filter`.

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

        `transpose` applies the transposed filter: the blur's directions come in the reverse order, which matters
        where vertices are missing.
        """
        if values.dim() != 2 or values.shape[0] != self.points:
            raise ValueError(
                f"permutohedral_filter: values is {list(values.shape)}; must be [{self.points}, c]"
            )
        if not values.is_floating_point():
            raise ValueError(f"permutohedral_filter: values is {values.dtype}; must be floating")
        if values.device != self.device:
            raise ValueError(
                f"permutohedral_filter: values is on {values.device} but features is on {self.device}"
            )
        values = values if values.dtype == torch.float64 else values.to(torch.float32)
        return call(_filter_op, *self._lattice, values, transpose)


class BilateralLattice:
    """Bilateral filter of maps on one image's pixels, the kernel of `dense_crf`'s appearance term without its norm.

    out_i = sum_j exp(-|p_i - p_j|^2 / 2 sxy^2 - |I_i - I_j|^2 / 2 srgb^2) v_j, as `permutohedral_filter`.

    Args:
        image: [C, H, W] uint8 or floating levels, finite; 1 <= C <= 14.
        sxy: standard deviation in pixels, or (along x, along y).
        srgb: standard deviation in levels, or one per channel.

    Attributes: those of `PermutohedralLattice`, pixels being its points, row by row.
    Raises ValueError, naming the argument and what it got.

    >>> lattice = BilateralLattice(torch.zeros(3, 1, 4), sxy=1000.0, srgb=5.0)
    >>> lattice.filter(torch.tensor([[[1.0, 0.0, 0.0, 3.0]]])).shape
    torch.Size([1, 1, 4])
    """

    def __init__(
        self, image: Tensor, sxy: float | tuple[float, float], srgb: float | tuple[float, ...]
    ):
        if image.dim() != 3 or not 1 <= image.shape[0] <= MAX_DIMENSIONS - 2:
            raise ValueError(
                f"BilateralLattice: image is {list(image.shape)}; must be [C, H, W], C 1..{MAX_DIMENSIONS - 2}"
            )
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise ValueError(f"BilateralLattice: image is {image.dtype}; must be uint8 or floating")
        sxy = check_sigmas("BilateralLattice: sxy", sxy, 2)
        srgb = check_sigmas("BilateralLattice: srgb", srgb, image.shape[0])
        self._size = image.shape[1:]
        self._lattice = PermutohedralLattice(
            pixel_features(*self._size, sxy, image.to(torch.float32), srgb)
        )
        self.points, self.dimensions, self.device = (
            self._lattice.points,
            self._lattice.dimensions,
            image.device,
        )

    @property
    def vertices(self) -> int:
        return self._lattice.vertices

    def filter(self, values: Tensor, *, transpose: bool = False) -> Tensor:
        """Filter `values` [c, H, W] -> [c, H, W]; dtypes and derivatives as `permutohedral_filter`."""
        if values.dim() != 3 or values.shape[1:] != self._size:
            height, width = self._size
            raise ValueError(
                f"BilateralLattice: values is {list(values.shape)}; must be [c, {height}, {width}]"
            )
        return (
            self._lattice.filter(values.flatten(1).t(), transpose=transpose)
            .t()
            .reshape(values.shape)
        )


def pixel_features(
    height: int, width: int, sxy: tuple[float, float], image: Tensor, srgb: tuple[float, ...]
) -> Tensor:
    """Features [H*W, 2+C] of an image's pixels, row by row: x/sx, y/sy, levels / srgb. `image` [C, H, W] float32."""
    x = torch.arange(width, device=image.device, dtype=torch.float32) / image.new_tensor(sxy[0])
    y = torch.arange(height, device=image.device, dtype=torch.float32) / image.new_tensor(sxy[1])
    levels = image / image.new_tensor(srgb)[:, None, None]
    return (
        torch.cat([x.expand(1, height, width), y[:, None].expand(1, height, width), levels])
        .flatten(1)
        .t()
    )


def check_sigmas(name: str, value, count: int) -> tuple[float, ...]:
    """`count` standard deviations from a number or a sequence of so many; ValueError otherwise."""
    try:
        sigmas = (
            tuple(float(v) for v in value)
            if isinstance(value, (tuple, list))
            else (float(value),) * count
        )
    except (TypeError, ValueError):
        sigmas = ()
    if len(sigmas) != count:
        raise ValueError(f"{name} is {value!r}; must be a number or {count} of them")
    for sigma in sigmas:
        # Comparisons only: torch.compile may pass symbolic floats.
        if not 0.0 < sigma < math.inf:
            raise ValueError(f"{name} is {value!r}; must be finite and > 0")
    return sigmas


def coordinates_fit(bounds: list[tuple[float, float]]) -> bool:
    """Whether the lattice over features within `bounds` [d] has keys for all of its vertices (csrc/math/lattice.h)."""
    d = len(bounds)
    scale = [math.sqrt(2.0 / 3.0) * (d + 1) / math.sqrt((i + 1) * (i + 2)) for i in range(d)]
    low, high = ([b[side] * s for b, s in zip(bounds, scale, strict=True)] for side in (0, 1))
    bits = 0
    for j in range(d):
        below = (sum(low[j:]) - (j * high[j - 1] if j else 0.0)) / (d + 1)
        above = (sum(high[j:]) - (j * low[j - 1] if j else 0.0)) / (d + 1)
        if not -MAX_QUOTIENT < below <= above < MAX_QUOTIENT:
            return False
        # Four cells of margin: rounding, the rank fix, the vertex's own wrap, one step to a neighbour.
        bits += (math.ceil(above) - math.floor(below) + 8).bit_length()
    return bits <= COORDINATE_BITS


def _check_features(features: Tensor) -> None:
    if features.dim() != 2 or not 1 <= features.shape[1] <= MAX_DIMENSIONS:
        raise ValueError(
            f"permutohedral_filter: features is {list(features.shape)}; must be [N, d], d 1..{MAX_DIMENSIONS}"
        )
    if not features.is_floating_point():
        raise ValueError(f"permutohedral_filter: features is {features.dtype}; must be floating")
    if (
        torch.compiler.is_compiling() or not features.numel()
    ):  # the native kernel repeats what follows
        return
    low, high = (bound.tolist() for bound in features.detach().to(torch.float32).aminmax(dim=0))
    if not all(math.isfinite(v) for v in low + high):
        raise ValueError("permutohedral_filter: features has NaN or infinite values")
    # The lattice holds the origin, too: where 4 does not divide N, its vertices are there.
    if not coordinates_fit([(min(a, 0.0), max(b, 0.0)) for a, b in zip(low, high, strict=True)]):
        raise ValueError(
            "permutohedral_filter: features span too much for the lattice's keys; use larger deviations"
        )
