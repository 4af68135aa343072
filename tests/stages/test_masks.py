"""Pseudo-masks from class maps."""

import json

import numpy as np
import pytest

from wsss_fast import InputError
from wsss_fast.data import read_labels
from wsss_fast.stages import masks


def test_without_a_crf_masks_are_the_argmax(shapes, truth_maps, tmp_path):
    result = masks.make(shapes, truth_maps, tmp_path / "run", threshold=0.5, crf=None)
    id = shapes.ids[0]
    tagged = np.isin(shapes.mask(id), np.flatnonzero(shapes.tags_of(id)) + 1)
    np.testing.assert_array_equal(
        read_labels(result.folder / f"{id}.png"), np.where(tagged, shapes.mask(id), 0)
    )
    names = json.loads((result.folder / "classes.json").read_text())
    assert names.pop("0") == "background" and names.pop("255") == "ignore"
    assert names == {str(n): name for n, name in enumerate(shapes.classes, 1)}


def test_bad_threshold(shapes, truth_maps, tmp_path):
    with pytest.raises(InputError, match="threshold must be in 0..1, got 1.5"):
        masks.make(shapes, truth_maps, tmp_path / "run", threshold=1.5)
    assert not (tmp_path / "run").exists()
