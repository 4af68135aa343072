"""label_conditioned_logits: rounding, TF32, numbers that are not finite, many of everything."""

import sys

import pytest
import torch
from head_inputs import LARGE, ORDERS, ROUNDING, make, step
from op_testing import each_device

from wsss_fast.ops import label_conditioned_logits, reference


@each_device
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("name", LARGE)
def test_error_is_at_most_twice_eagers(name, order, dtype, device):
    """Against float64 on the same rounded inputs, in the maximum norm, logits and all gradients."""
    if dtype != torch.float32 and name not in ("amn", "small") and device == "cpu":
        pytest.skip("half precisions share the float32 kernel on the CPU; two cases are enough")
    *tensors, dilations = make(LARGE[name], dtype, device)
    tensors[0] = tensors[0].to(memory_format=order)
    generator = torch.Generator().manual_seed(1)
    shape = tensors[0].shape
    upstream = torch.randn(shape[0], tensors[2].shape[1], *shape[2:], generator=generator)
    upstream = upstream.to(dtype).to(device)
    exact = step(
        reference.label_conditioned_logits,
        [None if t is None else t.double() for t in tensors],
        dilations,
        upstream,
    )
    eager = step(reference.label_conditioned_logits, tensors, dilations, upstream)
    ours = step(label_conditioned_logits, tensors, dilations, upstream)
    for truth, theirs, mine in zip(exact, eager, ours, strict=True):
        assert mine.dtype == dtype
        allowed = 2 * (theirs.double() - truth).abs().max() + ROUNDING[dtype] * truth.abs().max()
        assert (mine.double() - truth).abs().max() <= allowed


@each_device
@pytest.mark.parametrize(
    "case",
    [
        ((2, 3, 4, 5), 256, 3, (1, 2), True),
        ((1000, 2, 1, 1), 3, 1, (1,), True),
        ((1000, 2, 2, 1), 2, 3, (1,), False),
        ((2, 3, 3, 3), 2, 3, (1,) * 40, True),  # more taps than a CUDA kernel has arguments
    ],
    ids=["256_classes", "1000_pixels", "1000_images", "40_branches"],
)
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_many(order, case, device):
    *tensors, dilations = make(case, device=device)
    tensors[0] = tensors[0].to(memory_format=order)
    upstream = torch.linspace(-1, 1, case[0][0] * case[1] * case[0][2] * case[0][3])
    upstream = upstream.reshape(case[0][0], case[1], *case[0][2:])
    expected = step(reference.label_conditioned_logits, tensors, dilations, upstream)
    torch.testing.assert_close(
        step(label_conditioned_logits, tensors, dilations, upstream), expected
    )


@each_device
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("tf32", [False, True])
def test_non_finite_features_stay_in_their_image(value, tf32, device):
    """Only the logits that a feature reaches, and the features' gradient of its image, change."""
    *tensors, dilations = make(LARGE["small"], torch.float32, device)
    ops, dilations = torch.ops.wsss_fast, list(dilations)
    grad = torch.ones(3, 5, 13, 15, device=device)

    def run():
        logits = ops.label_conditioned_logits(*tensors, dilations, tf32)
        backward = ops.label_conditioned_logits_backward
        return logits, *backward(grad, *tensors, dilations, True, True, tf32)

    logits, features, scale, _, bias = run()
    tensors[0][1, 7, 6, 7] = value
    logits_, features_, scale_, weight_, bias_ = run()
    for i in (0, 2):
        assert torch.equal(logits_[i], logits[i]) and torch.equal(features_[i], features[i])
        assert torch.equal(scale_[i], scale[i])
    assert torch.equal(logits_[1, :, 0, 0], logits[1, :, 0, 0])  # no tap reaches it from there
    assert not torch.equal(logits_[1, :, 6, 7], logits[1, :, 6, 7])
    assert torch.equal(bias_, bias)
    finite = torch.ones(72, dtype=torch.bool, device=device)
    finite[7] = False
    assert weight_[:, :, finite].isfinite().all() and logits_[0].isfinite().all()


@each_device
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_tf32(order, device):
    """Errors of factors that are rounded to 10 bits, in both passes; the same again to the bit."""
    *tensors, dilations = make(LARGE["small"], torch.float32, device)
    tensors[0] = tensors[0].to(memory_format=order)
    exact = step(
        reference.label_conditioned_logits,
        [t.double() for t in tensors],
        dilations,
        torch.ones(1).expand(3, 5, 13, 15),
    )
    ops = torch.ops.wsss_fast

    def run():
        logits = ops.label_conditioned_logits(*tensors, list(dilations), True)
        grad = torch.ones_like(logits)
        backward = ops.label_conditioned_logits_backward
        return logits, *backward(grad, *tensors, list(dilations), True, True, True)

    first, second = run(), run()
    for truth, one, other in zip(exact, first, second, strict=True):
        assert (one.double() - truth).abs().max() <= 2**-10 * truth.abs().max()
        assert torch.equal(one, other)


@pytest.fixture
def precisions():
    """torch's settings of float32 convolutions and products on a GPU, restored afterwards."""
    settings = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [setting.fp32_precision for setting in settings]
    yield settings
    for setting, precision in zip(settings, before, strict=True):
        setting.fp32_precision = precision


def test_tf32_follows_the_setting_of_convolutions(monkeypatch, precisions):
    use_tf32 = sys.modules[label_conditioned_logits.__module__]._convolutions_use_tf32
    convolutions, products = precisions
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    convolutions.fp32_precision, products.fp32_precision = "tf32", "ieee"
    compiled = torch.compile(lambda x: x + use_tf32(), fullgraph=True, backend="eager")
    assert use_tf32() and compiled(torch.zeros(1)) == 1
    products.fp32_precision = "tf32"
    assert not use_tf32()  # torch's own products do it
    convolutions.fp32_precision, products.fp32_precision = "ieee", "ieee"
    assert not use_tf32()
    convolutions.fp32_precision = "tf32"
    torch._C._set_cudnn_enabled(False)
    try:
        assert not use_tf32()
    finally:
        torch._C._set_cudnn_enabled(True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graph_replays_on_new_features():
    *tensors, dilations = make(LARGE["small"], torch.float32, "cuda")
    ops, dilations = torch.ops.wsss_fast, list(dilations)
    grad = torch.ones(3, 5, 13, 15, device="cuda")

    def run():
        logits = ops.label_conditioned_logits(*tensors, dilations, True)
        backward = ops.label_conditioned_logits_backward
        return logits, *backward(grad, *tensors, dilations, True, True, True)

    for _ in range(2):  # the libraries of matrix products initialise outside of the capture
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    tensors[0].mul_(-2).add_(1)
    graph.replay()
    assert all(map(torch.equal, captured, run()))
