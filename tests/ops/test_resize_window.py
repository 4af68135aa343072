"""resize_window against windows of Pillow's results, bit for bit; threads, wrong input."""

import doctest

import numpy as np
import pytest
import torch
from op_testing import DEVICES, threads, wrong_values
from PIL import Image

from wsss_fast import _native
from wsss_fast.ops import _library
from wsss_fast.ops.reference.bicubic import PASS_ORDER
from wsss_fast.ops.resize_window import resize_window

# name: shape of the image, size after resizing, window (top, left, rows, columns)
CASES = {
    "up": ((13, 17, 3), (29, 40), (5, 7, 11, 13)),
    "down": ((61, 47, 3), (23, 18), (4, 3, 12, 9)),
    "whole": ((9, 8, 3), (14, 5), (0, 0, 14, 5)),
    "gray": ((21, 26), (40, 35), (20, 3, 20, 30)),
    "corner": ((12, 12, 3), (30, 30), (29, 29, 1, 1)),
    "same_size": ((12, 15, 3), (12, 15), (2, 3, 7, 8)),
    "same_height": ((12, 15, 3), (12, 31), (2, 3, 7, 8)),
    "same_width": ((12, 15), (7, 15), (2, 3, 4, 8)),
    "tall": ((90, 12, 3), (31, 9), (3, 2, 20, 5)),
    "one_pixel": ((1, 1, 3), (5, 4), (1, 1, 3, 2)),
    "shrunk_to_one": ((151, 89), (1, 1), (0, 0, 1, 1)),
    "training": ((150, 200, 3), (221, 295), (10, 40, 160, 160)),
}
# Not "each_device", which also selects the emulator of CUDA, where there is no kernel of this op.
on_devices = pytest.mark.parametrize("device", DEVICES)
each_case = pytest.mark.parametrize("name", CASES)


def random_image(shape, seed=0):
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def by_pillow(image, size, window):
    height, width = size
    top, left, rows, columns = window
    resized = Image.fromarray(image.numpy()).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)[top : top + rows, left : left + columns])


@on_devices
@each_case
def test_equals_the_window_of_pillows_result(name, device):
    shape, size, window = CASES[name]
    image = random_image(shape, len(name))
    ours = resize_window(image.to(device), *size, *window)
    assert ours.device.type == device and ours.is_contiguous()
    assert torch.equal(ours.cpu(), by_pillow(image, size, window))


def test_random_sizes_and_windows():
    rng = np.random.default_rng(3)
    for number in range(80):
        shape = np.exp(rng.uniform(0, np.log(300), 2)).astype(int).tolist()
        size = np.exp(rng.uniform(0, np.log(300), 2)).astype(int).tolist()
        top, left = (int(rng.integers(0, side)) for side in size)
        rows, columns = (int(rng.integers(1, n + 1)) for n in (size[0] - top, size[1] - left))
        window = top, left, rows, columns
        image = random_image((*shape, 3) if number % 2 else shape, number)
        if number % 3 == 0:
            image = (image > 127).to(torch.uint8) * 255
        ours = resize_window(image, *size, *window)
        assert torch.equal(ours, by_pillow(image, size, window)), (shape, size, window)


def test_layouts_and_threads():
    image = random_image((300, 403, 3))
    size, window = (420, 560), (15, 20, 400, 500)
    expected = by_pillow(image, size, window)
    planar = image.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    for count in (1, 2, 3, 4):
        with threads(count):
            for given in (image, planar):
                assert torch.equal(resize_window(given, *size, *window), expected)


@on_devices
@each_case
def test_opcheck(name, device):
    shape, size, window = CASES[name]
    image = random_image(shape).to(device)
    planes = image if image.dim() == 3 else image[..., None]
    torch.library.opcheck(
        torch.ops.wsss_fast.resize_window.default, (planes, *size, *window, PASS_ORDER)
    )


def test_compiles_whole():
    shape, size, window = CASES["training"]
    compiled = torch.compile(
        lambda x: resize_window(x, *size, *window) // 2, fullgraph=True, backend="aot_eager"
    )
    image = random_image(shape)
    assert torch.equal(compiled(image), by_pillow(image, size, window) // 2)


def test_the_native_kernel_is_used_where_it_can_be_built():
    if not _native.load():
        pytest.skip("native library not available")
    assert _library.has_native_kernel("resize_window", torch.device("cpu"))


def test_the_native_kernel_itself_rejects_wrong_numbers():
    if not _native.load():
        pytest.skip("native library not available")
    image = torch.zeros(4, 5, 3, dtype=torch.uint8)
    for arguments, message in (
        ((8, 10, 0, 1, 8, 10), r"the window of 8 x 10 at \(0, 1\) is not within 8 x 10"),
        ((8, 10, -1, 0, 8, 10), r"the window of 8 x 10 at \(-1, 0\)"),
        ((0, 10, 0, 0, 1, 1), r"a side is 0; must be in 1\.\.1048576"),
    ):
        with pytest.raises(ValueError, match=f"resize_window: {message}"):
            torch.ops.wsss_fast.resize_window(image, *arguments, 2)
    with pytest.raises(ValueError, match=r"resize_window: image is \[4,5,2\]"):
        torch.ops.wsss_fast.resize_window(image[..., :2], 8, 10, 0, 0, 1, 1, 2)


ARGUMENTS = {
    "image": torch.zeros(4, 5, 3, dtype=torch.uint8),
    "height": 8,
    "width": 10,
    "top": 2,
    "left": 3,
    "rows": 6,
    "columns": 7,
}


@pytest.mark.parametrize(("name", "value"), wrong_values(ARGUMENTS))
def test_wrong_arguments_of_any_kind(name, value):
    with pytest.raises(ValueError, match=f"^resize_window: .*{name}"):
        resize_window(**{**ARGUMENTS, name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(4, 5, 3)}, r"image is torch.float32 \[4, 5, 3\]; must be uint8"),
        ({"image": torch.zeros(0, 5, dtype=torch.uint8)}, r"image is torch.uint8 \[0, 5\]"),
        ({"height": 0}, r"height is 0; must be an integer in 1\.\.1048576"),
        ({"top": 8}, r"top is 8; must be an integer in 0\.\.7"),
        ({"left": -1}, r"left is -1; must be an integer in 0\.\.9"),
        ({"rows": 7}, r"rows is 7; must be an integer in 1\.\.6"),
        ({"columns": 0}, r"columns is 0; must be an integer in 1\.\.7"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=f"^resize_window: {message}"):
        resize_window(**{**ARGUMENTS, **change})


def test_example_of_the_docstring():
    """The module is not in the public documentation, whose examples are run."""
    (example,) = doctest.DocTestFinder(recurse=False).find(
        resize_window, "resize_window", globs={"torch": torch, "resize_window": resize_window}
    )
    result = doctest.DocTestRunner().run(example)
    assert result.attempted > 0 and result.failed == 0
