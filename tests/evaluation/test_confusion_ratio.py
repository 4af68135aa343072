"""Confusion ratios against counting by hand."""

import json

import numpy as np
import pytest
from counting import ratio_by_hand
from PIL import Image

from wsss_fast import InputError, data
from wsss_fast.data import write_labels
from wsss_fast.evaluation import summary
from wsss_fast.evaluation.confusion_ratio import confusion_ratios
from wsss_fast.evaluation.metrics import evaluate


def test_confusion_ratios_are_counted_pixels(shapes, noisy):
    _, predictions = noisy
    about = json.loads((shapes.root / "shapes.json").read_text())["contexts"]
    a, b = shapes.classes[0], shapes.classes[1]
    context = next(iter(about))
    found = confusion_ratios(shapes, (f"{a}/{b}", f"{b}/{context}"), predictions.get)
    assert list(found) == [f"{a}/{b}", f"{b}/{context}"]
    by_hand = ratio_by_hand(shapes, predictions, 1, lambda id: shapes.mask(id) == 2)
    assert found[f"{a}/{b}"] == by_hand

    def on_context(id):
        with Image.open(shapes.root / "context" / f"{id}.png") as image:
            return np.array(image) == about[context]

    assert found[f"{b}/{context}"] == ratio_by_hand(shapes, predictions, 2, on_context) > 0
    matrix = evaluate(noisy[0], shapes).confusion
    assert found[f"{a}/{b}"] == matrix[2, 1] / matrix[1, 1]
    # The truth itself confuses nothing; a target that is never predicted right has no finite ratio.
    assert confusion_ratios(shapes, (f"{b}/{context}",), shapes.mask) == {f"{b}/{context}": 0.0}
    pair = f"{a}/{b}"
    nothing = confusion_ratios(shapes, (pair,), lambda id: np.zeros(shapes.size(id), np.uint8))
    assert np.isnan(nothing[pair])
    swapped = confusion_ratios(shapes, (pair,), lambda id: np.where(shapes.mask(id) == 2, 1, 0))
    assert swapped[pair] == np.inf


def test_contexts_named_by_the_user(own_shapes):
    loaded = data.load(own_shapes)
    target = loaded.classes[0]

    def all_target(id):
        return np.ones(loaded.size(id), np.uint8)

    default = confusion_ratios(loaded, (f"{target}/rails",), all_target)
    (own_shapes / "context/classes.txt").write_text("sleepers\nsea\n")
    renamed = confusion_ratios(loaded, (f"{target}/sleepers",), all_target)
    assert list(renamed.values()) == list(default.values())
    path = own_shapes / "context" / f"{loaded.ids[2]}.png"
    write_labels(path, np.zeros((64, 60)))
    with pytest.raises(
        InputError, match=rf"{path.name}: is \(64, 60\), but the mask .* is \(64, 64\)"
    ):
        confusion_ratios(loaded, (f"{target}/sea",), loaded.mask)
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name}: no such label map"):
        confusion_ratios(loaded, (f"{target}/sea",), loaded.mask)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("{a}", "is not a target and another class"),
        ("{a}/{a}", "is not a target and another class"),
        ("{a}/b/c", "is not a target and another class"),
        ("zebra/{a}", "'zebra' in .* is not a class of shapes"),
        (
            "{a}/zebra",
            r"'zebra' in .* is neither a class of shapes nor one of its contexts \(rails, water",
        ),
    ],
)
def test_wrong_pairs(shapes, noisy, tmp_path, pair, message):
    with pytest.raises(InputError, match=message):
        pairs = (pair.format(a=shapes.classes[0]),)
        summary.summarize(shapes, predictions=noisy[0], pairs=pairs, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
