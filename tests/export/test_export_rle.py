"""COCO's run lengths: worked examples, and pycocotools as the reference."""

import doctest

import numpy as np
import pytest

from wsss_fast.export import rle

coco = pytest.importorskip("pycocotools.mask")

M = np.zeros((5, 6), np.uint8)
M[1:3, 1:4] = 1


def by_coco(mask):
    return coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


def test_worked_example():
    assert rle.run_lengths(M).tolist() == [6, 2, 3, 2, 3, 2, 12]
    assert rle.encode(M) == {"size": [5, 6], "counts": "6230009"}
    assert rle.encode(M, compressed=False) == {"size": [5, 6], "counts": [6, 2, 3, 2, 3, 2, 12]}


@pytest.mark.parametrize(
    ("counts", "string"),
    [
        ([2, 5, 5], "255"),
        ([0, 12], "0<"),
        ([0], "0"),
        ([15], "?"),
        ([31], "o0"),
        ([32], "P1"),
        ([1000], "Xo0"),
    ],
)
def test_counts_as_strings(counts, string):
    assert rle.compress(np.array(counts)) == string


def test_a_rectangle():
    mask = np.zeros((50, 60), bool)
    mask[10:40, 20:45] = True
    counts = rle.encode(mask)["counts"]
    assert counts.startswith("bo0n0d000") and counts.endswith("Tg0")
    assert counts == by_coco(mask)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 6), (37, 23), (200, 3)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_masks_equal_the_reference(shape, share):
    mask = np.random.default_rng(0).random(shape) < share
    encoded = rle.encode(mask)
    assert encoded["counts"] == by_coco(mask)
    assert np.array_equal(coco.decode(encoded), mask)
    plain = rle.encode(mask, compressed=False)
    assert sum(plain["counts"]) == mask.size
    assert np.array_equal(coco.decode(coco.frPyObjects(plain, *shape)), mask)


def test_long_runs_equal_the_reference():
    mask = np.zeros((1500, 1500), bool)
    mask[700, 20:-3] = True
    mask[:, 40] = True
    assert rle.encode(mask)["counts"] == by_coco(mask)


def test_other_layouts_and_types_give_the_same_string():
    expected = rle.encode(M)["counts"]
    for mask in (M.astype(bool), np.asfortranarray(M), M.astype(np.int64), M[::-1][::-1]):
        assert rle.encode(mask)["counts"] == expected


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 6), (40, 31)])
@pytest.mark.parametrize("values", [1, 2, 5, 300])
def test_regions_equal_the_reference_one_by_one(shape, values):
    rng = np.random.default_rng(values)
    fine = rng.integers(0, values + 1, shape)
    coarse = np.kron(rng.integers(0, values + 1, (3, 3)), np.ones((20, 20), int))
    for labels in (fine, coarse[: shape[0], : shape[1]], np.zeros_like(fine), fine + 1):
        regions = rle.encode_regions(labels)
        assert [r.value for r in regions] == sorted(set(labels.reshape(-1).tolist()) - {0})
        for region in regions:
            mask = labels == region.value
            assert region.counts == by_coco(mask)
            reference = {"size": list(labels.shape), "counts": region.counts.encode()}
            assert region.area == coco.area(reference)
            assert list(region.bbox) == coco.toBbox(reference).tolist()
            y, x = region.first
            assert mask[y, x] and not mask[:, :x].any() and not mask[:y, x].any()


def test_examples_of_the_docstrings():
    result = doctest.testmod(rle)
    assert result.attempted == 3 and not result.failed
