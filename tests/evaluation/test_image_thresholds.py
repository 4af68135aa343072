"""Best thresholds of single images, the width of a curve's top, confusion of pairs."""

import numpy as np
import pytest
from counting import miou_by_hand
from labels_at import label_index

from wsss_fast import InputError
from wsss_fast.evaluation.curves import width_of_top
from wsss_fast.evaluation.image_thresholds import image_thresholds
from wsss_fast.evaluation.pair_confusion import class_pairs, pair_confusion
from wsss_fast.maps import ClassMaps, load_maps, save_maps, strided_size, to_labels

THRESHOLDS = (0.1, 0.3, 0.5, 0.7)


@pytest.fixture(scope="module")
def map_folder(shapes, tmp_path_factory):
    """Noise that is larger inside the objects, by another amount in each image."""
    folder, rng = tmp_path_factory.mktemp("maps"), np.random.default_rng(1)
    for id in shapes.ids:
        keys, truth = np.flatnonzero(shapes.tags_of(id)) + 1, shapes.mask(id)
        inside = truth == keys[:, None, None]
        high = rng.uniform(0.1, 0.7) * inside + rng.uniform(0, 0.3, inside.shape)
        strided = np.zeros((len(keys), *strided_size(*truth.shape)))
        save_maps(folder, id, ClassMaps(keys, strided, high.astype(np.float32)))
    return folder


def test_each_image_has_the_threshold_of_its_best_miou(shapes, map_folder):
    found = image_thresholds(map_folder, shapes, around=0.3, thresholds=THRESHOLDS)
    for id in shapes.ids:
        maps, by_threshold = load_maps(map_folder, id), {}
        for threshold in THRESHOLDS:
            labels = to_labels(label_index(maps.high_res, threshold), maps.keys)
            by_threshold[threshold] = miou_by_hand([(shapes.mask(id), labels)], 9)
        assert by_threshold[found.best[id]] == pytest.approx(max(by_threshold.values()))
    assert len(set(found.best.values())) > 1
    assert found.spread == pytest.approx(np.std([found.best[i] for i in shapes.ids]))
    pairs = []
    for id in shapes.ids:
        maps = load_maps(map_folder, id)
        labels = to_labels(label_index(maps.high_res, found.best[id]), maps.keys)
        pairs.append((shapes.mask(id), labels))
    assert found.metrics.miou == pytest.approx(miou_by_hand(pairs, 9))


@pytest.mark.parametrize("around", [0.1, 0.7])
def test_of_equally_good_thresholds_the_nearest_to_the_common_one_counts(shapes, tmp_path, around):
    for id in shapes.ids:
        keys, truth = np.flatnonzero(shapes.tags_of(id)) + 1, shapes.mask(id)
        maps = (truth == keys[:, None, None]).astype(np.float32)
        save_maps(tmp_path, id, ClassMaps(keys, np.zeros((len(keys), 1, 1)), maps))
    found = image_thresholds(tmp_path, shapes, around=around, thresholds=THRESHOLDS)
    assert set(found.best.values()) == {around} and found.spread < 1e-9


def test_width_of_the_top_of_a_curve():
    curve = (0.0, 0.1, 0.2, 0.3, 0.4), (0.10, 0.385, 0.40, 0.39, 0.2)
    assert width_of_top(*curve) == pytest.approx(0.2)
    assert width_of_top(*curve, within=0.012) == pytest.approx(0.1)


def test_confusion_of_pairs_by_hand():
    confusion = np.zeros((5, 5), int)
    confusion[1, 1], confusion[1, 2], confusion[2, 1], confusion[2, 2] = 60, 10, 20, 10
    confusion[3, 3], confusion[1, 3], confusion[0, 1] = 100, 50, 70  # not within a pair
    together, each = pair_confusion(confusion, [(1, 2), (3, 4)])
    assert together == pytest.approx(30 / 200) and each == pytest.approx([0.3, 0.0])
    assert np.isnan(pair_confusion(np.zeros((3, 3)), [(1, 2)])[0])


def test_default_pairs_are_those_of_the_benchmark(shapes):
    assert list(class_pairs(shapes, ())) == [
        "train/tram",
        "boat/ferry",
        "sheep/goat",
        "taxi/police",
    ]
    assert class_pairs(shapes, ("goat/boat",)) == {"goat/boat": (6, 3)}
    with pytest.raises(InputError, match="'nobody' in 'train/nobody'"):
        class_pairs(shapes, ("train/nobody",))
