"""Evaluation against counting by hand."""

import numpy as np
import pytest

from wsss_fast import InputError, evaluate, threshold_curve
from wsss_fast.data import write_labels
from wsss_fast.evaluation.curves import crf_curve
from wsss_fast.evaluation.metrics import (
    average_precision,
    confusion_matrix,
    evaluate_seeds,
    metrics_of,
)
from wsss_fast.maps import ClassMaps, label_index, save_maps, strided_size, to_labels
from wsss_fast.stages.crf import Crf


def by_hand(pairs, num_labels):
    """mIoU from per-class sets of pixels."""
    ious = []
    for k in range(num_labels):
        hit = sum(((t == k) & (p == k)).sum() for t, p in pairs)
        any_ = sum((((t == k) | (p == k)) & (t != 255)).sum() for t, p in pairs)
        if any_:
            ious.append(hit / any_)
    return np.mean(ious)


def write_all(folder, shapes, label_of):
    for id in shapes.ids:
        write_labels(folder / f"{id}.png", label_of(id))
    return folder


def test_perfect_and_random_predictions(shapes, tmp_path):
    perfect = evaluate(
        write_all(
            tmp_path / "p", shapes, lambda i: np.where(shapes.mask(i) == 255, 0, shapes.mask(i))
        ),
        shapes,
    )
    assert perfect.miou == 1.0 and perfect.images == 24
    rng = np.random.default_rng(0)
    made = {i: rng.integers(0, 9, shapes.size(i)).astype(np.uint8) for i in shapes.ids}
    metrics = evaluate(write_all(tmp_path / "r", shapes, made.get), shapes)
    assert metrics.miou == pytest.approx(
        by_hand([(shapes.mask(i), made[i]) for i in shapes.ids], 9)
    )
    assert metrics.confusion.sum() == sum((shapes.mask(i) != 255).sum() for i in shapes.ids)


def test_absent_classes_are_left_out_and_predicted_only_counts_zero():
    truth, prediction = np.array([[0, 0, 1, 255]]), np.array([[0, 2, 1, 1]])
    metrics = metrics_of(confusion_matrix(truth, prediction, 4), ("a", "b", "c"), 1)
    assert metrics.miou == pytest.approx(np.mean([0.5, 1.0, 0.0])) and np.isnan(metrics.iou["c"])
    assert metrics.precision["background"] == 1.0 and metrics.recall["background"] == 0.5


def test_bad_predictions_are_named(shapes, tmp_path):
    folder = write_all(tmp_path, shapes, lambda i: np.zeros(shapes.size(i), np.uint8))
    path = folder / f"{shapes.ids[3]}.png"
    for labels, said in (
        ((64, 63), "is .64, 63., but its mask"),
        ((255,), "holds 255"),
        ((9,), "label 9 is impossible"),
    ):
        write_labels(path, np.zeros(labels) if len(labels) == 2 else np.full((64, 64), labels[0]))
        with pytest.raises(InputError, match=f"{path.name}: {said}"):
            evaluate(folder, shapes)
    path.unlink()
    with pytest.raises(InputError, match=f"has no PNG for 1 of 24 ids, first '{shapes.ids[3]}'"):
        evaluate(folder, shapes)


@pytest.fixture(scope="module")
def map_folder(shapes, tmp_path_factory):
    """Maps with scores on and beside the thresholds."""
    folder, rng = tmp_path_factory.mktemp("maps"), np.random.default_rng(1)
    for id in shapes.ids:
        keys = np.flatnonzero(shapes.tags_of(id)) + 1
        high = (rng.integers(0, 64, (len(keys), *shapes.size(id))) / 64).astype(np.float32)
        save_maps(
            folder,
            id,
            ClassMaps(keys, np.zeros((len(keys), *strided_size(*shapes.size(id)))), high),
        )
    return folder


def test_the_curve_is_one_evaluation_a_threshold(shapes, map_folder):
    from wsss_fast.maps import load_maps

    thresholds = (0.0, 0.25, 0.30, 0.5, 0.9)
    curve = threshold_curve(map_folder, shapes, thresholds=thresholds)
    for threshold, miou in zip(thresholds, curve.miou, strict=True):
        pairs = []
        for id in shapes.ids:
            maps = load_maps(map_folder, id)
            pairs.append(
                (shapes.mask(id), to_labels(label_index(maps.high_res, threshold), maps.keys))
            )
        assert miou == pytest.approx(by_hand(pairs, 9), abs=1e-9)
    assert curve.miou[curve.thresholds.index(curve.best)] == max(curve.miou) == curve.metrics.miou
    assert curve.at(0.31) == curve.miou[2]


def test_the_crf_curve_without_pairwise_terms_is_the_plain_one(shapes, map_folder):
    thresholds = (0.25, 0.5)
    plain = threshold_curve(map_folder, shapes, thresholds=thresholds)
    still = crf_curve(
        map_folder,
        shapes,
        Crf(gaussian=(3.0, 0.0), bilateral=(20.0, 13.0, 0.0)),
        thresholds=thresholds,
    )
    np.testing.assert_allclose(still.miou, plain.miou)
    moved = crf_curve(map_folder, shapes, Crf(bilateral=(20.0, 13.0, 10.0)), thresholds=thresholds)
    assert moved.miou != plain.miou


def test_seed_quality(shapes, tmp_path):
    def half(id):
        seed = np.where(shapes.mask(id) == 255, 0, shapes.mask(id))
        seed[:, 32:] = 255
        return seed

    quality = evaluate_seeds(write_all(tmp_path, shapes, half), shapes)
    assert quality == {"miou": 1.0, "coverage": 0.5}


def test_average_precision():
    scores = np.array([[0.9], [0.8], [0.7], [0.6]])
    assert average_precision(scores, np.array([[1], [0], [1], [0]])) == pytest.approx(
        [(1 + 2 / 3) / 2]
    )
    assert average_precision(scores, np.array([[1], [1], [0], [0]])) == pytest.approx([1.0])
    assert np.isnan(average_precision(scores, np.zeros((4, 1), int)))
