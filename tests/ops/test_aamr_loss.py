"""aamr_loss against a loop over pixels and flood-filled regions; gradients, layouts, errors."""

import math

import pytest
import torch
from op_testing import each_device, threads, wrong_values
from torch._subclasses.fake_tensor import FakeTensorMode

from wsss_fast import _native
from wsss_fast.ops import _library, aamr_loss, reference

# name: logits shape, saliency size, response size, options
CASES = {
    "deeplab": ((2, 21, 21, 21), (161, 161), (161, 161), {}),
    "coco": ((1, 81, 9, 11), (36, 44), (18, 22), {"salient": 0.8, "active": 0.1, "overlap": 0.2}),
    "odd": ((3, 5, 13, 17), (97, 29), (7, 33), {"active": 0.4, "overlap": 0.2}),
    "noise": ((2, 3, 23, 31), (23, 31), (23, 31), {"salient": 0.8, "active": 0.1, "overlap": 0.5}),
    "all_regions": ((2, 4, 7, 5), (7, 5), (7, 5), {"overlap": 0.0, "salient": 0.3}),
    "full_regions": (
        (2, 6, 8, 9),
        (16, 9),
        (8, 18),
        {"salient": 0.8, "overlap": 1.0, "active": 0.01},
    ),
    "row": ((2, 4, 1, 40), (3, 11), (1, 40), {"active": 0.5}),
    "pixel": ((1, 3, 1, 1), (5, 5), (5, 5), {}),
    "one_class": ((2, 2, 6, 6), (6, 6), (12, 12), {}),
    "large": (  # several tasks for each image
        (2, 3, 70, 90),
        (140, 45),
        (70, 90),
        {"salient": 0.8, "active": 0.1, "overlap": 0.45},
    ),
}
each_case = pytest.mark.parametrize("name", CASES)


def inputs(name, dtype=torch.float64, device="cpu"):
    """Blobs, so that there are regions, some hardly active; "noise": regions of any shape."""
    shape, size, response_size, options = CASES[name]
    generator = torch.Generator().manual_seed(5)
    side = 99 if name == "noise" else 9
    coarse = torch.randn(3, shape[0], 1, side, side, generator=generator, dtype=torch.float64)
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    saliency = torch.sigmoid(6 * torch.nn.functional.interpolate(coarse[0], size, mode="bilinear"))
    mixed = coarse[1] + coarse[0] / 5 - 0.7
    response = torch.sigmoid(
        4 * torch.nn.functional.interpolate(mixed, response_size, mode="bilinear")
    )
    # Values of float32, so that a threshold splits float32 and float64 maps equally.
    return (
        logits.to(device, dtype).requires_grad_(),
        *(t.float().to(device, dtype) for t in (saliency, response)),
        options,
    )


def by_loop(logits, saliency, response, salient=0.5, active=0.2, overlap=0.1):
    """Loss and Omega, pixel by pixel; regions by flood fill."""
    batch, _, height, width = logits.shape
    region = torch.zeros(batch, height, width, dtype=torch.bool)
    terms = []
    for b in range(batch):

        def at(maps, y, x, b=b):
            return float(maps[b, 0, y * maps.shape[2] // height, x * maps.shape[3] // width])

        pixels = [(y, x) for y in range(height) for x in range(width)]
        left = {p for p in pixels if at(saliency, *p) >= salient}
        for y, x in pixels:
            region[b, y, x] = (y, x) not in left and at(response, y, x) < active
        while left:
            found, front = set(), {left.pop()}
            while front:
                found |= front
                front = {
                    (y + dy, x + dx) for y, x in front for dy in (-1, 0, 1) for dx in (-1, 0, 1)
                } & left
                left -= front
            if sum(at(response, *p) >= active for p in found) / len(found) >= overlap:
                for y, x in found:
                    region[b, y, x] = True
        p = logits[b].softmax(0)
        for y, x in region[b].nonzero().tolist():
            s = at(saliency, y, x)
            terms.append(-s * (1 - p[0, y, x]).log() - (1 - s) * p[0, y, x].log())
    return torch.stack(terms).mean() if terms else logits.sum() * 0, region


def test_fake_tensors():
    with FakeTensorMode():
        loss, region = aamr_loss(
            torch.rand(2, 4, 5, 6),
            torch.rand(2, 1, 10, 12),
            torch.rand(2, 3, 9, 9),
            return_region=True,
        )
    assert loss.shape == () and region.shape == (2, 5, 6)


@each_case
def test_values_and_gradients(name):
    *given, options = inputs(name)
    expected, expected_region = by_loop(*given, **options)
    (wanted,) = torch.autograd.grad(expected, given[0])
    for function in (aamr_loss, reference.aamr_loss):
        loss, region = function(*given, **options, return_region=True)
        assert region.dtype == torch.bool and torch.equal(region, expected_region)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(3 * loss, given[0])[0], 3 * wanted)
        assert torch.equal(function(*given, **options), loss)


def test_the_cases_leave_out_and_keep_regions():
    for name in ("deeplab", "coco", "odd", "noise", "full_regions", "row", "one_class", "large"):
        logits, saliency, response, options = inputs(name)
        _, region = aamr_loss(logits, saliency, response, **options, return_region=True)
        shown = torch.nn.functional.interpolate(saliency, logits.shape[2:])[:, 0] >= options.get(
            "salient", 0.5
        )
        assert all(0 < part.double().mean() < 1 for part in (region[shown], region[~shown])), name


@pytest.mark.parametrize(
    ("overlap", "kept"), [(0.1, True), (0.3, True), (0.31, False), (1.0, False)]
)
def test_a_share_that_meets_the_overlap_keeps_the_region(overlap, kept):
    """Three of ten: 0.3 is met exactly, although 0.3 * 10 is rounded."""
    saliency, response = torch.ones(1, 2, 5), torch.zeros(1, 2, 5)
    response[0, 0, 1:4] = 0.2  # and 0.2 is active
    _, region = aamr_loss(
        torch.zeros(1, 2, 2, 5), saliency, response, overlap=overlap, return_region=True
    )
    assert region.all() if kept else not region.any()


def test_corners_join_regions_but_images_and_edges_do_not():
    saliency = torch.tensor(
        [[[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1]], [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]]
    )
    response = torch.zeros(2, 3, 4)
    response[0, 0, 0] = 1  # only the diagonal pair is active
    _, region = aamr_loss(torch.zeros(2, 3, 3, 4), saliency, response, return_region=True)
    kept = region & (saliency > 0.5)
    assert kept.nonzero().tolist() == [[0, 0, 0], [0, 1, 1]] and (region | (saliency > 0.5)).all()


def test_an_object_in_the_background_gets_no_gradient():
    """Neither has a salient region that is not active, nor an active one that is not salient."""
    logits = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    saliency, response = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    saliency[0, :3, :3] = 1  # salient and active: an object
    response[0, :2, :2] = 1
    saliency[0, 5:, :3] = 1  # salient, of no class
    response[0, 5:, 5:] = 1  # active, not salient
    (grad,) = torch.autograd.grad(aamr_loss(logits, saliency, response), logits)
    assert grad[..., 5:, :3].abs().max() == grad[..., 5:, 5:].abs().max() == 0
    # A descent step raises the background where nothing is salient and lowers it on the object.
    assert (grad[0, 0, :3, :3] > 0).all() and (grad[0, 0, :5, 5:] < 0).all()
    torch.testing.assert_close(grad.sum(1), torch.zeros(1, 8, 8), rtol=0, atol=1e-8)


@each_device
@each_case
def test_float32_is_as_close_as_eager(name, device):
    *exact, options = inputs(name, torch.float64, device)
    *given, _ = inputs(name, torch.float32, device)
    want = reference.aamr_loss(*exact, **options)
    eager = reference.aamr_loss(*given, **options)
    ours = aamr_loss(*given, **options)
    grads = [
        torch.autograd.grad(loss, x)[0]
        for loss, x in ((want, exact[0]), (eager, given[0]), (ours, given[0]))
    ]
    for w, e, o in ((want, eager, ours), grads):
        rounding = 4e-7 * max(w.abs().max().item(), 1e-3)
        assert (o - w).abs().max() <= 2 * (e - w).abs().max() + rounding


@each_case
def test_gradcheck(name):
    # "large" would need 38 thousand evaluations.
    logits, *maps, options = inputs("pixel" if name == "large" else name)
    logits = logits[:, :, :4, :5].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: aamr_loss(x, *maps, **options), logits)


def test_confident_logits_neither_overflow_nor_lose_their_gradient():
    """log F of a certain background is -200, not -inf or a clamp's -100, and its gradient is 1."""
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([200.0, 0.0], dtype=dtype).view(1, 2, 1, 1).requires_grad_()
        one = torch.ones(1, 1, 1, dtype=dtype)
        for function in (aamr_loss, reference.aamr_loss):
            loss = function(logits, one, one)
            torch.testing.assert_close(loss, torch.tensor(200.0, dtype=dtype))
            assert torch.autograd.grad(loss, logits)[0].flatten().tolist() == [1, -1]


def test_the_native_kernel_is_used_where_it_can_be_built():
    if not _native.load():
        pytest.skip("no native library here")
    assert _library.has_native_kernel("aamr_loss", torch.device("cpu"))


def test_any_number_of_threads_gives_the_same_bits():
    if not _library.has_native_kernel("aamr_loss", torch.device("cpu")):
        pytest.skip("native library not available")
    *given, options = inputs("large", torch.float32)
    found = []
    for count in (1, 2, 3, 3):
        with threads(count):
            loss, region = aamr_loss(*given, **options, return_region=True)
            found.append([loss, region, torch.autograd.grad(loss, given[0])[0]])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("layout", ["channels_last", "strided", "one_plane"])
def test_layouts(layout):
    logits, saliency, response, options = inputs("odd", torch.float32)
    expected = aamr_loss(logits, saliency, response, **options)
    x, maps = logits.detach(), [saliency, response]
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "strided":
        x = x.transpose(2, 3).contiguous().transpose(2, 3)
        maps = [m.repeat_interleave(2, 3)[..., ::2] for m in maps]
    else:
        maps = [m[:, 0] for m in maps]
    loss = aamr_loss(x.requires_grad_(), *maps, **options)
    assert torch.equal(loss, expected)
    assert torch.equal(torch.autograd.grad(loss, x)[0], torch.autograd.grad(expected, logits)[0])


def test_the_largest_response_of_any_class_counts():
    logits, saliency, response, options = inputs("odd", torch.float32)
    classes = torch.stack([response[:, 0] * share for share in (0.3, 1.0, 0.0)], 1)
    for function in (aamr_loss, reference.aamr_loss):
        assert torch.equal(
            function(logits, saliency, classes, **options),
            function(logits, saliency, response, **options),
        )


def test_edges():
    logits, saliency, response, _ = inputs("deeplab", torch.float32)
    nowhere, region = aamr_loss(
        logits, torch.zeros_like(saliency), torch.ones_like(response), return_region=True
    )
    assert (
        nowhere == 0
        and not region.any()
        and torch.autograd.grad(nowhere, logits)[0].abs().max() == 0
    )
    # All background.
    black = aamr_loss(logits, torch.zeros_like(saliency), torch.zeros_like(response))
    torch.testing.assert_close(black, -logits.log_softmax(1)[:, 0].mean())
    empty, region = aamr_loss(
        torch.zeros(0, 3, 4, 4, requires_grad=True),
        torch.zeros(0, 1, 8, 8),
        torch.zeros(0, 5, 5),
        return_region=True,
    )
    assert empty == 0 and region.shape == (0, 4, 4)
    with torch.no_grad():
        assert not aamr_loss(logits, saliency, response).requires_grad


def test_nan_logits_matter_only_inside_the_region_of_the_loss():
    logits, saliency, response, _ = inputs("deeplab", torch.float32)
    clean, region = aamr_loss(logits, saliency, response, return_region=True)
    inside, outside = (some.nonzero()[7].tolist() for some in (region, ~region))
    for (b, y, x), is_nan in ((outside, False), (inside, True)):
        bad = logits.detach().clone()
        bad[b, :, y, x] = torch.nan
        loss = aamr_loss(bad.requires_grad_(), saliency, response)
        assert loss.isnan() if is_nan else torch.equal(loss, clean)
        assert torch.autograd.grad(loss, bad)[0].isnan().any() == is_nan


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    logits, *maps, options = inputs("deeplab", torch.float32)
    half = logits.detach().to(dtype).requires_grad_()
    loss = aamr_loss(half, *maps, **options)
    loss.backward()
    assert loss.dtype == torch.float32 and half.grad.dtype == dtype
    torch.testing.assert_close(loss, aamr_loss(half.detach().float(), *maps, **options))


@each_device
@pytest.mark.parametrize("name", ["deeplab", "odd", "pixel"])
def test_opcheck(name, device):
    logits, saliency, response, options = inputs(name, torch.float32, device)
    args = (
        logits,
        saliency[:, 0].contiguous(),
        response[:, 0].contiguous(),
        *(
            options.get(key, usual)
            for key, usual in (("salient", 0.5), ("active", 0.2), ("overlap", 0.1))
        ),
    )
    torch.library.opcheck(torch.ops.wsss_fast.aamr_loss.default, args)


def test_compiles_whole():
    *given, options = inputs("deeplab", torch.float32)
    compiled = torch.compile(
        lambda *g: aamr_loss(*g, **options, return_region=True), fullgraph=True, backend="aot_eager"
    )
    loss, region = compiled(*given)
    loss.backward()
    expected, expected_region = aamr_loss(*given, **options, return_region=True)
    torch.testing.assert_close(loss, expected)
    assert torch.equal(region, expected_region)
    torch.testing.assert_close(given[0].grad, torch.autograd.grad(expected, given[0])[0])


def test_dynamic_shapes_compile_whole_and_export():
    compiled = torch.compile(aamr_loss, fullgraph=True, dynamic=True, backend="aot_eager")
    module = torch.nn.Module()
    module.forward = aamr_loss
    sizes = [{0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO}] * 3
    draw = torch.Generator().manual_seed(0)
    graph = None
    for batch, height in ((2, 5), (3, 8), (4, 2)):
        shapes = (batch, 3, height, 7), (batch, 1, 2 * height, 9), (batch, 2, 3 * height, 8)
        given = [torch.rand(shape, generator=draw) for shape in shapes]
        if graph is None:
            graph = torch.export.export(module, tuple(given), dynamic_shapes=sizes).module()
        assert torch.equal(compiled(*given), aamr_loss(*given))
        assert torch.equal(graph(*given), aamr_loss(*given))


ARGUMENTS = {
    "logits": torch.zeros(1, 4, 3, 3),
    "saliency": torch.zeros(1, 1, 6, 6),
    "response": torch.zeros(1, 6, 6),
    "salient": 0.5,
    "active": 0.2,
    "overlap": 0.1,
}


@pytest.mark.parametrize(("name", "value"), wrong_values(ARGUMENTS))
def test_wrong_arguments_of_any_kind(name, value):
    with pytest.raises(ValueError, match=f"^aamr_loss: .*{name}"):
        aamr_loss(**{**ARGUMENTS, name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(1, 4, 3, 3, dtype=torch.int64)}, "logits is torch.int64"),
        ({"logits": torch.zeros(1, 1, 3, 3)}, r"logits is .*\[1, 1, 3, 3\]"),
        ({"saliency": torch.zeros(1, 2, 6, 6)}, r"saliency is .*\[1, 2, 6, 6\]"),
        ({"saliency": torch.zeros(2, 1, 6, 6)}, "saliency is .*B must match"),
        ({"saliency": torch.zeros(1, 1, 6, 6, dtype=torch.uint8)}, "saliency is torch.uint8"),
        ({"saliency": torch.zeros(1, 1, 6, 6, device="meta")}, "saliency is on meta"),
        (
            {"saliency": torch.full((1, 1, 6, 6), 1.5)},
            "saliency spans 1.5..1.5; must be within 0..1",
        ),
        ({"saliency": torch.full((1, 1, 6, 6), torch.nan)}, "saliency spans nan..nan"),
        ({"response": torch.zeros(6, 6)}, r"response is .*\[6, 6\]"),
        ({"response": torch.zeros(1, 6, 6, dtype=torch.bool)}, "response is torch.bool"),
        ({"response": torch.zeros(2, 6, 6)}, "response is .*B must match"),
        ({"response": torch.zeros(1, 0, 6, 6)}, "response is .*must be >= 1"),
        ({"response": torch.full((1, 6, 6), torch.nan)}, "response is NaN in 36 of 36 places"),
        ({"salient": -0.1}, r"salient is -0.1; must be a number in 0\.\.1"),
        ({"active": math.inf}, "active is inf; must be a finite number"),
        ({"overlap": 1.5}, "overlap is 1.5"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=f"^aamr_loss: .*{message}"):
        aamr_loss(**{**ARGUMENTS, **change})
