"""label_conditioned_logits and _activation: values by a loop over taps, gradients, opcheck, compile, errors."""

import pytest
import torch

from wsss_fast.ops import label_conditioned_activation, label_conditioned_logits
from wsss_fast.ops.reference import label_conditioned_logits as reference

# name: (B, C, h, w), K, k, dilations, scaled
CASES = {
    "amn": ((2, 5, 9, 11), 4, 3, (1, 2, 4), True),
    "deeplab": ((1, 3, 8, 7), 21, 3, (6, 12, 18, 24), False),
    "plain_head": ((2, 4, 5, 5), 3, 1, (1,), False),
    "one_class_one_pixel": ((1, 1, 1, 1), 1, 3, (2,), True),
    "coco": ((1, 2, 6, 4), 81, 3, (1, 6), True),
    "empty_batch": ((0, 3, 4, 4), 2, 3, (1,), True),
}


def inputs(name, dtype=torch.float64, requires_grad=False):
    shape, num_labels, k, dilations, scaled = CASES[name]
    generator = torch.Generator().manual_seed(0)
    sizes = [shape, shape[:2], (len(dilations), num_labels, shape[1], k, k), (len(dilations), num_labels)]
    tensors = [torch.randn(size, generator=generator, dtype=dtype).requires_grad_(requires_grad) for size in sizes]
    if not scaled:
        tensors[1] = None
    return (*tensors, dilations)


def by_taps(features, scale, weight, bias, dilations):
    """The definition, one tap at a time."""
    b, _, h, w = features.shape
    out = torch.zeros(b, weight.shape[1], h, w, dtype=features.dtype) + bias.sum(0)[None, :, None, None]
    scaled = features if scale is None else features * scale[:, :, None, None]
    reach = weight.shape[-1] // 2
    for r, dilation in enumerate(dilations):
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                for y in range(h):
                    for x in range(w):
                        sy, sx = y + dy * dilation, x + dx * dilation
                        if 0 <= sy < h and 0 <= sx < w:
                            out[:, :, y, x] += scaled[:, :, sy, sx] @ weight[r, :, :, dy + reach, dx + reach].T
    return out


@pytest.mark.parametrize("name", CASES)
def test_values(name):
    torch.testing.assert_close(label_conditioned_logits(*inputs(name)), by_taps(*inputs(name)))


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    if name == "empty_batch":
        args = inputs(name, requires_grad=True)
        label_conditioned_logits(*args).sum().backward()
        assert (args[2].grad == 0).all()
        return
    tensors = inputs(name, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *t: label_conditioned_logits(*t, tensors[-1]), tensors[:-1])


@pytest.mark.parametrize("name", CASES)
def test_opcheck(name):
    args = inputs(name, torch.float32, requires_grad=True)
    torch.library.opcheck(torch.ops.wsss_fast.label_conditioned_logits.default, (*args[:-1], list(args[-1])))


def test_compiles_whole():
    args = inputs("amn", torch.float32, requires_grad=True)
    compiled = torch.compile(label_conditioned_logits, fullgraph=True, backend="aot_eager")
    out = compiled(*args)
    torch.testing.assert_close(out, label_conditioned_logits(*args))
    out.sum().backward()
    assert all(a.grad is not None for a in args[:-1])


def test_layouts_and_present_classes():
    features, scale, weight, bias, dilations = inputs("amn")
    expected = label_conditioned_logits(features, scale, weight, bias, dilations)
    last = features.to(memory_format=torch.channels_last)
    torch.testing.assert_close(label_conditioned_logits(last, scale, weight, bias, dilations), expected)
    strided = features.repeat_interleave(2, dim=3)[..., ::2]
    torch.testing.assert_close(label_conditioned_logits(strided, scale, weight, bias, dilations), expected)
    classes = torch.tensor([3, 0])
    torch.testing.assert_close(
        label_conditioned_logits(features, scale, weight, bias, dilations, classes=classes), expected[:, classes])
    torch.testing.assert_close(reference(features, scale, weight, bias, dilations, classes=classes), expected[:, classes])


def test_autocast_computes_in_bf16():
    features, scale, weight, bias, dilations = inputs("amn", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = label_conditioned_logits(features, scale, weight, bias, dilations)
    assert out.dtype == torch.bfloat16
    exact = label_conditioned_logits(features, scale, weight, bias, dilations)
    torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.3)


def test_activation():
    args = inputs("amn")
    logits = label_conditioned_logits(*args)
    torch.testing.assert_close(label_conditioned_activation(*args), logits.softmax(1))
    torch.testing.assert_close(label_conditioned_activation(*args, activation="sigmoid"), logits.sigmoid())
    large = label_conditioned_activation(*args, size=(18, 30))
    up = torch.nn.functional.interpolate(logits, (18, 30), mode="bilinear")
    torch.testing.assert_close(large, up.softmax(1))
    assert large.shape == (2, 4, 18, 30)


@pytest.mark.parametrize(("change", "said"), [
    ({0: torch.zeros(2, 5, 9)}, "features is"),
    ({0: torch.zeros(2, 6, 9, 11)}, "C must match"),
    ({1: torch.zeros(2, 4)}, "scale is"),
    ({2: torch.zeros(3, 4, 5, 2, 2)}, "k = 1 or 3"),
    ({3: torch.zeros(2, 4)}, "bias is"),
    ({4: (1, 2)}, "dilations is"),
    ({4: (1, 2, 0)}, "dilations is"),
])
def test_errors_name_the_argument(change, said):
    args = list(inputs("amn", torch.float32))
    for place, value in change.items():
        args[place] = value
    with pytest.raises(ValueError, match=f"label_conditioned_logits: .*{said}"):
        label_conditioned_logits(*args)
    with pytest.raises(ValueError, match="activation is 'tanh'"):
        label_conditioned_activation(*inputs("amn"), activation="tanh")
