"""merge_maps: values against float64 and against the steps of the published code, errors."""

import dataclasses

import pytest
import torch
from op_testing import each_device, threads, wrong_values
from torch.nn.functional import interpolate

from wsss_fast.ops import merge_maps, reference
from wsss_fast.ops.merge_maps import KINDS
from wsss_fast.ops.reference.merge_maps import strided_size


@dataclasses.dataclass(frozen=True)
class Case:
    """Channels of each image, size of the images, sizes of the views, channels of the outputs."""

    channels: tuple[tuple[int, ...], ...]
    size: tuple[int, int]
    views: tuple[tuple[int, int], ...]
    count: int = 5
    align: int = 1


CASES = {
    "four_scales": Case(((3, 1), (), (0, 2, 4)), (37, 50), ((3, 4), (2, 2), (4, 5), (5, 7)), 5, 16),
    "one_scale": Case(((0,),), (16, 32), ((4, 8),), 1),
    "voc": Case((tuple(range(20)), (19,)), (19, 13), ((5, 4), (3, 2)), 21, 16),
    "coco": Case(((80, 0, 41),), (9, 6), ((3, 2),), 81),
    "one_pixel": Case(((1,), (2, 0)), (1, 1), ((1, 1), (1, 1)), 3),
    "one_pixel_aligned": Case(((1, 1),), (1, 1), ((2, 3),), 2, 16),
    "larger_views": Case(((1, 0),), (7, 5), ((20, 11), (14, 30)), 2),
    "same_size": Case(((0, 1),), (8, 12), ((8, 12), (2, 3)), 2),
    "thin": Case(((0,), (1,)), (1, 43), ((1, 3), (2, 6)), 2, 4),
    "no_maps": Case(((), ()), (6, 5), ((2, 2),), 3),
    "no_images": Case((), (6, 5), ((2, 2),), 3),
    "many_views": Case(((0, 2),), (10, 9), ((3, 3),) * 31 + ((2, 4),), 3),
    "many_rows": Case(((2, 0, 1) * 82,) * 2, (2, 3), ((2, 2),), 3),
}
each_case = pytest.mark.parametrize("name", CASES)
each_kind = pytest.mark.parametrize("kind", KINDS)


def make(name, kind="relative", dtype=torch.float32, device="cpu", layout=torch.contiguous_format):
    """Views and options of a case; the views are >= 0 except for the softmax."""
    case, generator = CASES[name], torch.Generator().manual_seed(0)
    shape = 2 * len(case.channels), case.count
    views = [torch.randn(*shape, *each, generator=generator) for each in case.views]
    if kind != "softmax":
        views = [view.relu() for view in views]
    views = [view.to(device, dtype).contiguous(memory_format=layout) for view in views]
    options = {"kind": kind, "align": 1 if kind == "softmax" else case.align}
    if kind == "softmax":
        sizes = strided_size(*case.size), case.size
        masks = (torch.rand(shape[0] // 2, *size, generator=generator) < 0.5 for size in sizes)
        options["foreground"] = tuple(mask.to(device) for mask in masks)
    return (views, case.channels, case.size), options


def flat(images):
    return [maps for image in images for maps in image if maps is not None]


def largest_error(results, expected):
    assert [r.shape for r in results] == [e.shape for e in expected]
    pairs = [(r.double(), e.double()) for r, e in zip(results, expected, strict=True) if e.numel()]
    return max(((r - e).abs().max().item() for r, e in pairs), default=0.0)


@each_device
@each_case
@each_kind
def test_values_are_the_references(name, kind, device):
    inputs, options = make(name, kind, device=device)
    truth = flat(reference.merge_maps([v.double() for v in inputs[0]], *inputs[1:], **options))
    eager = flat(reference.merge_maps(*inputs, **options))
    ours = flat(merge_maps(*inputs, **options))
    assert all(maps.dtype == torch.float32 and maps.is_contiguous() for maps in ours)
    scale = max([1.0, *(t.abs().max().item() for t in truth if t.numel())])
    assert largest_error(ours, eager) <= 1e-6 * scale
    assert largest_error(ours, truth) <= 2 * largest_error(eager, truth) + 5e-7 * scale
    again = flat(merge_maps(*inputs, **options))
    assert all(map(torch.equal, ours, again))


@each_device
@each_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_of_views_and_of_maps(kind, dtype, device):
    inputs, options = make("four_scales", kind, dtype, device)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    truth = flat(reference.merge_maps([v.to(wide) for v in inputs[0]], *inputs[1:], **options))
    for to in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        ours = flat(merge_maps(*inputs, **options, dtype=to))
        assert all(maps.dtype == to for maps in ours)
        spacing = torch.finfo(to).eps * max(t.max().item() for t in truth if t.numel())
        assert largest_error(ours, truth) <= spacing / 2 + 1e-6


@each_device
@each_kind
@pytest.mark.parametrize("case", ["four_scales", "same_size", "voc"])
def test_strides_of_views_do_not_matter(case, kind, device):
    inputs, options = make(case, kind, device=device)
    expected = flat(merge_maps(*inputs, **options))
    views = [view.contiguous(memory_format=torch.channels_last) for view in inputs[0]]
    strided = [torch.stack([view, -view], -1)[..., 0] for view in views]
    for other in (views, strided):
        ours = flat(merge_maps(other, *inputs[1:], **options))
        assert largest_error(ours, expected) <= 1e-6 * max(
            1.0, *(e.max() for e in expected if e.numel())
        )


@each_device
@each_kind
def test_without_strided_maps(kind, device):
    inputs, options = make("four_scales", kind, device=device)
    both = merge_maps(*inputs, **options)
    if "foreground" in options:
        options["foreground"] = None, options["foreground"][1]
    full = merge_maps(*inputs, **options, strided=False)
    assert all(image.strided is None for image in full)
    assert all(torch.equal(a.full, b.full) for a, b in zip(full, both, strict=True))


@each_device
def test_present_only(device):
    inputs, options = make("voc", "softmax", device=device)
    views, channels, size = inputs
    ours = merge_maps(*inputs, **options, present_only=True)
    for image, wanted in enumerate(channels):
        rows = [image, len(channels) + image]
        own = [view[rows][:, list(wanted)] for view in views]
        masks = tuple(mask[image : image + 1] for mask in options["foreground"])
        every = [tuple(range(len(wanted)))]
        (alone,) = merge_maps(own, every, size, kind="softmax", foreground=masks)
        assert largest_error([*ours[image]], [*alone]) <= 1e-6
    inputs, options = make("four_scales", "softmax", device=device)
    del options["foreground"]
    for image in merge_maps(*inputs, **options, present_only=True):
        if len(image.full):
            assert (image.full.sum(0) - 1).abs().max() < 1e-6


@each_device
def test_zero_and_constant_maps(device):
    views = [torch.zeros(2, 2, 3, 4, device=device), torch.zeros(2, 2, 6, 8, device=device)]
    views[0][:, 1], views[1][:, 1] = 0.5, 0.25
    (maps,) = merge_maps(views, [(0, 1)], (9, 11))
    for each in maps:
        assert (each[0] == 0).all() and (each[1] - 1.5 / (1.5 + 1e-5)).abs().max() < 1e-6
    everywhere = tuple(torch.ones(1, *size, dtype=torch.uint8) for size in ((3, 3), (9, 11)))
    masks = tuple(mask.to(device) for mask in everywhere)
    (maps,) = merge_maps(views, [(0, 1)], (9, 11), kind="softmax", foreground=masks)
    for each in maps:  # a probability that is the same everywhere is rescaled to 0
        assert each.abs().max() < 1e-2


@each_device
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", ["relative", "sum"])
def test_what_is_not_finite_does_not_leave_its_map(kind, value, device):
    inputs, options = make("four_scales", kind, device=device)
    clean = merge_maps(*inputs, **options)
    inputs[0][0][0, 3, 1, 2] = value  # channel 3 of the first image
    ours = merge_maps(*inputs, **options)
    expected = reference.merge_maps(*inputs, **options)
    for a, b in zip(ours[0], expected[0], strict=True):
        assert not a[0].isfinite().all()
        assert torch.equal(a[0].isnan(), b[0].isnan()) and torch.equal(a[0].isinf(), b[0].isinf())
    assert torch.equal(ours[0].full[1], clean[0].full[1])
    assert torch.equal(ours[0].strided[1], clean[0].strided[1])
    assert all(torch.equal(a.full, b.full) for a, b in zip(ours[1:], clean[1:], strict=True))


@each_device
@pytest.mark.parametrize("present_only", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_in_a_softmax(value, dtype, present_only, device):
    """An infinite minimum leaves the other channels as they are; NaN and maxima become NaN."""
    inputs, options = make("four_scales", "softmax", dtype, device)
    for masks in (options["foreground"], None):
        options.update(foreground=masks, present_only=present_only)
        for channels in ((3,), (0,), (0, 1, 2, 3, 4)):
            views = [view.clone() for view in inputs[0]]
            for channel in channels:
                views[0][0, channel, 1, 2] = value
            ours = flat(merge_maps(views, *inputs[1:], **options))
            expected = flat(reference.merge_maps(views, *inputs[1:], **options))
            for a, b in zip(ours, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=2e-6, equal_nan=True)
    assert (masks is None) and ours[1][0].isnan().any() and not ours[1][0].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_do_not_matter(dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = (4, 40, 7, 9), (4, 40, 3, 2)
    views = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    sizes = strided_size(131, 67), (131, 67)
    masks = tuple(torch.rand(2, *size, generator=generator) < 0.5 for size in sizes)
    results = []
    for count in (1, 2, 5):
        with threads(count):
            options = {"kind": "softmax", "foreground": masks}
            results.append(flat(merge_maps(views, [(0, 39), (7,)], (131, 67), **options)))
    assert all(
        torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True)
    )


def test_masks_of_the_wrong_size_are_refused_by_the_kernel():
    op, views = torch.ops.wsss_fast.merge_maps_softmax.default, [torch.ones(2, 3, 2, 2)]
    op(views, [0], [1], [6, 5], True, False, None, None, 2)  # loads the library
    masks = torch.ones(1, 2, 2, dtype=torch.uint8), torch.ones(1, 6, 4, dtype=torch.uint8)
    for channels, counts, given in (
        ([0], [1], masks),
        ([3], [1], (None, None)),
        ([0], [2], (None, None)),
        ([0], [-1], (None, None)),
        ([0], [1, 0], (None, None)),
    ):
        with pytest.raises((ValueError, RuntimeError)):
            op(views, channels, counts, [6, 5], True, False, *given, 2)


def published(view_list, size):
    """The steps of the published code: resize each view, stack, sum."""
    stacked = [interpolate(view[None], size, mode="bilinear")[0] for view in view_list]
    return torch.stack(stacked)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@each_case
def test_reference_has_the_bits_of_the_published_steps(name, layout):
    (views, channels, size), _ = make(name, layout=layout)
    views[0][..., 0] = -0.0
    align, (height, width) = CASES[name].align, size
    aligned = [-(-n // align) * align for n in size]
    pairs = [view.chunk(2)[0] + view.chunk(2)[1].flip(-1) for view in views]
    results = reference.merge_maps(views, channels, size, align=align)
    sums = reference.merge_maps(views, channels, size, kind="sum", strided=False)
    for image, wanted in enumerate(channels):
        if not wanted:
            continue
        kept = [pair[image][list(wanted)] for pair in pairs]
        strided = published(kept, strided_size(*size)).sum(0)
        full = published(kept, aligned).sum(0)[:, :height, :width]
        for ours, maps in zip(results[image], (strided, full), strict=True):
            expected = maps / (maps.amax((1, 2), keepdim=True) + 1e-5)
            assert ours.numpy().tobytes() == expected.numpy().tobytes()
        assert sums[image].full.numpy().tobytes() == published(kept, size).sum(0).numpy().tobytes()


@pytest.mark.parametrize("present_only", [False, True])
@each_case
def test_reference_has_the_bits_of_the_published_softmax(name, present_only):
    (views, channels, size), options = make(name, "softmax")
    pairs = [(view.chunk(2)[0] + view.chunk(2)[1].flip(-1)) / 2 for view in views]
    results = reference.merge_maps(views, channels, size, **options, present_only=present_only)
    for image, wanted in enumerate(channels):
        rows = list(wanted)
        if not rows:
            continue
        kept = [pair[image][rows] if present_only else pair[image] for pair in pairs]
        for ours, masks in zip(results[image], options["foreground"], strict=True):
            scores = published(kept, masks.shape[1:]).mean(0).softmax(0)
            scores = scores if present_only else scores[rows]
            low, high = scores.amin((1, 2), keepdim=True), scores.amax((1, 2), keepdim=True)
            rescaled = (scores - low) / (high - low + 1e-5)
            expected = torch.where(masks[image], rescaled, scores)
            assert ours.numpy().tobytes() == expected.numpy().tobytes()


@each_device
@each_kind
@pytest.mark.parametrize("name", ["four_scales", "no_maps", "one_pixel"])
def test_opcheck(name, kind, device):
    (views, channels, size), options = make(name, kind, device=device)
    small, full = options.get("foreground", (None, None))
    masks = [None if m is None else m.view(torch.uint8) for m in (small, full)]
    common = views, [c for own in channels for c in own], [len(own) for own in channels], size
    if kind == "softmax":
        op = torch.ops.wsss_fast.merge_maps_softmax.default
        torch.library.opcheck(op, (*common, True, False, *masks, 2))
    else:
        op = torch.ops.wsss_fast.merge_maps.default
        torch.library.opcheck(op, (*common, options["align"], kind == "relative", True, 2))


@each_device
def test_compiles_whole(device):
    (views, channels, size), options = make("four_scales", device=device)

    def call(*views):
        return merge_maps([2 * view for view in views], channels, size, **options)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, flat(compiled(*views)), flat(call(*views))))


@each_device
def test_is_not_differentiable(device):
    (views, channels, size), _ = make("one_scale", device=device)
    maps = merge_maps([views[0].requires_grad_()], channels, size)[0].full
    with pytest.raises(NotImplementedError, match="merge_maps cannot be differentiated"):
        maps.sum().backward()


VALID = {
    "views": [torch.ones(4, 3, 2, 2), torch.ones(4, 3, 4, 4)],
    "channels": [[0], [1, 2]],
    "size": (6, 5),
    "kind": "softmax",
    "align": 1,
    "foreground": (torch.ones(2, 2, 2, dtype=torch.bool), torch.ones(2, 6, 5, dtype=torch.bool)),
    "dtype": torch.float16,
}
ones = torch.ones
WRONG = [
    ("views", torch.ones(4, 3, 2, 2), "views is torch.float32"),
    ("views", [], r"views is \[\]; must be a list of 1..32 tensors"),
    ("views", [ones(4, 3, 2, 2)] * 33, "views is a list; must be a list of 1..32"),
    ("views", [ones(3, 3, 2, 2)], r"views\[0\] is torch.float32 \[3, 3, 2, 2\]; must be"),
    ("views", [ones(4, 3, 2, 0)], r"views\[0\] is torch.float32 \[4, 3, 2, 0\]"),
    ("views", [ones(4, 3, 2, 2, dtype=torch.int64)], r"views\[0\] is torch.int64"),
    ("views", [1.0], r"views\[0\] is 1.0"),
    (
        "views",
        [ones(4, 3, 2, 2), ones(4, 2, 2, 2)],
        r".*views\[1\] is torch.float32 \[4, 2, 2, 2\]",
    ),
    ("views", [ones(4, 3, 2, 2), ones(4, 3, 2, 2).half()], r".*but views\[1\] is torch.float16"),
    ("channels", [[0]], "channels has 1 lists but views are of 2 images"),
    ("channels", 3, "channels is 3"),
    ("channels", [[0], 1], r"channels\[1\] is 1"),
    ("channels", [[0], [3]], r"channels\[1\] holds 3; must be in 0..2"),
    ("channels", [[0], [-1]], r"channels\[1\] holds -1"),
    ("channels", [[0.5], []], r"channels\[0\] holds 0.5"),
    ("size", (0, 5), r"size is \(0, 5\); must be two integers >= 1"),
    ("size", (6.5, 5), r"size is \(6.5, 5\)"),
    ("size", (6,), r"size is \(6,\)"),
    ("size", 6, "size is 6"),
    ("kind", "mean", "kind is 'mean'; must be one of"),
    ("kind", "sum", r"foreground is .*; must be None for kind 'sum'"),
    ("align", 0, "align is 0; must be an integer in 1..65535"),
    ("align", 2, "align is 2; must be 1 for kind 'softmax'"),
    ("foreground", (ones(2, 2, 2), ones(2, 6, 5)), r"foreground\[0\] is torch.float32"),
    ("foreground", (ones(2, 2, 2).bool(), ones(2, 6, 6).bool()), r"foreground\[1\] is .*\[2, 6, 6"),
    ("foreground", (None, ones(2, 6, 5).bool()), r"foreground\[0\] is None"),
    ("foreground", ones(2, 6, 5).bool(), "foreground is .* must be two masks"),
    ("dtype", torch.int32, "dtype is torch.int32; must be float16"),
    ("dtype", "half", "dtype is 'half'"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_arguments_are_named(name, value, message):
    assert flat(merge_maps(**VALID))
    with pytest.raises(ValueError, match=f"^merge_maps: {message}"):
        merge_maps(**{**VALID, name: value})


@pytest.mark.parametrize(("name", "value"), wrong_values({"align": 1, "kind": "sum"}))
def test_wrong_arguments(name, value):
    arguments = {**VALID, "foreground": None, name: value}
    with pytest.raises((ValueError, TypeError), match=f"merge_maps: {name}"):
        merge_maps(**arguments)


def test_options_of_other_kinds_are_refused():
    arguments = {**VALID, "foreground": None, "kind": "relative"}
    with pytest.raises(ValueError, match="present_only is True; must be False for kind 'relative'"):
        merge_maps(**arguments, present_only=True)
