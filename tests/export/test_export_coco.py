"""COCO annotation files: read back by pycocotools they are the masks."""

import doctest
import json

import numpy as np
import pytest
from PIL import Image

from wsss_fast import InputError, RunError
from wsss_fast.export import coco, open_masks, to_coco
from wsss_fast.readers.label_maps import write_labels

pycoco = pytest.importorskip("pycocotools.coco")


def masks_of(path, classes):
    """Labels by file name, painted by pycocotools; and the annotations, each checked by it."""
    read = pycoco.COCO(str(path))
    assert [c["name"] for c in read.loadCats(read.getCatIds())] == list(classes)
    found = {}
    for image in read.loadImgs(read.getImgIds()):
        labels = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in read.loadAnns(read.getAnnIds(image["id"])):
            mask = read.annToMask(annotation).astype(bool)
            assert mask.shape == labels.shape and not labels[mask].any()
            assert mask.sum() == annotation["area"] and annotation["iscrowd"] == 0
            y, x = np.nonzero(mask)
            box = [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            assert annotation["bbox"] == box
            labels[mask] = annotation["category_id"]
        found[image["file_name"]] = labels
    return found, read.loadAnns(read.getAnnIds())


@pytest.mark.parametrize("per", ["object", "class"])
def test_pycocotools_reads_the_masks(masks, tmp_path, per):
    rng = np.random.default_rng(0)
    noise = rng.choice([0, 1, 2, 255], (31, 47), p=[0.5, 0.2, 0.2, 0.1]).astype(np.uint8)
    write_labels(masks / "noise.png", noise)
    write_labels(masks / "full.png", np.full((3, 4), 2, np.uint8))
    out = to_coco(masks, tmp_path / "a/coco.json", per=per)
    opened = open_masks(masks)
    found, annotations = masks_of(out, opened.classes)
    expected = {f"{id}.jpg": np.where(labels == 255, 0, labels) for id, labels in opened}
    assert list(found) == list(expected)
    for name, labels in expected.items():
        assert np.array_equal(found[name], labels), name
    assert [a["id"] for a in annotations] == list(range(1, len(annotations) + 1))
    pairs = [(a["image_id"], a["category_id"]) for a in annotations]
    assert (len(set(pairs)) == len(pairs)) == (per == "class")


def test_worked_example(masks, tmp_path):
    (masks / "two.png").unlink()
    content = json.loads(to_coco(masks, tmp_path / "coco.json").read_text())
    assert content["annotations"] == [
        {
            "id": 1,
            "image_id": 1,
            "iscrowd": 0,
            "category_id": 2,
            "segmentation": {"size": [5, 6], "counts": "6230009"},
            "area": 6,
            "bbox": [1, 1, 3, 2],
        }
    ]
    assert content["images"][1] == {"id": 2, "file_name": "zero.jpg", "height": 4, "width": 3}


def test_objects_of_a_class_are_apart_and_small_ones_can_be_left_out(masks, tmp_path):
    labels = np.zeros((9, 9), np.uint8)
    labels[1:4, 1:4] = labels[5:8, 5:8] = 1
    labels[4, 4] = 1  # touches both with a corner only
    write_labels(masks / "one.png", labels)

    def areas(**options):
        content = json.loads(to_coco(masks, tmp_path / "c.json", **options).read_text())
        return [a["area"] for a in content["annotations"] if a["image_id"] == 1]

    assert sorted(areas()) == [1, 9, 9]
    assert areas(per="class") == [19]
    assert areas(min_area=2) == [9, 9]
    with pytest.raises(InputError, match="min_area: is 0"):
        areas(min_area=0)


def test_ids_of_images_stay_those_of_coco(masks, tmp_path):
    for old, new in (("one", 9), ("two", 581929), ("zero", 42)):
        (masks / f"{old}.png").rename(masks / f"COCO_train2014_{new:012}.png")
    content = json.loads(to_coco(masks, tmp_path / "coco.json").read_text())
    assert [i["id"] for i in content["images"]] == [9, 42, 581929]
    assert {a["image_id"] for a in content["annotations"]} == {9, 581929}


def test_a_name_among_numbers_is_remarked(masks, tmp_path, capfd):
    to_coco(masks, tmp_path / "coco.json")
    assert "as its name" not in capfd.readouterr().err
    (masks / "one.png").rename(masks / "000000000009.png")
    to_coco(masks, tmp_path / "coco.json")
    text = capfd.readouterr().err
    assert "all image ids are 1, 2, ...: 2 of 3 masks, first" in text and "two.png" in text


@pytest.mark.parametrize(
    ("ids", "numbers"),
    [
        (["000000000009", "000000000042"], [9, 42]),
        (["9", "42"], [9, 42]),
        (["09", "9"], [1, 2]),  # would be one
        (["9", "x"], [1, 2]),
        (["9" * 16], [1]),  # beyond what JSON readers hold exactly
        (["٣", "٤"], [1, 2]),
    ],
)
def test_numbers_of_images(ids, numbers):
    assert list(coco.image_numbers(ids).values()) == numbers


def test_examples_of_the_docstring():
    result = doctest.testmod(coco)
    assert result.attempted == 2 and not result.failed


def test_broken_masks_do_not_shift_the_ids(masks, tmp_path):
    (masks / "one.png").write_bytes(b"")
    with pytest.raises(RunError, match="1 of 3 masks"):
        to_coco(masks, tmp_path / "coco.json")
    images = json.loads((tmp_path / "coco.json").read_text())["images"]
    assert [(i["id"], i["file_name"]) for i in images] == [(2, "two.jpg"), (3, "zero.jpg")]


def test_without_a_usable_mask_nothing_is_written(masks, tmp_path, files_of):
    for path in masks.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="none of 3 masks can be used"):
        to_coco(masks, tmp_path / "coco.json")
    assert files_of() == []


def test_names_of_photos(masks, tmp_path):
    (tmp_path / "photos").mkdir()
    for name, size in (("one.JPG", (6, 5)), ("two.png", (6, 5)), ("zero.webp", (3, 4))):
        Image.new("RGB", size).save(tmp_path / "photos" / name)
    out = to_coco(masks, tmp_path / "coco.json", images=tmp_path / "photos")
    names = [i["file_name"] for i in json.loads(out.read_text())["images"]]
    assert names == ["one.JPG", "two.png", "zero.webp"]
