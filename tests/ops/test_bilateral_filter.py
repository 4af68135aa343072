"""bilateral_filter and BilateralLattice, against the reference, sums and dense_crf."""

import warnings

import pytest
import torch
from op_testing import each_device, threads, wrong_values

from wsss_fast.ops import BilateralLattice, bilateral_filter, dense_crf, reference

# image [B, C, H, W], channels of the values, sigma_rgb, sigma_xy
CASES = {
    "colour": ((2, 3, 9, 13), 3, 15.0, 50.0),
    "classes": ((1, 3, 12, 11), 21, 15.0, (30.0, 50.0)),
    "many_classes": ((1, 3, 5, 6), 81, 15.0, 50.0),
    "one_channel": ((3, 3, 8, 8), 1, (5.0, 6.0, 7.0), 3.0),
    "gray": ((2, 1, 7, 9), 2, 9.0, 4.0),
    "bands": ((1, 5, 6, 7), 3, 30.0, 9.0),
    "line": ((1, 3, 1, 97), 4, 15.0, 50.0),
    "column": ((1, 3, 61, 1), 2, 15.0, 100.0),
    "one_pixel": ((2, 3, 1, 1), 5, 15.0, 50.0),
    "no_images": ((0, 3, 4, 5), 2, 15.0, 50.0),
    "no_channels": ((2, 3, 4, 5), 0, 15.0, 50.0),
    "no_pixels": ((2, 3, 0, 5), 2, 15.0, 50.0),
}
each_case = pytest.mark.parametrize("case", CASES)
LATTICE = torch.ops.wsss_fast.bilateral_lattice.default
FILTER = torch.ops.wsss_fast.bilateral_filter.default


@pytest.fixture(autouse=True)
def one_thread():
    with threads(1):
        yield


def make(case, device="cpu", dtype=torch.float32):
    """image uint8, values, and the deviations."""
    shape, channels, sigma_rgb, sigma_xy = CASES[case]
    g = torch.Generator().manual_seed(len(case))
    low = torch.rand(*shape[:2], shape[2] // 3 + 1, shape[3] // 3 + 1, generator=g)
    image = low.repeat_interleave(3, 2).repeat_interleave(3, 3)[..., : shape[2], : shape[3]] * 240
    image += 15 * torch.rand(shape, generator=g)
    values = torch.rand(shape[0], channels, *shape[2:], generator=g, dtype=torch.float64) - 0.3
    sigmas = {"sigma_rgb": sigma_rgb, "sigma_xy": sigma_xy}
    return image.byte().to(device), values.to(device, dtype), sigmas


def assert_equal(ours, expected):
    assert ours.shape == expected.shape and ours.dtype == expected.dtype
    if expected.numel():
        scale = expected.abs().max().item()
        torch.testing.assert_close(ours, expected, atol=2e-6 * scale, rtol=0)


@each_device
@each_case
def test_equals_reference(case, device):
    image, values, sigmas = make(case, device)
    expected = reference.bilateral_filter(image, values, **sigmas)
    assert_equal(bilateral_filter(image, values, **sigmas), expected)
    lattice = BilateralLattice(image, sigmas["sigma_xy"], sigmas["sigma_rgb"])
    assert_equal(bilateral_filter(lattice, values), expected)
    assert_equal(bilateral_filter(lattice, values, **sigmas), expected)
    assert_equal(lattice.filter(values), expected)
    transposed = reference.bilateral_filter(image, values, **sigmas, transpose=True)
    assert_equal(lattice.filter(values, transpose=True), transposed)
    if values.shape[2] * values.shape[3] > 40:  # vertices are missing: the order matters
        assert (transposed - expected).abs().max() > 1e-3


@each_device
@pytest.mark.parametrize("case", ["colour", "gray", "one_pixel"])
def test_float64_is_as_exact(case, device):
    image, values, sigmas = make(case, device, torch.float64)
    expected = reference.bilateral_filter(image, values, **sigmas)
    lattice = BilateralLattice(image, sigmas["sigma_xy"], sigmas["sigma_rgb"])
    for ours in (bilateral_filter(image, values, **sigmas), bilateral_filter(lattice, values)):
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)  # weights are float32


@each_device
def test_is_a_fraction_of_the_gaussian_sum(device):
    image, values, sigmas = make("colour", device, torch.float64)
    values = values.abs()
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(13.0), indexing="ij")
    for b in range(2):
        features = torch.cat([torch.stack([x, y]) / 50, image[b].cpu() / 15]).flatten(1).t()
        kernel = torch.exp(-0.5 * torch.cdist(features.double(), features.double()) ** 2)
        exact = (values[b].cpu().flatten(1) @ kernel).view(values[b].shape)
        ours = bilateral_filter(image, values, **sigmas)[b].cpu()
        assert 0.3 < ours.sum() / exact.sum() < 0.95
        correlation = torch.corrcoef(torch.stack([ours.flatten(), exact.flatten()]))[0, 1]
        assert correlation > 0.9


@each_device
@pytest.mark.parametrize("case", ["colour", "gray", "one_pixel"])
def test_derivatives(case, device):
    image, values, sigmas = make(case, device, torch.float64)
    image, leaf = image[:1, :, :4, :3], values[:1, :2, :4, :3].clone().requires_grad_()
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda v: bilateral_filter(image, v, **sigmas).pow(3), leaf)


@each_device
@each_case
def test_gradient_is_the_transposed_filter(case, device):
    image, values, sigmas = make(case, device)
    weights = torch.rand(values.shape, generator=torch.Generator().manual_seed(1)).to(device)
    expected = reference.bilateral_filter(image, weights, **sigmas, transpose=True)
    lattice = BilateralLattice(image, sigmas["sigma_xy"], sigmas["sigma_rgb"])
    for given in (image, lattice):
        leaf = values.clone().requires_grad_()
        upstream = weights.clone().requires_grad_()
        (grad,) = torch.autograd.grad(
            bilateral_filter(given, leaf, **sigmas), leaf, upstream, create_graph=True
        )
        assert_equal(grad.detach(), expected)
        if values.numel():  # and its gradient is the filter again
            (again,) = torch.autograd.grad(grad, upstream, weights)
            assert_equal(again, reference.bilateral_filter(image, weights, **sigmas))


@each_device
@pytest.mark.parametrize("case", ["colour", "classes", "one_pixel", "no_images", "no_channels"])
def test_opcheck(case, device):
    image, values, sigmas = make(case, device)
    sigma_rgb, sigma_xy = sigmas["sigma_rgb"], sigmas["sigma_xy"]
    deviations = [float(s) for s in torch.tensor(sigma_xy).expand(2)]
    deviations += [float(s) for s in torch.tensor(sigma_rgb).expand(image.shape[1])]
    inputs = (image.float(), deviations, [0.0, 255.0])
    torch.library.opcheck(LATTICE, inputs)
    checks = ("test_schema", "test_faketensor")
    for lattice in (None, LATTICE(*inputs)):
        args = (values, inputs[0], lattice, *inputs[1:], False)
        torch.library.opcheck(FILTER, args, test_utils=checks)
    torch.library.opcheck(FILTER, (values.requires_grad_(), *args[1:-1], True))


@each_device
def test_compiles_whole(device):
    image, values, sigmas = make("colour", device)

    def step(image, values):
        lattice = BilateralLattice(image, 50.0, 15.0)
        return bilateral_filter(image, values * 1.0, **sigmas) + lattice.filter(
            values, transpose=True
        )

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    results = []
    for function in (compiled, step):
        leaf = values.clone().requires_grad_()
        out = function(image, leaf)
        out.square().sum().backward()
        results.append((out.detach(), leaf.grad))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


@each_device
def test_inputs_of_any_layout_and_dtype(device):
    image, values, sigmas = make("classes", device)
    expected = bilateral_filter(image, values, **sigmas)
    strided = image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    columns = values.transpose(2, 3).contiguous().transpose(2, 3)
    for given in (image.half(), image.double(), strided):
        assert torch.equal(bilateral_filter(given, columns, **sigmas), expected)
    half = values.half()
    assert torch.equal(
        bilateral_filter(image, half, **sigmas), bilateral_filter(image, half.float(), **sigmas)
    )
    stack = torch.stack([values, 2 * values])
    found = torch.vmap(lambda v: bilateral_filter(image, v, **sigmas))(stack)
    torch.testing.assert_close(found, torch.stack([expected, 2 * expected]))


def test_repeatable_for_any_number_of_threads():
    g = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 16, 16, generator=g).repeat_interleave(16, 2).repeat_interleave(17, 3)
    image = image * 200 + 20 * torch.rand(image.shape, generator=g)
    values = torch.rand(1, 5, 256, 272, generator=g)
    results = []
    for count in (1, 2, 2):
        with threads(count):
            lattice = BilateralLattice(image, 50.0, 15.0)
            results += [lattice.filter(values)]
            results += [bilateral_filter(image, values, sigma_rgb=15.0, sigma_xy=50.0)]
    for other in results[1:]:
        assert torch.equal(other, results[0])


@each_device
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_lattice_of_one_image(channels, device):
    """Its filter is that of dense_crf's appearance term: one mean field step, written out."""
    generator = torch.Generator().manual_seed(channels)
    image = (torch.rand(channels, 14, 17, generator=generator) * 60).to(torch.uint8).to(device)
    unary = torch.rand(1, 3, 14, 17, generator=generator).to(device) * 3
    sxy, srgb = (9.0, 4.0), tuple(5.0 + c for c in range(channels))
    lattice = BilateralLattice(image, sxy, srgb)
    assert (lattice.points, lattice.dimensions) == (14 * 17, 2 + channels) and lattice.vertices > 0
    norm = lattice.filter(torch.ones(1, 14, 17, device=device)).rsqrt()
    message = 4.0 * norm * lattice.filter(norm * torch.softmax(-unary[0], 0))
    expected = torch.softmax(message - unary[0], 0)[None]
    options = dict(gaussian=None, bilateral=(sxy, srgb, 4.0), iterations=1)
    for given in (image[None], lattice):
        ours = dense_crf(given, unary, **options)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@each_device
@pytest.mark.parametrize("bilateral", [((9.0, 4.0), 12.0, 4.0), None, (3.0, 3.0, 0.0)])
def test_dense_crf_on_a_lattice(bilateral, device):
    """The same to the bit as with the images, whose gradient builds lattices of its own."""
    image, _, _ = make("colour", device)
    unary = torch.rand(2, 4, 9, 13, generator=torch.Generator().manual_seed(4)).to(device) * 3
    lattice = BilateralLattice(image, (9.0, 4.0), 12.0)
    results = []
    for given in (image, lattice):
        leaf = unary.clone().requires_grad_()
        q = dense_crf(given, leaf, bilateral=bilateral, iterations=3)
        q.square().sum().backward()
        results.append((q.detach(), leaf.grad))
    for ours, expected in zip(*results, strict=True):
        assert torch.equal(ours, expected)


def test_a_lattice_keeps_its_image():
    image, values, _ = make("colour")
    image = image.float()
    lattice = BilateralLattice(image, 50.0, 15.0)
    before = lattice.filter(values), lattice.filter(values.double())
    image.zero_()
    assert torch.equal(lattice.filter(values), before[0])
    assert torch.equal(lattice.filter(values.double()), before[1])
    single = BilateralLattice(make("colour")[0][0], 50.0, 15.0)
    assert torch.equal(single.filter(values[0]), before[0][0])
    assert torch.equal(bilateral_filter(single, values[:1]), before[0][:1])


def test_a_lattice_of_other_images_is_refused():
    """The CPU kernel must not read out of bounds."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key("wsss_fast::bilateral_filter", "CPU"):
        pytest.skip("the reference ignores lattices")
    image, values, _ = make("colour")
    image, sigmas, levels = image.float(), [50.0, 50.0, 15.0, 15.0, 15.0], [0.0, 255.0]
    lattice = LATTICE(image, sigmas, levels)
    calls = {
        "size": (image.transpose(2, 3), values.transpose(2, 3), lattice, sigmas),
        "batch": (image[:1], values[:1], lattice, sigmas),
        "sigmas": (image, values, lattice, [50.0, 50.0, 15.0, 15.0, 14.0]),
        "length": (image, values, lattice[:-1], sigmas),
        "empty head": (image, values, torch.zeros_like(lattice), sigmas),
        "strides": (image, values, lattice.repeat_interleave(2)[::2], sigmas),
        "dtype": (image, values, lattice.long(), sigmas),
    }
    for images, maps, array, deviations in calls.values():
        with pytest.raises(ValueError, match="lattice"):
            FILTER(maps, images, array, deviations, levels, False)


INF, NAN = float("inf"), float("nan")
ARGUMENTS = {
    "image": torch.zeros(1, 3, 2, 4),
    "values": torch.zeros(1, 2, 2, 4),
    "sigma_rgb": 5.0,
    "sigma_xy": 3.0,
}
IMAGE = {"image": torch.zeros(3, 2, 4), "sxy": 3.0, "srgb": 5.0}


@pytest.mark.parametrize(("name", "value"), wrong_values(ARGUMENTS))
def test_wrong_arguments_of_any_kind(name, value):
    with pytest.raises(ValueError, match=f"^bilateral_filter: {name} is"):
        bilateral_filter(**{**ARGUMENTS, name: value})


@pytest.mark.parametrize(("name", "value"), wrong_values(IMAGE))
def test_wrong_arguments_of_any_kind_for_a_lattice(name, value):
    with pytest.raises(ValueError, match=f"^BilateralLattice: {name} is"):
        BilateralLattice(**{**IMAGE, name: value})


@pytest.mark.parametrize(("name", "value"), wrong_values({"values": torch.zeros(8, 1)}))
def test_wrong_values_of_any_kind_for_a_lattice(name, value):
    with pytest.raises(ValueError, match=f"^BilateralLattice: {name} is"):
        BilateralLattice(torch.zeros(3, 2, 4), 3.0, 5.0).filter(value)


def filtered(**changes):
    return lambda: bilateral_filter(**{**ARGUMENTS, **changes})


WRONG = {
    "image_dims": (
        lambda: BilateralLattice(torch.zeros(4, 4), 3.0, 5.0),
        r"image is torch.float32 \[4, 4\]; must be .* \[C, H, W\] or \[B, C, H, W\]",
    ),
    "image_channels": (
        lambda: BilateralLattice(torch.zeros(15, 4, 4), 3.0, 5.0),
        r"image is torch.float32 \[15, 4, 4\]",
    ),
    "image_dtype": (
        lambda: BilateralLattice(torch.zeros(3, 4, 4).int(), 3.0, 5.0),
        "image is torch.int32",
    ),
    "image_nan": (
        lambda: BilateralLattice(torch.full((3, 4, 4), NAN), 3.0, 5.0),
        "BilateralLattice: image has NaN or infinite values",
    ),
    "image_meta": (
        lambda: BilateralLattice(torch.zeros(3, 4, 4, device="meta"), 3.0, 5.0),
        "image is on meta",
    ),
    "image_gradient": (
        lambda: BilateralLattice(torch.zeros(3, 4, 4, requires_grad=True), 3.0, 5.0),
        "image requires a gradient, but gets none",
    ),
    "sigmas_for_the_image": (
        lambda: BilateralLattice(torch.zeros(3, 4, 4), 1e-8, 5.0),
        "BilateralLattice: sxy is 1e-08 and srgb is 5.0; too small for this image",
    ),
    "sxy": (
        lambda: BilateralLattice(torch.zeros(3, 4, 4), 0.0, 5.0),
        r"sxy is 0\.0; must be finite and > 0",
    ),
    "srgb": (
        lambda: BilateralLattice(torch.zeros(3, 4, 4), 3.0, (5.0, 5.0)),
        r"srgb is \(5\.0, 5\.0\); must be a number or 3",
    ),
    "maps": (
        lambda: BilateralLattice(torch.zeros(3, 4, 5), 3.0, 5.0).filter(torch.zeros(1, 5, 4)),
        r"must be .* \[c, 4, 5\]",
    ),
    "maps_of_a_batch": (
        lambda: BilateralLattice(torch.zeros(2, 3, 4, 5), 3.0, 5.0).filter(torch.zeros(1, 4, 5)),
        r"must be .* \[2, c, 4, 5\]",
    ),
    "filter_image_nan": (
        filtered(image=torch.full((1, 3, 2, 4), NAN)),
        "bilateral_filter: image spans nan..nan; must be finite",
    ),
    "filter_image_inf": (filtered(image=torch.full((1, 3, 2, 4), INF)), "image spans inf..inf"),
    "filter_channels": (filtered(image=torch.zeros(1, 15, 2, 4)), r"needs 1\.\.14 channels"),
    "filter_size": (
        filtered(values=torch.zeros(1, 2, 4, 2)),
        r"image is \[1, 3, 2, 4\] but values is \[1, 2, 4, 2\]; H and W must match",
    ),
    "filter_batch": (filtered(values=torch.zeros(2, 2, 2, 4)), "B must match"),
    "filter_device": (
        filtered(values=torch.zeros(1, 2, 2, 4, device="meta")),
        "image is on cpu but values is on meta",
    ),
    "filter_sigma": (filtered(sigma_rgb=0.0), r"sigma_rgb is 0\.0; must be finite and > 0"),
    "filter_tiny_sigma": (
        filtered(sigma_xy=1e-9),
        "sigma_xy is 1e-09 and sigma_rgb is 5.0; too small for this image",
    ),
    "filter_gradient": (
        filtered(image=torch.zeros(1, 3, 2, 4, requires_grad=True)),
        "image requires a gradient, but gets none",
    ),
    "own_sigma_rgb": (
        lambda: bilateral_filter(
            BilateralLattice(ARGUMENTS["image"], 3.0, 5.0), ARGUMENTS["values"], sigma_rgb=6.0
        ),
        r"bilateral_filter: sigma_rgb is \(6\.0, .* that of the BilateralLattice is \(5\.0, ",
    ),
    "own_sigma_xy": (
        lambda: bilateral_filter(
            BilateralLattice(ARGUMENTS["image"], 3.0, 5.0), ARGUMENTS["values"], sigma_xy=(3.0, 4.0)
        ),
        r"sigma_xy is \(3\.0, 4\.0\) but that of the BilateralLattice is \(3\.0, 3\.0\)",
    ),
    "crf_sigma": (
        lambda: dense_crf(BilateralLattice(ARGUMENTS["image"], 3.0, 5.0), ARGUMENTS["values"]),
        r"dense_crf: bilateral sxy is \(50\.0, 50\.0\) but that of the BilateralLattice is",
    ),
    "crf_size": (
        lambda: dense_crf(BilateralLattice(ARGUMENTS["image"], 50.0, 5.0), torch.zeros(1, 2, 4, 2)),
        "dense_crf: image is .* H and W must match",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_levels_of_any_range_and_a_warning_for_levels_up_to_1():
    image, values, _ = make("colour")
    image = image.float()
    for scaled in (image - 100, image * 10):
        expected = reference.bilateral_filter(scaled, values, sigma_rgb=15.0, sigma_xy=50.0)
        assert_equal(bilateral_filter(scaled, values, sigma_rgb=15.0, sigma_xy=50.0), expected)
    with pytest.warns(UserWarning, match="image spans 0.*; levels are usually 0..255") as found:
        bilateral_filter(image / 255, values, sigma_rgb=15.0, sigma_xy=50.0)
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bilateral_filter(image / 255, values, sigma_rgb=0.1, sigma_xy=50.0)
        bilateral_filter(torch.zeros_like(image), values, sigma_rgb=15.0, sigma_xy=50.0)


@pytest.mark.parametrize("level", [-1.0, 256.0, NAN])
def test_kernels_check_the_levels(level):
    image, values, _ = make("colour")
    image = image.float()
    image[1, 2, 3, 4] = level
    inputs = (image, [50.0, 50.0, 15.0, 15.0, 15.0], [0.0, 255.0])
    with pytest.raises(ValueError, match="image has NaN or values outside its levels"):
        LATTICE(*inputs)
    with pytest.raises(ValueError, match="image has NaN or values outside its levels"):
        FILTER(values, image, None, *inputs[1:], False)


def test_nan_values_stay_in_their_channel():
    image, values, sigmas = make("colour")
    expected = bilateral_filter(image, values, **sigmas)
    values[0, 1, 2, 3] = NAN
    ours = bilateral_filter(image, values, **sigmas)
    assert ours[0, 1, 2, 3].isnan()
    assert torch.equal(ours[:, ::2], expected[:, ::2]) and torch.equal(ours[1], expected[1])
