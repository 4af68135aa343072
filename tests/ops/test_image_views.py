"""image_views against Pillow and numpy, bit for bit; layouts, batches, threads, wrong input."""

import math

import numpy as np
import pytest
import torch
from op_testing import each_device, threads, wrong_values
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from wsss_fast import _native
from wsss_fast.data.transforms import normalise
from wsss_fast.ops import _library, image_views, reference
from wsss_fast.ops.reference.bicubic import PASS_ORDER, pass_order, resize_bicubic


# name: shape of the image, scales, options
def scaled_size(size, scale):
    """Size (H, W) of a view, as NumPy rounds."""
    height, width = (max(1, int(np.round(side * scale))) for side in size)
    return height, width


CASES = {
    "small": ((9, 13, 3), [0.5, 1.0, 1.5, 2.0], {}),
    "pixel": ((1, 1, 3), [1.0, 4.0, 0.001], {}),
    "row": ((1, 53, 3), [0.3, 1.0, 2.5], {}),
    "column": ((47, 1, 3), [0.3, 1.0, 2.5], {}),
    "primes": ((31, 37, 3), [17 / 31, 1.13, 3.0], {}),
    "tall": ((67, 11, 3), [0.4, 0.9, 1.4], {}),
    "wide": ((11, 67, 3), [0.4, 0.9, 1.4], {}),
    "batch": ((3, 17, 12, 3), [0.75, 1.25, 1.0], {}),
    "no_mirror": ((2, 10, 7, 3), [2.0, 0.6], {"mirror": False}),
    "own_colours": ((5, 6, 3), [1.5], {"mean": (0.1, 0.0, -2.0), "std": (0.01, 1.0, 3.0)}),
    "bfloat16": ((8, 9, 3), [0.5, 1.0, 1.7], {"dtype": torch.bfloat16}),
    "float16": ((8, 9, 3), [0.5, 1.0, 1.7], {"dtype": torch.float16}),
    "many_scales": ((6, 5, 3), [0.2 * n for n in range(1, 12)], {}),
    "empty_batch": ((0, 4, 5, 3), [0.5, 2.0], {}),
}
each_case = pytest.mark.parametrize("name", CASES)


def checkerboard(height, width):
    """0 and 255 in turn, inverted in the second channel: sums overshoot and are clipped."""
    board = torch.arange(height)[:, None] + torch.arange(width) & 1
    return (torch.stack([board, 1 - board, board], -1) * 255).to(torch.uint8)


def random_image(shape, seed=0):
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def make(name):
    """An image, scales and options of a case."""
    shape, scales, options = CASES[name]
    return random_image(shape, len(name)), scales, options


def by_pillow(image, scale):
    """One uint8 image [H, W, 3], resized."""
    height, width = scaled_size(tuple(image.shape[:2]), scale)
    resized = Image.fromarray(image.numpy()).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def expected_view(image, scale, *, mirror=True, mean=None, std=None, dtype=torch.float32):
    """The view of one image or of a batch, by Pillow and numpy."""
    images = image if image.dim() == 4 else image[None]
    resized = [by_pillow(one, scale) for one in images]
    if mean is None:
        inputs = [normalise(one) for one in resized]
    else:
        inputs = [((one / 255.0 - mean) / std).astype("f4").transpose(2, 0, 1) for one in resized]
    if not inputs:
        size = scaled_size(tuple(images.shape[1:3]), scale)
        inputs = np.zeros((0, 3, *size), np.float32)
    views = torch.from_numpy(np.stack(inputs) if len(inputs) else inputs)
    return (torch.cat([views, views.flip(-1)]) if mirror else views).to(dtype)


def resized_levels(image, scale, device):
    """The resized image itself, uint8 [h, w, 3], from a view that is not normalised."""
    (view,) = image_views(image.to(device), [scale], mirror=False, mean=[0.0] * 3, std=[1.0] * 3)
    return (view[0] * 255).round().to(torch.uint8).permute(1, 2, 0).cpu()


@each_device
@each_case
def test_equals_pillow_and_numpy(name, device):
    image, scales, options = make(name)
    views = image_views(image.to(device), scales, **options)
    assert len(views) == len(scales)
    for scale, ours, truth in zip(
        scales, views, reference.image_views(image, scales, **options), strict=True
    ):
        expected = expected_view(image, scale, **options)
        assert ours.dtype == options.get("dtype", torch.float32) and ours.device.type == device
        assert (
            ours.stride() == torch.empty_like(expected, memory_format=torch.channels_last).stride()
        )
        assert torch.equal(ours.cpu(), expected) and torch.equal(truth, expected)


def sizes_and_scales():
    """Sampled sides in 1..2000, logarithmically, with scales from 1/1000 to 4."""
    rng = np.random.default_rng(7)
    for _ in range(60):
        height, width = np.exp(rng.uniform(0, np.log(2000), 2)).round().astype(int).tolist()
        scale = float(np.exp(rng.uniform(np.log(0.001), np.log(4))))
        limit = 5e5 / (height * width)  # pixels of the result
        yield height, width, min(scale, math.sqrt(limit)) if limit < 1 else scale
    yield from ((1999, 1, 0.0005), (1, 2000, 0.001), (2000, 3, 0.7), (1, 1, 4.0), (3, 1997, 1.001))
    yield from ((2000, 2, 1.9), (1009, 13, 4.0), (997, 991, 0.001), (251, 257, 256 / 257))


def test_equals_pillow_at_sizes_up_to_2000():
    for number, (height, width, scale) in enumerate(sizes_and_scales()):
        board = number % 3 == 0
        image = checkerboard(height, width) if board else random_image((height, width, 3), number)
        ours = resized_levels(image, scale, "cpu")
        assert np.array_equal(ours.numpy(), by_pillow(image, scale)), (height, width, scale)


@each_device
def test_overshoot_is_clipped_and_constants_stay(device):
    board = checkerboard(24, 31)
    assert by_pillow(board, 1.9).min() == 0 and by_pillow(board, 1.9).max() == 255
    for scale in (0.37, 0.9, 1.9, 3.0):
        ours = resized_levels(board, scale, device)
        assert np.array_equal(ours.numpy(), by_pillow(board, scale))
        for level in (0, 1, 254, 255):
            flat = torch.full((19, 23, 3), level, dtype=torch.uint8)
            assert (resized_levels(flat, scale, device) == level).all()


@each_device
def test_the_order_of_the_passes(device):
    """The rule of each release of Pillow; the installed one is what `PASS_ORDER` says."""
    scale = 0.5
    for height, width in ((80, 30), (80, 39), (80, 40), (30, 80), (602, 6), (600, 6)):
        image = random_image((height, width, 3), height + width)
        size = scaled_size((height, width), scale)
        picture = Image.fromarray(image.numpy())
        horizontal, vertical = (
            np.array(picture.resize(middle, 3).resize(size[::-1], 3))
            for middle in ((size[1], height), (width, size[0]))
        )
        assert not np.array_equal(horizontal, vertical)
        shrinking = height - size[0] > 2 * (width - size[1])
        for order, first in ((0, False), (1, height > 100 * width), (2, shrinking)):
            expected = torch.from_numpy(vertical if first else horizontal)
            assert torch.equal(resize_bicubic(image, *size, order), expected)
            (view,) = torch.ops.wsss_fast.image_views(
                image[None].to(device), [scale], False, [0.0] * 3, [1.0] * 3, torch.float32, order
            )
            assert torch.equal((view[0].cpu() * 255).round().byte().permute(1, 2, 0), expected)
            if order == PASS_ORDER:
                assert np.array_equal(np.array(picture.resize(size[::-1], 3)), expected)


def test_the_order_of_each_release():
    releases = ("9.5.0", "12.1.1", "12.2.0", "12.3.0.dev0", "13.0.0", "14.1.0")
    assert [pass_order(release) for release in releases] == [0, 0, 1, 1, 2, 2]


@each_device
def test_layouts(device):
    image, scales, _ = make("primes")
    expected = image_views(image.to(device), scales)
    planar = image.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    spread = torch.zeros(2 * image.shape[0], image.shape[1], 6, dtype=torch.uint8)
    spread[::2, :, ::2] = image
    mirrored = image.flip(1)
    for given in (planar, spread[::2, :, ::2], mirrored.flip(1)):
        for ours, same in zip(image_views(given.to(device), scales), expected, strict=True):
            assert torch.equal(ours, same)


@each_device
def test_a_batch_is_its_images_then_their_mirror_images(device):
    image, scales, _ = make("batch")
    singles = [image_views(one.to(device), scales) for one in image]
    for view, parts in zip(
        image_views(image.to(device), scales), zip(*singles, strict=True), strict=True
    ):
        assert torch.equal(view, torch.cat([torch.stack([p[m] for p in parts]) for m in (0, 1)]))


def test_threads_agree_to_the_bit():
    for shape in ((97, 131, 3), (3, 40, 53, 3), (1, 300, 3), (300, 1, 3)):
        image, scales = random_image(shape), [0.5, 1.0, 1.5, 2.0]
        expected = reference.image_views(image, scales)
        for count in (1, 2, 3, 4):
            with threads(count):
                for ours, view in zip(image_views(image, scales), expected, strict=True):
                    assert torch.equal(ours, view)


@each_device
@each_case
def test_opcheck(name, device):
    image, scales, options = make(name)
    images = image if image.dim() == 4 else image[None]
    arguments = (
        options.get("mirror", True),
        list(options.get("mean", (0.485, 0.456, 0.406))),
        list(options.get("std", (0.229, 0.224, 0.225))),
        options.get("dtype", torch.float32),
        PASS_ORDER,
    )
    torch.library.opcheck(
        torch.ops.wsss_fast.image_views.default, (images.to(device), scales, *arguments)
    )


def test_fake_tensors():
    with FakeTensorMode():
        views = image_views(torch.zeros(2, 9, 15, 3, dtype=torch.uint8), [0.5, 1.5])
    assert [v.shape for v in views] == [(4, 3, 4, 8), (4, 3, 14, 22)]
    assert all(v.is_contiguous(memory_format=torch.channels_last) for v in views)


@each_device
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole(device, dynamic):
    compiled = torch.compile(
        lambda x: [v * 2 for v in image_views(x, [0.5, 1.0, 1.3])],
        fullgraph=True,
        backend="aot_eager",
        dynamic=dynamic,
    )
    for shape in ((9, 12, 3), (14, 7, 3)):
        image = random_image(shape).to(device)
        expected = [v * 2 for v in image_views(image, [0.5, 1.0, 1.3])]
        for ours, view in zip(compiled(image), expected, strict=True):
            assert torch.equal(ours, view) and ours.stride() == view.stride()


def test_the_native_kernel_is_used_where_it_can_be_built():
    if not _native.load():
        pytest.skip("native library not available")
    assert _library.has_native_kernel("image_views", torch.device("cpu"))


ARGUMENTS = {
    "image": torch.zeros(4, 5, 3, dtype=torch.uint8),
    "scales": (0.5, 1.0),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "dtype": torch.float32,
}


@pytest.mark.parametrize(("name", "value"), wrong_values(ARGUMENTS))
def test_wrong_arguments_of_any_kind(name, value):
    with pytest.raises(ValueError, match=f"^image_views: .*{name}"):
        image_views(**{**ARGUMENTS, name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(4, 5, 3)}, r"image is torch.float32 \[4, 5, 3\]; must be uint8"),
        ({"image": torch.zeros(4, 5, 4, dtype=torch.uint8)}, r"image is torch.uint8 \[4, 5, 4\]"),
        ({"image": torch.zeros(3, 4, 5, dtype=torch.uint8)}, r"image is torch.uint8 \[3, 4, 5\]"),
        ({"image": torch.zeros(0, 5, 3, dtype=torch.uint8)}, r"image is torch.uint8 \[0, 5, 3\]"),
        ({"scales": ()}, r"scales is \(\); must be numbers > 0"),
        ({"scales": [1.0, 0.0]}, r"scales is \[1.0, 0.0\]"),
        ({"scales": [-1.0]}, r"scales is \[-1.0\]"),
        ({"scales": [math.nan]}, r"scales is \[nan\]"),
        ({"scales": [1.0, math.inf]}, r"scales is \[1.0, inf\]"),
        ({"scales": [1e300]}, r"scales is \[1e\+300\]; must be numbers > 0, at most 1048576"),
        ({"scales": [300000.0]}, r"scales holds 300000 but image is \[1, 4, 5, 3\]"),
        (
            {"scales": [10000.0]},
            "scales holds 10000 .* gives 1 x 40000 x 50000 pixels; sides must be",
        ),
        ({"mean": (0.5, 0.5)}, r"mean is \(0.5, 0.5\); must be three finite numbers"),
        ({"mean": (0.5, 0.5, math.nan)}, "mean is .*nan"),
        ({"std": (1.0, 1.0)}, r"std is \(1.0, 1.0\); must be three finite numbers > 0"),
        ({"std": (1.0, 0.0, 1.0)}, r"std is \(1.0, 0.0, 1.0\)"),
        ({"dtype": torch.float64}, "dtype is torch.float64; must be torch.float32"),
        ({"dtype": "float32"}, "dtype is 'float32'"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=f"^image_views: {message}"):
        image_views(**{**ARGUMENTS, **change})


def test_numpy_arrays_are_sequences():
    (ours,) = image_views(ARGUMENTS["image"], np.array([1.5]), mean=np.array([0.485, 0.456, 0.406]))
    assert torch.equal(ours, image_views(ARGUMENTS["image"], [1.5])[0])
