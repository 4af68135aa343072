"""permutohedral_lattice, lattice_filter and the filters built on them.

Oracles are brute force and the reference. Each backend numbers the vertices its own way, so
lattices are compared by the results of their filters and by properties of every lattice, never
index by index.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_testing import each_device, threads, wrong_values

from wsss_fast.ops import PermutohedralLattice, permutohedral_filter, reference

# (points, dimensions, channels, span of the features in standard deviations)
CASES = {
    "line": (50, 1, 2, 20.0),
    "plane": (301, 2, 3, 9.0),
    "gray": (120, 3, 1, 6.0),
    "color": (203, 5, 4, 5.0),
    "six": (64, 6, 2, 4.0),
    "spread": (40, 16, 2, 40.0),  # keys of more than 64 bits, and more dimensions than CUDA builds
    "far_apart": (60, 7, 3, 4000.0),  # keys of more than 64 bits alone
    "many_channels": (33, 2, 70, 5.0),
    "one_point": (1, 3, 2, 5.0),
    "equal_points": (10, 4, 2, 0.0),
    "no_channels": (12, 2, 0, 5.0),
    "no_points": (0, 3, 2, 5.0),
}
each_case = pytest.mark.parametrize("case", CASES)
LATTICE = torch.ops.wsss_fast.permutohedral_lattice.default
FILTER = torch.ops.wsss_fast.lattice_filter.default


@pytest.fixture(autouse=True)
def one_thread():
    with threads(1):
        yield


def make(case, device="cpu", dtype=torch.float32, seed=0):
    points, d, channels, span = CASES[case]
    generator = torch.Generator().manual_seed(seed)
    features = (torch.rand(points, d, generator=generator) - 0.3) * span
    values = torch.rand(points, channels, generator=generator, dtype=torch.float64)
    return features.to(device), values.to(device, dtype)


@each_device
@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_reference(case, device, dtype):
    features, values = make(case, device, dtype)
    expected = reference.permutohedral_filter(features, values)
    ours = permutohedral_filter(features, values)
    assert ours.dtype == dtype and ours.device == values.device
    # Weights are float32 in both; sums of up to N of them differ by their order.
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-5)


@each_device
@each_case
def test_a_lattice_is_consistent(case, device):
    features, _ = make(case, device)
    points, d = features.shape
    row, weight, entry, first, next_, previous = LATTICE(features)
    count = first.numel() - 1
    assert row.shape == weight.shape == (points, d + 1) and entry.shape == (points * (d + 1),)
    assert next_.shape == previous.shape == (d + 1, count)
    assert {t.dtype for t in (row, entry, first, next_, previous)} == {torch.int32}
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight.sum(1), torch.ones(points, device=device), atol=1e-4, rtol=0)
    assert not points or weight.min() > -1e-4
    # Entries are the corners, grouped by vertex and ascending within a group.
    assert first[0] == 0 and first[-1] == entry.numel()
    vertex = torch.repeat_interleave(torch.arange(count, device=device), first.diff().long())
    assert torch.equal(row.flatten()[entry.long()].long(), vertex)
    inside = vertex[1:] == vertex[:-1]
    assert bool((entry.diff()[inside] > 0).all())
    # next and previous are each other's inverse.
    for j in range(d + 1):
        here = torch.nonzero(next_[j] >= 0).flatten()
        assert torch.equal(previous[j][next_[j][here].long()].long(), here)
        assert (previous[j] >= 0).sum() == here.numel()
    if points % 4 == 0 and points:
        assert bool((first.diff() > 0).all())  # every vertex has a point


def neighbours_by_coordinates(features):
    """Numbers of the reference's vertices and of their neighbours, found in a set of tuples."""
    from wsss_fast.ops.reference.lattice import _enclosing_simplex

    d = features.shape[1]
    quotient, rank, _ = _enclosing_simplex(features)
    corners = set()
    for q, k in zip(quotient.tolist(), rank.tolist(), strict=True):
        for r in range(d + 1):
            corners.add(tuple((d + 1) * (q[j] - (k[j] > d - r)) + r for j in range(d + 1)))
    pairs = 0
    for vertex in corners:
        for j in range(d + 1):
            pairs += tuple(v - 1 + (d + 1) * (i == j) for i, v in enumerate(vertex)) in corners
    return len(corners), pairs


@each_device
@pytest.mark.parametrize("case", ["line", "gray", "six", "spread", "equal_points"])
def test_vertices_and_neighbours_by_their_coordinates(case, device):
    features, _ = make(case)
    features = torch.cat([features, features.new_zeros(-len(features) % 4, features.shape[1])])
    row, _, _, first, next_, _ = LATTICE(features.to(device))
    assert (first.numel() - 1, int((next_ >= 0).sum())) == neighbours_by_coordinates(features)


@each_device
@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_approximates_the_gaussian(d, device):
    """Filtered values over filtered ones, against exact sums, for dense points."""
    generator = torch.Generator().manual_seed(d)
    features = torch.rand(600, d, generator=generator).to(device) * 4
    values = torch.rand(600, 2, generator=generator).to(device)
    lattice = PermutohedralLattice(features)
    ours = lattice.filter(values) / lattice.filter(torch.ones_like(values))
    kernel = torch.exp(-0.5 * torch.cdist(features.double(), features.double()) ** 2)
    exact = kernel @ values.double() / kernel.sum(1, keepdim=True)
    error = (ours - exact).abs().mean()
    assert error < 0.1 * (values - exact).abs().mean()
    assert error < 0.01  # 0.0063 at d = 5


@each_device
@pytest.mark.parametrize("case", ["plane", "color", "one_point"])
def test_derivatives(case, device):
    features, values = make(case, device, torch.float64)
    features, leaf = features[:9], values[:9].requires_grad_()
    # On CUDA the reference adds with float atomics, so its runs differ by roundings; ours must not.
    for function, varies in ((permutohedral_filter, 0.0), (reference.permutohedral_filter, 1e-10)):
        assert torch.autograd.gradcheck(
            lambda v, f=function: f(features, v).pow(3), leaf, nondet_tol=varies
        )
        assert torch.autograd.gradgradcheck(
            lambda v, f=function: f(features, v).pow(3), leaf, nondet_tol=varies
        )


@each_device
def test_transpose_is_the_adjoint(device):
    features, values = make("color", device)
    other = torch.rand(values.shape, generator=torch.Generator().manual_seed(3)).to(device)
    lattice = PermutohedralLattice(features)
    forward = (lattice.filter(values) * other).sum()
    backward = (values * lattice.filter(other, transpose=True)).sum()
    torch.testing.assert_close(forward, backward, atol=0, rtol=1e-5)
    # Vertices are missing, so the order of the directions matters: ignoring it would be noticed.
    assert (lattice.filter(other) - lattice.filter(other, transpose=True)).abs().max() > 1e-2


@each_device
@each_case
def test_opcheck(case, device):
    features, values = make(case, device)
    torch.library.opcheck(LATTICE, (features,))
    lattice = LATTICE(features)
    torch.library.opcheck(FILTER, (*lattice, values, False))
    torch.library.opcheck(FILTER, (*lattice, values.requires_grad_(), True))


@each_device
def test_compiles_whole(device):
    features, values = make("color", device)
    compiled = torch.compile(
        lambda f, v: permutohedral_filter(f, v * 1.0) + 0.0, fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(features, values), permutohedral_filter(features, values))
    leaf = values.clone().requires_grad_()
    compiled(features, leaf).square().sum().backward()
    other = values.clone().requires_grad_()
    permutohedral_filter(features, other).square().sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad)


@settings(max_examples=25, deadline=None)
@given(
    points=st.integers(1, 40),
    d=st.integers(1, 7),
    channels=st.integers(1, 5),
    seed=st.integers(0, 10**6),
)
def test_linear_and_independent_of_the_order(points, d, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(points, d, generator=generator) * 6
    a, b = torch.rand(2, points, channels, generator=generator, dtype=torch.float64)
    lattice = PermutohedralLattice(features)
    torch.testing.assert_close(lattice.filter(2 * a - b), 2 * lattice.filter(a) - lattice.filter(b))
    order = torch.randperm(points, generator=generator)
    torch.testing.assert_close(
        permutohedral_filter(features[order], a[order]), lattice.filter(a)[order]
    )
    assert lattice.filter(a).min() > -1e-4  # weights are >= 0 up to rounding


@each_device
def test_repeatable_to_the_bit(device):
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(20000, 5, generator=generator).to(device) * 8
    values = torch.rand(20000, 3, generator=generator).to(device)
    with threads(2):
        first = permutohedral_filter(features, values)
        for _ in range(3):
            assert torch.equal(permutohedral_filter(features, values), first)
    torch.testing.assert_close(permutohedral_filter(features, values), first, atol=1e-5, rtol=1e-5)


@each_device
def test_lattice_is_reusable(device):
    features, values = make("plane", device)
    lattice = PermutohedralLattice(features)
    assert (lattice.points, lattice.dimensions, lattice.device) == (301, 2, features.device)
    assert lattice.vertices == LATTICE(features)[3].numel() - 1
    for v in (
        values,
        values[:, :1],
        values.repeat(1, 5),
        values.half(),
        values.t().contiguous().t(),
    ):
        assert torch.equal(
            lattice.filter(v), permutohedral_filter(features, v.float().contiguous())
        )
    doubled = permutohedral_filter(features.double(), values)
    assert torch.equal(doubled, permutohedral_filter(features, values))


def test_features_have_no_gradient():
    features, values = make("plane")
    with pytest.raises(NotImplementedError, match="differentiable in values only"):
        permutohedral_filter(features.requires_grad_(), values.requires_grad_()).sum().backward()


INF, NAN = float("inf"), float("nan")
FEATURES = {"features": torch.zeros(8, 3)}


@pytest.mark.parametrize(("name", "value"), wrong_values(FEATURES))
def test_wrong_features_of_any_kind(name, value):
    with pytest.raises(ValueError, match=f"^permutohedral_filter: {name} is"):
        permutohedral_filter(value, torch.zeros(8, 1))
    with pytest.raises(ValueError, match=f"^permutohedral_filter: {name} is"):
        PermutohedralLattice(value)


@pytest.mark.parametrize(("name", "value"), wrong_values({"values": torch.zeros(8, 1)}))
def test_wrong_values_of_any_kind(name, value):
    with pytest.raises(ValueError, match=f"^permutohedral_filter: {name} is"):
        permutohedral_filter(FEATURES["features"], value)


WRONG = {
    "features_dims": (
        lambda: permutohedral_filter(torch.zeros(4), torch.zeros(4, 1)),
        r"features is torch.float32 \[4\]; must be .* \[N, d\], d in 1\.\.16",
    ),
    "dimensions": (
        lambda: PermutohedralLattice(torch.zeros(4, 17)),
        r"features is torch.float32 \[4, 17\]; must be .* \[N, d\], d in 1\.\.16",
    ),
    "no_dimension": (
        lambda: PermutohedralLattice(torch.zeros(4, 0)),
        r"features is torch.float32 \[4, 0\]",
    ),
    "features_dtype": (
        lambda: PermutohedralLattice(torch.zeros(4, 2, dtype=torch.int32)),
        "features is torch.int32",
    ),
    "features_nan": (
        lambda: PermutohedralLattice(torch.full((4, 2), NAN)),
        "features has NaN or infinite values",
    ),
    "features_inf": (
        lambda: PermutohedralLattice(torch.tensor([[0.0], [INF]])),
        "features has NaN or infinite",
    ),
    "features_wide": (
        lambda: PermutohedralLattice(torch.tensor([[0.0], [1e8]])),
        "features span too much",
    ),
    "features_bits": (
        lambda: PermutohedralLattice(torch.linspace(0, 9e4, 32).reshape(2, 16)),
        "features span too much",
    ),
    "points": (
        lambda: permutohedral_filter(torch.zeros(4, 2), torch.zeros(5, 1)),
        r"values is torch.float32 \[5, 1\]; must be .* \[4, c\]",
    ),
    "values_dims": (
        lambda: permutohedral_filter(torch.zeros(4, 2), torch.zeros(4)),
        r"values is torch.float32 \[4\]; must be .* \[4, c\]",
    ),
    "values_dtype": (
        lambda: permutohedral_filter(torch.zeros(4, 2), torch.zeros(4, 1).int()),
        "values is torch.int32",
    ),
    "features_meta": (
        lambda: PermutohedralLattice(torch.zeros(4, 2, device="meta")),
        "features is on meta",
    ),
    "values_meta": (
        lambda: permutohedral_filter(torch.zeros(4, 2), torch.zeros(4, 1, device="meta")),
        "values is on meta but features is on cpu",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()
