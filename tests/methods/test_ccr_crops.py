"""CCR's centres of mass and crops."""

import numpy as np
import pytest

from wsss_fast.ccr.crops import boxes, centres_of_mass


def test_centres_of_mass():
    maps = np.zeros((3, 9, 11), np.float32)
    maps[0, 7, 2] = 0.5
    maps[1, 2:5, 3:8] = 1.0
    centres = centres_of_mass(maps)
    np.testing.assert_allclose(centres[:2], [[7, 2], [3, 5]])
    assert np.isnan(centres[2]).all()  # of a map that is 0 everywhere
    assert centres_of_mass(np.zeros((0, 4, 4))).shape == (0, 2)


def test_crops_that_would_begin_outside_of_the_image():
    centre = np.array([[3.0, 5.0]])
    assert boxes(centre, (40, 50)) == [
        (0, 13, 0, 15),
        (0, 13, 0, 50),
        (0, 40, 0, 15),
        (0, 40, 0, 50),
    ]
    assert boxes(centre, (40, 50), wrap_crops=True) == [
        (0, 13, 0, 15),
        (0, 13, 45, 50),
        (33, 40, 0, 15),
        (33, 40, 45, 50),
    ]


@pytest.mark.parametrize("size", [(1, 1), (4, 7), (9, 30)])
@pytest.mark.parametrize("wrap", [False, True])
def test_crops_of_images_smaller_than_the_buffer(size, wrap):
    height, width = size
    for y0, y1, x0, x1 in boxes(np.array([[height / 2, width / 2]]), size, wrap_crops=wrap):
        assert 0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width


def test_crops_without_classes_and_with_an_undefined_centre():
    assert boxes(np.zeros((0, 2)), (40, 50)) == []
    middle = boxes(np.array([[20.0, 25.0]]), (40, 50))
    assert boxes(np.full((1, 2), np.nan), (40, 50)) == middle
