"""Photos: what is read, what is rejected."""

import numpy as np
import pytest
from PIL import Image

from wsss_fast import InputError
from wsss_fast.readers import label_maps, photos, saliency_maps


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_gray_and_cmyk_jpegs_become_rgb(tmp_path, mode):
    path = tmp_path / "x.jpg"
    Image.new("RGB", (9, 5), (200, 30, 40)).convert(mode).save(path)
    photos.check_image(path)
    read = photos.read_image(path)
    assert read.shape == (5, 9, 3) and read.dtype == np.uint8
    if mode != "L":
        assert abs(read.astype(int) - [200, 30, 40]).max() < 12


def test_exif_rotation_is_applied(tmp_path):
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.new("RGB", (9, 5)).save(path, exif=exif)
    assert photos.read_image(path).shape == (9, 5, 3) and photos.image_size(path) == (9, 5)


def test_sixteen_bit_images_are_rejected(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(path)
    with pytest.raises(InputError, match=r"x\.png: image mode I;16"):
        photos.check_image(path)
    with pytest.raises(InputError, match=r"x\.png: image mode I;16"):
        photos.read_image(path)


def test_png_with_a_truncated_header_chunk(tmp_path):
    """Pillow raises ValueError for it, not OSError; found by fuzzing."""
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\x04IHDR" + b"\0" * 8)
    for read in (
        photos.check_image,
        photos.read_image,
        label_maps.read_labels,
        saliency_maps.read_saliency,
    ):
        with pytest.raises(InputError, match="a.png: cannot be read"):
            read(path)
