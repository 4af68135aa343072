"""pixel_adaptive_refine against dense float64 matrices; errors, gradients, layouts, wrong input."""

import itertools
import math

import pytest
import torch
from op_testing import each_device, threads, wrong_values
from torch._subclasses.fake_tensor import FakeTensorMode

from wsss_fast import _native
from wsss_fast.ops import _library, pixel_adaptive_refine, reference
from wsss_fast.ops.pixel_adaptive_refine import KINDS

# name: shape of the image, shape of the masks, options
CASES = {
    "default": ((1, 3, 9, 11), (1, 3, 9, 11), {}),
    "resized": ((2, 3, 7, 10), (2, 2, 3, 4), {"dilations": (1, 2), "iterations": 3}),
    "row": ((1, 3, 1, 37), (1, 2, 1, 37), {"iterations": 4}),
    "column": ((2, 1, 34, 1), (2, 1, 34, 1), {"iterations": 4}),
    "pixel": ((1, 2, 1, 1), (1, 2, 1, 1), {"iterations": 2}),
    "far": ((1, 3, 4, 5), (1, 3, 4, 5), {"dilations": (3, 1000000), "iterations": 3}),
    "one_dilation": ((1, 1, 6, 19), (1, 13, 6, 19), {"dilations": (5,), "iterations": 2}),
    "many_channels": ((1, 17, 5, 6), (1, 2, 5, 6), {"dilations": (2, 1), "iterations": 2}),
    "coco": ((1, 3, 4, 18), (1, 81, 4, 18), {"dilations": (1, 2), "iterations": 2}),
    "no_iteration": ((1, 3, 5, 6), (1, 2, 5, 6), {"iterations": 0}),
    "empty_batch": ((0, 3, 5, 6), (0, 2, 3, 3), {}),
    "no_masks": ((1, 3, 5, 6), (1, 0, 3, 3), {}),
}
each_case = pytest.mark.parametrize("name", CASES)
each_kind = pytest.mark.parametrize("kind", KINDS)


def make(name, kind, dtype=torch.float64, device="cpu"):
    """An image of two plateaus with noise, masks, and a gradient of the result."""
    image_shape, mask_shape, options = CASES[name]
    generator = torch.Generator().manual_seed(len(name))
    image = torch.rand(image_shape, generator=generator, dtype=torch.float64)
    image[..., image.shape[-1] // 2 :] += 2.0
    masks = torch.rand(mask_shape, generator=generator, dtype=torch.float64)
    grad = torch.randn(*mask_shape[:2], *image_shape[2:], generator=generator, dtype=torch.float64)
    tensors = (t.to(device, dtype) for t in (image, masks, grad))
    return *tensors, {"kind": kind, **options}


def dense(image, dilations=(1, 2, 4, 8, 12, 24), iterations=10, kind="par"):
    """One image [C, H, W] -> the matrix of all iterations, [pixels, pixels], by the definition."""
    _, height, width = image.shape
    directions = [d for d in itertools.product((-1, 0, 1), repeat=2) if d != (0, 0)]
    steps = [(d, y, x) for d in dilations for y, x in directions]
    distance = torch.tensor([d * math.hypot(y, x) for d, y, x in steps], dtype=torch.float64)
    position = torch.softmax(-((distance / (distance.std() + 1e-8) / 0.3) ** 2), 0)
    matrix = torch.zeros(height * width, height * width, dtype=torch.float64)
    for r, c in itertools.product(range(height), range(width)):
        places = [
            (min(max(r + d * y, 0), height - 1), min(max(c + d * x, 0), width - 1))
            for d, y, x in steps
        ]
        own = image[:, r, c, None]
        around = torch.stack([image[:, y, x] for y, x in places], 1)  # [C, neighbours]
        if kind == "par":
            by = (around.std(1, keepdim=True) + 1e-8) * 0.3
            weights = torch.softmax(-(((around - own) / by) ** 2).mean(0), 0) + 0.01 * position
        else:
            samples = torch.cat([around, own.expand(-1, len(dilations))], 1)
            by = 1e-8 + 0.1 * samples.std(1, keepdim=True)
            weights = torch.softmax(-((around - own).abs() / by).mean(0), 0)
        for (y, x), weight in zip(places, weights, strict=True):
            matrix[r * width + c, y * width + x] += weight
    return torch.linalg.matrix_power(matrix, iterations)


@each_device
@each_kind
@each_case
def test_equals_the_dense_matrix(name, kind, device):
    """The result, and the gradient, which is the transposed matrix."""
    image, masks, grad, options = make(name, kind)
    expected, of_masks = masks.new_empty(grad.shape), masks.new_empty(grad.shape)
    size = image.shape[2:]
    large = masks
    if masks.numel() and masks.shape[2:] != size:
        large = torch.nn.functional.interpolate(masks, size, mode="bilinear", align_corners=True)
    for b in range(len(image) if masks.numel() else 0):
        matrix = dense(image[b], **{"iterations": 10, **options})
        expected[b] = (large[b].flatten(1) @ matrix.T).view(grad.shape[1:])
        of_masks[b] = (grad[b].flatten(1) @ matrix).view(grad.shape[1:])
    if masks.numel():
        exact = reference.pixel_adaptive_refine(image, masks, **options)
        torch.testing.assert_close(exact, expected)
    image, grad = image.to(device, torch.float32), grad.to(device, torch.float32)
    leaf = large.to(device, torch.float32).requires_grad_()
    ours = pixel_adaptive_refine(image, leaf, **options)
    assert ours.dtype == torch.float32 and ours.shape == grad.shape
    # Of the largest value: float32's errors with weights between 1e-6 and 1.
    largest = expected.abs().amax().item() if masks.numel() else 1.0
    torch.testing.assert_close(ours.cpu().double(), expected, rtol=0, atol=3e-6 * largest)
    if masks.numel():
        (found,) = torch.autograd.grad(ours, leaf, grad)
        largest = of_masks.abs().amax().item()
        torch.testing.assert_close(found.cpu().double(), of_masks, rtol=0, atol=3e-6 * largest)


@each_device
@each_kind
@each_case
def test_error_is_at_most_twice_eagers(name, kind, device):
    image, masks, _, options = make(name, kind, torch.float32, device)
    if masks.numel():
        truth = reference.pixel_adaptive_refine(image.double(), masks.double(), **options)
        eager = reference.pixel_adaptive_refine(image, masks, **options)
        ours = pixel_adaptive_refine(image, masks, **options)
        allowed = 2 * (eager.double() - truth).abs().max() + 1e-6 * truth.abs().max()
        assert (ours.double() - truth).abs().max() <= allowed


@each_kind
def test_gradients_of_the_reference(kind):
    """In masks that are resized and in the image; the kernels' are compared with a matrix."""
    image, masks, _, options = make("resized", kind)
    assert torch.autograd.gradcheck(
        lambda i, m: reference.pixel_adaptive_refine(i, m, **options),
        (image.requires_grad_(), masks.requires_grad_()),
        fast_mode=True,
    )


@each_device
@each_kind
def test_the_gradient_of_resized_masks(kind, device):
    image, masks, grad, options = make("resized", kind)
    exact = torch.autograd.grad(
        reference.pixel_adaptive_refine(image, masks.requires_grad_(), **options), masks, grad
    )[0]
    image, leaf, grad = (t.detach().to(device, torch.float32) for t in (image, masks, grad))
    leaf = leaf.half().requires_grad_()
    found = torch.autograd.grad(pixel_adaptive_refine(image, leaf, **options), leaf, grad)[0]
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.cpu().double(), exact, rtol=1e-3, atol=1e-3)


@each_device
@each_kind
def test_the_scale_and_offset_of_the_image_do_not_matter(kind, device):
    levels = torch.randint(0, 256, (1, 3, 9, 11), generator=torch.Generator().manual_seed(1))
    masks = make("default", kind, torch.float32, device)[1]
    image = levels.to(device, torch.uint8)
    expected = pixel_adaptive_refine(image, masks, kind=kind)
    scale, offset = torch.tensor([0.02, -1.0, 30.0]), torch.tensor([-2.0, 100.0, 1000.0])
    changed = levels * scale.view(3, 1, 1) + offset.view(3, 1, 1)
    found = pixel_adaptive_refine(changed.to(device), masks, kind=kind)
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-5)


@each_device
@each_kind
def test_a_uniform_image(kind, device):
    """Weights depend on the positions alone; masks stay in their range, times 1.01 for PAR."""
    image = torch.full((1, 3, 20, 30), 7.0, device=device)
    constant = torch.full((1, 2, 20, 30), 0.5, device=device)
    total = 1.01**10 if kind == "par" else 1.0
    out = pixel_adaptive_refine(image, constant, kind=kind)
    torch.testing.assert_close(out, constant * total, rtol=3e-6, atol=0)
    masks = torch.rand(1, 2, 20, 30, generator=torch.Generator().manual_seed(0)).to(device)
    exact = reference.pixel_adaptive_refine(image.double(), masks.double(), kind=kind)
    out = pixel_adaptive_refine(image, masks, kind=kind)
    torch.testing.assert_close(out.double(), exact, rtol=3e-6, atol=0)


@each_kind
def test_any_number_of_threads_gives_the_same_bits(kind):
    """Threads divide an image of 84 x 60, and the images of a batch of smaller ones."""
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in ((1, 84, 60), (5, 9, 11)):
        image = torch.rand(batch, 3, height, width, generator=generator)
        masks = torch.rand(batch, 13, height, width, generator=generator)
        found = []
        for count in (1, 2, 3):
            with threads(count):
                leaf = masks.clone().requires_grad_()
                out = pixel_adaptive_refine(image, leaf, iterations=2, kind=kind)
                found.append((out, *torch.autograd.grad(out.square().sum(), leaf)))
        for pair in zip(*found, strict=True):
            assert all(torch.equal(pair[0], other) for other in pair[1:])


@each_device
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_nan_of_a_mask_spreads_as_in_the_reference(value, device):
    image, masks, _, _ = make("resized", "par", torch.float32, device)
    masks = torch.rand(2, 2, *image.shape[2:], device=device)
    masks[1, 0, 2, 9] = value
    options = {"dilations": (1, 2), "iterations": 1}
    ours = pixel_adaptive_refine(image, masks, **options)
    exact = reference.pixel_adaptive_refine(image, masks, **options)
    assert torch.equal(ours.isfinite(), exact.isfinite())
    assert not ours[1, 0].isfinite().all() and ours[1, 0, 5:].isfinite().all()
    assert ours[0].isfinite().all() and ours[1, 1].isfinite().all()


def test_tiny_masks_do_not_become_slow_denormal_numbers():
    """A mask that vanishes: exact zeros instead of numbers below the normal range."""
    image = torch.rand(1, 3, 12, 14, generator=torch.Generator().manual_seed(0))
    out = pixel_adaptive_refine(image, torch.full((1, 1, 12, 14), 1e-38), iterations=3)
    smallest = torch.finfo(torch.float32).smallest_normal
    assert ((out == 0) | (out >= smallest)).all()


@each_device
def test_layouts_and_dtypes(device):
    image, masks, _, options = make("default", "par", torch.float32, device)
    expected = pixel_adaptive_refine(image, masks, **options)
    for other_image, other_masks in (
        (image.to(memory_format=torch.channels_last), masks.mT.contiguous().mT),
        (image.repeat_interleave(2, 3)[..., ::2], masks.repeat_interleave(2, 1)[:, ::2]),
        (image.expand(2, -1, -1, -1)[:1], masks.expand(2, -1, -1, -1)[1:]),
        (image.double(), masks.double()),
    ):
        assert torch.equal(pixel_adaptive_refine(other_image, other_masks, **options), expected)
    half = image.bfloat16(), masks.half()
    wide = pixel_adaptive_refine(*(t.float() for t in half), **options)
    assert torch.equal(pixel_adaptive_refine(*half, **options), wide)
    twice = pixel_adaptive_refine(image.repeat(2, 1, 1, 1), masks.repeat(2, 1, 1, 1), **options)
    assert torch.equal(twice, expected.repeat(2, 1, 1, 1))


def test_the_reference_of_half_precisions_computes_wider():
    image, masks, _, options = make("resized", "pamr", torch.float16)
    exact = reference.pixel_adaptive_refine(image, masks.double(), **options)
    half = reference.pixel_adaptive_refine(image, masks, **options)
    assert half.dtype == torch.float16 and torch.equal(half, exact.half())


@each_device
@pytest.mark.parametrize("name", ["resized", "no_iteration", "empty_batch"])
def test_opcheck(name, device):
    image, _, grad, options = make(name, "par", torch.float32, device)
    parameters = list(options.get("dilations", (1, 2))), options.get("iterations", 2), False
    op = torch.ops.wsss_fast
    torch.library.opcheck(
        op.pixel_adaptive_refine.default, (grad.requires_grad_(), image, *parameters)
    )
    torch.library.opcheck(
        op.pixel_adaptive_refine_backward.default, (grad.detach(), image, *parameters)
    )


def test_fake_tensors():
    with FakeTensorMode():
        out = pixel_adaptive_refine(torch.rand(2, 3, 8, 9), torch.rand(2, 4, 3, 3))
    assert out.shape == (2, 4, 8, 9)


@each_device
def test_compiles_whole(device):
    image, masks, grad, options = make("resized", "par", torch.float32, device)

    def call(image, masks):
        return pixel_adaptive_refine(image.square(), masks.sigmoid(), **options)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    results = []
    for function in (call, compiled):
        leaf = masks.clone().requires_grad_()
        out = function(image, leaf)
        results.append((out.detach(), *torch.autograd.grad(out, leaf, grad)))
    torch.testing.assert_close(results[1], results[0])


def test_the_native_kernels_are_used_where_they_can_be_built():
    if not _native.load():
        pytest.skip("native library not available")
    for name in ("pixel_adaptive_refine", "pixel_adaptive_refine_backward"):
        assert _library.has_native_kernel(name, torch.device("cpu"))


@pytest.mark.parametrize("name", ["pixel_adaptive_refine", "pixel_adaptive_refine_backward"])
@pytest.mark.parametrize(
    ("size", "parameters", "message"),
    [
        ((1, 3, 4, 5), ([1], 1), r"image is \[1,3,4,5\] but masks is \[1,1,4,4\]"),
        ((1, 0, 4, 4), ([1], 1), r"image is \[1,0,4,4\]; must have a channel"),
        ((1, 3, 4, 4), ([], 1), "dilations is empty"),
        ((1, 3, 4, 4), ([1, 0], 1), r"dilations has 0; must be in 1\.\.1000000"),
        ((1, 3, 4, 4), ([1], -1), "iterations is -1"),
    ],
)
def test_the_native_kernels_reject_wrong_arguments(name, size, parameters, message):
    if not _native.load():
        pytest.skip("native library not available")
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        getattr(torch.ops.wsss_fast, name)(
            torch.zeros(1, 1, 4, 4), torch.zeros(size), *parameters, False
        )


def test_an_image_that_requires_a_gradient_is_an_error():
    image, masks, _, options = make("resized", "par", torch.float32)
    with pytest.raises(ValueError, match=r"^pixel_adaptive_refine: image requires a gradient, but"):
        pixel_adaptive_refine(image.requires_grad_(), masks, **options)
    out = torch.ops.wsss_fast.pixel_adaptive_refine(image[:, :1], image, [1], 1, False)
    with pytest.raises(NotImplementedError, match="differentiable in masks only; pass image.det"):
        out.sum().backward()


ARGUMENTS = {
    "image": torch.rand(1, 3, 4, 4),
    "masks": torch.rand(1, 2, 4, 4),
    "dilations": (1, 2),
    "iterations": 2,
    "kind": "par",
}


@pytest.mark.parametrize(("name", "value"), wrong_values(ARGUMENTS))
def test_wrong_arguments_of_any_kind(name, value):
    with pytest.raises(ValueError, match=f"^pixel_adaptive_refine: .*{name}"):
        pixel_adaptive_refine(**{**ARGUMENTS, name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(3, 4, 4)}, r"image is torch.float32 \[3, 4, 4\]; must be uint8,"),
        ({"image": torch.zeros(1, 3, 4, 4).long()}, "image is torch.int64"),
        ({"image": torch.zeros(1, 0, 4, 4)}, r"image is torch.float32 \[1, 0, 4, 4\]"),
        ({"image": torch.zeros(1, 3, 0, 4)}, r"image is torch.float32 \[1, 3, 0, 4\]"),
        ({"image": torch.full((1, 3, 4, 4), math.nan)}, "image spans nan..nan; must be finite"),
        ({"image": torch.full((1, 3, 4, 4), math.inf)}, "image spans inf..inf; must be finite"),
        ({"image": torch.zeros(2, 3, 4, 4)}, r"image is \[2, .* but masks is \[1, .*; B must mat"),
        ({"masks": torch.zeros(1, 2, 4, 4).byte()}, "masks is torch.uint8"),
        ({"masks": torch.zeros(1, 2, 0, 4)}, r"masks is torch.float32 \[1, 2, 0, 4\]"),
        ({"masks": torch.zeros(1, 2, 4, 4, device="meta")}, "image is on cpu but masks is on meta"),
        ({"dilations": ()}, r"dilations is \(\); must be a sequence of integers in 1..1000000"),
        ({"dilations": (1, 0)}, r"dilations is \(1, 0\); must be a sequence"),
        ({"dilations": (1.0,)}, r"dilations is \(1.0,\)"),
        ({"dilations": "12"}, "dilations is '12'"),
        ({"dilations": 3}, "dilations is 3"),
        ({"iterations": -1}, "iterations is -1; must be an integer >= 0, at most 1000000"),
        ({"iterations": True}, "iterations is True"),
        ({"kind": "crf"}, r"kind is 'crf'; must be one of \('par', 'pamr'\)"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=f"^pixel_adaptive_refine: {message}"):
        pixel_adaptive_refine(**{**ARGUMENTS, **change})
