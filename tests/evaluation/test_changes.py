"""What a refinement changed, by hand."""

import numpy as np
import pytest
from PIL import Image

from wsss_fast.evaluation.changes import compare
from wsss_fast.stages.paired_files import Files

BEFORE = {"a": [[0, 1, 255, 2]], "b": [[0, 0, 0, 0]]}
AFTER = {"a": [[0, 0, 2, 2]], "b": [[0, 0, 0, 0]]}
TRUTH = {"a": [[0, 0, 1, 255]]}


@pytest.fixture
def files(tmp_path):
    found = []
    for name in "ab":
        Image.new("RGB", (4, 1)).save(tmp_path / f"{name}.png")
        path = tmp_path / f"{name}.png"
        found.append(Files(path, path, path))
    return found


def labels(values):
    return lambda files, size: np.array(values[files.map.stem], np.uint8)


def test_by_hand(files):
    truth = {"a": lambda: np.array(TRUTH["a"], np.uint8)}
    changes = compare(files, labels(BEFORE), labels(AFTER), truth, 255, ["cat", "dog"])
    assert changes.changed == {"a": pytest.approx(1 / 3), "b": 0.0}
    assert changes.mean() == pytest.approx(1 / 6) and changes.filled == 1 / 8
    assert changes.most_changed() == ["a", "b"]
    # Pixels 0 and 1: the third was unsure, the truth of the fourth is 255.
    assert changes.before.iou["background"] == 0.5 and changes.before.iou["cat"] == 0
    assert changes.after.iou["background"] == 1 and np.isnan(changes.after.iou["dog"])
    assert changes.everywhere.iou["dog"] == 0 and changes.everywhere.iou["background"] == 1
    assert (changes.after.images, changes.after.of) == (1, 2)


def test_without_unsure_label_and_without_truth(files):
    changes = compare(files, labels(BEFORE), labels(AFTER), {}, None)
    assert changes.changed["a"] == 0.5 and changes.filled == 0 and changes.before is None


def test_a_true_mask_of_another_size_is_a_problem(files):
    truth = {"b": lambda: np.zeros((2, 2), np.uint8)}
    changes = compare(files, labels(BEFORE), labels(AFTER), truth, 255)
    assert list(changes.changed) == ["a"] and "true mask of b" in changes.problems[0]
