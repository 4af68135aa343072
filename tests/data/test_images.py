"""Reading and writing images, label maps and saliency maps."""

import numpy as np
import pytest
from PIL import Image

from wsss_fast import InputError
from wsss_fast.data import images


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_gray_and_cmyk_jpegs_become_rgb(tmp_path, mode):
    path = tmp_path / "x.jpg"
    Image.new("RGB", (9, 5), (200, 30, 40)).convert(mode).save(path)
    images.check_image(path)
    read = images.read_image(path)
    assert read.shape == (5, 9, 3) and read.dtype == np.uint8
    if mode != "L":
        assert abs(read.astype(int) - [200, 30, 40]).max() < 12


def test_exif_rotation_is_applied(tmp_path):
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.new("RGB", (9, 5)).save(path, exif=exif)
    assert images.read_image(path).shape == (9, 5, 3) and images.image_size(path) == (9, 5)


def test_sixteen_bit_images_are_rejected(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(path)
    with pytest.raises(InputError, match=r"x\.png: image mode I;16"):
        images.check_image(path)
    with pytest.raises(InputError, match=r"x\.png: image mode I;16"):
        images.read_image(path)


def test_labels_are_stored_unchanged_with_vocs_colours(tmp_path):
    labels = np.array([[0, 1, 20], [255, 3, 7]], np.uint8)
    images.write_labels(tmp_path / "l.png", labels)
    np.testing.assert_array_equal(images.read_labels(tmp_path / "l.png", 20), labels)
    with Image.open(tmp_path / "l.png") as image:
        assert image.convert("RGB").getpixel((1, 0)) == (128, 0, 0)  # aeroplane
        assert image.convert("RGB").getpixel((2, 0)) == (0, 64, 128)  # tvmonitor
        assert image.convert("RGB").getpixel((0, 1)) == (224, 224, 192)  # ignore


def test_impossible_labels_are_rejected(tmp_path):
    images.write_labels(tmp_path / "l.png", np.array([[0, 57]]))
    with pytest.raises(
        InputError, match=r"l\.png: label 57 is impossible; allowed are 0\.\.20 and 255"
    ):
        images.read_labels(tmp_path / "l.png", 20)
    Image.new("RGB", (3, 3)).save(tmp_path / "colour.png")
    with pytest.raises(InputError, match=r"colour\.png: label maps are palette"):
        images.read_labels(tmp_path / "colour.png", 20)


def test_png_with_a_truncated_header_chunk(tmp_path):
    """Pillow raises ValueError for it, not OSError; found by fuzzing."""
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\x04IHDR" + b"\0" * 8)
    for read in (images.check_image, images.read_image, images.read_labels, images.read_saliency):
        with pytest.raises(InputError, match="a.png: cannot be read"):
            read(path)


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("L", [[0, 128, 255]], [[0, 128, 255]]),
        ("1", [[False, True, True]], [[0, 255, 255]]),
        ("I;16", [[0, 32896, 65535]], [[0, 128, 255]]),
        ("RGB", [[[0, 0, 0], [128, 128, 128], [255, 255, 255]]], [[0, 128, 255]]),
    ],
)
def test_saliency_in_8_and_16_bits_soft_and_binary(tmp_path, mode, values, expected):
    dtype = {"1": bool, "I;16": np.uint16}.get(mode, np.uint8)
    Image.fromarray(np.array(values, dtype)).save(tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as image:
        assert image.mode == mode
    levels = images.read_saliency(tmp_path / "s.png")
    assert levels.dtype == np.uint8
    np.testing.assert_array_equal(levels, np.repeat(np.array(expected)[..., None], 3, 2))
    np.testing.assert_allclose(images.saliency_of(levels), np.array(expected) / 255, rtol=1e-6)


def test_unreadable_saliency_is_named(tmp_path):
    (tmp_path / "s.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"s\.png: cannot be read as a saliency map"):
        images.read_saliency(tmp_path / "s.png")
    with pytest.raises(InputError, match=r"t\.png: no such saliency map"):
        images.read_saliency(tmp_path / "t.png")


def test_saliency_is_the_mean_over_colours():
    assert images.saliency_of(np.array([[[255, 0, 0]]], np.uint8)) == pytest.approx(1 / 3)
