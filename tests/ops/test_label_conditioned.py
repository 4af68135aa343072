"""label_conditioned_logits: values by a loop over taps, errors, gradients, wrong input."""

import pytest
import torch
from head_inputs import CASES, LARGE, ORDERS, make, step
from op_testing import each_device, threads, wrong_values

from wsss_fast import _native
from wsss_fast.nets import amn_resnet50
from wsss_fast.ops import (
    _library,
    label_conditioned_activation,
    label_conditioned_logits,
    reference,
)

each_case = pytest.mark.parametrize("name", CASES)


def by_taps(features, scale, weight, bias, dilations):
    """The definition, one tap at a time."""
    b, _, h, w = features.shape
    out = torch.zeros(b, weight.shape[1], h, w, dtype=features.dtype)
    out += bias.sum(0)[None, :, None, None]
    scaled = features if scale is None else features * scale[:, :, None, None]
    reach = weight.shape[-1] // 2
    for r, dilation in enumerate(dilations):
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                for y in range(h):
                    for x in range(w):
                        sy, sx = y + dy * dilation, x + dx * dilation
                        if 0 <= sy < h and 0 <= sx < w:
                            out[:, :, y, x] += (
                                scaled[:, :, sy, sx] @ weight[r, :, :, dy + reach, dx + reach].T
                            )
    return out


@each_device
@each_case
def test_values(name, device):
    expected = by_taps(*make(CASES[name]))
    torch.testing.assert_close(
        label_conditioned_logits(*make(CASES[name], device=device)).cpu(), expected
    )


@each_device
@each_case
def test_gradients(name, device):
    tensors = make(CASES[name], device=device, requires_grad=True)
    if name == "empty_batch":
        label_conditioned_logits(*tensors).sum().backward()
        assert all((t.grad == 0).all() and t.grad.shape == t.shape for t in tensors[:-1])
        return
    given = [t for t in tensors[:-1] if t is not None]

    def function(*given):
        given = iter(given)
        return label_conditioned_logits(
            *(None if t is None else next(given) for t in tensors[:-1]), tensors[-1]
        )

    assert torch.autograd.gradcheck(function, given)


@each_device
@each_case
def test_opcheck(name, device):
    args = make(CASES[name], torch.float32, device, requires_grad=True)
    torch.library.opcheck(
        torch.ops.wsss_fast.label_conditioned_logits.default, (*args[:-1], list(args[-1]))
    )


@each_device
@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("name", ["amn", "deeplab"])
def test_opcheck_backward(name, order, needs, device):
    *tensors, dilations = make(CASES[name], torch.float32, device)
    tensors[0] = tensors[0].to(memory_format=order)
    grad = torch.ones_like(label_conditioned_logits(*tensors, dilations))
    backward = torch.ops.wsss_fast.label_conditioned_logits_backward.default
    torch.library.opcheck(backward, (grad, *tensors, list(dilations), *needs))


@each_device
@pytest.mark.parametrize("wanted", [0, 1, 2, 3])
def test_gradient_of_one_argument(wanted, device):
    """Tensors that need no gradient get none, and the other gradients do not change."""
    *tensors, dilations = make(CASES["amn"], device=device)
    upstream = torch.ones_like(label_conditioned_logits(*tensors, dilations))
    every = step(label_conditioned_logits, tensors, dilations, upstream)[1:]
    tensors[wanted].requires_grad_()
    label_conditioned_logits(*tensors, dilations).backward(upstream)
    torch.testing.assert_close(tensors[wanted].grad, every[wanted])
    assert all(t.grad is None for i, t in enumerate(tensors) if i != wanted)


@each_device
def test_a_training_step_compiles_whole(device):
    """Forward, loss and backward of the head between two layers, in one graph."""
    *tensors, dilations = make(CASES["amn"], torch.float32, device)

    def loss(features, scale, weight, bias):
        logits = label_conditioned_logits(features.relu(), scale + 1, weight, bias, dilations)
        return torch.nn.functional.cross_entropy(
            logits, torch.zeros_like(logits[:, 0], dtype=torch.int64)
        )

    def gradients(function):
        leaves = [t.clone().requires_grad_() for t in tensors]
        value = function(*leaves)
        value.backward()
        return [value.detach(), *(t.grad for t in leaves)]

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled), gradients(loss))


@each_device
def test_autocast_compiles_whole(device):
    """One compiled function, called with and without autocast, and on "meta", which has none."""
    features, scale, weight, bias, dilations = make(CASES["amn"], torch.float32, device)
    compiled = torch.compile(label_conditioned_logits, fullgraph=True, backend="aot_eager")
    with torch.autocast(device, torch.bfloat16):
        expected = label_conditioned_logits(features, scale, weight, bias, dilations)
        found = compiled(features, scale, weight, bias, dilations)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)
    assert compiled(features, scale, weight, bias, dilations).dtype == torch.float32
    meta = [t.to("meta") for t in (features, scale, weight, bias)]
    with torch.autocast(device, torch.bfloat16):
        for function in (compiled, label_conditioned_logits):
            assert function(*meta, dilations).dtype == torch.float32


@each_device
def test_layouts_and_present_classes(device):
    features, scale, weight, bias, dilations = make(CASES["amn"], device=device)
    expected = label_conditioned_logits(features, scale, weight, bias, dilations)
    last = features.to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        label_conditioned_logits(last, scale, weight, bias, dilations), expected
    )
    strided = features.repeat_interleave(2, dim=3)[..., ::2]
    turned = weight.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0)
    torch.testing.assert_close(
        label_conditioned_logits(strided, scale.T.contiguous().T, turned, bias, dilations), expected
    )
    classes = torch.tensor([3, 0], device=device)
    torch.testing.assert_close(
        label_conditioned_logits(features, scale, weight, bias, dilations, classes=classes),
        expected[:, classes],
    )
    torch.testing.assert_close(
        reference.label_conditioned_logits(
            features, scale, weight, bias, dilations, classes=classes
        ),
        expected[:, classes],
    )


@each_device
def test_gradients_of_other_layouts(device):
    """A channels-last map, whose gradient has its order, and the strided gradient of a sum."""
    *tensors, dilations = make(CASES["amn"], device=device)
    expected = step(label_conditioned_logits, tensors, dilations, torch.ones(2, 4, 9, 11))
    assert expected[1].is_contiguous()
    tensors[0] = tensors[0].to(memory_format=torch.channels_last)
    for function in (label_conditioned_logits, reference.label_conditioned_logits):
        found = step(function, tensors, dilations, torch.ones(1).expand(2, 4, 9, 11))
        torch.testing.assert_close(found, expected)
        assert found[1].is_contiguous(memory_format=torch.channels_last)


@each_device
def test_autocast_computes_in_bf16(device):
    features, scale, weight, bias, dilations = make(
        CASES["amn"], torch.float32, device, requires_grad=True
    )
    with torch.autocast(device, torch.bfloat16):
        out = label_conditioned_logits(features, scale, weight, bias, dilations)
    assert out.dtype == torch.bfloat16
    exact = label_conditioned_logits(features, scale, weight, bias, dilations)
    torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.3)
    out.float().sum().backward()
    assert features.grad.dtype == torch.float32 and weight.grad.dtype == torch.float32


@each_device
def test_repeatable_to_the_bit(device):
    *tensors, dilations = make(LARGE["coco"], torch.float32, device)
    upstream = torch.ones(2, 81, 20, 24)
    first, second = (step(label_conditioned_logits, tensors, dilations, upstream) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ["amn", "deeplab", "summed_plain_heads", "coco"])
def test_any_number_of_threads(name):
    """Small maps are shared out by images: equal up to rounding, to the bit at a fixed number."""
    *tensors, dilations = make(((5, *CASES[name][0][1:]), *CASES[name][1:]))
    upstream = torch.randn_like(label_conditioned_logits(*tensors, dilations))
    expected = step(label_conditioned_logits, tensors, dilations, upstream)
    for count in (1, 2, 3, 8):
        with threads(count):
            first, second = (
                step(label_conditioned_logits, tensors, dilations, upstream) for _ in range(2)
            )
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        torch.testing.assert_close(first, expected)


def test_the_amn_head_is_this_op():
    net = amn_resnet50(3, backbone="small").eval()
    images, labels = torch.rand(2, 3, 64, 64), torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    with torch.no_grad(), torch.profiler.profile() as profile:
        out = net(images, labels)
        expected = reference.label_conditioned_logits(
            net.backbone(images), net.label_scale(labels), net.weight, net.bias, net.dilations
        )
    assert "wsss_fast::label_conditioned_logits" in {event.key for event in profile.key_averages()}
    torch.testing.assert_close(out, expected)


def test_the_native_kernel_is_used_where_it_can_be_built():
    if not _native.load():
        pytest.skip("native library not available")
    for name in ("label_conditioned_logits", "label_conditioned_logits_backward"):
        assert _library.has_native_kernel(name, torch.device("cpu"))


def arguments():
    names = ("features", "scale", "weight", "bias", "dilations")
    return dict(zip(names, make(CASES["amn"], torch.float32), strict=True))


@pytest.mark.parametrize("op", [label_conditioned_logits, label_conditioned_activation])
@pytest.mark.parametrize(("name", "value"), wrong_values(arguments(), optional=("scale",)))
def test_wrong_arguments_of_any_kind(op, name, value):
    with pytest.raises(ValueError, match=f"^{op.__name__}: .*{name}"):
        op(**{**arguments(), name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(2, 6, 9, 11)}, "C must match"),
        ({"features": torch.zeros(2, 5, 0, 11)}, "h and w >= 1"),
        ({"features": torch.zeros(2, 5, 9, 11, dtype=torch.int32)}, "features is torch.int32"),
        ({"scale": torch.zeros(2, 4)}, r"scale is \[2, 4\]; must be \[B, C\]"),
        ({"scale": torch.zeros(2, 5, dtype=torch.float64)}, "scale is torch.float64"),
        ({"scale": torch.zeros(2, 5, device="meta")}, "features is on cpu but scale is on meta"),
        ({"weight": torch.zeros(3, 4, 5, 2, 2)}, "k = 1 or 3"),
        ({"weight": torch.zeros(3, 0, 5, 3, 3)}, "R, K and C >= 1"),
        ({"weight": torch.zeros(3, 4, 5, 3, 3, dtype=torch.float16)}, "weight is torch.float16"),
        ({"bias": torch.zeros(2, 4)}, r"bias is \[2, 4\]; must be \[R, K\]"),
        ({"dilations": (1, 2)}, r"dilations is \(1, 2\); must be R=3 integers >= 1"),
        ({"dilations": (1, 2, 0)}, "dilations is"),
        ({"dilations": (1, 2, 0.5)}, "dilations is"),
        ({"classes": torch.tensor([0.5])}, "classes is torch.float32"),
        ({"classes": torch.tensor([[0]])}, r"classes is torch.int64 \[1, 1\]; must be int64 \[P\]"),
        ({"classes": torch.tensor([4])}, r"classes is in 4\.\.4; must be in 0\.\.3"),
        ({"classes": torch.tensor([-1])}, r"classes is in -1\.\.-1"),
        ({"classes": torch.zeros(0, dtype=torch.int64)}, "P >= 1"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=f"^label_conditioned_logits: .*{message}"):
        label_conditioned_logits(**{**arguments(), **change})
