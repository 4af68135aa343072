"""Convolutions from products of bfloat16 parts, against float64 and, where every product is a whole number, to the bit."""

import pytest
import torch
from torch.testing import assert_close

from wsss_fast.ops import reference
from wsss_fast.ops.reference.split_conv2d import unpacked
from wsss_fast.ops.split_conv2d import fits, pack, split_conv2d

# maps [B, C, H, W], filters, side of the kernel, stride, dilation
CASES = [
    ((1, 32, 1, 1), 32, 1, 1, 1), ((2, 64, 5, 7), 96, 1, 1, 1), ((1, 32, 17, 33), 32, 3, 1, 1), ((2, 96, 9, 16), 64, 3, 2, 1),
    ((1, 32, 6, 47), 320, 3, 1, 4), ((1, 64, 3, 2), 32, 3, 1, 24), ((1, 544, 8, 12), 32, 3, 1, 2),
    ((3, 32, 7, 50), 32, 1, 2, 1),
]
PARTS = (2, 3)


def whole_numbers(shape, largest, generator):
    return torch.randint(-largest, largest + 1, shape, generator=generator).float()


def problem(case, largest_map=100, largest_weight=100):
    (b, c, h, w), k, side, stride, dilation = case
    g = torch.Generator().manual_seed(h * w)
    maps = whole_numbers((b, c, h, w), largest_map, g)
    weight = whole_numbers((k, c, side, side), largest_weight, g) * (torch.rand(k, c, side, side, generator=g) < 0.2)
    result = b, k, (h - 1) // stride + 1, (w - 1) // stride + 1
    extras = {"scale": whole_numbers((c,), 1, g), "shift": whole_numbers((c,), 3, g), "bias": whole_numbers((k,), 9, g),
              "residual": whole_numbers(result, 9, g)}
    return maps, weight, extras, {"stride": stride, "dilation": dilation}


def exact(maps, weight, scale=None, shift=None, bias=None, residual=None, stride=1, dilation=1, relu=False):
    maps, weight = maps.double(), weight.double()
    if scale is not None:
        maps = (maps * scale[:, None, None].double() + shift[:, None, None].double()).relu()
    out = torch.nn.functional.conv2d(maps, weight, None, stride, dilation * (weight.shape[-1] // 2), dilation)
    out = out if bias is None else out + bias[:, None, None].double()
    out = out if residual is None else out + residual.double()
    return out.relu() if relu else out


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_whole_numbers_come_out_exact(case, parts):
    maps, weight, extras, how = problem(case)
    filters = pack(weight, parts)
    assert torch.equal(split_conv2d(maps, filters, **how).double(), exact(maps, weight, **how))
    assert torch.equal(split_conv2d(maps, filters, relu=True, **extras, **how).double(),
                       exact(maps, weight, relu=True, **extras, **how))
    some = {"bias": extras["bias"]}
    assert torch.equal(split_conv2d(maps, filters, **some, **how).double(), exact(maps, weight, **some, **how))


@pytest.mark.parametrize(("largest_map", "largest_weight"), [(30_000, 1), (1, 30_000)])
def test_the_second_parts_count(largest_map, largest_weight):
    """16-bit numbers against ones: lost without the second part of maps, or of weights."""
    maps, weight, _, how = problem(CASES[3], largest_map, largest_weight)
    assert torch.equal(split_conv2d(maps, pack(weight), **how).double(), exact(maps, weight, **how))


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_real_numbers(case, parts):
    (b, c, h, w), k, side, stride, dilation = case
    torch.manual_seed(0)
    maps, weight = torch.randn(b, c, h, w), torch.randn(k, c, side, side) / (c * side * side) ** 0.5
    scale, shift = torch.rand(c) + 0.5, torch.randn(c)
    expected = exact(maps, weight, scale, shift, stride=stride, dilation=dilation)
    result = split_conv2d(maps, pack(weight, parts), scale=scale, shift=shift, stride=stride, dilation=dilation)
    assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_weights_come_back():
    weight = torch.randn(64, 96, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpacked(pack(weight, 3)), weight.double())
    assert_close(unpacked(pack(weight, 2)), weight.double(), rtol=2.0**-16, atol=0)
    assert pack(weight).shape == (2, 9, 3, 2, 2, 16, 16, 2)


def test_any_layout_gives_the_same():
    maps, weight, extras, how = problem(CASES[3])
    filters = pack(weight)
    plain = split_conv2d(maps, filters, **extras, **how)
    assert plain.is_contiguous(memory_format=torch.channels_last)
    for layout in (lambda x: x.contiguous(memory_format=torch.channels_last),
                   lambda x: x.transpose(2, 3).contiguous().transpose(2, 3), lambda x: torch.cat([x, x], 3)[..., :x.shape[3]]):
        other = {**extras, "residual": layout(extras["residual"])}
        assert torch.equal(split_conv2d(layout(maps), filters, **other, **how), plain)


def test_threads_give_the_same_bits():
    maps, weight = torch.randn(2, 64, 40, 47), torch.randn(64, 64, 3, 3)
    before, filters = torch.get_num_threads(), pack(weight)
    try:
        torch.set_num_threads(1)
        one = split_conv2d(maps, filters)
        torch.set_num_threads(3)
        assert torch.equal(split_conv2d(maps, filters), one)
    finally:
        torch.set_num_threads(before)


def test_empty_maps():
    filters = pack(torch.ones(32, 32, 3, 3))
    assert split_conv2d(torch.ones(0, 32, 4, 5), filters).shape == (0, 32, 4, 5)
    assert split_conv2d(torch.ones(1, 32, 0, 5), filters).shape == (1, 32, 0, 5)


def test_reference_agrees():
    maps, weight, extras, how = problem(CASES[3])
    given = maps.permute(0, 2, 3, 1), pack(weight), extras["scale"], extras["shift"], extras["bias"], \
        extras["residual"].permute(0, 2, 3, 1), *how.values(), True
    out = reference.split_conv2d(*given).permute(0, 3, 1, 2)
    assert_close(out.double(), exact(maps, weight, relu=True, **extras, **how), rtol=1e-6, atol=1e-2)


def test_opcheck():
    maps, weight, extras, how = problem(CASES[0])
    given = maps.permute(0, 2, 3, 1).contiguous(), pack(weight), extras["scale"], extras["shift"], extras["bias"], \
        extras["residual"].permute(0, 2, 3, 1).contiguous(), *how.values(), True
    torch.library.opcheck(torch.ops.wsss_fast.split_conv2d.default, given)


def test_no_gradient():
    with pytest.raises(NotImplementedError, match="cannot be differentiated"):
        split_conv2d(torch.ones(1, 32, 2, 2, requires_grad=True), pack(torch.ones(32, 32, 1, 1))).sum().backward()


@pytest.mark.parametrize(("change", "said"), [
    ({"maps": torch.ones(1, 64, 2, 2)}, r"maps is \[1, 64, 2, 2\] but filters are for 32 channels"),
    ({"maps": torch.ones(1, 32, 2, 2).double()}, "maps is torch.float64"), ({"maps": torch.ones(32, 2, 2)}, r"\[32, 2, 2\]"),
    ({"filters": torch.ones(32, 32, 1, 1)}, "filters is torch.float32"), ({"stride": 0}, "stride is 0"),
    ({"dilation": 0}, "dilation 0"), ({"scale": torch.ones(32)}, "got scale only"),
    ({"scale": torch.ones(31), "shift": torch.ones(32)}, r"scale is \[31\]"), ({"bias": torch.ones(64)}, r"bias is \[64\]"),
    ({"residual": torch.ones(1, 32, 2, 1)}, "residual is"),
])
def test_bad_arguments(change, said):
    given = {"maps": torch.ones(1, 32, 2, 2), "filters": pack(torch.ones(32, 32, 1, 1)), **change}
    with pytest.raises(ValueError, match=f"split_conv2d: .*{said}"):
        split_conv2d(given.pop("maps"), given.pop("filters"), **given)


@pytest.mark.parametrize("shape", [(32, 48, 3, 3), (21, 32, 1, 1), (32, 32, 5, 5), (32, 32, 1, 3), (32, 32, 7, 7)])
def test_other_weights_are_refused(shape):
    assert not fits(torch.ones(shape))
    with pytest.raises(ValueError, match="split_conv2d: weight is"):
        pack(torch.ones(shape))
    with pytest.raises(ValueError, match="parts is 4"):
        pack(torch.ones(32, 32, 1, 1), 4)
