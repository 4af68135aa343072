"""label_conditioned_activation and resized_activation: values, errors, gradients, memory."""

import pytest
import torch
from op_testing import each_device, threads

from wsss_fast import _native
from wsss_fast.ops import (
    _library,
    label_conditioned_activation,
    label_conditioned_logits,
    reference,
)
from wsss_fast.ops.resized_activation import ACTIVATIONS, resized_activation

each_activation = pytest.mark.parametrize("activation", ACTIVATIONS)

# name: shape of the logits, size of the result
CASES = {
    "twofold": ((2, 4, 9, 11), (18, 22)),
    "odd_factor": ((1, 21, 5, 7), (83, 70)),  # more rows than one task processes
    "same_size": ((2, 3, 6, 5), (6, 5)),
    "smaller": ((1, 3, 13, 17), (4, 5)),
    "one_class": ((1, 1, 3, 4), (7, 9)),
    "coco": ((1, 81, 4, 4), (9, 65)),
    "one_pixel": ((2, 2, 1, 1), (3, 5)),
    "to_one_pixel": ((1, 2, 5, 4), (1, 1)),
    "empty_batch": ((0, 3, 4, 4), (8, 8)),
}
each_case = pytest.mark.parametrize("name", CASES)
# Absolute, since results are <= 1: about one rounding. In float64 the reference is not exact: like
# the kernel it has the rounding of logits near 10, 2e-15 (compared with long double on odd_factor,
# the two are off by 1.4e-15 and 1.5e-15).
ROUNDING = {torch.float64: 5e-15, torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def make(name, dtype=torch.float64, device="cpu"):
    shape, size = CASES[name]
    logits = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return logits.to(device=device, dtype=dtype), size


@each_device
@each_case
@each_activation
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_error_is_at_most_twice_eagers(name, activation, dtype, device):
    logits, size = make(name, dtype, device)
    truth = reference.resized_activation(logits.double(), size, activation)
    eager = reference.resized_activation(logits, size, activation)
    ours = resized_activation(logits, size, activation)
    assert ours.dtype == dtype and ours.shape == truth.shape
    if truth.numel():
        allowed = 2 * (eager.double() - truth).abs().max() + ROUNDING[dtype]
        assert (ours.double() - truth).abs().max() <= allowed


@each_activation
def test_any_number_of_threads_gives_the_same_bits(activation):
    logits, size = make("odd_factor", torch.float32)
    found = []
    for count in (1, 2, 3, 3):
        with threads(count):
            found.append(resized_activation(logits, size, activation))
    assert all(torch.equal(found[0], other) for other in found[1:])


@each_device
@each_activation
def test_large_logits(activation, device):
    """Far beyond exp's range, as in PyTorch; a NaN stays in its pixel."""
    logits = (
        torch.tensor([300.0, -300.0, 0.0, 80.0], device=device).view(1, 4, 1, 1).repeat(1, 1, 2, 3)
    )
    logits[0, 1, 0, 0] = float("nan")
    logits[0, 2, 1, 1] = float("inf")
    logits[0, 0, 1, 2] = float("-inf")  # of the first label: the others share the pixel
    torch.testing.assert_close(
        resized_activation(logits, (2, 3), activation),
        reference.resized_activation(logits, (2, 3), activation),
        equal_nan=True,
    )


@each_device
@each_activation
def test_layouts(activation, device):
    logits, size = make("twofold", torch.float32, device)
    expected = resized_activation(logits, size, activation)
    last = logits.to(memory_format=torch.channels_last)
    assert torch.equal(resized_activation(last, size, activation), expected)
    assert torch.equal(
        resized_activation(logits.repeat_interleave(2, dim=3)[..., ::2], size, activation), expected
    )


@each_device
@each_activation
@pytest.mark.parametrize(
    "name", [name for name in CASES if name not in ("empty_batch", "odd_factor", "coco")]
)
def test_gradients(name, activation, device):
    logits, size = make(name, device=device)
    assert torch.autograd.gradcheck(
        lambda z: resized_activation(z, size, activation), logits.requires_grad_()
    )


@each_device
@each_case
@each_activation
def test_opcheck(name, activation, device):
    logits, size = make(name, torch.float32, device)
    op = torch.ops.wsss_fast.resized_activation.default
    torch.library.opcheck(op, (logits.requires_grad_(), list(size), activation == "softmax"))


@each_device
@each_activation
@pytest.mark.parametrize("name", ["twofold", "odd_factor", "smaller"])
def test_gradients_repeat_to_the_bit_and_are_pytorchs(name, activation, device):
    logits, size = make(name, torch.float32, device)
    weight = torch.rand(*logits.shape[:2], *size, generator=torch.Generator().manual_seed(1)).to(
        device
    )

    def gradient(function, dtype):
        leaf = logits.to(dtype).requires_grad_()
        return torch.autograd.grad(
            (function(leaf, size, activation) * weight.to(dtype)).sum(), leaf
        )[0]

    first = gradient(resized_activation, torch.float32)
    assert all(torch.equal(gradient(resized_activation, torch.float32), first) for _ in range(3))
    exact = gradient(reference.resized_activation, torch.float64)
    assert (first.double() - exact).abs().max() <= 1e-5 * exact.abs().max()


HEAD = ((2, 5, 9, 11), (2, 5), (3, 4, 5, 3, 3), (3, 4))
DILATIONS = (1, 2, 4)


def head(dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(s, generator=generator, dtype=torch.float64).to(device=device, dtype=dtype)
        for s in HEAD
    ]


@each_device
@each_activation
@pytest.mark.parametrize("size", [None, (18, 30)])
@pytest.mark.parametrize("classes", [None, [3, 0]])
def test_is_logits_then_activation(activation, size, classes, device):
    tensors = head(device=device)
    classes = None if classes is None else torch.tensor(classes, device=device)
    options = {"size": size, "classes": classes, "activation": activation}
    ours = label_conditioned_activation(*tensors, DILATIONS, **options)
    assert ours.shape == (2, 4 if classes is None else 2, *(size or (9, 11)))
    torch.testing.assert_close(
        ours, reference.label_conditioned_activation(*tensors, DILATIONS, **options)
    )
    logits = label_conditioned_logits(*tensors, DILATIONS, classes=classes)
    if size is not None:
        logits = torch.nn.functional.interpolate(logits, size, mode="bilinear")
    torch.testing.assert_close(
        ours, logits.softmax(1) if activation == "softmax" else logits.sigmoid()
    )


@each_device
def test_compiles_whole(device):
    tensors = [t.requires_grad_() for t in head(torch.float32, device)]

    def call(*tensors):
        return label_conditioned_activation(*tensors, DILATIONS, size=(18, 30))

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), call(*tensors))
    compiled(*tensors).square().sum().backward()
    assert all(t.grad is not None for t in tensors)


def test_only_the_result_is_as_large_as_the_result():
    if not _native.load():
        pytest.skip("native library not available")
    assert _library.has_native_kernel("resized_activation", torch.device("cpu"))
    tensors = head(torch.float32)
    with torch.profiler.profile(profile_memory=True) as profile:
        result = label_conditioned_activation(*tensors, DILATIONS, size=(300, 300))
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profile.events())
    assert result.nbytes <= allocated <= result.nbytes + 100_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "tanh"}, "activation is 'tanh'"),
        ({"size": (0, 4)}, "size is"),
        ({"size": (4, 4, 4)}, "size is"),
        ({"size": (4.5, 4)}, r"size is \(4.5, 4\); must be \(H, W\), both integers >= 1"),
        ({"size": 7}, "size is 7"),
        ({"classes": torch.zeros(1)}, "classes is torch.float32"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=f"^label_conditioned_activation: {message}"):
        label_conditioned_activation(*head(), DILATIONS, **options)
