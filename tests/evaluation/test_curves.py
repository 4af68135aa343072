"""Threshold curves against one evaluation per threshold."""

import shutil

import numpy as np
import pytest
from counting import miou_by_hand
from labels_at import label_index

from wsss_fast import InputError, threshold_curve
from wsss_fast.engine import remarks
from wsss_fast.evaluation.curves import crf_curve
from wsss_fast.maps import ClassMaps, load_maps, save_maps, strided_size, to_labels
from wsss_fast.stages.crf import Crf


@pytest.fixture(scope="module")
def map_folder(shapes, tmp_path_factory):
    """Maps with scores equal to thresholds, and between them."""
    folder, rng = tmp_path_factory.mktemp("maps"), np.random.default_rng(1)
    for id in shapes.ids:
        keys = np.flatnonzero(shapes.tags_of(id)) + 1
        high = (rng.integers(0, 64, (len(keys), *shapes.size(id))) / 64).astype(np.float32)
        strided = np.zeros((len(keys), *strided_size(*shapes.size(id))))
        save_maps(folder, id, ClassMaps(keys, strided, high))
    return folder


def test_the_curve_equals_one_evaluation_per_threshold(shapes, map_folder):
    thresholds = (0.0, 0.25, 0.30, 0.5, 0.9)
    curve = threshold_curve(map_folder, shapes, thresholds=thresholds)
    for threshold, miou in zip(thresholds, curve.miou, strict=True):
        pairs = []
        for id in shapes.ids:
            maps = load_maps(map_folder, id)
            labels = to_labels(label_index(maps.high_res, threshold), maps.keys)
            pairs.append((shapes.mask(id), labels))
        assert miou == pytest.approx(miou_by_hand(pairs, 9), abs=1e-9)
    assert curve.miou[curve.thresholds.index(curve.best)] == max(curve.miou) == curve.metrics.miou
    assert curve.at(0.31) == curve.miou[2]


def test_the_crf_curve_without_pairwise_terms_is_the_plain_curve(shapes, map_folder):
    thresholds = (0.25, 0.5)
    plain = threshold_curve(map_folder, shapes, thresholds=thresholds)
    no_pairwise = Crf(gaussian=(3.0, 0.0), bilateral=(20.0, 13.0, 0.0))
    same = crf_curve(map_folder, shapes, no_pairwise, thresholds=thresholds)
    np.testing.assert_allclose(same.miou, plain.miou)
    refined = crf_curve(
        map_folder, shapes, Crf(bilateral=(20.0, 13.0, 10.0)), thresholds=thresholds
    )
    assert refined.miou != plain.miou


@pytest.mark.parametrize(
    "thresholds", [(), (0.5, 0.2), (-0.1, 0.5), (0.5, 1.5), (0.1, float("nan"))]
)
def test_thresholds_that_are_not_ascending_in_0_to_1(shapes, map_folder, thresholds):
    with pytest.raises(InputError, match=r"thresholds must be ascending in 0\.\.1, got"):
        threshold_curve(map_folder, shapes, thresholds=thresholds)
    with pytest.raises(InputError, match=r"thresholds must be ascending in 0\.\.1, got"):
        crf_curve(map_folder, shapes, Crf(), thresholds=thresholds)


def rewrite(folder, shapes, keys_of):
    """The same scores under other keys, for the first image."""
    id = shapes.ids[0]
    keys = np.array(keys_of(load_maps(folder, id).keys))
    zeros = np.zeros((len(keys), *strided_size(*shapes.size(id))))
    save_maps(folder, id, ClassMaps(keys, zeros, np.zeros((len(keys), *shapes.size(id)))))


@pytest.mark.parametrize("label", [9, 25])
def test_maps_of_a_class_that_the_data_set_does_not_have(shapes, map_folder, tmp_path, label):
    folder = shutil.copytree(map_folder, tmp_path / "maps")
    rewrite(folder, shapes, lambda keys: [*keys[1:], label])
    message = rf"{shapes.ids[0]}\.npz: has maps of label {label}, but the data set has only 8"
    with pytest.raises(InputError, match=message):
        threshold_curve(folder, shapes, thresholds=(0.5,))


def test_maps_of_other_classes_than_the_tags_are_counted(shapes, map_folder, tmp_path):
    folder = shutil.copytree(map_folder, tmp_path / "maps")
    tags = set(np.flatnonzero(shapes.tags_of(shapes.ids[0])) + 1)
    rewrite(folder, shapes, lambda keys: [min(set(range(1, 9)) - tags)])
    with remarks.collected():
        threshold_curve(folder, shapes, thresholds=(0.5,))
        found = remarks.lines()
    assert any("classes that are not among their image's tags: 1 of 24 files" in x for x in found)
