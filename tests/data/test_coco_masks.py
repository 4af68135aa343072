"""Label PNGs from COCO's JSON: the rules of public code, and outlines that cannot be used."""

import json
import re
import sys

import numpy as np
import pytest
from layouts import COCO_CATEGORIES, make_coco, masked
from PIL import Image, ImageFilter

from wsss_fast import InputError, RunError, cli, data, export
from wsss_fast.data import coco_masks

pytest.importorskip("pycocotools")

CATEGORIES = [{"id": id, "name": name} for id, name in COCO_CATEGORIES]
SMALL = {"category_id": 13, "area": 4, "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]]}
LARGE = {"category_id": 1, "area": 16, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}
CROWD = {
    "category_id": 90,
    "area": 4,
    "iscrowd": 1,
    "segmentation": {"size": [4, 5], "counts": [16, 4]},
}


def write(folder, *annotations, categories=CATEGORIES, images=None):
    """An instances JSON: the annotations are those of image 9, image 10 has none."""
    images = images or [
        {"id": 9, "file_name": "nine.jpg", "height": 4, "width": 5},
        {"id": 10, "file_name": "sub/ten.jpg", "height": 2, "width": 3},
    ]
    content = {
        "images": images,
        "annotations": [
            {"id": n, "image_id": 9, "iscrowd": 0, **one} for n, one in enumerate(annotations, 1)
        ],
        "categories": categories,
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def painted(path, out, **options):
    data.masks_from_coco(path, out, **options)
    return {file.stem: data.read_labels(file).tolist() for file in out.glob("*.png")}


@pytest.mark.parametrize(
    ("rule", "outer", "inner"),
    [
        ("small-first", [1, 1, 1, 1, 0], [1, 12, 12, 1, 0]),
        ("annToMask", [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]),
        ("coco2voc", [1, 1, 1, 1, 90], [1, 13, 13, 1, 90]),
    ],
)
def test_rules_of_public_code(tmp_path, rule, outer, inner):
    found = painted(write(tmp_path, SMALL, LARGE, CROWD), tmp_path / "out", rule=rule)
    assert found.pop("nine") == [outer, inner, inner, outer]
    assert found == ({} if rule == "coco2voc" else {"ten": [[0, 0, 0], [0, 0, 0]]})
    names = json.loads((tmp_path / "out/classes.json").read_text())
    label = "13" if rule == "coco2voc" else "12"
    assert names["0"] == "background" and names[label] == "stop sign" and names["255"] == "ignore"


def test_rules_on_random_outlines(tmp_path):
    """Object by object as the public code does, with COCO's own masks of objects."""
    from pycocotools.coco import COCO

    rng = np.random.default_rng(5)
    objects = []
    for n in range(12):
        points = rng.uniform(0, [40, 30], (rng.integers(3, 9), 2)).round(2)
        objects.append(
            {
                "category_id": COCO_CATEGORIES[rng.integers(80)][0],
                "area": float(rng.uniform(1, 500)),
                "iscrowd": int(n % 4 == 3),
                "segmentation": [points.ravel().tolist()],
            }
        )
    image = [{"id": 9, "file_name": "nine.jpg", "height": 30, "width": 40}]
    path = write(tmp_path, *objects, images=image)
    known, label_of = COCO(), {id: n for n, (id, _) in enumerate(COCO_CATEGORIES, 1)}
    known.dataset = json.loads(path.read_text())
    known.createIndex()
    later, first = np.zeros((2, 30, 40), int)
    for one in known.loadAnns(known.getAnnIds(imgIds=9, iscrowd=False)):
        later[known.annToMask(one) == 1] = label_of[one["category_id"]]
    for one in sorted(known.loadAnns(known.getAnnIds(imgIds=9)), key=lambda one: one["area"]):
        first = np.where(first > 0, first, known.annToMask(one) * one["category_id"])
    assert painted(path, tmp_path / "a", rule="annToMask")["nine"] == later.tolist()
    assert painted(path, tmp_path / "b", rule="coco2voc")["nine"] == first.tolist()


def test_areas_and_equal_sizes(tmp_path):
    """small-first counts pixels, coco2voc believes the file; of equal objects the first is seen."""
    twin = {**SMALL, "category_id": 2}
    wrong = {**LARGE, "area": 1}
    path = write(tmp_path, wrong, SMALL, twin)
    assert painted(path, tmp_path / "a")["nine"][1] == [1, 12, 12, 1, 0]
    assert painted(path, tmp_path / "b", rule="coco2voc")["nine"][1] == [1, 1, 1, 1, 0]
    odd = [
        {**one, "area": area} for one, area in ((LARGE, None), (SMALL, "x"), (twin, float("nan")))
    ]
    found = painted(write(tmp_path, *odd), tmp_path / "c", rule="coco2voc")
    assert found["nine"][1] == [1, 13, 13, 1, 0]


def test_border_is_ignored(tmp_path):
    image = [{"id": 9, "file_name": "nine.jpg", "height": 12, "width": 12}]
    square = {"category_id": 1, "segmentation": [[4, 4, 8, 4, 8, 8, 4, 8]]}
    (found,) = painted(write(tmp_path, square, images=image), tmp_path / "o", border=True).values()
    expected = np.zeros((12, 12), int)
    expected[1:11, 1:11], expected[4:8, 4:8] = 255, 1
    assert found == expected.tolist()


@pytest.mark.parametrize("size", [(12, 12), (1, 9), (2, 2), (30, 7)])
def test_border_is_that_of_coco2voc(size):
    """Which dilates by Pillow's filter of 7x7 pixels."""
    inside = np.random.default_rng(3).random(size) < 0.1
    inside[0, 0] = inside[-1, -1] = True
    around = np.zeros(size, bool)
    coco_masks._add_border(around, inside, np.array([0.0, 0.0, size[1], size[0]]))
    wide = np.asarray(Image.fromarray(inside.astype(np.uint8)).filter(ImageFilter.MaxFilter(7)))
    np.testing.assert_array_equal(around, (wide > 0) & ~inside)


def test_outlines_of_all_kinds_are_the_same(tmp_path):
    from pycocotools import mask

    inside = np.zeros((4, 5), np.uint8, order="F")
    inside[1:3, 1:3] = 1
    text = mask.encode(inside)["counts"].decode()
    kinds = [
        SMALL["segmentation"],
        SMALL["segmentation"][0],
        [[1, 1, 3, 1, 3, 2, 1, 2], [1, 2, 3, 2, 3, 3, 1, 3]],
        {"size": [4, 5], "counts": text},
        {"counts": [5, 2, 2, 2, 9]},
        [[1.0, 1, 3, 1, 3, 3, 1, 3], [0, 0, 1, 1]],  # the second covers nothing
    ]
    for n, kind in enumerate(kinds):
        path = write(tmp_path, {"category_id": 1, "segmentation": kind})
        assert painted(path, tmp_path / str(n))["nine"] == inside.tolist()


def test_compressed_run_lengths_of_any_size(tmp_path):
    from pycocotools import mask

    inside = np.asfortranarray(np.random.default_rng(0).random((90, 70)) < 0.4).astype(np.uint8)
    inside[:, 20:60] = 0
    inside[0, 0] = 1
    outline = {"size": [90, 70], "counts": mask.encode(inside)["counts"].decode()}
    image = [{"id": 9, "file_name": "nine.jpg", "height": 90, "width": 70}]
    path = write(tmp_path, {"category_id": 1, "segmentation": outline}, images=image)
    assert painted(path, tmp_path / "out")["nine"] == inside.tolist()


BAD_OUTLINES = [
    (None, "it has no outline, only a box"),
    ([], "it has no outline, only a box"),
    ("cat", "it has no outline"),
    ([[1, 1, 3, 1, 3, 3, 1]], "a polygon has 7 numbers"),
    ([[1, 1, "3", 1, 3, 3]], "not a list of numbers"),
    ([[1, 1, float("nan"), 1, 3, 3]], "a polygon has x nan"),
    ([[1, 1e9, 3, 1, 3, 3]], r"a polygon has y 1000000000\.0, far outside the image"),
    ([[10**400, 1, 3, 1, 3, 3]], "a polygon has x 1000"),
    ({"size": [4, 5], "counts": [16, 3]}, "cover 19 pixels, its image has 20"),
    ({"size": [4, 5], "counts": [16, 4000]}, "cover 4016 pixels"),
    ({"size": [4, 5], "counts": [24, -4]}, "not whole numbers from 0"),
    ({"size": [5, 4], "counts": [16, 4]}, r"of size \[5, 4\], its image is \[4, 5\]"),
    ({"size": [4, 5], "counts": ""}, "cover 0 pixels"),
    ({"size": [4, 5], "counts": "oooooooooooooooooo"}, "are damaged"),
    ({"size": [4, 5], "counts": "@4o"}, "are cut off"),
    ({"size": [4, 5], "counts": "@ä"}, "are damaged"),
    ({"size": [4, 5]}, "not whole numbers"),
]


@pytest.mark.parametrize(("outline", "message"), BAD_OUTLINES)
def test_a_bad_outline_leaves_its_image_out(tmp_path, capfd, outline, message):
    path = write(tmp_path, {"category_id": 1, "segmentation": outline})
    out = tmp_path / "out"
    assert cli.run(["import", "coco", str(path), "-o", str(out)]) == 1
    lines = capfd.readouterr().err.strip().splitlines()
    pattern = rf"left out: .*instances\.json, image 9 \(nine\.jpg\): annotation 1: .*{message}"
    assert any(re.search(pattern, line) for line in lines)
    assert "1 of 2 images were left out" in lines[-1]
    assert sorted(p.name for p in out.iterdir()) == ["classes.json", "ten.png"]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({}, "its height is None"),
        ({"height": 0, "width": 5}, "its height is 0"),
        ({"height": 4, "width": 2.5}, r"its width is 2\.5"),
        ({"height": 4, "width": "5"}, "its width is '5'"),
        ({"height": 10**6, "width": 10**6}, "which is too large"),
        ({"height": float("inf"), "width": 4}, "its height is inf"),
    ],
)
def test_images_without_a_size(tmp_path, size, message):
    images = [{"id": 9, "file_name": "nine.jpg", **size}]
    with pytest.raises(InputError, match=rf"image 9 .*{message}"):
        data.masks_from_coco(write(tmp_path, SMALL, images=images), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_arguments(tmp_path):
    path = write(tmp_path, SMALL)
    with pytest.raises(InputError, match="rule 'first' is unknown; known are small-first"):
        data.masks_from_coco(path, tmp_path / "out", rule="first")
    with pytest.raises(InputError, match=r"instances\.json is not a directory"):
        data.masks_from_coco(path, path)
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        data.masks_from_coco(tmp_path / "none.json", tmp_path / "out")
    with pytest.raises(InputError, match="has no annotations, so there is nothing to paint"):
        data.masks_from_coco(write(tmp_path), tmp_path / "out", rule="coco2voc")
    many = [{"id": 0, "name": "cat"}, {"id": 300, "name": "dog"}]
    with pytest.raises(InputError, match="category id 0 cannot be the value of a pixel"):
        cat = {**SMALL, "category_id": 0}
        data.masks_from_coco(write(tmp_path, cat, categories=many), tmp_path / "o", rule="coco2voc")
    outside = [{"id": 9, "file_name": "../../nine.jpg", "height": 4, "width": 5}]
    with pytest.raises(InputError, match=r"image 9 has file name '\.\./\.\./nine\.jpg'"):
        data.masks_from_coco(write(tmp_path, SMALL, images=outside), tmp_path / "out")


def test_some_images_are_left_out(tmp_path):
    images = [
        {"id": 9, "file_name": "nine.jpg", "height": 4},
        {"id": 1, "file_name": "one.jpg", "height": 4, "width": 5},
    ]
    with pytest.raises(RunError, match="1 of 2 images were left out; the others are in"):
        data.masks_from_coco(write(tmp_path, SMALL, images=images), tmp_path / "out")
    assert (tmp_path / "out/one.png").is_file() and not (tmp_path / "out/nine.png").exists()


def test_without_pycocotools_a_line_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(InputError, match="import coco needs pycocotools: pip install pycocotools"):
        data.masks_from_coco(write(tmp_path, SMALL), tmp_path / "out")


def test_what_export_writes_is_read_back(tmp_path):
    rng = np.random.default_rng(1)
    masks = {name: rng.choice([0, 1, 2], (9, 7)).astype(np.uint8) for name in ("a", "b")}
    for name, labels in masks.items():
        data.write_labels(tmp_path / "masks" / f"{name}.png", labels)
    export.to_coco(tmp_path / "masks", tmp_path / "out.json", classes=["cat", "dog"])
    found = painted(tmp_path / "out.json", tmp_path / "again")
    assert found == {name: labels.tolist() for name, labels in masks.items()}


def test_a_whole_data_set(tmp_path):
    """The boxes of the made-up COCO14, one of them a crowd, score against its own masks."""
    root = make_coco(tmp_path / "coco14")
    data.masks_from_coco(root / "annotations/instances_train2014.json", tmp_path / "masks")
    given, made = data.load(root), data.load(root, truth=tmp_path / "masks").check_masks()
    assert len(made.masks) == 8
    for id in given.ids:
        known = given.mask(id) != 255
        same = (given.mask(id) == made.mask(id))[known]
        assert id.endswith("36") or same.mean() > 0.9
    assert masked(made, "COCO_train2014_000000000036") == [1]  # without the crowd of another class
