"""Which published list a data set is, and whether it can be the real one."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from layouts import COCO_CATEGORIES, make_coco, make_folder, make_voc

from wsss_fast import data
from wsss_fast.data import lists


def test_the_tables():
    assert lists.VOC_COUNTS["trainaug"] == 1464 + 6820 + 2298
    assert tuple(name for _, name in COCO_CATEGORIES) == lists.COCO_CLASSES
    assert len(lists.VOC_CLASSES) == 20 and lists.VOC_CLASSES[14] == "person"


def test_the_helpers_data_sets_are_not_the_real_ones(tmp_path, shapes):
    found = lists.identify(data.load(make_voc(tmp_path / "voc")))
    assert (found.name, found.expected, found.is_real) == ("train", 1464, False)
    assert found.why_not == "train has 8 images, VOC12's 1464"
    found = lists.identify(data.load(make_coco(tmp_path / "coco"), split="val-annotated"))
    assert (found.name, found.expected) == ("val-annotated", 40_137) and not found.is_real
    found = lists.identify(data.load(make_folder(tmp_path / "own")))
    assert found.expected is None and "a folder with labels.csv, neither" in found.why_not
    found = lists.identify(shapes)
    assert "its classes are not VOC12's 20 in order; id 'train_00000' is not like" in found.why_not


def synthetic(layout, split, ids, classes):
    return data.Dataset(
        name="x",
        root=Path("x"),
        split=split,
        classes=classes,
        ids=tuple(ids),
        tags=np.zeros((len(ids), len(classes)), np.uint8),
        images={},
        masks={},
        saliencies={},
        layout=layout,
    )


VOC_IDS = [f"2007_{n:06d}" for n in range(10_582)]
COCO_IDS = [f"COCO_val2014_{n:012d}" for n in range(40_504)]
REAL = [
    ("voc", "trainaug", 10_582, "trainaug"),
    ("voc", "train_aug", 10_582, "trainaug"),
    ("voc", "/lists/voc_train_aug.txt", 10_582, "trainaug"),
    ("voc", "ids", 1464, "train"),
    ("voc", "test", 1456, "test"),
    ("coco", "val", 40_504, "val"),
    ("coco", "val: /lists/val.txt", 40_137, "val-annotated"),
]


@pytest.mark.parametrize(("layout", "split", "count", "name"), REAL)
def test_what_looks_like_the_real_one(layout, split, count, name):
    ids = (VOC_IDS if layout == "voc" else COCO_IDS)[:count]
    classes = lists.VOC_CLASSES if layout == "voc" else lists.COCO_CLASSES
    whole = synthetic(layout, split, ids, classes)
    found = lists.identify(whole)
    assert found == lists.ListInfo(name, count, True, "")
    assert not lists.identify(synthetic(layout, split, ids[1:], classes)).is_real
    other = dataclasses.replace(whole, classes=classes[::-1])
    assert "classes" in lists.identify(other).why_not
    odd = synthetic(layout, split, ["a", *ids[1:]], classes)
    assert "id 'a' is not like" in lists.identify(odd).why_not


def test_a_list_that_nobody_published():
    found = lists.identify(synthetic("voc", "/lists/my.txt", VOC_IDS[:3], lists.VOC_CLASSES))
    assert found.name == "my" and found.why_not.startswith("VOC12 has no list 'my' (train, train")
    broken = synthetic("voc", "val", VOC_IDS[:1448], lists.VOC_CLASSES)
    broken.broken["2007_000001"] = "truncated"
    assert "val has 1448 images (1 left out as broken), VOC12's 1449" in (
        lists.identify(broken).why_not
    )
