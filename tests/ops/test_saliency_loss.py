"""saliency_loss against a loop over pixels; gradients, strategies, layouts, threads, errors."""

import pytest
import torch
from op_testing import each_device, threads, wrong_values
from torch._subclasses.fake_tensor import FakeTensorMode

from wsss_fast import _native
from wsss_fast.ops import _library, reference, saliency_loss

# name: logits shape, saliency size, options
CASES = {
    "eps": ((2, 21, 14, 14), (112, 112), {}),
    "coco": ((1, 81, 9, 11), (36, 44), {"tau": 0.5, "lam": 0.9}),
    "odd": ((3, 5, 13, 17), (97, 29), {"tau": 0.1}),
    "naive": ((2, 4, 7, 5), (7, 5), {"strategy": "naive", "lam": 0.3}),
    "predefined": ((2, 6, 8, 9), (16, 9), {"strategy": "predefined", "background_classes": (1, 4)}),
    "row": ((2, 4, 1, 40), (3, 11), {}),
    "pixel": ((1, 3, 1, 1), (5, 5), {}),
    "one_class": ((2, 2, 6, 6), (6, 6), {}),
    "only_background": ((2, 1, 6, 6), (6, 6), {}),
    "large": ((2, 3, 70, 90), (140, 45), {}),  # several tasks for each image
}
each_case = pytest.mark.parametrize("name", CASES)


def inputs(name, dtype=torch.float64, device="cpu"):
    """Confident blobs, so that classes win pixels and some of them agree with the saliency."""
    shape, size, options = CASES[name]
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randn(shape[0], shape[1], 3, 3, generator=generator, dtype=torch.float64)
    logits = 6 * torch.nn.functional.interpolate(coarse, shape[2:], mode="bilinear")
    saliency = torch.sigmoid(
        8 * torch.nn.functional.interpolate(coarse[:, -1:], size, mode="bilinear")
    )
    labels = (torch.rand(shape[0], shape[1] - 1, generator=generator) < 0.6).long()
    return (
        logits.to(device, dtype).requires_grad_(),
        saliency.to(device, dtype),
        labels.to(device),
        options,
    )


def by_loop(logits, saliency, labels, tau=0.4, lam=0.5, strategy="adaptive", background_classes=()):
    """EPS pixel by pixel and class by class: loss, foreground, background, estimate."""
    (batch, channels, height, width), (rows, columns) = logits.shape, saliency.shape[-2:]
    maps = torch.zeros(3, batch, 1, height, width, dtype=logits.dtype)
    total = torch.zeros((), dtype=logits.dtype)
    for b in range(batch):
        p = logits[b].softmax(0)
        cells = [
            [(y * rows // height, x * columns // width) for x in range(width)]
            for y in range(height)
        ]
        salient = torch.stack(
            [torch.stack([saliency[b, 0, y, x] for y, x in row]) for row in cells]
        )
        foreground, background = torch.zeros_like(salient), p[0].clone()
        for k in range(1, channels):
            if not labels[b, k - 1]:
                continue
            wins = (p[k] > 0.5).double()
            ratio = float((wins * (salient > 0.5)).sum() / (wins + 1e-4).sum())
            if strategy == "naive" or (
                ratio > tau if strategy == "adaptive" else k not in background_classes
            ):
                foreground = foreground + p[k]
            else:
                background = background + p[k]
        estimate = lam * foreground + (1 - lam) * (1 - background)
        total = total + ((estimate - salient) ** 2).sum()
        maps[:, b, 0] = torch.stack([foreground, background, estimate]).detach()
    return total / (batch * height * width), *maps


@each_case
def test_values_and_gradients(name):
    logits, saliency, labels, options = inputs(name)
    expected = by_loop(logits, saliency, labels, **options)
    (wanted,) = torch.autograd.grad(expected[0], logits)
    for loss in (saliency_loss, reference.saliency_loss):
        found = loss(logits, saliency, labels, **options)
        for got, want in zip(found, expected, strict=True):
            torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(3 * found.loss, logits)[0], 3 * wanted)


def test_the_strategies_differ_on_the_cases():
    logits, saliency, labels, _ = inputs("eps")
    found = {
        saliency_loss(logits, saliency, labels, strategy=s, tau=t).loss.item()
        for s, t in (("adaptive", 0.0), ("adaptive", 0.5), ("adaptive", 1.0), ("naive", 0.4))
    }
    assert len(found) >= 3


@each_device
@each_case
def test_float32_is_as_close_as_eager(name, device):
    exact = inputs(name, torch.float64, device)
    logits, saliency, labels, options = inputs(name, torch.float32, device)
    want = reference.saliency_loss(*exact[:3], **options)
    eager = reference.saliency_loss(logits, saliency, labels, **options)
    ours = saliency_loss(logits, saliency, labels, **options)
    grads = [
        torch.autograd.grad(out.loss, x)[0]
        for out, x in ((want, exact[0]), (eager, logits), (ours, logits))
    ]
    for w, e, o in (*zip(want, eager, ours, strict=True), grads):
        rounding = 4e-7 * max(w.abs().max().item(), 1e-3)
        assert (o - w).abs().max() <= 2 * (e - w).abs().max() + rounding


@each_case
def test_gradcheck(name):
    # "large" would need 38 thousand evaluations.
    logits, saliency, labels, options = inputs("pixel" if name == "large" else name)
    logits = logits[:, :, :4, :5].detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: saliency_loss(x, saliency, labels, **options).loss, logits
    )


def test_the_native_kernel_is_used_where_it_can_be_built():
    if not _native.load():
        pytest.skip("no native library here")
    assert _library.has_native_kernel("saliency_loss", torch.device("cpu"))


def test_any_number_of_threads_gives_the_same_bits():
    if not _library.has_native_kernel("saliency_loss", torch.device("cpu")):
        pytest.skip("native library not available")
    logits, saliency, labels, options = inputs("large", torch.float32)
    found = []
    for count in (1, 2, 3, 3):
        with threads(count):
            out = saliency_loss(logits, saliency, labels, **options)
            found.append([*out, torch.autograd.grad(out.loss, logits)[0]])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("layout", ["channels_last", "strided", "expanded"])
def test_layouts(layout):
    logits, saliency, labels, options = inputs("odd", torch.float32)
    expected = saliency_loss(logits, saliency, labels, **options)
    if layout == "channels_last":
        given = logits.detach().to(memory_format=torch.channels_last), saliency
    elif layout == "strided":
        given = (
            logits.detach().transpose(2, 3).contiguous().transpose(2, 3),
            saliency.repeat_interleave(2, 3)[..., ::2],
        )
    else:
        given = logits.detach(), saliency[:, 0]
    x = given[0].requires_grad_()
    found = saliency_loss(x, given[1], labels.bool(), **options)
    assert found.estimate.dim() == given[1].dim()
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got.reshape(want.shape), want, rtol=0, atol=0)
    assert torch.equal(
        torch.autograd.grad(found.loss, x)[0], torch.autograd.grad(expected.loss, logits)[0]
    )


def test_edges():
    logits, saliency, labels, _ = inputs("eps", torch.float32)
    nothing = saliency_loss(logits, saliency, torch.zeros_like(labels))
    assert nothing.foreground.abs().max() == 0
    torch.testing.assert_close(nothing.background[:, 0], logits.softmax(1)[:, 0])
    everything = saliency_loss(logits, saliency, torch.ones_like(labels), strategy="naive")
    torch.testing.assert_close(everything.foreground, 1 - everything.background)
    # No overlap: all present classes are background.
    black = saliency_loss(logits, torch.zeros_like(saliency), labels)
    assert black.foreground.abs().max() == 0
    empty = saliency_loss(
        torch.zeros(0, 3, 4, 4, requires_grad=True), torch.zeros(0, 1, 8, 8), torch.zeros(0, 2)
    )
    assert empty.loss == 0 and empty.estimate.shape == (0, 1, 4, 4)
    with torch.no_grad():
        assert not saliency_loss(logits, saliency, labels).loss.requires_grad
    nan = logits.detach().clone()
    nan[0, 3, 5, 5] = torch.nan
    assert saliency_loss(nan, saliency, labels).loss.isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    logits, saliency, labels, options = inputs("eps", torch.float32)
    half = logits.detach().to(dtype).requires_grad_()
    out = saliency_loss(half, saliency, labels, **options)
    out.loss.backward()
    assert out.loss.dtype == torch.float32 and half.grad.dtype == dtype
    torch.testing.assert_close(
        out.loss, saliency_loss(half.detach().float(), saliency, labels, **options).loss
    )


def test_fake_tensors():
    with FakeTensorMode():
        out = saliency_loss(torch.rand(2, 4, 5, 6), torch.rand(2, 1, 10, 12), torch.ones(2, 3))
    assert out.loss.shape == () and {m.shape for m in out[1:]} == {(2, 1, 5, 6)}


@each_device
@pytest.mark.parametrize("name", ["eps", "predefined", "only_background"])
def test_opcheck(name, device):
    logits, saliency, labels, options = inputs(name, torch.float32, device)
    args = (
        logits,
        saliency[:, 0].contiguous(),
        (labels != 0).to(torch.uint8),
        0.4,
        0.5,
        options.get("strategy", "adaptive") == "adaptive",
        list(options.get("background_classes", ())),
    )
    torch.library.opcheck(torch.ops.wsss_fast.saliency_loss.default, args)


def test_compiles_whole():
    logits, saliency, labels, options = inputs("eps", torch.float32)
    compiled = torch.compile(
        lambda *given: saliency_loss(*given, **options).loss, fullgraph=True, backend="aot_eager"
    )
    loss = compiled(logits, saliency, labels)
    loss.backward()
    expected = saliency_loss(logits, saliency, labels, **options).loss
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(logits.grad, torch.autograd.grad(expected, logits)[0])


ARGUMENTS = {
    "logits": torch.zeros(1, 4, 3, 3),
    "saliency": torch.zeros(1, 1, 6, 6),
    "labels": torch.zeros(1, 3),
    "tau": 0.4,
    "lam": 0.5,
    "strategy": "adaptive",
    "background_classes": (),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [p for p in wrong_values(ARGUMENTS) if p.id not in ("labels-float8", "labels-complex")],
)
def test_wrong_arguments_of_any_kind(name, value):
    with pytest.raises(ValueError, match=f"^saliency_loss: .*{name}"):
        saliency_loss(**{**ARGUMENTS, name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(1, 4, 3, 3, dtype=torch.int64)}, "logits is torch.int64"),
        ({"saliency": torch.zeros(1, 2, 6, 6)}, r"saliency is .*\[1, 2, 6, 6\]"),
        ({"saliency": torch.zeros(2, 1, 6, 6)}, "B must match"),
        ({"saliency": torch.zeros(1, 1, 6, 6, dtype=torch.uint8)}, "saliency is torch.uint8"),
        (
            {"saliency": torch.full((1, 1, 6, 6), 1.5)},
            "saliency spans 1.5..1.5; must be within 0..1",
        ),
        ({"saliency": torch.full((1, 1, 6, 6), torch.nan)}, "saliency spans nan..nan"),
        ({"labels": torch.zeros(1, 4)}, r"labels is .*\[1, 4\]; must be \[1, 3\]"),
        ({"labels": torch.zeros(1, 3, device="meta")}, "labels is on meta"),
        ({"tau": -0.1}, r"tau is -0.1; must be a number in 0\.\.1"),
        ({"lam": 1.5}, "lam is 1.5"),
        ({"strategy": "both"}, "strategy is 'both'; must be one of"),
        ({"background_classes": (1,)}, "empty, unless strategy is 'predefined'"),
        (
            {"background_classes": (4,), "strategy": "predefined"},
            "background_classes holds 4; must be in 1..3",
        ),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=f"^saliency_loss: .*{message}"):
        saliency_loss(**{**ARGUMENTS, **change})
