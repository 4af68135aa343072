"""Calls that bypass torch's autograd kernels give what the dispatcher gives, and no less."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from wsss_fast import ops
from wsss_fast.ops import _library

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 3, 4, 5, generator=GENERATOR)
LABELS = torch.randint(0, 3, (2, 4, 5), generator=GENERATOR)
MAP = torch.rand(2, 4, 5, generator=GENERATOR)
PRESENT = torch.tensor([[1, 0], [1, 1]])
HEAD = (None, torch.randn(1, 2, 3, 3, 3, generator=GENERATOR), torch.zeros(1, 2), [1])

LOSSES = {
    "pixel_cross_entropy": lambda x: ops.pixel_cross_entropy(x, LABELS),
    "pixel_bce": lambda x: ops.pixel_bce(x, LABELS),
    "saliency_loss": lambda x: ops.saliency_loss(x, MAP, PRESENT).loss,
    "aamr_loss": lambda x: ops.aamr_loss(x, MAP, MAP),
}
OPS = {**LOSSES, "head": lambda x: ops.label_conditioned_logits(x, *HEAD).square().mean()}


def through_dispatcher(call, logits):
    """The op's result and gradient by torch's autograd kernel, which a mode makes `call` use."""

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    x = logits.clone().requires_grad_()
    with Mode():
        value = call(x)
    assert "GeneratedBackwardFor_wsss_fast" in str(_nodes(value.grad_fn))
    return value.detach(), *torch.autograd.grad(value, x)


def _nodes(node):
    return [node.name(), *(name for n, _ in node.next_functions if n for name in _nodes(n))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_a_direct_call_equals_the_dispatcher(name, dtype):
    logits = LOGITS.to(dtype)
    value, gradient = through_dispatcher(LOSSES[name], logits)
    for scale in (1.0, 0.5, 65536.0):
        x = logits.clone().requires_grad_()
        loss = LOSSES[name](x)
        (loss * scale).backward()
        assert torch.equal(loss.detach(), value)
        assert x.grad.dtype == dtype
        widened = torch.float32 if dtype.itemsize == 2 else dtype
        limits = torch.finfo(dtype)
        rounding, smallest = (0, 0) if scale == 1 else (limits.eps, limits.smallest_normal)
        torch.testing.assert_close(
            x.grad.to(widened),
            gradient.to(widened) * scale,
            rtol=rounding,
            atol=scale * rounding * smallest,
        )


@pytest.mark.parametrize("name", OPS)
def test_backward_is_repeated(name):
    """Neither another backward nor the user's changes of .grad may reach the saved gradient."""
    _, expected = through_dispatcher(OPS[name], LOGITS)
    x = LOGITS.clone().requires_grad_()
    loss = OPS[name](x)
    for times in (1, 2, 3):
        loss.backward(retain_graph=True)
        torch.testing.assert_close(x.grad, times * expected)
    x.grad.zero_()
    (3 * loss).backward(retain_graph=True)
    torch.testing.assert_close(x.grad, 3 * expected)
    x.grad = None
    (2 * loss).backward()
    torch.testing.assert_close(x.grad, 2 * expected)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_not_copied(name):
    saved = []

    def note(tensor):
        saved.append(tensor.data_ptr())
        return tensor

    x = LOGITS.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = LOSSES[name](x)
    gradient = saved.pop()
    (2 * loss).backward()
    assert x.grad.data_ptr() == gradient


def test_a_batch_of_gradients():
    x = LOGITS.clone().requires_grad_()
    by = torch.tensor([1.0, 3.0])
    for name, call in LOSSES.items():
        (found,) = torch.autograd.grad(call(x), x, by, is_grads_batched=True)
        expected = through_dispatcher(call, LOGITS)[1]
        torch.testing.assert_close(found, torch.stack([expected, 3 * expected]), msg=name)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", OPS)
def test_checkpoints_and_hooks(name, reentrant):
    _, expected = through_dispatcher(OPS[name], LOGITS)
    x = LOGITS.clone().requires_grad_()
    checkpoint(OPS[name], x, use_reentrant=reentrant).backward()
    torch.testing.assert_close(x.grad, expected)
    x.grad = None
    with torch.autograd.graph.save_on_cpu():
        loss = OPS[name](x)
    (2 * loss).backward()
    torch.testing.assert_close(x.grad, 2 * expected)


@pytest.mark.parametrize("name", OPS)
def test_a_torch_without_the_private_functions(name, monkeypatch):
    x = LOGITS.clone().requires_grad_()
    expected = torch.autograd.grad(OPS[name](x), x)
    assert not _library._has_all(("_is_tracing", "_autograd._not_there"))
    monkeypatch.setattr(_library, "_CALLS_DIRECTLY", False)
    value = OPS[name](x)
    assert "GeneratedBackwardFor_wsss_fast" in str(_nodes(value.grad_fn))
    assert torch.equal(torch.autograd.grad(value, x)[0], expected[0])


@pytest.mark.parametrize("name", ["pixel_cross_entropy", "pixel_bce", "head"])
def test_modes_see_the_op(name):
    def value_and_gradient(x):
        x = x.detach().requires_grad_()
        loss = OPS[name](x)
        return loss.detach(), *torch.autograd.grad(loss, x)

    graph = make_fx(value_and_gradient)(LOGITS)
    assert any("wsss_fast" in str(node.target) for node in graph.graph.nodes)
    other = 2 * LOGITS
    for found, expected in zip(graph(other), value_and_gradient(other), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["pixel_cross_entropy", "saliency_loss", "head"])
def test_fake_tensors(name):
    def fake(mode):
        x = mode.from_tensor(LOGITS).requires_grad_()
        closed = [mode.from_tensor(t) for t in (LABELS, MAP, PRESENT, *HEAD[1:3])]
        labels, saliency, present, weight, bias = closed
        loss = {
            "pixel_cross_entropy": lambda: ops.pixel_cross_entropy(x, labels),
            "saliency_loss": lambda: ops.saliency_loss(x, saliency, present).loss,
            "head": lambda: ops.label_conditioned_logits(x, None, weight, bias, [1]).sum(),
        }[name]
        return x, loss

    with FakeTensorMode() as mode:
        x, loss = fake(mode)
        loss().backward()
        assert x.grad.shape == x.shape
    x, loss = fake(FakeTensorMode())  # outside of the mode, only the type tells
    loss().backward()
    assert x.grad.shape == x.shape


def test_subclasses_keep_their_type():
    class Tagged(torch.Tensor):
        pass

    found = ops.random_walk(MAP.as_subclass(Tagged), MAP[0], steps=1)
    torch.testing.assert_close(
        found.as_subclass(torch.Tensor), ops.random_walk(MAP, MAP[0], steps=1)
    )
    x = LOGITS.clone().requires_grad_().as_subclass(Tagged)
    x.retain_grad()
    ops.pixel_cross_entropy(x, LABELS).backward()
    expected = through_dispatcher(LOSSES["pixel_cross_entropy"], LOGITS)[1]
    torch.testing.assert_close(x.grad.as_subclass(torch.Tensor), expected)


def test_inference_mode_and_no_grad():
    x = LOGITS.clone().requires_grad_()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            for name, call in OPS.items():
                assert not call(x).requires_grad, name


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_without_influence(name):
    """Something behind the loss may pass no gradient on."""

    class Stop(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, by):
            return None

    x = LOGITS.clone().requires_grad_()
    Stop.apply(LOSSES[name](x)).backward()
    assert x.grad is None


def test_large_results():
    """Results from 4 MiB on are allocated differently."""
    logits = torch.randn(1, 3, 700, 701, generator=GENERATOR, requires_grad=True)
    labels = torch.randint(0, 3, (1, 700, 701), generator=GENERATOR)
    ops.pixel_cross_entropy(logits, labels).backward()
    found, logits.grad = logits.grad, None
    ops.reference.pixel_cross_entropy(logits, labels).backward()
    torch.testing.assert_close(found, logits.grad, rtol=1e-4, atol=1e-9)
