"""random_walk against a dense float64 matrix; float32 errors, properties, layouts, wrong input."""

import itertools
import math

import pytest
import torch
from op_testing import each_device, threads, wrong_values
from torch._subclasses.fake_tensor import FakeTensorMode

from wsss_fast import _native
from wsss_fast.ops import _library, random_walk, reference

# name: shape of the maps, options
CASES = {
    "irn": ((2, 3, 11, 14), {}),
    "one_image": ((3, 9, 13), {"steps": 40}),
    "near": ((2, 8, 9), {"radius": 2, "beta": 3.5, "steps": 25}),
    "far": ((1, 1, 7, 12), {"radius": 10, "steps": 12}),
    "alone": ((2, 5, 6), {"radius": 1}),
    "no_step": ((2, 5, 6), {"steps": 0}),
    "row": ((2, 1, 40), {"steps": 9}),
    "column": ((4, 23, 1), {"steps": 9}),
    "pixel": ((1, 2, 1, 1), {}),
    "many_maps": ((1, 7, 6, 5), {"steps": 16}),
    "coco": ((81, 3, 7), {"steps": 5}),
    "empty_batch": ((0, 2, 4, 4), {}),
    "no_row": ((2, 0, 4), {}),
    "no_maps": ((0, 4, 4), {}),
}
each_case = pytest.mark.parametrize("name", CASES)
ROUNDING = 5e-7  # of the largest value: a few roundings of float32


def make(name, dtype=torch.float64, device="cpu"):
    """Maps, and edge maps with walls, openings and noise."""
    shape, options = CASES[name]
    generator = torch.Generator().manual_seed(len(name))
    maps = torch.rand(shape, generator=generator, dtype=torch.float64)
    edge = torch.rand(shape[:-3] + shape[-2:], generator=generator, dtype=torch.float64) ** 4
    edge[torch.rand(edge.shape, generator=generator) < 0.1] = 1.0
    return maps.to(device, dtype), edge.to(device, dtype), options


def dense(maps, edge, radius=5, beta=10.0, steps=256):
    """One image in float64: the whole transition matrix, and its power."""
    height, width = edge.shape
    cells = list(itertools.product(range(height), range(width)))
    affinity = torch.zeros(len(cells), len(cells), dtype=torch.float64)
    for (i, (y, x)), (j, (v, u)) in itertools.product(enumerate(cells), repeat=2):
        length = math.hypot(v - y, u - x)
        if length >= radius:
            continue
        between = itertools.product(
            range(min(y, v), max(y, v) + 1), range(min(x, u), max(x, u) + 1)
        )
        # Distance of a cell from the line through both ends.
        on_path = (
            [c for c in between if abs((v - y) * (c[1] - x) - (u - x) * (c[0] - y)) < length]
            if i != j
            else []
        )
        affinity[i, j] = (1 - max((edge[c].item() for c in on_path), default=0.0)) ** beta
    transition = affinity / affinity.sum(0)
    field = (maps * (1 - edge)).flatten(1).double()
    return (field @ torch.linalg.matrix_power(transition, steps)).reshape(maps.shape)


@each_device
@each_case
def test_equals_the_dense_matrix(name, device):
    maps, edge, options = make(name)
    ours = random_walk(maps.to(device), edge.to(device), **options)
    assert ours.dtype == torch.float32 and ours.shape == maps.shape
    pairs = zip(maps, edge, strict=True) if maps.dim() == 4 else [(maps, edge)]
    expected = [dense(m, e, **options) for m, e in pairs]
    if maps.numel():
        torch.testing.assert_close(
            ours.double().cpu(), torch.stack(expected).reshape(maps.shape), rtol=1e-5, atol=1e-6
        )
        truth = reference.random_walk(maps, edge, **options)
        torch.testing.assert_close(truth, torch.stack(expected).reshape(maps.shape))


@each_device
@each_case
def test_error_is_at_most_twice_eagers(name, device):
    maps, edge, options = make(name, torch.float32, device)
    truth = reference.random_walk(maps.double(), edge.double(), **options)
    eager = reference.random_walk(maps, edge, **options)
    ours = random_walk(maps, edge, **options)
    if truth.numel():
        allowed = 2 * (eager.double() - truth).abs().max() + ROUNDING * truth.abs().max()
        assert (ours.double() - truth).abs().max() <= allowed


@each_device
def test_nothing_passes_a_closed_wall(device):
    maps, edge = torch.zeros(1, 9, 21, device=device), torch.zeros(9, 21, device=device)
    maps[..., :10] = 1.0
    edge[:, 10] = 1.0
    out = random_walk(maps, edge)
    # A constant map stays constant to the bit.
    assert (out[..., 10:] == 0).all() and (out[..., :10] == 1.0).all()
    edge[4, 10] = 0.0
    assert random_walk(maps, edge)[..., 11:].min() > 0


@each_device
def test_walls_everywhere_leave_nothing(device):
    assert (
        random_walk(torch.rand(2, 6, 7, device=device), torch.ones(6, 7, device=device)) == 0
    ).all()


def test_threads_and_batches_agree_to_the_bit():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 2, 48, 50, generator=generator)
    edge = torch.rand(3, 48, 50, generator=generator)
    expected = torch.stack([random_walk(m, e) for m, e in zip(maps, edge, strict=True)])
    for count in (1, 2, 3, 5):
        with threads(count):
            assert torch.equal(random_walk(maps, edge), expected)
            assert torch.equal(random_walk(maps[0], edge[0]), expected[0])


@each_device
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_nan_spreads_as_in_the_reference(value, device):
    """Not over the map's border, where rows follow one another in memory."""
    maps, edge = torch.rand(3, 12, 9, device=device), torch.rand(12, 9, device=device) / 2
    maps[1, 5, 8] = value
    for radius, steps in ((2, 1), (2, 3), (3, 2), (5, 1)):
        ours = random_walk(maps, edge, radius=radius, beta=1.0, steps=steps)
        exact = reference.random_walk(
            maps.double(), edge.double(), radius=radius, beta=1.0, steps=steps
        )
        assert torch.equal(ours.isfinite(), exact.isfinite())
        assert ours[::2].isfinite().all() and ours[1].isfinite().any()


def test_the_reference_of_half_precisions_computes_wider():
    maps, edge = torch.rand(2, 9, 9), torch.rand(9, 9) / 4
    options = {"radius": 2, "steps": 100}
    for dtype in (torch.bfloat16, torch.float16):
        given = maps.to(dtype), edge.to(dtype)
        exact = reference.random_walk(*(t.double() for t in given), **options)
        half = reference.random_walk(*given, **options)
        assert half.dtype == dtype and torch.equal(half, exact.to(dtype))


def test_sparse_tensors_are_errors_below_the_public_function():
    maps, edge = torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4)
    with pytest.raises(ValueError, match="tensors must be dense and on one device"):
        torch.ops.wsss_fast.random_walk(maps.to_sparse(), edge, 5, 10.0, 1)
    assert random_walk(maps.to("meta"), edge.to("meta")).device.type == "meta"


@each_device
def test_a_nan_stays_in_its_map(device):
    maps, edge = torch.rand(3, 2, 9, 11, device=device), torch.rand(3, 9, 11, device=device)
    broken = maps.clone()
    broken[0, 1, 4, 10] = math.nan
    assert random_walk(broken, edge)[0, 1].isnan().any()
    with threads(1):  # a thread processes one image after the other in the same memory
        out, expected = random_walk(broken, edge), random_walk(maps, edge)
        assert torch.equal(out[0, 0], expected[0, 0]) and torch.equal(out[1:], expected[1:])


@each_device
def test_layouts_and_dtypes(device):
    maps, edge, options = make("irn", torch.float32, device)
    expected = random_walk(maps, edge, **options)
    assert torch.equal(
        random_walk(maps.to(memory_format=torch.channels_last), edge, **options), expected
    )
    assert torch.equal(
        random_walk(maps.repeat_interleave(2, 3)[..., ::2], edge.mT.contiguous().mT, **options),
        expected,
    )
    half = maps.bfloat16()
    assert torch.equal(
        random_walk(half, edge, **options), random_walk(half.float(), edge, **options)
    )


@each_device
@each_case
def test_opcheck(name, device):
    maps, edge, options = make(name, torch.float32, device)
    if maps.dim() == 3:
        maps, edge = maps[None], edge[None]
    arguments = options.get("radius", 5), options.get("beta", 10.0), options.get("steps", 256)
    torch.library.opcheck(torch.ops.wsss_fast.random_walk.default, (maps, edge, *arguments))


def test_fake_tensors():
    with FakeTensorMode():
        assert random_walk(torch.rand(2, 3, 8, 9), torch.rand(2, 8, 9)).shape == (2, 3, 8, 9)


@each_device
def test_compiles_whole(device):
    maps, edge, options = make("irn", torch.float32, device)
    compiled = torch.compile(
        lambda m, e: random_walk(m.square(), e.sigmoid(), **options),
        fullgraph=True,
        backend="aot_eager",
    )
    torch.testing.assert_close(
        compiled(maps, edge), random_walk(maps.square(), edge.sigmoid(), **options)
    )


def test_a_gradient_is_an_error():
    maps, edge, options = make("irn", torch.float32)
    with pytest.raises(NotImplementedError, match="random_walk cannot be differentiated"):
        random_walk(maps.requires_grad_(), edge, **options).sum().backward()


def test_the_native_kernel_is_used_where_it_can_be_built():
    if not _native.load():
        pytest.skip("native library not available")
    assert _library.has_native_kernel("random_walk", torch.device("cpu"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 10.0, 1), r"radius is 0; must be in 1\.\.32"),
        ((33, 10.0, 1), "radius is 33"),
        ((5, 0.0, 1), "beta is 0.0"),
        ((5, 10.0, -1), "steps is -1"),
    ],
)
def test_the_native_kernel_itself_rejects_out_of_range_numbers(arguments, message):
    if not _native.load():
        pytest.skip("native library not available")
    with pytest.raises(ValueError, match=f"random_walk: {message}"):
        torch.ops.wsss_fast.random_walk(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4), *arguments)
    with pytest.raises(ValueError, match=r"maps is \[1,1,4,4\] but edge is \[1,4,5\]"):
        torch.ops.wsss_fast.random_walk(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 5), 5, 10.0, 1)


ARGUMENTS = {
    "maps": torch.zeros(2, 4, 4),
    "edge": torch.zeros(4, 4),
    "radius": 5,
    "beta": 10.0,
    "steps": 256,
}


@pytest.mark.parametrize(("name", "value"), wrong_values(ARGUMENTS))
def test_wrong_arguments_of_any_kind(name, value):
    with pytest.raises(ValueError, match=f"^random_walk: .*{name}"):
        random_walk(**{**ARGUMENTS, name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": torch.zeros(4, 4)}, r"maps is torch.float32 \[4, 4\]"),
        ({"maps": torch.zeros(1, 4, 4, dtype=torch.uint8)}, "maps is torch.uint8"),
        (
            {"edge": torch.zeros(1, 4, 4)},
            r"edge is torch.float32 \[1, 4, 4\]; must be .* \[h, w\]",
        ),
        ({"edge": torch.zeros(4, 5)}, r"maps is \[2, 4, 4\] but edge is \[4, 5\]"),
        ({"edge": torch.zeros(4, 4, device="meta")}, "maps is on cpu but edge is on meta"),
        ({"edge": torch.full((4, 4), 1.5)}, r"edge spans 1.5..1.5; must be within 0..1"),
        ({"edge": torch.full((4, 4), math.nan)}, "edge spans nan"),
        ({"radius": 0}, "radius is 0; must be an integer in 1..32"),
        ({"radius": 33}, "radius is 33; must be an integer in 1..32"),
        ({"beta": 0.0}, "beta is 0.0; must be a finite number > 0"),
        ({"steps": -1}, "steps is -1; must be an integer >= 0"),
        ({"steps": True}, "steps is True"),
        ({"steps": 10**12}, "steps is 1000000000000; must be an integer >= 0, at most 1000000"),
        ({"beta": 10**400}, "beta is an integer of more than 40 digits; must be a finite number"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=f"^random_walk: {message}"):
        random_walk(**{**ARGUMENTS, **change})
