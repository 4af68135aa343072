"""Label Studio's brush masks: worked examples, and a decoder of the tests' own."""

import doctest

import numpy as np
import pytest
from brush_decoder import mask_of

from wsss_fast.export import brush

M = np.zeros((5, 6), np.uint8)
M[1:3, 1:4] = 1


def test_worked_examples():
    expected = [0, 0, 0, 120, 57, 27, 254, 27, 0, 183, 255, 108, 2, 223, 254, 55, 0, 0]
    found = brush.encode_brush(M)
    assert found == expected[: len(found)] and len(found) >= 17
    assert np.array_equal(mask_of(found, M.shape), 255 * M)
    assert np.array_equal(mask_of(expected, M.shape), 255 * M)  # the decoder itself
    assert brush.encode_brush(np.ones((2, 2))) == [0, 0, 0, 16, 57, 27, 253, 255, 240]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (23, 17)])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_decoded_masks_are_equal(shape, share):
    mask = np.random.default_rng(1).random(shape) < share
    assert np.array_equal(mask_of(brush.encode_brush(mask), shape), 255 * mask)


@pytest.mark.parametrize("run", [1, 2, 3, 4, 5, 64, 65, 16384, 16385, 32768, 32769])
def test_runs_at_the_limits_of_each_size(run):
    mask = np.zeros((1, run + 2), bool)
    mask[0, 1:-1] = True
    assert np.array_equal(mask_of(brush.encode_brush(mask), mask.shape), 255 * mask)


def test_example_of_the_docstring():
    result = doctest.testmod(brush)
    assert result.attempted == 1 and not result.failed
