"""pixel_cross_entropy and pixel_bce: values by hand and against torch, gradients, errors."""

import importlib

import pytest
import torch
from op_testing import each_device, threads, wrong_values

from wsss_fast.ops import _library, pixel_bce, pixel_cross_entropy, reference

pixel_loss = importlib.import_module("wsss_fast.ops.pixel_loss")  # its default kernels
REFERENCES = {
    "pixel_cross_entropy": "_cross_entropy_reference",
    "pixel_bce": "_bce_reference",
}
LOSSES = {"pixel_cross_entropy": pixel_cross_entropy, "pixel_bce": pixel_bce}
each_loss = pytest.mark.parametrize("op", LOSSES)

# name: logits shape, labels' size, options
CASES = {
    "amn": ((2, 21, 6, 7), (24, 28), {"smoothing": 0.4, "balance": True}),
    "plain": ((2, 3, 8, 5), (8, 5), {}),
    "upsampled": ((1, 4, 5, 6), (17, 23), {"resize": "logits"}),
    "upsampled_balanced": (
        (2, 4, 5, 6),
        (20, 24),
        {"resize": "logits", "balance": True, "smoothing": 0.1},
    ),
    "coco": ((1, 81, 4, 4), (9, 9), {"smoothing": 0.4, "balance": True}),
    "one_class": ((1, 1, 3, 3), (3, 3), {"smoothing": 0.2}),
    "pixel": ((1, 5, 1, 1), (1, 1), {"balance": True}),
    "wide": ((2, 3, 3, 40), (5, 300), {"resize": "logits"}),
    "reduced": ((2, 3, 9, 70), (4, 31), {"resize": "logits", "smoothing": 0.2}),
    "one_row": ((1, 2, 1, 7), (12, 1), {"resize": "logits"}),
    "one_logit": ((1, 3, 1, 1), (9, 37), {"resize": "logits", "balance": True}),
    "fewer_rows": ((1, 3, 9, 3), (4, 25), {"resize": "logits", "smoothing": 0.2}),
    "finer_logits": ((2, 3, 20, 66), (7, 13), {"balance": True}),
    "large": ((2, 2, 40, 70), (80, 35), {"smoothing": 0.1}),
    "dsrg": ((3, 5, 4, 5), (9, 11), {"balance": "image"}),
    "upsampled_dsrg": ((2, 3, 3, 4), (8, 70), {"resize": "logits", "balance": "image"}),
}


def inputs(name, dtype=torch.float64, device="cpu"):
    shape, size, options = CASES[name]
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    logits = logits.to(device, dtype).requires_grad_()
    labels = torch.randint(0, shape[1], (shape[0], *size), generator=generator, dtype=torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    return logits, labels.to(device), options


def by_loop(op, logits, labels, smoothing=0.0, balance=False, resize="labels"):
    """Pixel by pixel."""
    if balance == "image":
        each = zip(logits.split(1), labels.split(1), strict=True)
        losses = [2 * by_loop(op, z, y, smoothing, True, resize) for z, y in each]
        return sum(losses) / len(losses)
    if resize == "logits":
        logits = torch.nn.functional.interpolate(logits, labels.shape[1:], mode="bilinear")
    (b, k, h, w), groups = logits.shape, {"background": [], "foreground": []}
    for i in range(b):
        for y in range(h):
            for x in range(w):
                row, column = (
                    int((p + 0.5) * old / new)
                    for p, old, new in ((y, labels.shape[1], h), (x, labels.shape[2], w))
                )
                label = labels[i, row, column].item()
                if label == 255:
                    continue
                z = logits[i, :, y, x]
                target = torch.full_like(z, smoothing / max(k - 1, 1))
                target[label] = 1 - smoothing
                loss = -(target * z.log_softmax(0)).sum()
                if op == "pixel_bce":
                    each = target * z.sigmoid().log() + (1 - target) * (-z).sigmoid().log()
                    loss = -each.mean()
                groups["foreground" if label else "background"].append(loss)
    means = [torch.stack(g).mean() if g else torch.tensor(0.0) for g in groups.values()]
    if balance:
        return sum(means) / 2
    return torch.stack(groups["background"] + groups["foreground"]).mean()


@each_loss
# With one class there is no other one to smooth over.
@pytest.mark.parametrize("name", [n for n in CASES if n != "one_class"])
def test_values(op, name):
    logits, labels, options = inputs(name)
    labels[0, 0, 0] = 1
    expected = by_loop(op, logits, labels, **options)
    torch.testing.assert_close(LOSSES[op](logits, labels, **options), expected, check_dtype=False)


def test_plain_is_torchs():
    logits, labels, _ = inputs("plain")
    expected = torch.nn.functional.cross_entropy(logits, labels.long(), ignore_index=255)
    torch.testing.assert_close(pixel_cross_entropy(logits, labels), expected)
    torch.testing.assert_close(pixel_cross_entropy(logits, labels.long()), expected)


@each_loss
@pytest.mark.parametrize("name", CASES)
def test_gradients(op, name):
    logits, labels, options = inputs(name)
    if logits.numel() < 2000:
        assert torch.autograd.gradcheck(lambda x: LOSSES[op](x, labels, **options), logits)
    (wanted,) = torch.autograd.grad(getattr(reference, op)(logits, labels, **options), logits)
    (got,) = torch.autograd.grad(3 * LOSSES[op](logits, labels, **options), logits)
    torch.testing.assert_close(got, 3 * wanted)
    torch.testing.assert_close(
        getattr(reference, f"{op}_grad")(logits.detach(), labels, **options), wanted
    )


@each_device
@each_loss
@pytest.mark.parametrize("name", CASES)
def test_float32_is_as_close_as_eager(op, name, device):
    exact, labels, options = inputs(name, torch.float64, device)
    logits = inputs(name, torch.float32, device)[0]
    results = []
    for loss, x in (
        (getattr(reference, op), exact),
        (getattr(reference, op), logits),
        (LOSSES[op], logits),
    ):
        value = loss(x, labels, **options)
        results.append((value, torch.autograd.grad(value, x)[0]))
    for want, eager, ours in zip(*results, strict=True):
        rounding = 5e-7 * max(want.abs().max().item(), 1e-6)
        assert (ours - want).abs().max() <= 2 * (eager - want).abs().max() + rounding


# name: logits shape, labels' size
ENLARGED = {
    "amn": ((1, 21, 3, 4), (48, 64)),
    "one_logit": ((2, 5, 1, 1), (70, 90)),
    "two_logits": ((1, 3, 1, 2), (40, 130)),
    "fewer_rows": ((1, 5, 19, 3), (7, 50)),
    "fewer_columns": ((1, 5, 3, 40), (50, 9)),
    "slightly": ((1, 4, 20, 20), (21, 23)),
    "same_rows": ((1, 4, 9, 5), (9, 80)),
    "many_classes": ((1, 256, 2, 2), (9, 11)),
    "many_images": ((1000, 2, 1, 1), (2, 2)),
}


def by_torch(op, logits, labels, balance):
    """The loss and its gradient, by torch's resizing and losses, in the logits' dtype."""
    logits = logits.detach().requires_grad_()
    resized = torch.nn.functional.interpolate(logits, labels.shape[1:], mode="bilinear")
    if op == "pixel_cross_entropy":
        each = torch.nn.functional.cross_entropy(
            resized, labels.long(), ignore_index=255, reduction="none"
        )
    else:
        target = torch.zeros_like(resized)
        target.scatter_(1, labels.long().masked_fill(labels == 255, 0)[:, None], 1)
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            resized, target, reduction="none"
        ).mean(1)
    groups = [labels == 0, (labels != 0) & (labels != 255)]
    if balance == "none":
        groups = [labels != 255]
    dims = (1, 2) if balance == "image" else (0, 1, 2)
    means = [
        torch.where(group, each, 0.0).sum(dims) / group.sum(dims).clamp(min=1) for group in groups
    ]
    loss = sum(means).mean() if balance == "image" else sum(means) / len(means)
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


@each_device
@each_loss
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in ENLARGED]
    + [("amn", dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16)],
)
def test_enlarged_logits_are_as_exact_as_torchs(op, name, dtype, device):
    shape, size = ENLARGED[name]
    generator = torch.Generator().manual_seed(3)
    logits = (3 * torch.randn(shape, generator=generator)).to(device, dtype)
    labels = torch.randint(0, min(shape[1], 255), (shape[0], *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    labels = labels.to(device, torch.uint8)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for balance in ("none", "batch", "image"):
        logits.requires_grad_()
        ours = LOSSES[op](logits, labels, balance=balance, resize="logits")
        gradient = torch.autograd.grad(ours, logits)[0]
        again = LOSSES[op](logits, labels, balance=balance, resize="logits")
        assert torch.equal(ours, again)
        assert torch.equal(gradient, torch.autograd.grad(again, logits)[0])
        exact = by_torch(op, logits.double(), labels, balance)
        eager = by_torch(op, logits.to(wide), labels, balance)
        rounding = max(5e-7, torch.finfo(dtype).eps)
        for mine, want, theirs in zip((ours, gradient), exact, eager, strict=True):
            allowed = 2 * (theirs - want).abs().max() + rounding * want.abs().max()
            assert (mine - want).abs().max() <= allowed


@each_loss
def test_the_native_kernel_is_used_and_threads_do_not_matter(op):
    if not _library.has_native_kernel(op, torch.device("cpu")):
        pytest.skip("native library not available")
    for name in ("large", "upsampled_balanced", "upsampled_dsrg"):
        logits, labels, options = inputs(name, torch.float32)
        found = []
        for count in (1, 2, 3, 3):
            with threads(count):
                loss = LOSSES[op](logits, labels, **options)
                found.append((loss, torch.autograd.grad(loss, logits)[0]))
        for other in found[1:]:
            assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@each_loss
def test_layouts_and_label_types(op):
    logits, labels, options = inputs("upsampled_balanced", torch.float32)
    expected = LOSSES[op](logits, labels, **options)
    for x, y in (
        (
            logits.detach().to(memory_format=torch.channels_last),
            labels.transpose(1, 2).contiguous().transpose(1, 2),
        ),
        (logits.detach().repeat_interleave(2, 3)[..., ::2], labels.long()),
    ):
        x.requires_grad_()
        loss = LOSSES[op](x, y, **options)
        assert torch.equal(loss, expected)
        assert torch.equal(
            torch.autograd.grad(loss, x)[0],
            torch.autograd.grad(expected, logits, retain_graph=True)[0],
        )


@each_device
@each_loss
@pytest.mark.parametrize("name", ["amn", "upsampled", "pixel", "dsrg"])
@pytest.mark.parametrize("need_grad", [False, True])
def test_opcheck(op, name, need_grad, device):
    logits, labels, options = inputs(name, torch.float32, device)
    present = (
        [torch.ones(logits.shape[:2], dtype=torch.uint8, device=device)]
        if op == "pixel_bce"
        else []
    )
    args = (
        logits,
        labels,
        *present,
        options.get("smoothing", 0.0),
        {"image": 2, True: 1}.get(options.get("balance"), 0),
        255,
        options.get("resize") == "logits",
        need_grad,
    )
    checks = ("test_schema", "test_faketensor") if not need_grad else None
    torch.library.opcheck(
        getattr(torch.ops.wsss_fast, op).default, args, **({"test_utils": checks} if checks else {})
    )


@each_loss
@pytest.mark.parametrize("name", ["amn", "dsrg"])
def test_compiles_whole(op, name):
    logits, labels, options = inputs(name, torch.float32)
    loss = torch.compile(LOSSES[op], fullgraph=True, backend="aot_eager")(logits, labels, **options)
    loss.backward()
    torch.testing.assert_close(loss, LOSSES[op](logits, labels, **options))
    assert logits.grad.isfinite().all() and logits.grad.abs().sum() > 0


def test_bce_keeps_the_other_classes_beside_a_large_logit():
    for size in (5e3, 1e8, 1e30):
        logits = torch.tensor([size, 0.5, -1.0]).view(1, 3, 1, 1)
        labels = torch.zeros(1, 1, 1, dtype=torch.uint8)
        exact = torch.nn.functional.softplus(torch.tensor([0.5, -1.0])).sum() / 3
        torch.testing.assert_close(pixel_bce(logits, labels), exact)


@each_loss
def test_labels_that_resizing_leaves_out_are_not_checked(op):
    logits, labels = torch.zeros(1, 2, 1, 1), torch.zeros(1, 3, 3, dtype=torch.uint8)
    labels[0, 0, 0] = 7
    assert LOSSES[op](logits, labels).isfinite()
    below = getattr(torch.ops.wsss_fast, op).default
    options = 0.0, 0, 255, False, False
    arguments = (logits, labels, *([None] if op == "pixel_bce" else []), *options)
    loss, _ = getattr(pixel_loss, REFERENCES[op])(*arguments)
    torch.testing.assert_close(loss, below(*arguments)[0])


def test_bce_is_torchs_and_counts_present_classes_alone():
    logits, labels, _ = inputs("plain")
    known = labels != 255
    target = torch.nn.functional.one_hot(labels.long() * known, 3).movedim(-1, 1).double()
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    pixels = known.sum()
    torch.testing.assert_close(pixel_bce(logits, labels), (each.mean(1) * known).sum() / pixels)
    present = torch.tensor([[1, 0, 1], [0, 0, 0]])
    expected = (each[0, [0, 2]].mean(0) * known[0]).sum() / pixels
    loss = pixel_bce(logits, labels, present=present)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, logits)[0], torch.autograd.grad(expected, logits)[0]
    )
    assert torch.autograd.gradcheck(
        lambda x: pixel_bce(x, labels, present=present, smoothing=0.3, balance=True), logits
    )
    with pytest.raises(ValueError, match=r"pixel_bce: present is .*\[2, 2\]; must be \[2, 3\]"):
        pixel_bce(logits, labels, present=present[:, :2])


@each_loss
def test_extreme_logits_stay_finite(op):
    logits = torch.tensor([-200.0, 200.0, 0.0, 88.0]).view(1, 4, 1, 1).requires_grad_()
    for label in range(4):
        loss = LOSSES[op](logits, torch.full((1, 1, 1), label, dtype=torch.uint8), smoothing=0.4)
        expected = getattr(reference, op)(
            logits.double(), torch.full((1, 1, 1), label, dtype=torch.uint8), smoothing=0.4
        )
        torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
        assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_one_class():
    logits, labels, options = inputs("one_class")
    assert pixel_cross_entropy(logits, labels, **options).item() == 0.0


def test_without_grad_and_without_images():
    logits, labels, options = inputs("amn", torch.float32)
    with torch.no_grad():
        assert not pixel_cross_entropy(logits, labels, **options).requires_grad
    empty = torch.zeros(0, 3, 4, 4, requires_grad=True)
    assert pixel_cross_entropy(empty, torch.zeros(0, 4, 4, dtype=torch.uint8)).item() == 0.0


@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(op, dtype):
    logits, labels, options = inputs("amn", torch.float32)
    half = logits.detach().to(dtype).requires_grad_()
    loss = LOSSES[op](half, labels, **options)
    loss.backward()
    assert loss.dtype == torch.float32 and half.grad.dtype == dtype
    torch.testing.assert_close(loss, LOSSES[op](half.detach().float(), labels, **options))


@each_loss
@pytest.mark.parametrize("ignore_index", [-1, 255, 256, 2**40])
def test_ignore_index_is_compared_without_wrapping(op, ignore_index):
    """256 is 0 in uint8, and -1 is 255."""
    logits, labels = torch.zeros(1, 3, 2, 2), torch.tensor([[[0, 1], [2, 0]]], dtype=torch.uint8)
    expected = LOSSES[op](logits, labels)
    for function in (LOSSES[op], getattr(reference, op)):
        torch.testing.assert_close(function(logits, labels, ignore_index=ignore_index), expected)


ARGUMENTS = {
    "logits": torch.zeros(1, 4, 3, 3),
    "labels": torch.zeros(1, 3, 3, dtype=torch.uint8),
    "smoothing": 0.0,
    "balance": "none",
    "ignore_index": 255,
    "resize": "labels",
}


@each_loss
@pytest.mark.parametrize(("name", "value"), wrong_values(ARGUMENTS))
def test_wrong_arguments_of_any_kind(op, name, value):
    with pytest.raises(ValueError, match=f"^{op}: .*{name}"):
        LOSSES[op](**{**ARGUMENTS, name: value})


@each_loss
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(1, 0, 4, 4)}, r"logits is .*\[1, 0, 4, 4\]"),
        (
            {"labels": torch.zeros(1, 0, 3, dtype=torch.uint8)},
            r"labels is .*\[1, 0, 3\]; must be not empty",
        ),
        ({"labels": torch.full((1, 3, 3), -2)}, "labels holds -2"),
        ({"labels": torch.zeros(1, 3, 3, dtype=torch.int32)}, "labels is torch.int32"),
        ({"labels": torch.zeros(2, 3, 3, dtype=torch.uint8)}, "B must match"),
        (
            {"labels": torch.zeros(1, 3, 3, dtype=torch.uint8, device="meta")},
            "logits is on cpu but labels is on meta",
        ),
        (
            {"labels": torch.full((1, 3, 3), 9, dtype=torch.uint8)},
            "labels holds 9; must be 0..3 or 255",
        ),
        ({"smoothing": 1.0}, r"smoothing is 1.0; must be a number in \[0, 1\)"),
        ({"resize": "both"}, "resize is 'both'; must be one of"),
        ({"balance": "pixel"}, r"balance is 'pixel'; must be a bool or one of \('none', 'batch'"),
        ({"balance": 2}, "balance is 2; must be a bool or one of"),
    ],
)
def test_wrong_arguments(op, change, message):
    with pytest.raises(ValueError, match=f"^{op}: .*{message}"):
        LOSSES[op](**{**ARGUMENTS, **change})


PRESENT = wrong_values({"present": torch.ones(1, 4)}, optional=("present",))


@pytest.mark.parametrize(
    ("name", "value"),
    [p for p in PRESENT if p.id not in ("present-float8", "present-complex")],  # of any dtype
)
def test_wrong_present_classes(name, value):
    with pytest.raises(ValueError, match=f"^pixel_bce: {name} is"):
        pixel_bce(ARGUMENTS["logits"], ARGUMENTS["labels"], present=value)
