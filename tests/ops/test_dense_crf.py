"""dense_crf against the reference; gradients, properties, layouts, threads, wrong input."""

import pytest
import torch
from crf_inputs import (
    AMN,
    APPEARANCE,
    BANDS,
    COLOR,
    DEEPLAB,
    EPS,
    GRAY,
    MANY_BANDS,
    SETTINGS,
    SPATIAL,
    smooth_unary,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from op_testing import each_device, threads
from torch._subclasses.fake_tensor import FakeTensorMode

from wsss_fast import _native
from wsss_fast.ops import PermutohedralLattice, dense_crf, reference, unary_from_labels
from wsss_fast.ops.dense_crf import mean_field_gradient

# (unary shape, settings, iterations); images have three channels unless CHANNELS says otherwise
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
    "many_bands": ((2, 3, 9, 10), MANY_BANDS, 3),  # more than CUDA's lattices support
    "anisotropic": ((1, 2, 3, 22, 17), COLOR, 4),
    "no_image": ((2, 3, 11, 12), dict(gaussian=((2.0, 4.0), 3.0), bilateral=None), 4),
    "empty_batch": ((0, 3, 6, 7), AMN, 2),
    "empty_height": ((2, 3, 0, 7), AMN, 2),
}
each_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(autouse=True)
def one_thread():
    """More threads would only slow small tensors; tests of threads set their number."""
    with threads(1):
        yield


def tolerance(iterations):
    """One step rounds by 1e-6; unstable pixels multiply this by up to 2.5 per step.

    Measured; pydensecrf's pixels do the same.
    """
    return min(1e-3, 2e-6 * 2.5**iterations)


def make(shape, device="cpu", seed=0, channels=3):
    """A smooth image with noise, uint8 [B, C, H, W], or None for 0 channels; unaries of `shape`."""
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
    call = torch.compile(
        lambda i, u: dense_crf(i, u * 1.0, **parameters) + 0.0, fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(call(image, unary), dense_crf(image, unary, **parameters))


@each_device
@pytest.mark.parametrize(
    "case",
    ["two", "three", "pair", "one_row", "gray", "bands", "many_bands", "anisotropic", "no_image"],
)
def test_gradient_is_the_references(case, device):
    image, unary, parameters = make_case(case, device)
    weights = torch.rand_like(unary)
    gradients = []
    for function in (dense_crf, reference.dense_crf):
        leaf = unary.clone().requires_grad_()
        (function(image, leaf, **parameters) * weights).sum().backward()
        gradients.append(leaf.grad)
    assert gradients[0].abs().max() > 1e-3
    # Compared with the same recursion in float64 on the same lattice, which
    # test_gradient_op_in_float64_is_autograds checks. Rounding grows from step to step as in Q (see
    # `tolerance`), forward and backward.
    levels, energies, *rest = op_arguments(case, device)
    exact = mean_field_gradient(
        weights.double().view(energies.shape), levels, energies.double(), *rest
    )
    for gradient in gradients:
        error = (gradient.double().view(exact.shape) - exact).abs().max().item()
        assert error <= 2 * tolerance(rest[-1]) * exact.abs().max().item()


def test_reference_gradcheck():
    image, unary = make((1, 3, 4, 5))
    leaf = unary.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda u: reference.dense_crf(image, u, **AMN, iterations=3), leaf
    )


@pytest.mark.parametrize("case", ["pair", "gray", "no_steps", "no_terms", "empty_height"])
def test_gradient_op_in_float64_is_autograds(case):
    """The closed form against autograd through the same filters, both in float64."""
    image, unary, gaussian, bilateral, levels, iterations = op_arguments(case, "cpu")
    energies = unary.double().requires_grad_()
    grad = torch.rand(
        energies.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    height, width = unary.shape[-2:]
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")

    def mean_field(energies, image):  # [S, L, H, W], [C, H, W]
        columns = energies.flatten(2).permute(2, 0, 1)  # [N, S, L]
        q = torch.softmax(-columns, -1)
        lattices = []
        for term, maps in ((gaussian, []), (bilateral, list(image))):
            if term:
                features = torch.stack(
                    [m / s for m, s in zip([x, y, *maps], term[:-1], strict=True)], -1
                ).flatten(0, 1)
                lattice = PermutohedralLattice(features)
                norm = lattice.filter(torch.ones(len(features), 1, dtype=torch.float64)).rsqrt()
                lattices.append((lattice, norm, term[-1]))
        for _ in range(iterations):
            message = torch.zeros_like(q)
            for lattice, norm, weight in lattices:
                message = message + weight * (norm * lattice.filter(norm * q.flatten(1))).reshape(
                    q.shape
                )
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


def test_second_derivative_and_image_gradient_are_errors():
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
        image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        unary.transpose(2, 3).contiguous().transpose(2, 3),
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
@pytest.mark.parametrize("case", ["two", "pair", "voc", "many_sets", "no_image", "many_bands"])
def test_half_precision(case, device):
    image, unary, parameters = make_case(case, device)
    q = dense_crf(image, unary, **parameters, precision="float16")
    expected = dense_crf(image, unary, **parameters)
    torch.testing.assert_close(q, expected, atol=5e-2, rtol=0)  # of noisy energies
    assert q.dtype == torch.float32 and not q.isnan().any()
    again = dense_crf(image, unary, **parameters, precision="float16")
    assert torch.equal(q, again)
    # The gradient is that of float32.
    gradients = []
    for precision in ("float32", "float16"):
        leaf = unary.clone().requires_grad_()
        (dense_crf(image, leaf, **parameters, precision=precision) * expected).sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


@each_device
@pytest.mark.parametrize("sets", [1, 2])
def test_labels_with_equal_energies(sets, device):
    """Absent labels have the same energy everywhere; images and unaries have other labels."""
    image, unary = make((3, sets, 21, 17, 20), device)
    present = torch.rand(3, sets, 21, 1, 1, generator=torch.Generator().manual_seed(1)) < 0.2
    present[0] = False
    unary = torch.where(present.to(device), unary, torch.full_like(unary, 2.5))
    q = dense_crf(image, unary, iterations=4)
    expected = reference.dense_crf(image, unary, iterations=4)
    torch.testing.assert_close(q, expected, atol=tolerance(4), rtol=0)
    alone = [dense_crf(image[b : b + 1], unary[b : b + 1], iterations=4) for b in range(3)]
    torch.testing.assert_close(torch.cat(alone), q, atol=tolerance(4), rtol=0)


@each_device
def test_repeatable_to_the_bit(device):
    image, unary = make((1, 4, 150, 230), device)
    with threads(2):
        first = dense_crf(image, unary)
        for _ in range(3):
            assert torch.equal(dense_crf(image, unary), first)


@pytest.mark.parametrize("shape", [(1, 4, 303, 331), (1, 12, 301, 230), (3, 2, 2, 210, 321)])
def test_thread_counts_agree_to_the_bit(shape):
    """The bands of pixels depend on the image size alone, not on the number of threads."""
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


@pytest.mark.parametrize(
    "low, high", [(0.0, 1.0), (-40.0, 30.0), (300.0, 900.0), (-9e4, -6e4), (0.0, 65535.0)]
)
def test_levels_of_any_range(low, high):
    image, unary = make((2, 3, 16, 19), channels=2)
    image = image / 255.0 * (high - low) + low
    terms = dict(
        gaussian=(3.0, 3.0),
        bilateral=(30.0, ((high - low) / 20, (high - low) / 35), 8.0),
        iterations=3,
    )
    q = dense_crf(image, unary, **terms)
    torch.testing.assert_close(
        q, reference.dense_crf(image, unary, **terms), atol=tolerance(3), rtol=0
    )
    # An offset of the levels only moves the lattice relative to the pixels.
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
    labels=st.integers(2, 11),
    sets=st.integers(1, 3),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    name=st.sampled_from(sorted(SETTINGS)),
    seed=st.integers(0, 10**6),
)
def test_properties(labels, sets, height, width, name, seed):
    image, unary = make((1, sets, labels, height, width), seed=seed)
    q = dense_crf(image, unary, **SETTINGS[name], iterations=3)
    torch.testing.assert_close(q.sum(2), torch.ones(1, sets, height, width), atol=1e-5, rtol=0)
    assert q.min() >= 0.0
    order = torch.randperm(labels, generator=torch.Generator().manual_seed(seed))
    permuted = dense_crf(image, unary[:, :, order], **SETTINGS[name], iterations=3)
    torch.testing.assert_close(permuted, q[:, :, order], atol=tolerance(3), rtol=0)


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(12, 30),
    width=st.integers(12, 30),
    name=st.sampled_from(["amn", "eps", "deeplab", "spatial"]),
    seed=st.integers(0, 10**6),
)
def test_flips_commute_up_to_the_lattices_own_asymmetry(height, width, name, seed):
    """The lattice starts at the first pixel and blurs in a fixed order, so flips are not exact.

    The bound is that of one step on smooth labels, where the filters' error is not amplified: each
    filter is a mean with weights from its lattice, and two lattices differ by a few percent of it.
    Measured over 300 draws: at most 0.013 on average over the pixels, and at least 0.31 for a
    result that is not flipped back.
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
    torch.testing.assert_close(
        dense_crf(image, unary, **AMN, iterations=3), expected, atol=tolerance(3), rtol=0
    )


def test_uniform_image():
    _, unary = make((1, 4, 20, 25))
    black = torch.zeros(1, 3, 20, 25, dtype=torch.uint8)
    q = dense_crf(black, unary, gaussian=None, bilateral=(6.0, 5.0, 10.0), iterations=3)
    assert torch.equal(
        dense_crf(black, unary, gaussian=None, bilateral=(6.0, 60.0, 10.0), iterations=3), q
    )
    # With a constant image the appearance term is a spatial one, on a lattice of more dimensions.
    spatial = dense_crf(None, unary, gaussian=(6.0, 10.0), bilateral=None, iterations=3)
    assert (q - spatial).abs().mean() < 0.02  # 0.006 here
    undecided = dense_crf(black, torch.zeros(1, 5, 20, 25))
    torch.testing.assert_close(undecided, torch.full_like(undecided, 0.2), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_indices_of_a_4096_image_do_not_overflow():
    """16.8 million pixels, 100 million corners; the result must repeat that of a small image."""
    side, small = 4096, 64
    tile = torch.arange(small) // 16 % 2
    board = (tile[:, None] + tile[None]) % 2  # [64, 64] checkerboard
    unary = unary_from_labels(board.repeat(side // small, side // small)[None], 2, gt_prob=0.7)
    tiled = (board * 200).to(torch.uint8).repeat(side // small, side // small)
    image = tiled.expand(1, 3, side, side)
    with threads(2):
        q = dense_crf(image, unary, bilateral=(9.0, 5.0, 10.0), iterations=1)
    assert q.min() >= 0.0
    torch.testing.assert_close(q.sum(1), torch.ones(1, side, side), atol=1e-5, rtol=0)
    assert torch.equal(q.argmax(1)[0], board.repeat(side // small, side // small))


def test_the_kernel_checks_values_that_python_cannot_when_compiled():
    if not _native.load():
        pytest.skip("native library not available")
    image, unary = make((1, 1, 3, 8, 8))
    unary[0, 0, 1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match="dense_crf: unary has NaN"):
        torch.ops.wsss_fast.dense_crf(
            image.float(),
            unary,
            [3.0, 3.0, 3.0],
            [50.0, 50.0, 5.0, 5.0, 5.0, 10.0],
            [0.0, 255.0],
            2,
        )
    with pytest.raises(ValueError, match="must be float32"):
        torch.ops.wsss_fast.dense_crf(
            image, unary, [3.0, 3.0, 3.0], [50.0, 50.0, 5.0, 5.0, 5.0, 10.0], [0.0, 255.0], 2
        )


@each_device
def test_small_sigmas_use_the_whole_key_or_are_errors(device):
    """CUDA's keys are shorter: the CPU kernel takes over."""
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


def test_fake_tensors():
    with FakeTensorMode():
        q = dense_crf(torch.rand(1, 3, 6, 7) * 255, torch.rand(1, 2, 4, 6, 7))
    assert q.shape == (1, 2, 4, 6, 7)
