"""AP50 of object masks: conversion to COCO's JSON, and pycocotools' result where it is there."""

import importlib.util
import json
import shutil
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from layouts import make_coco

from wsss_fast import InputError, cli, data
from wsss_fast.engine.run_folder import read_records
from wsss_fast.evaluation import run_scores
from wsss_fast.evaluation.instances import (
    average_precisions,
    evaluate_instances,
    find_truth,
    run_lengths,
    true_objects,
)
from wsss_fast.readers.instances import Instances, save_instances

needs_pycocotools = pytest.mark.skipif(
    importlib.util.find_spec("pycocotools") is None, reason="pycocotools is not installed"
)


def decoded(run_lengths):
    """The mask of COCO's run lengths, number by number."""
    height, width = run_lengths["size"]
    flat = []
    for place, count in enumerate(run_lengths["counts"]):
        flat += [bool(place % 2)] * count
    return np.array(flat).reshape(width, height).T


@pytest.mark.parametrize("share", [0, 0.3, 0.7, 1])
def test_run_lengths(share):
    mask = np.random.default_rng(4).random((5, 7)) < share
    np.testing.assert_array_equal(decoded(run_lengths(mask)), mask)
    json.dumps(run_lengths(mask))


def test_true_objects_of_a_folder(shapes):
    found = true_objects(shapes, find_truth(shapes))
    assert [c["name"] for c in found["categories"]] == list(shapes.classes)
    assert [i["file_name"] for i in found["images"]] == list(shapes.ids)
    for image in found["images"]:
        id, own = (
            image["file_name"],
            [a for a in found["annotations"] if a["image_id"] == image["id"]],
        )
        tree = ElementTree.parse(shapes.root / "Annotations" / f"{id}.xml")
        names = [thing.findtext("name") for thing in tree.getroot().iter("object")]
        assert [shapes.classes[a["category_id"] - 1] for a in own] == names
        masks = [decoded(a["segmentation"]) for a in own]
        truth = shapes.mask(id)
        np.testing.assert_array_equal(sum(masks) > 0, (truth > 0) & (truth < 255))
        assert [a["area"] for a in own] == [m.sum() for m in masks]
    assert len({a["id"] for a in found["annotations"]}) == len(found["annotations"])


def test_objects_without_a_class_are_left_out_with_a_remark(own_shapes, capfd):
    given = data.load(own_shapes)
    objects = given.root / "SegmentationObject"
    path, number = objects / f"{given.ids[0]}.png", len(true_objects(given, objects)["annotations"])
    numbers = data.read_labels(path)
    numbers[given.mask(given.ids[0]) == 0] = 9
    data.write_labels(path, numbers)
    assert len(true_objects(given, objects)["annotations"]) == number
    assert "true objects have no class in their mask" in capfd.readouterr().err


def test_true_objects_of_cocos_json(tmp_path):
    given = data.load(make_coco(tmp_path / "coco"), split="val")
    source = find_truth(given)
    assert source == tmp_path / "coco/annotations/instances_val2014.json"
    found = true_objects(given, source)
    content = json.loads(source.read_text())
    assert len(found["annotations"]) == len(content["annotations"])
    name_of = {c["id"]: c["name"] for c in content["categories"]}
    file_of = {i["id"]: i["file_name"] for i in content["images"]}
    for one, stored in zip(found["annotations"], content["annotations"], strict=True):
        assert given.classes[one["category_id"] - 1] == name_of[stored["category_id"]]
        assert f"{given.ids[one['image_id'] - 1]}.jpg" == file_of[stored["image_id"]]
        assert one["segmentation"] == stored["segmentation"]


def test_a_damaged_outline_is_named(tmp_path):
    """pycocotools would read beyond the run lengths."""
    given = data.load(make_coco(tmp_path / "coco"), split="val")
    source = find_truth(given)
    content = json.loads(source.read_text())
    content["annotations"][1]["segmentation"] = {"size": [80, 60], "counts": [5, 9]}
    source.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"json, annotation \d+: its run lengths "):
        true_objects(given, source)


@pytest.fixture
def without_pycocotools(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)


def test_without_pycocotools_a_line_says_how_to_install_it(
    shapes, tmp_path, capfd, without_pycocotools
):
    write_truth(shapes, tmp_path / "instances")
    code = cli.run(
        ["irn", "evaluate-instances", "--data", str(shapes.root), "--instances", str(tmp_path)]
    )
    assert code == 2 and "pip install pycocotools" in capfd.readouterr().err
    run_scores.instances(tmp_path, "irn/instances", shapes, tmp_path / "instances")
    assert "irn/instances: not scored: AP50 is computed by pycocotools" in capfd.readouterr().err
    assert "ap50" not in read_records(tmp_path)["irn/instances"]


def test_bad_input(shapes, own_shapes, tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file or directory; it holds the true"):
        evaluate_instances(shapes, instances=tmp_path, objects=tmp_path / "nowhere")
    shutil.rmtree(own_shapes / "SegmentationObject")
    with pytest.raises(InputError, match="SegmentationObject: no such file or directory"):
        evaluate_instances(str(own_shapes), instances=tmp_path)
    (tmp_path / "odd.json").write_text("[]")
    with pytest.raises(InputError, match=r"odd\.json: .*expected COCO's instances JSON"):
        true_objects(shapes, tmp_path / "odd.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: has no true object of the 24 images"):
        true_objects(shapes, tmp_path / "empty")


def write_truth(given, folder):
    """The true objects as if they were found."""
    for id in given.ids:
        numbers = data.read_labels(given.root / "SegmentationObject" / f"{id}.png")
        numbers[numbers == 255] = 0
        truth, count = given.mask(id), numbers.max()
        labels = [int(np.median(truth[numbers == n])) for n in range(1, count + 1)]
        save_instances(folder, id, Instances(numbers, np.array(labels), np.ones(count)))


@needs_pycocotools
def test_true_objects_have_an_average_precision_of_1(shapes, tmp_path, capfd):
    write_truth(shapes, tmp_path / "instances")
    scores = evaluate_instances(shapes, instances=tmp_path / "instances")
    assert scores.ap50 == 1 and scores.images == len(shapes) and scores.found == scores.objects
    assert set(scores.by_class) == set(shapes.classes)
    run_scores.instances(tmp_path, "irn/instances", shapes, tmp_path / "instances")
    assert read_records(tmp_path)["irn/instances"]["ap50"] == 1
    output = capfd.readouterr()
    assert output.out == ""  # pycocotools prints


@needs_pycocotools
def test_average_precision_is_the_mean_at_101_recalls():
    """Two true objects of class 1: a hit, a wrong one, a hit; one of class 2 that is not found."""

    def box(x):
        mask = np.zeros((10, 40), bool)
        mask[:, x : x + 10] = True
        return mask

    def found(x, score, category=1):
        return {
            "image_id": 1,
            "category_id": category,
            "score": score,
            "segmentation": run_lengths(box(x)),
        }

    truth = {
        "images": [{"id": 1, "file_name": "a", "height": 10, "width": 40}],
        "categories": [{"id": k, "name": str(k)} for k in (1, 2, 3)],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": category,
                "iscrowd": 0,
                "area": 100,
                "segmentation": run_lengths(box(x)),
            }
            for number, (category, x) in enumerate([(1, 0), (1, 20), (2, 30)], 1)
        ],
    }
    # 3 of 13 columns do not overlap: IoU 7/13. 4 of 14: 6/14 is below 0.5.
    given = [found(3, 0.9), found(24, 0.8), found(20, 0.7), found(0, 0.6, category=3)]
    assert average_precisions(truth, given) == {
        1: pytest.approx((51 * 1 + 50 * 2 / 3) / 101),
        2: 0,
    }
    assert average_precisions(truth, []) == {1: 0, 2: 0}


@needs_pycocotools
def test_more_than_100_objects_of_an_image_count():
    numbers = np.kron(np.arange(1, 151).reshape(10, 15), np.ones((2, 2), int))
    masks = numbers == np.arange(1, 151)[:, None, None]
    common = [
        {"image_id": 1, "category_id": 1, "segmentation": run_lengths(mask)} for mask in masks
    ]
    truth = {
        "images": [{"id": 1, "file_name": "a", "height": 20, "width": 30}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {**one, "id": n, "iscrowd": 0, "area": 4} for n, one in enumerate(common, 1)
        ],
    }
    assert average_precisions(truth, [{**one, "score": 0.5} for one in common]) == {1: 1}


@needs_pycocotools
def test_the_command(shapes, tmp_path, capfd):
    write_truth(shapes, tmp_path)
    line = f"irn evaluate-instances --data {shapes.root} --instances {tmp_path}"
    assert cli.run(line.split()) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("AP50 100.0 % over 24 images with ")
    assert [line.split() for line in lines[1:]] == [[name, "100.0"] for name in shapes.classes]
