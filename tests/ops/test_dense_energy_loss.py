"""dense_energy_loss against the matrix of its filter; gradients, layouts, threads, errors."""

import math
import warnings

import pytest
import torch
from op_testing import each_device, threads, wrong_values
from torch._subclasses.fake_tensor import FakeTensorMode

from wsss_fast import _native, ops
from wsss_fast.ops import _library, dense_energy_loss, reference

# name: probabilities [B, K, H, W], options; "labels": the share of pixels without one, None: none
CASES = {
    "half": ((2, 3, 12, 16), {}),
    "odd": ((1, 5, 13, 19), {}),
    "odd_apart": ((2, 4, 13, 11), {"recompute_scale_factor": False}),
    "full": ((1, 3, 7, 9), {"scale_factor": 1.0, "sigma_xy": 20.0}),
    "full_81": ((1, 81, 5, 6), {"scale_factor": 1.0}),
    "third": ((1, 17, 14, 10), {"scale_factor": 0.35, "sigma_rgb": 30.0}),
    "third_apart": ((1, 2, 14, 10), {"scale_factor": 0.35, "recompute_scale_factor": False}),
    "three_quarters": ((2, 6, 11, 9), {"scale_factor": 0.75}),
    "quarter": ((1, 2, 20, 17), {"scale_factor": 0.25, "sigma_xy": (30.0, 60.0)}),
    "one_class": ((2, 1, 8, 6), {}),
    "row": ((1, 3, 1, 33), {"scale_factor": 1.0}),
    "column": ((1, 22, 25, 2), {}),
    "pixel": ((1, 2, 1, 1), {"scale_factor": 1.0, "labels": 1.0}),
    "without_labels": ((3, 4, 10, 9), {"labels": None}),
    "all_unknown": ((1, 3, 9, 8), {"labels": 1.0}),
    "all_known": ((1, 3, 9, 8), {"labels": 0.0}),
}
each_case = pytest.mark.parametrize("name", CASES)
each_gradient = pytest.mark.parametrize("gradient", ["public", "exact"])
TINY = 1e-12  # keeps means of nothing finite


def inputs(name, dtype=torch.float64, device="cpu", batch=None):
    """Smooth probabilities on a photo of blocks and noise; a box as roi, partly of fractions."""
    (b, k, h, w), options = CASES[name]
    b = b if batch is None else batch
    options = {"weight": 1e-2, **options}
    unknown = options.pop("labels", 0.5)
    g = torch.Generator().manual_seed(7)
    coarse = torch.rand(b, 3, 3, 3, generator=g, dtype=torch.float64)
    blocks = torch.nn.functional.interpolate(coarse, (h, w))
    image = (200 * blocks + 50 * torch.rand(b, 3, h, w, generator=g)).byte()
    scores = torch.nn.functional.interpolate(
        torch.randn(b, k, 3, 4, generator=g, dtype=torch.float64), (h, w), mode="bilinear"
    )
    roi = torch.zeros(b, h, w)
    roi[:, h // 8 :, : w - w // 8] = 1.0
    roi[:, :, w // 2 : w // 2 + 2] = 0.75
    labels = torch.where(torch.rand(b, h, w, generator=g) < (unknown or 0.0), 255, 3).byte()
    return (
        image.to(device),
        (4 * scores).softmax(1).to(device, dtype).requires_grad_(),
        roi.to(device),
        None if unknown is None else labels.to(device),
        options,
    )


def reduce(maps, size, step, nearest):
    """Every reduced pixel's source pixels, one by one."""
    out = maps.new_zeros(*maps.shape[:-2], *size)
    rows, columns = maps.shape[-2:]

    def taps(i, n, stride, reduced):
        if nearest:
            return [(min(math.floor(i * stride + 1e-5), n - 1), 1.0)]
        if n == reduced:
            return [(i, 1.0)]
        at = max((i + 0.5) * stride - 0.5, 0.0)
        low = min(math.floor(at), n - 1)
        return [(low, 1 - (at - low)), (min(low + 1, n - 1), at - low)]

    for y in range(size[0]):
        for x in range(size[1]):
            for r, u in taps(y, rows, step[0], size[0]):
                for c, v in taps(x, columns, step[1], size[1]):
                    out[..., y, x] += (u * v * maps[..., r, c]).to(out.dtype)
    return out


def matrix(image, sigmas):
    """A [N, N] float64: the lattice's filter of every unit vector."""
    c, h, w = image.shape
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    features = torch.stack([x, y, *image]).float() / torch.tensor(sigmas)[:, None, None]
    lattice = ops.PermutohedralLattice(features.flatten(1).t().contiguous())
    return lattice.filter(torch.eye(h * w, dtype=torch.float64))


def by_matrix(image, probabilities, roi, labels, options, gradient="public"):
    """Loss and gradient from A as a matrix; the resize is differentiated by autograd."""
    f = options.get("scale_factor", 0.5)
    sxy = options.get("sigma_xy", 100.0)
    sxy = sxy if isinstance(sxy, tuple) else (sxy, sxy)
    h, w = probabilities.shape[2:]
    size = (math.floor(h * f), math.floor(w * f))
    step = (h / size[0], w / size[1])
    if not options.get("recompute_scale_factor", True):
        step = (1 / f, 1 / f)
    reduced = reduce(probabilities, size, step, nearest=False)
    image, roi = (reduce(t, size, step, nearest=True).double() for t in (image, roi))
    gate = torch.ones_like(roi)
    if labels is not None:
        known = reduce(labels, size, step, nearest=True) != 255
        gate = torch.where(known, (roi - reduced.detach().amax(1)).clamp(min=0), 1.0)
    p = reduced.detach().flatten(2)
    loss, grads = torch.zeros((), dtype=torch.float64), []
    for b in range(len(p)):
        sigmas = [sxy[0] * f, sxy[1] * f, *[options.get("sigma_rgb", 15.0)] * 3]
        a = matrix(image[b], sigmas)
        r, g = roi[b].flatten(), gate[b].flatten()
        s = r * p[b]  # [K, N]
        t = g * (s @ a.t())
        loss -= options["weight"] / len(p) * (s * t).sum()
        twice = 2 * t if gradient == "public" else t + (g * s) @ a
        grads.append(-options["weight"] / len(p) * r * twice)
    grad = torch.stack(grads).view(reduced.shape)
    (full,) = torch.autograd.grad(reduced, probabilities, grad)
    return loss, full


@each_gradient
@each_case
def test_values_and_gradients(name, gradient):
    image, probabilities, roi, labels, options = inputs(name)
    loss, grad = by_matrix(image, probabilities, roi, labels, options, gradient)
    options = {**options, "gradient": gradient}
    exact = reference.dense_energy_loss(image, probabilities, roi, labels, **options)
    torch.testing.assert_close(exact, loss, rtol=1e-7, atol=TINY)
    (found,) = torch.autograd.grad(3 * exact, probabilities)
    largest = grad.abs().max().item()
    torch.testing.assert_close(found, 3 * grad, rtol=1e-6, atol=1e-6 * largest)
    ours = probabilities.detach().float().requires_grad_()
    found = dense_energy_loss(image, ours, roi, labels, **options)
    torch.testing.assert_close(found, loss.float(), rtol=2e-6, atol=TINY)
    (found,) = torch.autograd.grad(3 * found, ours)
    torch.testing.assert_close(found, 3 * grad.float(), rtol=1e-5, atol=4e-6 * largest)


@pytest.mark.parametrize("name", ["half", "odd_apart", "without_labels"])
def test_exact_is_the_derivative_at_a_constant_gate(name):
    image, probabilities, roi, labels, options = inputs(name)
    high = probabilities.detach().clone()
    high[:, 0] += 1  # decides the gate; the other classes are varied
    options = {**options, "weight": 1.0, "gradient": "exact"}

    def loss(others):
        return reference.dense_energy_loss(
            image, torch.cat([high[:, :1], others], 1), roi * 1.6, labels, **options
        )

    others = high[:, 1:2].clone().requires_grad_()
    high = high[:, :2]
    assert torch.autograd.gradcheck(loss, others, fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, others, fast_mode=True)


def test_the_two_gradients_differ_with_a_gate_only():
    def distance(name):
        image, probabilities, roi, labels, options = inputs(name)
        grads = [
            torch.autograd.grad(
                dense_energy_loss(image, probabilities, roi, labels, gradient=kind, **options),
                probabilities,
            )[0]
            for kind in ("public", "exact")
        ]
        return ((grads[0] - grads[1]).norm() / grads[1].norm()).item()

    assert distance("half") > 0.05
    assert distance("all_unknown") < 0.03  # A itself is nearly symmetric


def test_any_number_of_threads_gives_the_same_bits():
    if not _library.has_native_kernel("dense_energy_loss", torch.device("cpu")):
        pytest.skip("native library not available")
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(1, 3, 520, 512, generator=generator) * 255  # several bands of pixels
    scores = torch.randn(1, 3, 520, 512, generator=generator)
    roi, labels = torch.ones(1, 520, 512), torch.full((1, 520, 512), 255)
    found = []
    for count in (1, 2, 3):
        with threads(count):
            x = scores.softmax(1).requires_grad_()
            loss = dense_energy_loss(image, x, roi, labels, gradient="exact")
            found.append((loss, torch.autograd.grad(loss, x)[0]))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_the_native_kernel_is_used_where_it_can_be_built():
    if not _native.load():
        pytest.skip("no native library here")
    assert _library.has_native_kernel("dense_energy_loss", torch.device("cpu"))


@pytest.mark.parametrize("layout", ["channels_last", "strided", "dimensions"])
def test_layouts(layout):
    image, probabilities, roi, labels, options = inputs("odd", torch.float32)
    expected = dense_energy_loss(image, probabilities, roi, labels, **options)
    (grad,) = torch.autograd.grad(expected, probabilities)
    given = probabilities.detach()
    if layout == "channels_last":
        given = given.to(memory_format=torch.channels_last)
        image = image.to(memory_format=torch.channels_last)
    elif layout == "strided":
        given = given.transpose(2, 3).contiguous().transpose(2, 3)
        image, labels = image.repeat_interleave(2, 3)[..., ::2], labels.flip(1).clone().flip(1)
        roi = roi.expand(3, *roi.shape)[2]
    else:
        roi, labels, image = roi[:, None].double(), labels[:, None].long(), image.double()
    given.requires_grad_()
    found = dense_energy_loss(image, given, roi, labels, **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert torch.equal(torch.autograd.grad(found, given)[0], grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_summed_in_float32(dtype):
    image, probabilities, roi, labels, options = inputs("half", dtype)
    loss = dense_energy_loss(image, probabilities, roi.to(dtype), labels, **options)
    loss.backward()
    same = probabilities.detach().float().requires_grad_()
    expected = dense_energy_loss(image, same, roi, labels, **options)
    expected.backward()
    assert loss.dtype == torch.float32 and probabilities.grad.dtype == dtype
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    torch.testing.assert_close(probabilities.grad, same.grad.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_sums_are_checked_within_rounding(dtype):
    image, probabilities, roi, labels, options = inputs("third", dtype)
    dense_energy_loss(image, probabilities, roi * 1.0001, labels, check=True, **options)
    with pytest.raises(ValueError, match="the sum of probabilities spans .*; must be 1$"):
        dense_energy_loss(image, 0.9 * probabilities, roi, labels, check=True, **options)


def test_batches():
    image, probabilities, roi, labels, options = inputs("half", batch=3)
    together = dense_energy_loss(image, probabilities, roi, labels, **options)
    alone = [
        dense_energy_loss(*(t[b : b + 1] for t in (image, probabilities, roi, labels)), **options)
        for b in range(3)
    ]
    torch.testing.assert_close(together, sum(alone) / 3)
    image, probabilities, roi, labels, options = inputs("half", batch=0)
    empty = dense_energy_loss(image, probabilities, roi, labels, **options)
    empty.backward()
    assert empty == 0 and probabilities.grad.shape == (0, 3, 12, 16)


@pytest.mark.parametrize("gradient", ["public", "exact"])
@pytest.mark.parametrize("name", ["half", "odd_apart"])
def test_a_lattice_in_place_of_the_image(name, gradient):
    image, probabilities, roi, labels, options = inputs(name, torch.float32)
    options = {**options, "gradient": gradient}
    expected = dense_energy_loss(image, probabilities, roi, labels, **options)
    h, w = (n // 2 for n in roi.shape[1:])
    step = roi.shape[1] / h if options.get("recompute_scale_factor", True) else 2.0
    assert step == 2.0  # of these cases
    lattice = ops.BilateralLattice(image[..., : 2 * h : 2, : 2 * w : 2], sxy=50.0, srgb=15.0)
    for _ in range(2):
        found = dense_energy_loss(lattice, probabilities, roi, labels, **options)
        assert torch.equal(found, expected)
        grads = [torch.autograd.grad(loss, probabilities)[0] for loss in (found, expected)]
        assert torch.equal(*grads)
        expected = dense_energy_loss(image, probabilities, roi, labels, **options)
    full = ops.BilateralLattice(image, sxy=50.0, srgb=15.0)
    for wrong, message in ((full, "must be of"), (lattice, r"sigma_xy times scale_factor is \(40")):
        given = {**options, "sigma_xy": 100.0 if wrong is full else 80.0}
        with pytest.raises(ValueError, match=f"^dense_energy_loss: .*{message}"):
            dense_energy_loss(wrong, probabilities, roi, labels, **given)


def test_no_gradient_without_need():
    image, probabilities, roi, labels, options = inputs("half")
    with torch.no_grad():
        assert not dense_energy_loss(image, probabilities, roi, labels, **options).requires_grad


def test_fake_tensors():
    with FakeTensorMode():
        loss = dense_energy_loss(
            torch.rand(2, 3, 9, 8), torch.rand(2, 4, 9, 8), torch.ones(2, 9, 8), None
        )
    assert loss.shape == ()


@each_device
@pytest.mark.parametrize("name", ["half", "odd_apart", "without_labels"])
def test_opcheck(name, device):
    image, probabilities, roi, labels, options = inputs(name, torch.float32, device)
    h, w = (n // 2 for n in roi.shape[1:])
    near = [None if t is None else t[..., : 2 * h : 2, : 2 * w : 2] for t in (image, roi, labels)]
    args = (probabilities, near[0].float().contiguous(), near[1].contiguous(), near[2], None)
    sigmas = [50.0, 50.0, 15.0, 15.0, 15.0]
    args += (sigmas, [0.0, 255.0], [2.0, 2.0], 1e-7, name == "half", True)
    torch.library.opcheck(torch.ops.wsss_fast.dense_energy_loss.default, args)


def test_compiles_whole():
    image, probabilities, roi, labels, options = inputs("odd", torch.float32)
    compiled = torch.compile(
        lambda *given: dense_energy_loss(*given, **options), fullgraph=True, backend="aot_eager"
    )
    image = 1.3 * image  # where values cannot be inspected, levels are clamped
    loss = compiled(image, probabilities, roi, labels)
    loss.backward()
    clamped = image.clamp(0, 255)
    assert (clamped != image).any()
    expected = dense_energy_loss(clamped, probabilities, roi, labels, **options)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(probabilities.grad, torch.autograd.grad(expected, probabilities)[0])


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"roi": torch.zeros(1, 8, 8)}, "roi is 0 everywhere"),
        ({"labels": torch.zeros(1, 8, 8), "roi": torch.full((1, 8, 8), 0.2)}, "gate above 0"),
        ({"image": torch.rand(1, 3, 8, 8)}, "image spans .*levels are usually in 0"),
    ],
)
def test_what_is_remarked(change, cause):
    with pytest.warns(UserWarning, match=f"^dense_energy_loss: .*{cause}"):
        loss = dense_energy_loss(**{**ARGUMENTS, **change})
    assert (loss == 0) == ("image" not in change)


def test_an_image_without_roi_adds_nothing():
    image, probabilities, roi, labels, options = inputs("half")
    first = dense_energy_loss(image[:1], probabilities[:1], roi[:1], labels[:1], **options)
    roi[1] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = dense_energy_loss(image, probabilities, roi, labels, **options)
    torch.testing.assert_close(2 * both, first)
    (grad,) = torch.autograd.grad(both, probabilities)
    assert grad[0].any() and not grad[1].any()


ARGUMENTS = {
    "image": torch.randint(0, 256, (1, 3, 8, 8), generator=torch.Generator().manual_seed(1)).byte(),
    "probabilities": torch.full((1, 4, 8, 8), 0.25),
    "roi": torch.ones(1, 8, 8),
    "labels": torch.zeros(1, 8, 8, dtype=torch.uint8),
    "weight": 1e-3,
    "sigma_rgb": 15.0,
    "sigma_xy": 100.0,
    "scale_factor": 0.5,
    "gradient": "public",
}
REAL = ("roi-float8", "labels-float8")  # such maps are converted


@pytest.mark.parametrize(
    ("name", "value"),
    [p for p in wrong_values(ARGUMENTS, optional=("labels",)) if p.id not in REAL],
)
def test_wrong_arguments_of_any_kind(name, value):
    with pytest.raises(ValueError, match=f"^dense_energy_loss: .*{name}"):
        dense_energy_loss(**{**ARGUMENTS, name: value})


NOT_A_NUMBER = torch.full((1, 4, 8, 8), 0.25)
NOT_A_NUMBER[0, 2, 5, 3] = torch.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": torch.randn(1, 4, 8, 8)}, "probabilities .* below 0"),
        ({"probabilities": NOT_A_NUMBER}, "probabilities .* NaN"),
        (
            {"probabilities": 2 * ARGUMENTS["probabilities"], "check": True},
            r"sum of probabilities spans 2\.\.2",
        ),
        ({"probabilities": torch.zeros(1, 4, 8, 8).long()}, "probabilities is torch.int64"),
        ({"image": torch.zeros(1, 3, 8, 9)}, "image is .* but probabilities is .*; H and W"),
        ({"image": torch.zeros(2, 3, 8, 8)}, "B must match"),
        ({"image": torch.randn(1, 3, 8, 8)}, r"image spans -.*must be levels in 0\.\.255"),
        ({"image": torch.full((1, 3, 8, 8), torch.inf)}, r"image spans inf\.\.inf"),
        ({"image": torch.full((1, 3, 8, 8), torch.nan)}, r"image spans nan\.\.nan"),
        ({"image": torch.zeros(1, 15, 8, 8)}, r"image is .*1\.\.14 channels"),
        ({"image": torch.zeros(1, 3, 8, 8, device="meta")}, "image is on meta"),
        ({"image": torch.zeros(1, 3, 8, 8, requires_grad=True)}, "image requires a gradient"),
        ({"roi": torch.ones(1, 4, 4)}, r"roi is \[1, 4, 4\]; must be \[1, 8, 8\]"),
        ({"roi": torch.ones(1, 4, 8, 8)}, r"roi is \[1, 4, 8, 8\]"),
        ({"roi": torch.full((1, 8, 8), 255)}, r"roi spans 255\.\.255; must be within 0\.\.1"),
        ({"roi": torch.full((1, 8, 8), torch.nan)}, r"roi spans nan\.\.nan"),
        ({"labels": torch.zeros(1, 4, 4).byte()}, r"labels is \[1, 4, 4\]"),
        ({"labels": torch.zeros(1, 8, 8, device="meta")}, "labels is on meta"),
        ({"sigma_xy": -1.0}, "sigma_xy is -1.0; must be finite and > 0"),
        ({"sigma_rgb": (1.0, 2.0)}, "sigma_rgb is .*a number or 3 of them"),
        ({"scale_factor": 1.5}, r"scale_factor is 1.5; must be a number in \(0, 1\]"),
        ({"scale_factor": 0.1}, "scale_factor is 0.1, which reduces .* to no pixel"),
        ({"gradient": "true"}, "gradient is 'true'; must be one of"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=f"^dense_energy_loss: .*{message}"):
        dense_energy_loss(**{**ARGUMENTS, **change})
