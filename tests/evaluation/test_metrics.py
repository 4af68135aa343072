"""Metrics against counting by hand."""

import numpy as np
import pytest
from counting import miou_by_hand

from wsss_fast import InputError, evaluate
from wsss_fast.data import write_labels
from wsss_fast.engine import remarks
from wsss_fast.evaluation.metrics import (
    average_precision,
    confusion_matrix,
    evaluate_seeds,
    metrics_of,
)


def write_all(folder, shapes, label_of):
    for id in shapes.ids:
        write_labels(folder / f"{id}.png", label_of(id))
    return folder


def test_perfect_and_random_predictions(shapes, tmp_path):
    def right(id):
        return np.where(shapes.mask(id) == 255, 0, shapes.mask(id))

    perfect = evaluate(write_all(tmp_path / "p", shapes, right), shapes)
    assert perfect.miou == 1.0 and perfect.images == 24
    rng = np.random.default_rng(0)
    random = {i: rng.integers(0, 9, shapes.size(i)).astype(np.uint8) for i in shapes.ids}
    metrics = evaluate(write_all(tmp_path / "r", shapes, random.get), shapes)
    pairs = [(shapes.mask(i), random[i]) for i in shapes.ids]
    assert metrics.miou == pytest.approx(miou_by_hand(pairs, 9))
    assert metrics.confusion.sum() == sum((shapes.mask(i) != 255).sum() for i in shapes.ids)


def test_absent_classes_are_left_out_but_wrongly_predicted_ones_count():
    truth, prediction = np.array([[0, 0, 1, 255]]), np.array([[0, 2, 1, 1]])
    metrics = metrics_of(confusion_matrix(truth, prediction, 4), ("a", "b", "c"), 1)
    assert metrics.miou == pytest.approx(np.mean([0.5, 1.0, 0.0])) and np.isnan(metrics.iou["c"])
    assert metrics.precision["background"] == 1.0 and metrics.recall["background"] == 0.5


def test_bad_predictions_are_reported(shapes, tmp_path):
    folder = write_all(tmp_path, shapes, lambda i: np.zeros(shapes.size(i), np.uint8))
    path = folder / f"{shapes.ids[3]}.png"
    for labels, message in (
        (np.zeros((64, 63)), "is .64, 63., but its mask"),
        (np.full((64, 64), 255), "has pixels of 255"),
        (np.full((64, 64), 9), "label 9 is impossible"),
    ):
        write_labels(path, labels)
        with pytest.raises(InputError, match=f"{path.name}: {message}"):
            evaluate(folder, shapes)
    path.unlink()
    with pytest.raises(InputError, match=f"has no PNG for 1 of 24 ids, first '{shapes.ids[3]}'"):
        evaluate(folder, shapes)


def test_seed_quality(shapes, tmp_path):
    def half(id):
        seed = np.where(shapes.mask(id) == 255, 0, shapes.mask(id))
        seed[:, 32:] = 255
        return seed

    folder = write_all(tmp_path, shapes, half)
    quality = evaluate_seeds(folder, shapes)
    filled = [(shapes.mask(id), half(id) % 255) for id in shapes.ids]
    by_hand = miou_by_hand(filled, 9)
    assert quality["miou"] == 1.0 and quality["coverage"] == 0.5
    assert quality["miou_as_background"] == pytest.approx(by_hand)
    assert evaluate(folder, shapes, ignored="background").miou == pytest.approx(by_hand)


def test_results_that_say_nothing_are_remarked_on(shapes, tmp_path):
    def everywhere(label):
        return lambda id: np.full(shapes.size(id), label, np.uint8)

    with remarks.collected():
        evaluate(write_all(tmp_path / "p", shapes, everywhere(0)), shapes)
        (line,) = remarks.lines()
    assert "predictions show background only" in line
    with remarks.collected():
        quality = evaluate_seeds(write_all(tmp_path / "s", shapes, everywhere(255)), shapes)
        (line,) = remarks.lines()
    assert "seeds are 255 (unsure) everywhere" in line
    assert np.isnan(quality["miou"]) and quality["coverage"] == 0
    some = shapes.only(shapes.ids[:1])
    with remarks.collected():
        metrics = evaluate(write_all(tmp_path / "q", some, everywhere(1)), some)
        (line,) = remarks.lines()
    absent = [name for name, iou in metrics.iou.items() if np.isnan(iou)]
    assert f"not in the mean IoU: {len(absent)} of 9 classes, first {absent[0]}" in line


def test_seeds_of_another_size_than_their_image(shapes, tmp_path):
    folder = write_all(tmp_path, shapes, lambda id: np.zeros((64, 63), np.uint8))
    with pytest.raises(
        InputError, match=rf"{shapes.ids[0]}.png: is 64x63 pixels .*, but its image"
    ):
        evaluate_seeds(folder, shapes)


def test_predictions_of_0_and_255(shapes, tmp_path):
    folder = write_all(tmp_path, shapes, lambda id: np.where(shapes.mask(id) > 0, 255, 0))
    with pytest.raises(
        InputError, match=r"has pixels of 255 .*is 255 the object\? Write the label"
    ):
        evaluate(folder, shapes)


def test_what_a_predicted_255_counts_as(shapes, tmp_path):
    """Worked on one row of pixels: truth 0 1 1 255, prediction 255 255 1 255."""
    one = shapes.only(shapes.ids[:1])
    truth, prediction = np.zeros((2, *one.size(one.ids[0])), np.uint8)
    truth[0, :3], prediction[0, :3] = (1, 1, 255), (255, 1, 255)
    prediction[1:, :4] = 255
    write_labels(tmp_path / "truth.png", truth)
    one.masks[one.ids[0]] = tmp_path / "truth.png"
    folder = write_all(tmp_path / "p", one, lambda id: prediction)
    zeros, unsure = int((truth == 0).sum()), 4 * (len(truth) - 1)
    metrics = evaluate(folder, one, ignored="background")
    # Label 1: one pixel hit, one predicted 255. Background: all right, and that pixel.
    assert metrics.miou == pytest.approx((zeros / (zeros + 1) + 1 / 2) / 2)
    assert metrics.counted() == f"1 images, {unsure + 1} pixels predicted 255 counted as background"
    left = evaluate(folder, one, ignored="leave-out")
    assert left.miou == 1 and left.ignored_pixels == unsure + 1
    assert left.confusion.sum() == metrics.confusion.sum() - unsure - 1
    assert left.summary()["ignored"] == "leave-out" and "left out" in left.counted()
    assert (
        "ignored"
        not in evaluate(write_all(tmp_path / "q", one, lambda id: truth % 255), one).summary()
    )
    with pytest.raises(InputError, match='ignored "background" or "leave-out" accepts them'):
        evaluate(folder, one)
    with pytest.raises(InputError, match="ignored: is 'drop', must be error or background or"):
        evaluate(folder, one, ignored="drop")


def test_average_precision():
    scores = np.array([[0.9], [0.8], [0.7], [0.6]])
    first_and_third = average_precision(scores, np.array([[1], [0], [1], [0]]))
    assert first_and_third == pytest.approx([(1 + 2 / 3) / 2])
    assert average_precision(scores, np.array([[1], [1], [0], [0]])) == pytest.approx([1.0])
    assert np.isnan(average_precision(scores, np.zeros((4, 1), int)))
