"""mIoU near boundaries, on label maps whose result can be counted by hand."""

import dataclasses

import numpy as np
import pytest

from wsss_fast import InputError
from wsss_fast.data import write_labels
from wsss_fast.evaluation.trimap import boundary, trimap_miou


@pytest.fixture
def one(shapes, tmp_path):
    """A data set of one image of 64 x 64: class 1 on the right half, 255 in a corner of it."""
    truth = np.zeros((64, 64), np.uint8)
    truth[:, 32:] = 1
    truth[:4, 60:] = 255
    write_labels(tmp_path / "mask.png", truth)
    id = shapes.ids[0]
    assert shapes.size(id) == (64, 64)
    return dataclasses.replace(shapes.only([id]), masks={id: tmp_path / "mask.png"}), truth


def test_boundary_is_both_sides_of_a_change():
    labels = np.array([[0, 0, 1], [0, 0, 1], [2, 0, 1]], np.uint8)
    expected = np.array([[0, 1, 1], [1, 1, 1], [1, 1, 1]], bool)
    np.testing.assert_array_equal(boundary(labels), expected)
    assert not boundary(np.zeros((5, 7), np.uint8)).any()


def test_a_shifted_edge_costs_most_near_the_boundary(one):
    data, truth = one
    shifted = np.zeros_like(truth)
    shifted[:, 34:] = 1  # two columns of class 1 are missed
    found = trimap_miou(data, lambda id: shifted, radii=(1, 4, 64))
    # Radius 1: columns 30..33 along the edge of the class, and the corner's rim, predicted right.
    near = np.zeros_like(truth, bool)
    near[:, 30:34] = True
    near[:5, 58:] = near[5, 59:] = True
    near &= truth != 255
    hits = [(near & (truth == c) & (shifted == c)).sum() for c in (0, 1)]
    unions = [(near & ((truth == c) | (shifted == c))).sum() for c in (0, 1)]
    assert found[1] == pytest.approx(np.mean(np.array(hits) / unions))
    assert found[1] < found[4] < found[64]
    right = trimap_miou(data, lambda id: np.where(truth == 255, 0, truth))
    assert right == dict.fromkeys((1, 2, 4, 8, 16), 1.0)


def test_bad_radius(one):
    with pytest.raises(InputError, match="radii must be >= 1 pixel, got"):
        trimap_miou(one[0], lambda id: one[1], radii=(0,))
