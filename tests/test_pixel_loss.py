"""pixel_cross_entropy: values by hand and against torch, gradients, edge cases, opcheck, compile, errors."""

import math

import pytest
import torch

from wsss_fast.ops import pixel_cross_entropy
from wsss_fast.ops.reference import pixel_cross_entropy as reference

# name: logits shape, labels' size, options
CASES = {
    "amn": ((2, 21, 6, 7), (24, 28), {"smoothing": 0.4, "balance": True}),
    "plain": ((2, 3, 8, 5), (8, 5), {}),
    "upsampled": ((1, 4, 5, 6), (17, 23), {"resize": "logits"}),
    "upsampled_balanced": ((2, 4, 5, 6), (20, 24), {"resize": "logits", "balance": True, "smoothing": 0.1}),
    "coco": ((1, 81, 4, 4), (9, 9), {"smoothing": 0.4, "balance": True}),
    "one_class": ((1, 1, 3, 3), (3, 3), {"smoothing": 0.2}),
    "pixel": ((1, 5, 1, 1), (1, 1), {"balance": True}),
}


def inputs(name, dtype=torch.float64):
    shape, size, options = CASES[name]
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
    labels = torch.randint(0, shape[1], (shape[0], *size), generator=generator, dtype=torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    return logits, labels, options


def by_loop(logits, labels, smoothing=0.0, balance=False, resize="labels"):
    """Pixel by pixel."""
    if resize == "logits":
        logits = torch.nn.functional.interpolate(logits, labels.shape[1:], mode="bilinear")
    (b, k, h, w), groups = logits.shape, {"background": [], "foreground": []}
    for i in range(b):
        for y in range(h):
            for x in range(w):
                row, column = (int((p + 0.5) * old / new) for p, old, new in ((y, labels.shape[1], h), (x, labels.shape[2], w)))
                label = labels[i, row, column].item()
                if label == 255:
                    continue
                log_p = logits[i, :, y, x].log_softmax(0)
                target = [1 - smoothing if c == label else smoothing / max(k - 1, 1) for c in range(k)]
                groups["foreground" if label else "background"].append(-sum(t * v for t, v in zip(target, log_p, strict=True)))
    means = [torch.stack(g).mean() if g else torch.tensor(0.0) for g in groups.values()]
    return sum(means) / 2 if balance else torch.stack(groups["background"] + groups["foreground"]).mean()


@pytest.mark.parametrize("name", [n for n in CASES if n != "one_class"])  # smoothing has no other class to go to there
def test_values(name):
    logits, labels, options = inputs(name)
    labels[0, 0, 0] = 1
    expected = by_loop(logits, labels, **options)
    torch.testing.assert_close(pixel_cross_entropy(logits, labels, **options), expected, check_dtype=False)


def test_plain_is_torchs():
    logits, labels, _ = inputs("plain")
    expected = torch.nn.functional.cross_entropy(logits, labels.long(), ignore_index=255)
    torch.testing.assert_close(pixel_cross_entropy(logits, labels), expected)
    torch.testing.assert_close(pixel_cross_entropy(logits, labels.long()), expected)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    logits, labels, options = inputs(name)
    assert torch.autograd.gradcheck(lambda x: pixel_cross_entropy(x, labels, **options), logits)
    wanted, = torch.autograd.grad(reference(logits, labels, **options), logits)
    got, = torch.autograd.grad(3 * pixel_cross_entropy(logits, labels, **options), logits)
    torch.testing.assert_close(got, 3 * wanted)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("need_grad", [False, True])
def test_opcheck(name, need_grad):
    logits, labels, options = inputs(name, torch.float32)
    args = (logits, labels, options.get("smoothing", 0.0), options.get("balance", False), 255,
            options.get("resize") == "logits", need_grad)
    checks = ("test_schema", "test_faketensor") if not need_grad else None
    torch.library.opcheck(torch.ops.wsss_fast.pixel_cross_entropy.default, args, **({"test_utils": checks} if checks else {}))


def test_compiles_whole():
    logits, labels, options = inputs("amn", torch.float32)
    loss = torch.compile(pixel_cross_entropy, fullgraph=True, backend="aot_eager")(logits, labels, **options)
    loss.backward()
    torch.testing.assert_close(loss, pixel_cross_entropy(logits, labels, **options))
    assert logits.grad.isfinite().all() and logits.grad.abs().sum() > 0


def test_one_class():
    logits, labels, options = inputs("one_class")
    assert pixel_cross_entropy(logits, labels, **options).item() == 0.0


@pytest.mark.parametrize("fill", [0, 1, 255])
@pytest.mark.parametrize("balance", [False, True])
def test_an_empty_group_contributes_nothing_instead_of_nan(fill, balance):
    logits = torch.zeros(1, 4, 3, 3, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((1, 3, 3), fill, dtype=torch.uint8), balance=balance)
    loss.backward()
    expected = 0.0 if fill == 255 else math.log(4) * (0.5 if balance else 1.0)
    assert loss.item() == pytest.approx(expected) and logits.grad.isfinite().all()


def test_without_grad_and_without_images():
    logits, labels, options = inputs("amn", torch.float32)
    with torch.no_grad():
        assert not pixel_cross_entropy(logits, labels, **options).requires_grad
    empty = torch.zeros(0, 3, 4, 4, requires_grad=True)
    assert pixel_cross_entropy(empty, torch.zeros(0, 4, 4, dtype=torch.uint8)).item() == 0.0


def test_half_precision_logits_are_summed_in_float32():
    logits, labels, options = inputs("amn", torch.float32)
    half = logits.detach().bfloat16().requires_grad_()
    loss = pixel_cross_entropy(half, labels, **options)
    loss.backward()
    assert loss.dtype == torch.float32 and half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss, pixel_cross_entropy(half.detach().float(), labels, **options))


@pytest.mark.parametrize(("change", "said"), [
    ({"logits": torch.zeros(3, 4, 4)}, "logits is"),
    ({"labels": torch.zeros(1, 3, 3, dtype=torch.int32)}, "labels is torch.int32"),
    ({"labels": torch.zeros(2, 3, 3, dtype=torch.uint8)}, "B must match"),
    ({"labels": torch.full((1, 3, 3), 9, dtype=torch.uint8)}, "labels holds 9; must be 0..3 or 255"),
    ({"smoothing": 1.0}, "smoothing is 1.0"),
    ({"resize": "both"}, "resize is 'both'"),
])
def test_errors_name_the_argument(change, said):
    arguments = {"logits": torch.zeros(1, 4, 3, 3), "labels": torch.zeros(1, 3, 3, dtype=torch.uint8), **change}
    with pytest.raises(ValueError, match=f"pixel_cross_entropy: .*{said}"):
        pixel_cross_entropy(arguments.pop("logits"), arguments.pop("labels"), **arguments)
