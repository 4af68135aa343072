"""amx_conv2d against float64; to the bit where every product is a whole number."""

import pytest
import torch
from op_testing import threads, wrong_values
from torch.testing import assert_close

from wsss_fast.ops import reference
from wsss_fast.ops.amx_conv2d import MAX_DILATION, amx_conv2d, is_supported, pack
from wsss_fast.ops.reference.amx_conv2d import unpacked

# maps [B, C, H, W], filters, side of the kernel, stride, dilation
CASES = [
    ((1, 32, 1, 1), 32, 1, 1, 1),
    ((2, 64, 5, 7), 96, 1, 1, 1),
    ((1, 32, 17, 33), 32, 3, 1, 1),
    ((2, 96, 9, 16), 64, 3, 2, 1),
    ((1, 32, 6, 47), 320, 3, 1, 4),
    ((1, 64, 3, 2), 32, 3, 1, 24),
    ((1, 544, 8, 12), 32, 3, 1, 2),
    ((3, 32, 7, 50), 32, 1, 2, 1),
    ((5, 48, 11, 14), 48, 3, 1, 1),
    ((2, 3, 20, 30), 21, 3, 2, 1),
    ((40, 160, 4, 5), 80, 3, 1, 1),
    ((1, 320, 40, 30), 72, 1, 1, 1),
]
PARTS = (2, 3)


def whole_numbers(shape, largest, generator):
    return torch.randint(-largest, largest + 1, shape, generator=generator).float()


def problem(case, largest_map=100, largest_weight=100):
    (b, c, h, w), k, side, stride, dilation = case
    g = torch.Generator().manual_seed(h * w)
    maps = whole_numbers((b, c, h, w), largest_map, g)
    weight = whole_numbers((k, c, side, side), largest_weight, g) * (
        torch.rand(k, c, side, side, generator=g) < 0.2
    )
    result = b, k, (h - 1) // stride + 1, (w - 1) // stride + 1
    extras = {
        "scale": whole_numbers((c,), 1, g),
        "shift": whole_numbers((c,), 3, g),
        "bias": whole_numbers((k,), 9, g),
        "residual": whole_numbers(result, 9, g),
    }
    return maps, weight, extras, {"stride": stride, "dilation": dilation}


def extents(case):
    """Height and width of the image in each map; the first image fills its map."""
    (b, _, h, w), *_ = case
    return torch.tensor([(max(h - i, 0), max(w - 3 * i, 0)) for i in range(b)])


def exact(
    maps,
    weight,
    scale=None,
    shift=None,
    bias=None,
    residual=None,
    inside=None,
    stride=1,
    dilation=1,
    relu=False,
):
    maps, weight = maps.double(), weight.double()
    if scale is not None:
        maps = (maps * scale[:, None, None].double() + shift[:, None, None].double()).relu()
    if inside is not None:
        maps = maps.clone()
        for image, (height, width) in zip(maps, inside.tolist(), strict=True):
            image[:, height:], image[:, :, width:] = 0, 0
    out = torch.nn.functional.conv2d(
        maps, weight, None, stride, dilation * (weight.shape[-1] // 2), dilation
    )
    out = out if bias is None else out + bias[:, None, None].double()
    out = out if residual is None else out + residual.double()
    return out.relu() if relu else out


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_whole_numbers_are_exact(case, parts):
    maps, weight, extras, how = problem(case)
    filters, count = pack(weight, parts), len(weight)
    assert torch.equal(amx_conv2d(maps, filters, count, **how).double(), exact(maps, weight, **how))
    extras["inside"] = extents(case)
    assert torch.equal(
        amx_conv2d(maps, filters, count, relu=True, **extras, **how).double(),
        exact(maps, weight, relu=True, **extras, **how),
    )
    some = {"bias": extras["bias"]}
    assert torch.equal(
        amx_conv2d(maps, filters, count, **some, **how).double(), exact(maps, weight, **some, **how)
    )


@pytest.mark.parametrize(("largest_map", "largest_weight"), [(30_000, 1), (1, 30_000)])
def test_the_second_parts_are_used(largest_map, largest_weight):
    """16-bit numbers times ones: wrong without the second part of the maps, or of the weight."""
    maps, weight, _, how = problem(CASES[3], largest_map, largest_weight)
    assert torch.equal(amx_conv2d(maps, pack(weight), **how).double(), exact(maps, weight, **how))


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_real_numbers(case, parts):
    (b, c, h, w), k, side, stride, dilation = case
    torch.manual_seed(0)
    maps, weight = torch.randn(b, c, h, w), torch.randn(k, c, side, side) / (c * side * side) ** 0.5
    scale, shift = torch.rand(c) + 0.5, torch.randn(c)
    expected = exact(maps, weight, scale, shift, stride=stride, dilation=dilation)
    result = amx_conv2d(
        maps, pack(weight, parts), k, scale=scale, shift=shift, stride=stride, dilation=dilation
    )
    terms = exact(maps, weight.abs(), scale, shift, stride=stride, dilation=dilation)
    assert ((result - expected).abs() <= 2.0**-15 * terms).all()
    if c >= 32:  # with fewer terms, errors do not cancel
        assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_unpacking_restores_the_weight():
    weight = torch.randn(50, 70, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpacked(pack(weight, 3), 50, 70), weight.double())
    assert_close(unpacked(pack(weight, 2), 50, 70), weight.double(), rtol=2.0**-16, atol=0)
    assert pack(weight).shape == (2, 3, 9, 2, 2, 16, 16, 2)
    padded = unpacked(pack(weight), 64, 96)
    assert not padded[50:].any() and not padded[:, 70:].any()


def test_any_layout_gives_the_same():
    maps, weight, extras, how = problem(CASES[3])
    filters = pack(weight)
    plain = amx_conv2d(maps, filters, **extras, **how)
    assert plain.is_contiguous(memory_format=torch.channels_last)
    for layout in (
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.cat([x, x], 3)[..., : x.shape[3]],
    ):
        other = {**extras, "residual": layout(extras["residual"])}
        assert torch.equal(amx_conv2d(layout(maps), filters, **other, **how), plain)


@pytest.mark.parametrize("shape", [(2, 64, 40, 47), (5, 48, 12, 9), (1, 64, 150, 60)], ids=str)
def test_threads_give_the_same_bits(shape):
    maps, weight = torch.randn(shape), torch.randn(300, shape[1], 3, 3)
    filters = pack(weight)
    with threads(1):
        one = amx_conv2d(maps, filters, 300)
    for count in (2, 3):
        with threads(count):
            assert torch.equal(amx_conv2d(maps, filters, 300), one)


def test_images_of_a_batch_are_independent():
    maps, weight, _, how = problem(CASES[-2])
    together = amx_conv2d(maps, pack(weight), len(weight), **how)
    alone = [amx_conv2d(image[None], pack(weight), len(weight), **how) for image in maps]
    assert torch.equal(together, torch.cat(alone))


def test_empty_maps():
    filters = pack(torch.ones(32, 32, 3, 3))
    assert amx_conv2d(torch.ones(0, 32, 4, 5), filters).shape == (0, 32, 4, 5)
    assert amx_conv2d(torch.ones(1, 32, 0, 5), filters).shape == (1, 32, 0, 5)
    given = torch.ones(2, 0, 5, 32), filters, 32, None, None, None, None, None, 2, 1, False
    assert reference.amx_conv2d(*given).shape == (2, 0, 3, 32)


def test_reference_agrees():
    maps, weight, extras, how = problem(CASES[3])
    given = (
        maps.permute(0, 2, 3, 1),
        pack(weight),
        len(weight),
        extras["scale"],
        extras["shift"],
        extras["bias"],
        extras["residual"].permute(0, 2, 3, 1),
        extents(CASES[3]),
        *how.values(),
        True,
    )
    out = reference.amx_conv2d(*given).permute(0, 3, 1, 2)
    assert_close(
        out.double(),
        exact(maps, weight, relu=True, inside=extents(CASES[3]), **extras, **how),
        rtol=1e-6,
        atol=1e-2,
    )


def test_opcheck():
    maps, weight, extras, how = problem(CASES[0])
    given = (
        maps.permute(0, 2, 3, 1).contiguous(),
        pack(weight),
        len(weight),
        extras["scale"],
        extras["shift"],
        extras["bias"],
        extras["residual"].permute(0, 2, 3, 1).contiguous(),
        extents(CASES[0]),
        *how.values(),
        True,
    )
    torch.library.opcheck(torch.ops.wsss_fast.amx_conv2d.default, given)


def test_no_gradient():
    with pytest.raises(NotImplementedError, match="cannot be differentiated"):
        amx_conv2d(
            torch.ones(1, 32, 2, 2, requires_grad=True), pack(torch.ones(32, 32, 1, 1))
        ).sum().backward()


ARGUMENTS = {
    "maps": torch.ones(1, 32, 2, 2),
    "filters": pack(torch.ones(32, 32, 1, 1)),
    "count": 32,
    "scale": torch.ones(32),
    "shift": torch.ones(32),
    "bias": torch.ones(32),
    "residual": torch.ones(1, 32, 2, 2),
    "inside": torch.tensor([[2, 2]]),
    "stride": 1,
    "dilation": 1,
}
OPTIONAL = ("count", "scale", "shift", "bias", "residual", "inside")


@pytest.mark.parametrize(("name", "value"), wrong_values(ARGUMENTS, OPTIONAL))
def test_wrong_arguments_of_any_kind(name, value):
    with pytest.raises(ValueError, match=f"^amx_conv2d: .*{name}"):
        amx_conv2d(**{**ARGUMENTS, name: value})


@pytest.mark.parametrize("name", [n for n, v in ARGUMENTS.items() if isinstance(v, torch.Tensor)])
def test_tensors_on_another_device(name):
    with pytest.raises(ValueError, match=r"^amx_conv2d: maps is on \w+ but \w+ is on \w+"):
        amx_conv2d(**{**ARGUMENTS, name: ARGUMENTS[name].to("meta")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"maps": torch.ones(1, 64, 2, 2)},
            r"maps is \[1, 64, 2, 2\] but filters are for 32 channels",
        ),
        ({"maps": torch.ones(1, 32, 2, 2).double()}, "maps is torch.float64"),
        ({"maps": torch.ones(32, 2, 2)}, r"\[32, 2, 2\]"),
        ({"filters": torch.ones(32, 32, 1, 1)}, "filters is torch.float32"),
        ({"stride": 0}, "stride is 0"),
        ({"dilation": 0}, "dilation is 0"),
        ({"dilation": MAX_DILATION + 1}, r"dilation is 1025; must be an integer in 1\.\.1024"),
        ({"scale": None}, "got only shift"),
        ({"scale": torch.ones(31)}, r"scale is torch.float32 \[31\]"),
        ({"scale": torch.ones(64)[::2]}, r"scale is .*; must be contiguous float32 \[32\]"),
        ({"bias": torch.ones(64)}, r"bias is torch.float32 \[64\]"),
        ({"residual": torch.ones(1, 32, 2, 1)}, r"residual is .*; must be float32 \[1, 32, 2, 2\]"),
        ({"count": 33}, "count is 33 but filters are 1 blocks"),
        ({"count": 0}, "count is 0"),
        ({"inside": torch.ones(1, 2)}, "inside is torch.float32"),
        ({"inside": torch.ones(2, 2).long()}, r"inside is torch.int64 \[2, 2\]"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=f"^amx_conv2d: .*{message}"):
        amx_conv2d(**{**ARGUMENTS, **change})


@pytest.mark.parametrize(
    "shape",
    [(32, 0, 3, 3), (0, 32, 1, 1), (32, 32, 5, 5), (32, 32, 1, 3), (32, 32, 7, 7), (32, 32)],
)
def test_weights_that_cannot_be_packed(shape):
    assert not is_supported(torch.ones(shape))
    with pytest.raises(ValueError, match="amx_conv2d: weight is"):
        pack(torch.ones(shape))


def test_wrong_arguments_of_pack():
    with pytest.raises(ValueError, match="amx_conv2d: weight is torch.float16"):
        pack(torch.ones(32, 32, 1, 1).half())
    with pytest.raises(ValueError, match="amx_conv2d: parts is 4; must be 2 or 3"):
        pack(torch.ones(32, 32, 1, 1), 4)
