"""Saliency maps: the levels that are read, and the files that are rejected."""

import numpy as np
import pytest
from PIL import Image

from wsss_fast import InputError
from wsss_fast.readers import saliency_maps


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
    levels = saliency_maps.read_saliency(tmp_path / "s.png")
    assert levels.dtype == np.uint8
    np.testing.assert_array_equal(levels, np.repeat(np.array(expected)[..., None], 3, 2))
    np.testing.assert_allclose(
        saliency_maps.saliency_of(levels), np.array(expected) / 255, rtol=1e-6
    )


def test_unreadable_saliency_is_named(tmp_path):
    (tmp_path / "s.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"s\.png: cannot be read as a saliency map"):
        saliency_maps.read_saliency(tmp_path / "s.png")
    with pytest.raises(InputError, match=r"t\.png: no such saliency map"):
        saliency_maps.read_saliency(tmp_path / "t.png")


def test_saliency_is_the_mean_over_colours():
    assert saliency_maps.saliency_of(np.array([[[255, 0, 0]]], np.uint8)) == pytest.approx(1 / 3)
