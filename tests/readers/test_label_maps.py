"""Label maps: the labels that are read, and the files that are rejected."""

import numpy as np
import pytest
from PIL import Image

from wsss_fast import InputError
from wsss_fast.readers import label_maps


def test_labels_are_stored_unchanged_with_vocs_colours(tmp_path):
    labels = np.array([[0, 1, 20], [255, 3, 7]], np.uint8)
    label_maps.write_labels(tmp_path / "l.png", labels)
    np.testing.assert_array_equal(label_maps.read_labels(tmp_path / "l.png", 20), labels)
    with Image.open(tmp_path / "l.png") as image:
        assert image.convert("RGB").getpixel((1, 0)) == (128, 0, 0)  # aeroplane
        assert image.convert("RGB").getpixel((2, 0)) == (0, 64, 128)  # tvmonitor
        assert image.convert("RGB").getpixel((0, 1)) == (224, 224, 192)  # ignore


def test_impossible_labels_are_rejected(tmp_path):
    label_maps.write_labels(tmp_path / "l.png", np.array([[0, 57]]))
    with pytest.raises(
        InputError, match=r"l\.png: label 57 is impossible; allowed are 0\.\.20 and 255"
    ):
        label_maps.read_labels(tmp_path / "l.png", 20)
    Image.new("RGB", (3, 3), (9, 0, 0)).save(tmp_path / "colour.png")
    with pytest.raises(InputError, match=r"colour\.png: is a colour image"):
        label_maps.read_labels(tmp_path / "colour.png", 20)
