"""Outlines in pixel edges: COCO's own tools must rasterise them to the same pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from wsss_fast.export.polygons import join_holes, outlines, simplify
from wsss_fast.regions import regions


def filled(ring, shape):
    """Pixels that COCO's tools fill, bool [H, W]."""
    polygon = ring.reshape(-1).astype(float).tolist()
    return coco_mask.decode(coco_mask.frPyObjects([polygon], *shape))[..., 0].astype(bool)


def area(ring):
    """Signed area; positive for rings that run clockwise on the screen."""
    x, y = ring.T
    return (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2


def picture(text):
    return np.array([[c == "#" for c in row] for row in text.split()]).astype(np.uint8)


SHAPES = {
    "one pixel": (picture("..... .#... ....."), 1, [0]),
    "whole image": (picture("### ###"), 1, [0]),
    "corners of the image": (picture("#.# ... #.#"), 4, [0, 0, 0, 0]),
    "rectangle": (picture("###. ###. .... ...."), 1, [0]),
    "ring": (picture("##### #...# #.#.# #...# #####"), 2, [1, 0]),
    "two holes": (picture("####### #.###.# #######"), 1, [2]),
    "holes of two rows": (picture("######### #.#.###.# ####.#### #########"), 1, [3]),
    "hole that touches the outside": (picture("#### #.## ##.. ##.."), 1, [0]),
    "holes that touch": (picture("##### #.### ##.## #####"), 1, [1]),
    "comb": (picture("#.#.# #.#.# #####"), 1, [0]),
    "diagonal": (picture("#... .#.. ..#. ...#"), 4, [0, 0, 0, 0]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_and_their_holes(name):
    mask, count, holes = SHAPES[name]
    region = regions(mask)
    found = outlines(region)
    assert len(found) == count and [len(outline.holes) for outline in found] == holes
    for number, outline in enumerate(found, 1):
        ring, _ = join_holes(outline)
        np.testing.assert_array_equal(filled(ring, mask.shape), region == number)


def test_a_rectangle_begins_at_its_top_left_vertex_and_runs_clockwise():
    mask = np.zeros((5, 6), np.uint8)
    mask[1:3, 1:4] = 1
    (outline,) = outlines(mask)
    assert outline.outer.reshape(-1).tolist() == [1, 1, 4, 1, 4, 3, 1, 3]


def test_corners_join_pixels_only_with_connectivity_8():
    mask = picture("##. #.# .##")
    (outline,) = outlines(regions(mask, 8), 8)
    assert len(outline.holes) == 1  # the middle is enclosed
    np.testing.assert_array_equal(filled(join_holes(outline)[0], mask.shape), mask == 1)
    first, second = outlines(regions(mask, 4), 4)
    assert not first.holes and not second.holes


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    share=st.floats(0.1, 0.95),
    connectivity=st.sampled_from([4, 8]),
)
def test_any_labels_survive_the_way_to_polygons_and_back(seed, height, width, share, connectivity):
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 3, (height, width)) * (rng.random((height, width)) < share)
    region = regions(labels, connectivity)
    found = outlines(region, connectivity)
    assert len(found) == region.max()
    for number, outline in enumerate(found, 1):
        pixels = region == number
        assert area(outline.outer) + sum(map(area, outline.holes)) == pixels.sum()
        assert all(area(hole) < 0 for hole in outline.holes)
        first = np.argwhere(pixels)[0]
        assert outline.outer[0].tolist() == first[::-1].tolist()
        without_holes = filled(outline.outer, pixels.shape)
        for hole in outline.holes:
            without_holes &= ~filled(hole, pixels.shape)
        np.testing.assert_array_equal(without_holes, pixels)
        np.testing.assert_array_equal(filled(join_holes(outline)[0], pixels.shape), pixels)


def test_a_large_region_with_many_holes_is_joined_exactly():
    rng = np.random.default_rng(0)
    mask = np.zeros((375, 500), np.uint8)
    mask[20:360, 30:480] = rng.random((340, 450)) < 0.97
    region = regions(mask)
    largest = np.bincount(region[region > 0]).argmax()
    outline = outlines(region)[largest - 1]
    assert len(outline.holes) > 2000
    ring, is_end = join_holes(outline)
    assert is_end.sum() >= 2 * len(outline.holes)
    np.testing.assert_array_equal(filled(ring, mask.shape), region == largest)


def distance(point, ring):
    """From a point to the nearest side of a ring."""
    begin, end = ring.astype(float), np.roll(ring, -1, axis=0).astype(float)
    along = end - begin
    share = ((point - begin) * along).sum(1) / np.maximum((along**2).sum(1), 1e-9)
    return np.linalg.norm(begin + share.clip(0, 1)[:, None] * along - point, axis=1).min()


@pytest.mark.parametrize("tolerance", [0.75, 1.5, 4.0])
def test_left_out_vertices_are_within_the_tolerance(tolerance):
    y, x = np.mgrid[:60, :80]
    mask = ((y - 30) ** 2 + (x - 40) ** 2 < 27**2) & ((y - 25) ** 2 + (x - 35) ** 2 > 9**2)
    mask[55, 70] = True
    joined = [join_holes(outline) for outline in outlines(regions(mask))]
    rings, fixed = [ring for ring, _ in joined], [is_end for _, is_end in joined]
    simple = simplify(rings, tolerance, dict(enumerate(fixed)))
    assert len(simple[0]) < len(rings[0]) / 2
    assert simple[1] is rings[1]  # one pixel keeps its four vertices
    for ring, is_end, new in zip(rings, fixed, simple, strict=True):
        kept = set(map(tuple, new.tolist()))
        assert kept <= set(map(tuple, ring.tolist()))
        assert {tuple(point) for point in ring[is_end].tolist()} <= kept
        assert max(distance(point, new) for point in ring) <= tolerance + 1e-9
    union = filled(simple[0], mask.shape) | (regions(mask) == 1)
    both = filled(simple[0], mask.shape) & (regions(mask) == 1)
    assert both.sum() > (0.9 if tolerance < 4 else 0.7) * union.sum()


def test_nothing_has_no_outline():
    assert outlines(np.zeros((3, 4), np.int64)) == [] and simplify([], 1.0) == []
