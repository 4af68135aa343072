"""Connected regions, compared with those of scikit-image."""

import numpy as np
import pytest
from skimage.measure import label

from wsss_fast.regions import regions


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (12, 17)])
@pytest.mark.parametrize("connectivity", [4, 8])
def test_regions_are_those_of_scikit_image(shape, connectivity):
    for seed in range(8):
        labels = np.random.default_rng(seed).integers(0, 2 + seed % 3, shape)
        expected = label(labels, connectivity=connectivity // 4, background=0)
        np.testing.assert_array_equal(regions(labels, connectivity), expected)


def test_pixels_that_share_a_corner_are_connected_only_if_asked():
    labels = np.array([[1, 0, 0], [0, 1, 2], [2, 0, 1]], np.uint8)
    assert regions(labels).tolist() == [[1, 0, 0], [0, 2, 3], [4, 0, 5]]
    assert regions(labels, 8).tolist() == [[1, 0, 0], [0, 1, 2], [3, 0, 1]]
