"""dense_crf: one CASES list for value, opcheck, compile and gradient; pydensecrf2 and brute force as oracles."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from wsss_fast import _native
from wsss_fast.ops import PermutohedralLattice, dense_crf, reference, unary_from_labels
from wsss_fast.ops.mean_field import mean_field_gradient

AMN = dict(gaussian=(3.0, 3.0), bilateral=(50.0, 5.0, 10.0))
EPS = dict(gaussian=(3.0, 3.0), bilateral=(80.0, 13.0, 10.0))
DEEPLAB = dict(gaussian=(1.0, 3.0), bilateral=(67.0, 3.0, 4.0))
SPATIAL = dict(gaussian=(3.0, 3.0), bilateral=None)
APPEARANCE = dict(gaussian=None, bilateral=(20.0, 8.0, 5.0))
GRAY = dict(gaussian=((2.0, 5.0), 3.0), bilateral=((30.0, 12.0), 9.0, 6.0))
BANDS = dict(gaussian=(3.0, 2.0), bilateral=((20.0, 30.0), (20.0, 9.0, 30.0, 15.0, 50.0, 12.0), 6.0))
MANY_BANDS = dict(gaussian=(3.0, 2.0), bilateral=((20.0, 30.0), (20.0, 19.0, 30.0, 15.0, 50.0, 22.0, 40.0, 35.0, 60.0), 6.0))
COLOR = dict(gaussian=((4.0, 2.0), 3.0), bilateral=((40.0, 25.0), (5.0, 12.0, 8.0), 10.0))
SETTINGS = {"amn": AMN, "eps": EPS, "deeplab": DEEPLAB, "spatial": SPATIAL, "appearance": APPEARANCE}

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])

# (unary shape, settings, iterations); images have three channels, but where CHANNELS says otherwise
CHANNELS = {"gray": 1, "bands": 6, "two_bands": 2, "no_image": 0, "many_bands": 9}
CASES = {
    "two": ((1, 2, 20, 31), AMN, 5),
    "three": ((2, 3, 13, 17), EPS, 10),
    "five": ((1, 5, 24, 16), DEEPLAB, 3),
    "six": ((3, 6, 9, 11), AMN, 2),
    "voc": ((1, 21, 19, 23), AMN, 4),
    "coco": ((1, 81, 8, 15), SPATIAL, 2),
    "most_labels": ((1, 256, 4, 6), AMN, 2),
    "one_label": ((2, 1, 5, 6), AMN, 2),
    "pair": ((2, 2, 3, 14, 12), AMN, 5),
    "many_sets": ((1, 9, 2, 10, 10), APPEARANCE, 3),
    "sets_wide": ((1, 3, 7, 10, 10), AMN, 3),
    "one_pixel": ((1, 3, 1, 1), AMN, 3),
    "one_row": ((1, 4, 1, 33), DEEPLAB, 3),
    "one_column": ((2, 2, 40, 1), AMN, 3),
    "no_steps": ((1, 4, 6, 7), AMN, 0),
    "no_terms": ((1, 4, 6, 7), dict(gaussian=None, bilateral=None), 3),
    "zero_weight": ((1, 4, 6, 7), dict(gaussian=(3.0, 0.0), bilateral=(5.0, 5.0, 0.0)), 3),
    "gray": ((2, 3, 17, 21), GRAY, 4),
    "bands": ((1, 4, 15, 13), BANDS, 3),
    "two_bands": ((1, 2, 14, 15), APPEARANCE, 3),
    "many_bands": ((2, 3, 9, 10), MANY_BANDS, 3),  # more than CUDA's lattices have
    "anisotropic": ((1, 2, 3, 22, 17), COLOR, 4),
    "no_image": ((2, 3, 11, 12), dict(gaussian=((2.0, 4.0), 3.0), bilateral=None), 4),
    "empty_batch": ((0, 3, 6, 7), AMN, 2),
    "empty_height": ((2, 3, 0, 7), AMN, 2),
}
each_case = pytest.mark.parametrize("case", CASES)
each_device = pytest.mark.parametrize("device", DEVICES)


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: OpenMP's spinning workers would only slow the reference. Tests of teams ask for threads."""
    with threads(1):
        yield


def tolerance(iterations):
    """Rounding of one step is 1e-6; unstable pixels multiply it by up to 2.5 a step (measured, also for pydensecrf)."""
    return min(1e-3, 2e-6 * 2.5**iterations)


def make(shape, device="cpu", seed=0, channels=3):
    """A smooth random image with some noise, uint8 [B, C, H, W] (None of 0 channels), and random unaries of `shape`."""
    generator = torch.Generator().manual_seed(seed)
    b, (h, w) = shape[0], shape[-2:]
    image = torch.rand(b, channels, h, w, generator=generator) * 40
    if image.numel():
        low = torch.rand(b, channels, 3, 3, generator=generator) * 215
        image = image + torch.nn.functional.interpolate(low, (h, w), mode="bilinear")
    unary = torch.rand(shape, generator=generator) * 3
    return image.to(torch.uint8).to(device) if channels else None, unary.to(device)


def make_case(case, device="cpu"):
    shape, terms, iterations = CASES[case]
    return *make(shape, device, channels=CHANNELS.get(case, 3)), dict(terms, iterations=iterations)


def op_arguments(case, device):
    """A case as the op's own arguments."""
    image, unary, parameters = make_case(case, device)
    image = unary.new_empty(len(unary), 0, *unary.shape[-2:]) if image is None else image.float()

    def repeated(value, count):
        return list(value) if isinstance(value, tuple) else [value] * count

    gaussian = bilateral = []
    if parameters["gaussian"]:
        sxy, weight = parameters["gaussian"]
        gaussian = [*repeated(sxy, 2), weight]
    if parameters["bilateral"]:
        sxy, srgb, weight = parameters["bilateral"]
        bilateral = [*repeated(sxy, 2), *repeated(srgb, image.shape[1]), weight]
    unary = unary if unary.dim() == 5 else unary.unsqueeze(1)
    return (image, unary, gaussian, bilateral, [0.0, 255.0], parameters["iterations"])


@each_device
@each_case
def test_equals_reference(case, device):
    image, unary, parameters = make_case(case, device)
    q = dense_crf(image, unary, **parameters)
    assert q.shape == unary.shape and q.dtype == torch.float32 and q.device == unary.device
    expected = reference.dense_crf(image, unary, **parameters)
    torch.testing.assert_close(q, expected, atol=tolerance(parameters["iterations"]), rtol=0)


@each_device
@each_case
def test_opcheck(case, device):
    arguments = op_arguments(case, device)
    torch.library.opcheck(torch.ops.wsss_fast.dense_crf.default, arguments)
    needs_gradient = (arguments[0], arguments[1].requires_grad_(), *arguments[2:])
    torch.library.opcheck(torch.ops.wsss_fast.dense_crf.default, needs_gradient)


@each_device
@pytest.mark.parametrize("case", ["three", "pair", "one_row", "gray", "no_image"])
def test_compiles_whole(case, device):
    image, unary, parameters = make_case(case, device)
    call = torch.compile(lambda i, u: dense_crf(i, u * 1.0, **parameters) + 0.0, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(call(image, unary), dense_crf(image, unary, **parameters))


@each_device
@pytest.mark.parametrize("case", ["two", "three", "pair", "one_row", "gray", "bands", "many_bands", "anisotropic", "no_image"])
def test_gradient_is_the_references(case, device):
    image, unary, parameters = make_case(case, device)
    weights = torch.rand_like(unary)
    gradients = []
    for function in (dense_crf, reference.dense_crf):
        leaf = unary.clone().requires_grad_()
        (function(image, leaf, **parameters) * weights).sum().backward()
        gradients.append(leaf.grad)
    assert gradients[0].abs().max() > 1e-3
    # Judged by the same recursion in float64 on the same lattice (test_gradient_op_in_float64_is_autograds checks it).
    # Rounding grows from step to step as in Q (see `tolerance`), forth and back.
    schema = op_arguments(case, device)
    exact = mean_field_gradient(weights.double().view(schema[1].shape), schema[0], schema[1].double(), *schema[2:4], schema[5])
    for gradient in gradients:
        error = (gradient.double().view(exact.shape) - exact).abs().max().item()
        assert error <= 2 * tolerance(schema[5]) * exact.abs().max().item()


def test_reference_gradcheck():
    image, unary = make((1, 3, 4, 5))
    leaf = unary.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda u: reference.dense_crf(image, u, **AMN, iterations=3), leaf)


@pytest.mark.parametrize("case", ["pair", "gray", "no_steps", "no_terms", "empty_height"])
def test_gradient_op_in_float64_is_autograds(case):
    """The closed form against autograd through the same filters, in float64 by `lattice_filter`'s own kernel."""
    image, unary, gaussian, bilateral, levels, iterations = op_arguments(case, "cpu")
    energies = unary.double().requires_grad_()
    grad = torch.rand(energies.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    height, width = unary.shape[-2:]
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")

    def mean_field(energies, image):  # [S, L, H, W], [C, H, W]
        columns = energies.flatten(2).permute(2, 0, 1)  # [N, S, L]
        q = torch.softmax(-columns, -1)
        lattices = []
        for term, maps in ((gaussian, []), (bilateral, list(image))):
            if term:
                features = torch.stack([m / s for m, s in zip([x, y, *maps], term[:-1], strict=True)], -1).flatten(0, 1)
                lattice = PermutohedralLattice(features)
                norm = lattice.filter(torch.ones(len(features), 1, dtype=torch.float64)).rsqrt()
                lattices.append((lattice, norm, term[-1]))
        for _ in range(iterations):
            message = torch.zeros_like(q)
            for lattice, norm, weight in lattices:
                message = message + weight * (norm * lattice.filter(norm * q.flatten(1))).reshape(q.shape)
            q = torch.softmax(message - columns, -1)
        return q.permute(1, 2, 0).reshape(energies.shape)

    if unary.numel():
        q = torch.stack([mean_field(e, i) for e, i in zip(energies, image, strict=True)])
        (expected,) = torch.autograd.grad(q, energies, grad)
    else:
        expected = torch.zeros_like(energies)
    ours = torch.ops.wsss_fast.dense_crf_backward(
        grad, image, energies.detach(), gaussian, bilateral, levels, iterations
    )
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-10)


def test_second_derivative_and_image_gradient_are_refused():
    image, unary = make((1, 2, 4, 5))
    q = dense_crf(image, unary.requires_grad_(), iterations=1)
    with pytest.raises(NotImplementedError, match="differentiable once"):
        torch.autograd.grad(q.square().sum(), unary, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiable in unary only"):
        dense_crf(image.float().requires_grad_(), unary.detach(), iterations=1).sum().backward()


@each_device
def test_layouts_and_dtypes(device):
    image, unary = make((2, 4, 15, 18), device)
    expected = dense_crf(image, unary)
    strided = dense_crf(
        image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), unary.transpose(2, 3).contiguous().transpose(2, 3)
    )
    assert torch.equal(strided, expected)
    assert torch.equal(dense_crf(image.float(), unary), expected)
    assert torch.equal(dense_crf(image.double(), unary.double()), expected)
    half = dense_crf(image, unary.half())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, dense_crf(image, unary.half().float()), atol=0, rtol=0)


@each_device
def test_batch_is_loop_and_sets_are_calls(device):
    image, unary = make((3, 2, 5, 21, 18), device)
    together = dense_crf(image, unary)
    for b in range(3):
        for s in range(2):
            alone = dense_crf(image[b : b + 1], unary[b : b + 1, s])
            torch.testing.assert_close(together[b : b + 1, s], alone, atol=1e-6, rtol=0)


@each_device
def test_repeatable_to_the_bit(device):
    image, unary = make((1, 4, 150, 230), device)
    with threads(2):
        first = dense_crf(image, unary)
        for _ in range(3):
            assert torch.equal(dense_crf(image, unary), first)


@pytest.mark.parametrize("shape", [(1, 4, 303, 331), (1, 12, 301, 230), (3, 2, 2, 210, 321)])
def test_thread_counts_agree_to_the_bit(shape):
    """Pixels are cut into bands by image size alone, so who works on a band does not matter."""
    image, unary = make(shape)
    alone = dense_crf(image, unary, iterations=3)
    for count in (2, 3, 5):
        with threads(count):
            assert torch.equal(dense_crf(image, unary, iterations=3), alone)


@each_device
def test_the_op_itself_takes_any_number_of_labels(device):
    image, unary = make((1, 1, 300, 4, 5), device)
    q = torch.ops.wsss_fast.dense_crf(image.float(), unary, [3.0, 3.0, 3.0], [], [0.0, 255.0], 2)
    expected = reference.dense_crf(image, unary, gaussian=(3.0, 3.0), bilateral=None, iterations=2)
    torch.testing.assert_close(q, expected, atol=tolerance(2), rtol=0)


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-40.0, 30.0), (300.0, 900.0), (-9e4, -6e4), (0.0, 65535.0)])
def test_levels_of_any_range(low, high):
    image, unary = make((2, 3, 16, 19), channels=2)
    image = image / 255.0 * (high - low) + low
    terms = dict(gaussian=(3.0, 3.0), bilateral=(30.0, ((high - low) / 20, (high - low) / 35), 8.0), iterations=3)
    q = dense_crf(image, unary, **terms)
    torch.testing.assert_close(q, reference.dense_crf(image, unary, **terms), atol=tolerance(3), rtol=0)
    # Where the levels begin only moves the lattice below the pixels; it says as much as any other place.
    moved = dense_crf(image - low, unary, **terms)
    assert (moved - q).abs().mean() < 0.05


def test_an_unused_image_is_not_read():
    image, unary = make((1, 3, 9, 8))
    expected = dense_crf(None, unary, bilateral=None, iterations=3)
    broken = torch.full(image.shape, float("nan"))
    assert torch.equal(dense_crf(broken, unary, bilateral=None, iterations=3), expected)
    silent = dense_crf(image, unary, bilateral=(50.0, 5.0, 0.0), iterations=3)
    assert torch.equal(silent, expected)


def test_limits():
    image, unary = make((1, 3, 12, 14))
    softmax = torch.softmax(-unary, 1)
    torch.testing.assert_close(dense_crf(image, unary, iterations=0), softmax)
    torch.testing.assert_close(dense_crf(image, unary, gaussian=None, bilateral=None), softmax)
    assert torch.equal(dense_crf(image, unary[:, :1]), torch.ones(1, 1, 12, 14))
    extreme = torch.tensor([0.0, 1e6, 1e9]).view(1, 3, 1, 1).expand(1, 3, 12, 14)
    assert torch.equal(dense_crf(image, extreme)[:, 0], torch.ones(1, 12, 14))


@settings(max_examples=25, deadline=None)
@given(
    labels=st.integers(2, 11), sets=st.integers(1, 3), height=st.integers(1, 12), width=st.integers(1, 12),
    name=st.sampled_from(sorted(SETTINGS)), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_properties(labels, sets, height, width, name, seed):
    image, unary = make((1, sets, labels, height, width), seed=seed)
    q = dense_crf(image, unary, **SETTINGS[name], iterations=3)
    torch.testing.assert_close(q.sum(2), torch.ones(1, sets, height, width), atol=1e-5, rtol=0)
    assert q.min() >= 0.0
    order = torch.randperm(labels, generator=torch.Generator().manual_seed(seed))
    permuted = dense_crf(image, unary[:, :, order], **SETTINGS[name], iterations=3)
    torch.testing.assert_close(permuted, q[:, :, order], atol=tolerance(3), rtol=0)


@settings(max_examples=15, deadline=None)
@given(height=st.integers(12, 30), width=st.integers(12, 30), name=st.sampled_from(["amn", "eps", "deeplab", "spatial"]),
       seed=st.integers(0, 10**6))  # fmt: skip
def test_flips_commute_up_to_the_lattices_own_asymmetry(height, width, name, seed):
    """The lattice starts at the first pixel and blurs in a fixed order, so a flipped image lies otherwise on it.

    The bound is that of one step on smooth labels, where the filters' error is not amplified: each filter is a mean
    with weights from its lattice, and two lattices differ by some percent of it. Measured over 300 draws: at most
    0.013 on average over the pixels, and at least 0.31 for a result that is not flipped back.
    """
    image, _ = make((1, 1, height, width), seed=seed)
    unary = smooth_unary("soft", 3, height, width)
    once = dict(SETTINGS[name], iterations=1)
    q = dense_crf(image, unary, **once)
    for axes in ((2,), (3,), (2, 3)):
        back = dense_crf(image.flip(axes), unary.flip(axes), **once).flip(axes)
        assert (back - q).abs().mean() <= 0.02
    unflipped = dense_crf(image.flip(3), unary.flip(3), **once)
    assert (unflipped - q).abs().mean() >= 0.1


@pytest.mark.parametrize("label", [0, 2])
@pytest.mark.parametrize("energy", [1e4, 1e6, 1e8, -1e8])
def test_a_huge_energy_of_one_label_leaves_the_others_exact(label, energy):
    image, unary = make((1, 3, 20, 30))
    unary[:, label] = energy
    expected = reference.dense_crf(image, unary, **AMN, iterations=3)
    torch.testing.assert_close(dense_crf(image, unary, **AMN, iterations=3), expected, atol=tolerance(3), rtol=0)


def test_uniform_image():
    _, unary = make((1, 4, 20, 25))
    black = torch.zeros(1, 3, 20, 25, dtype=torch.uint8)
    q = dense_crf(black, unary, gaussian=None, bilateral=(6.0, 5.0, 10.0), iterations=3)
    assert torch.equal(dense_crf(black, unary, gaussian=None, bilateral=(6.0, 60.0, 10.0), iterations=3), q)
    # Without colours to tell pixels apart the appearance term is a spatial one, on a lattice of more dimensions.
    spatial = dense_crf(None, unary, gaussian=(6.0, 10.0), bilateral=None, iterations=3)
    assert (q - spatial).abs().mean() < 0.02  # 0.006 here
    undecided = dense_crf(black, torch.zeros(1, 5, 20, 25))
    torch.testing.assert_close(undecided, torch.full_like(undecided, 0.2), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_indices_of_a_4096_image_do_not_overflow():
    """16.8 million pixels, 100 million corners; the last pixels must come out as those of a small image do."""
    side, small = 4096, 64
    tile = torch.arange(small) // 16 % 2
    board = (tile[:, None] + tile[None]) % 2  # [64, 64] checkerboard
    unary = unary_from_labels(board.repeat(side // small, side // small)[None], 2, gt_prob=0.7)
    image = (board * 200).to(torch.uint8).repeat(side // small, side // small).expand(1, 3, side, side)
    with threads(2):
        q = dense_crf(image, unary, bilateral=(9.0, 5.0, 10.0), iterations=1)
    assert q.min() >= 0.0
    torch.testing.assert_close(q.sum(1), torch.ones(1, side, side), atol=1e-5, rtol=0)
    assert torch.equal(q.argmax(1)[0], board.repeat(side // small, side // small))


BAD = {
    "image_dims": (dict(image=torch.zeros(3, 8, 8)), r"image is \[3, 8, 8\]; must be \[B, C, H, W\]"),
    "channels": (dict(image=torch.zeros(1, 15, 8, 8)), r"image is \[1, 15, 8, 8\]; needs 1\.\.14 channels"),
    "no_channels": (dict(image=torch.zeros(1, 0, 8, 8)), r"needs 1\.\.14 channels"),
    "no_image": (dict(image=None), r"image is None, but bilateral is \(50\.0, 5\.0, 10\.0\)"),
    "unary_dims": (dict(unary=torch.zeros(8, 8)), r"unary is \[8, 8\]"),
    "size": (dict(image=torch.zeros(1, 3, 4, 4)), r"image is \[1, 3, 4, 4\] but unary is \[1, 3, 8, 8\]; H and W must match"),
    "batch": (dict(image=torch.zeros(2, 3, 8, 8)), "B must match"),
    "no_labels": (dict(unary=torch.zeros(1, 0, 8, 8)), r"needs 1\.\.256 labels"),
    "labels": (dict(unary=torch.zeros(1, 257, 8, 8)), r"needs 1\.\.256 labels"),
    "image_dtype": (dict(image=torch.zeros(1, 3, 8, 8, dtype=torch.int32)), "image is torch.int32"),
    "unary_dtype": (dict(unary=torch.zeros(1, 3, 8, 8, dtype=torch.int64)), "unary is torch.int64"),
    "nan": (dict(unary=torch.full((1, 3, 8, 8), float("nan"))), "unary has NaN"),
    "inf": (dict(unary=torch.full((1, 3, 8, 8), float("inf"))), "unary has NaN or infinite"),
    "image_inf": (dict(image=torch.full((1, 3, 8, 8), float("inf"))), "image spans inf..inf; must be finite"),
    "image_nan": (dict(image=torch.full((1, 3, 8, 8), float("nan"))), "image spans"),
    "sigma": (dict(gaussian=(-3.0, 3.0)), r"gaussian sxy is -3\.0"),
    "zero_sigma": (dict(bilateral=(50.0, 0.0, 3.0)), r"bilateral srgb is 0\.0"),
    "sigma_pair": (dict(gaussian=((3.0, -1.0), 3.0)), r"gaussian sxy is \(3\.0, -1\.0\); must be finite and > 0"),
    "sigma_count": (dict(bilateral=(50.0, (5.0, 4.0), 3.0)), r"srgb is \(5\.0, 4\.0\); must be a number or 3 of them"),
    "sigma_type": (dict(gaussian=("wide", 3.0)), "gaussian sxy is 'wide'; must be a number or 2 of them"),
    "weight": (dict(bilateral=(50.0, 5.0, -1.0)), r"bilateral weight is -1\.0"),
    "weight_word": (dict(gaussian=(3.0, "much")), r"gaussian weight is 'much'"),
    "nan_sigma": (dict(gaussian=(float("nan"), 3.0)), "gaussian sxy is nan"),
    "fields": (dict(gaussian=(3.0,)), "gaussian is"),
    "iterations": (dict(iterations=-1), "iterations is -1"),
    "fractional": (dict(iterations=2.5), "iterations is 2.5"),
    "keys": (dict(bilateral=(0.001, 0.00001, 3.0)), "too small for a 8x8 image"),
    "gaussian_keys": (dict(gaussian=(1e-7, 3.0)), "gaussian sigmas .* are too small for a 8x8 image"),
    "nan_no_steps": (dict(unary=torch.full((1, 3, 8, 8), float("nan")), iterations=0), "unary has NaN"),
    "nan_no_terms": (dict(unary=torch.full((1, 3, 8, 8), float("nan")), gaussian=None, bilateral=None), "unary has NaN"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    change, message = BAD[name]
    arguments = dict(image=torch.zeros(1, 3, 8, 8), unary=torch.zeros(1, 3, 8, 8)) | change
    with pytest.raises(ValueError, match="dense_crf: .*" + message):
        dense_crf(arguments.pop("image"), arguments.pop("unary"), **arguments)


def test_kernel_checks_what_python_cannot_see_when_compiled():
    if not _native.load():
        pytest.skip("native library not available")
    image, unary = make((1, 1, 3, 8, 8))
    unary[0, 0, 1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match="dense_crf: unary has NaN"):
        torch.ops.wsss_fast.dense_crf(image.float(), unary, [3.0, 3.0, 3.0], [50.0, 50.0, 5.0, 5.0, 5.0, 10.0], [0.0, 255.0], 2)
    with pytest.raises(ValueError, match="must be float32"):
        torch.ops.wsss_fast.dense_crf(image, unary, [3.0, 3.0, 3.0], [50.0, 50.0, 5.0, 5.0, 5.0, 10.0], [0.0, 255.0], 2)


@each_device
def test_small_sigmas_use_the_whole_key_or_are_refused(device):
    """CUDA's keys are shorter: the CPU takes over, and nobody notices."""
    image, unary = make((1, 3, 40, 40), device)
    accepted = 0
    for srgb in (3.0, 0.3, 0.03, 0.003, 0.0003, 0.00003, 0.000003):
        try:
            q = dense_crf(image, unary, bilateral=(50.0, srgb, 10.0), iterations=2)
        except ValueError as error:
            assert "too small" in str(error)
            continue
        accepted += 1
        expected = reference.dense_crf(image, unary, bilateral=(50.0, srgb, 10.0), iterations=2)
        torch.testing.assert_close(q, expected, atol=tolerance(2), rtol=0)
    assert 4 <= accepted < 7


# ---- oracles --------------------------------------------------------------------------------------------------------


def photo(name, height, width):
    data = pytest.importorskip("skimage.data")
    from PIL import Image

    try:
        original = Image.fromarray(getattr(data, name)())
    except Exception as error:  # some photos are downloaded on first use
        pytest.skip(f"{name}: {error}")
    return np.array(original.resize((width, height), Image.Resampling.LANCZOS))  # [H, W, 3]


def pairwise_features(sigmas, maps):
    """Features [2+C, N] of pixels, as pydensecrf's utilities make them: positions and maps [C, H, W] over sigmas."""
    height, width = maps.shape[-2:]
    y, x = np.mgrid[:height, :width]
    stack = np.stack([x, y, *maps]).astype(np.float32)
    return np.ascontiguousarray((stack / np.asarray(sigmas, np.float32)[:, None, None]).reshape(len(sigmas), -1))


@pytest.mark.parametrize("name", ["gray", "bands", "anisotropic", "anisotropic_spatial"])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_equals_pydensecrf_on_general_images(name, kind):
    densecrf = pytest.importorskip("pydensecrf.densecrf")
    height, width, labels = 93, 127, 4
    rgb = photo("coffee", height, width).transpose(2, 0, 1)
    maps = {"gray": rgb[:1], "bands": np.concatenate([rgb, 255 - rgb[::-1]]), "anisotropic": rgb}.get(name, rgb[:0])
    terms = {"gray": GRAY, "bands": BANDS, "anisotropic": COLOR}.get(name, dict(gaussian=((2.0, 5.0), 3.0), bilateral=None))
    unary = smooth_unary(kind, labels, height, width)
    crf = densecrf.DenseCRF(height * width, labels)
    crf.setUnaryEnergy(unary[0].reshape(labels, -1).numpy().copy())

    def repeated(value, count):
        return value if isinstance(value, tuple) else (value,) * count

    sxy, weight = terms["gaussian"]
    crf.addPairwiseEnergy(pairwise_features(repeated(sxy, 2), maps[:0]), compat=weight)
    if terms["bilateral"]:
        sxy, srgb, weight = terms["bilateral"]
        crf.addPairwiseEnergy(pairwise_features(repeated(sxy, 2) + repeated(srgb, len(maps)), maps), compat=weight)
    theirs = np.array(crf.inference(10)).reshape(labels, height, width)
    ours = dense_crf(torch.from_numpy(maps.copy())[None] if len(maps) else None, unary, **terms)[0].numpy()
    assert np.abs(ours - theirs).max() <= 1e-3
    assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.9999


def pydensecrf(image, unary, gaussian, bilateral, iterations):
    """Q [L, H, W] of pydensecrf2; `image` [H, W, 3] uint8, `unary` [L, H, W] numpy."""
    densecrf = pytest.importorskip("pydensecrf.densecrf")
    labels, height, width = unary.shape
    crf = densecrf.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(labels, -1), dtype=np.float32))
    if gaussian:
        crf.addPairwiseGaussian(sxy=gaussian[0], compat=gaussian[1])
    if bilateral:
        crf.addPairwiseBilateral(sxy=bilateral[0], srgb=bilateral[1], rgbim=image.copy(), compat=bilateral[2])
    return np.array(crf.inference(iterations)).reshape(unary.shape)


def smooth_unary(kind, labels, height, width):
    low = torch.randn(1, labels, 9, 12, generator=torch.Generator().manual_seed(labels)) * 2
    scores = torch.nn.functional.interpolate(low, (height, width), mode="bicubic")
    if kind == "soft":
        return -torch.log_softmax(scores, 1)
    return unary_from_labels(scores.argmax(1), labels, gt_prob=0.7)


def assert_equals_pydensecrf(image, unary, terms):
    theirs = pydensecrf(image, unary[0].numpy(), **terms, iterations=10)
    with threads(2):
        ours = dense_crf(torch.from_numpy(image).permute(2, 0, 1)[None], unary, **terms)[0].numpy()
    assert np.abs(ours - theirs).max() <= 1e-3
    assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.9999


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("setting", ["amn", "eps", "deeplab", "spatial"])
def test_equals_pydensecrf_on_photos(name, kind, setting):
    image = photo(name, 375, 500)
    assert_equals_pydensecrf(image, smooth_unary(kind, 4, 375, 500), SETTINGS[setting])


@pytest.mark.parametrize("labels", [2, 6, 21, 81])
def test_equals_pydensecrf_for_label_counts(labels):
    assert_equals_pydensecrf(photo("chelsea", 281, 375), smooth_unary("soft", labels, 281, 375), AMN)


@pytest.mark.parametrize("size", [(92, 127), (93, 127), (94, 127), (1, 61), (61, 1), (1, 1), (3, 5)])
def test_equals_pydensecrf_on_odd_sizes(size):
    """Where 4 does not divide H*W, pydensecrf's padding creates vertices that must exist here, too."""
    assert_equals_pydensecrf(photo("chelsea", *size), smooth_unary("hard", 3, *size), DEEPLAB)


def brute_force(image, unary, gaussian, bilateral, iterations):
    """Exact mean field in float64: O(N^2), no lattice. image [H, W, 3], unary [L, H, W] -> Q [L, H, W]."""
    labels, height, width = unary.shape
    y, x = np.mgrid[:height, :width].astype(np.float64)
    xy = np.stack([x, y], -1).reshape(-1, 2)
    kernels = []
    for term in (gaussian, bilateral):
        features = xy / term[0]
        if len(term) == 3:
            features = np.concatenate([features, image.reshape(-1, 3) / term[1]], 1)
        square = (features**2).sum(1)
        kernel = np.exp(-0.5 * np.maximum(square[:, None] + square[None] - 2 * features @ features.T, 0))
        norm = 1 / np.sqrt(kernel.sum(1))
        kernels.append(term[-1] * norm[:, None] * kernel * norm[None])
    energy = unary.reshape(labels, -1).astype(np.float64)

    def softmax(z):
        e = np.exp(z - z.max(0))
        return e / e.sum(0)

    q = softmax(-energy)
    for _ in range(iterations):
        q = softmax(-energy + sum(q @ k for k in kernels))
    return q.reshape(unary.shape)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_as_close_to_exact_as_pydensecrf(kind):
    image, unary = photo("chelsea", 60, 80), smooth_unary(kind, 4, 60, 80)
    exact = brute_force(image, unary[0].numpy(), **AMN, iterations=10)
    theirs = pydensecrf(image, unary[0].numpy(), **AMN, iterations=10)
    ours = dense_crf(torch.from_numpy(image).permute(2, 0, 1)[None], unary, **AMN)[0].numpy()
    assert np.abs(ours - exact).mean() <= np.abs(theirs - exact).mean() + 1e-5
    assert np.abs(ours - exact).max() <= np.abs(theirs - exact).max() + 1e-4
    assert (ours.argmax(0) == exact.argmax(0)).mean() > 0.9  # the lattice approximates, it does not invent


def test_fake_tensors():
    with FakeTensorMode():
        q = dense_crf(torch.rand(1, 3, 6, 7) * 255, torch.rand(1, 2, 4, 6, 7))
    assert q.shape == (1, 2, 4, 6, 7)
