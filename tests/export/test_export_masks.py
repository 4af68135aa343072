"""Masks that are exported: which files are read, which are left out, and what is said of them."""

import json

import numpy as np
import pytest
from PIL import Image

from wsss_fast import InputError, RunError
from wsss_fast.engine import remarks
from wsss_fast.export import open_masks
from wsss_fast.readers.label_maps import write_labels

NAMES = {"0": "background", "1": "cat", "2": "dog", "255": "ignore"}


@pytest.fixture
def folder(tmp_path):
    """Two masks of 5x6, one with an ignored pixel, and their class names."""
    labels = np.zeros((5, 6), np.uint8)
    labels[1:3, 1:4] = 2
    write_labels(tmp_path / "masks/b.png", labels)
    labels[0, 0] = 255
    write_labels(tmp_path / "masks/a.png", labels)
    (tmp_path / "masks/classes.json").write_text(json.dumps(NAMES))
    return tmp_path / "masks"


def photo(path, height=5, width=6, **options):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (width, height)).save(path, **options)


def test_masks_are_read_in_the_order_of_their_ids(folder):
    (folder / "b.png").rename(folder / "a-b.png")  # sorts before a.png
    masks = open_masks(folder)
    assert masks.classes == ("cat", "dog") and len(masks) == 2
    found = dict(masks)
    assert list(found) == ["a", "a-b"]
    assert found["a"].dtype == np.uint8 and found["a"].shape == (5, 6)
    assert np.unique(found["a"]).tolist() == [0, 2, 255]
    assert masks.file_name("a") == "a.jpg"
    masks.check(folder)  # nothing was left out


@pytest.mark.parametrize("form", ["names", "text", "json"])
def test_given_classes_replace_those_of_the_folder(folder, tmp_path, form):
    names = ("sheep", "cow", "pig")
    (tmp_path / "list.txt").write_text("\n".join(names) + "\n")
    (tmp_path / "list.json").write_text(json.dumps({str(n): c for n, c in enumerate(names, 1)}))
    given = {"names": names, "text": tmp_path / "list.txt", "json": str(tmp_path / "list.json")}
    assert open_masks(folder, classes=given[form]).classes == names


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[]", "has a list"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"0": "background", "2": "dog"}', r'has \{"2": "dog"\} as its class 1'),
        ('{"1": 5}', r'has \{"1": 5\} as its class 1'),
        ('{"0": "background"}', "1 to 254 classes, has 0"),
        ('{"1": "cat", "2": "cat"}', "listed more than once"),
    ],
)
def test_damaged_class_names_are_rejected_by_file(folder, content, text):
    (folder / "classes.json").write_text(content)
    with pytest.raises(InputError, match=rf"classes\.json: .*{text}"):
        open_masks(folder)


def test_classes_without_names_are_called_by_their_labels(folder):
    (folder / "classes.json").unlink()
    with remarks.collected():
        found = open_masks(folder)
        (line,) = remarks.lines()
    assert found.classes == ("1", "2")
    assert "no classes.json and no other class names: classes are called by their labels" in line


def test_a_folder_without_names_and_labels_says_what_to_give(folder):
    (folder / "classes.json").unlink()
    for path in folder.glob("*.png"):
        write_labels(path, np.zeros((2, 3), np.uint8))
    with pytest.raises(InputError, match="has no classes.json.* give a file of class names"):
        open_masks(folder)


def test_wrong_class_names_say_what_to_give(folder):
    with pytest.raises(InputError, match="classes: .*: is a folder; give a file"):
        open_masks(folder, classes=folder)
    with pytest.raises(InputError, match="classes: cat: no such file; give a file"):
        open_masks(folder, classes="cat")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda f: f / "none", "no such folder"),
        (lambda f: f / "a.png", "is a file; name its folder"),
        (lambda f: f.parent, r"has no label PNGs .*masks has some"),
    ],
)
def test_a_folder_without_masks_is_rejected(folder, make, text):
    with pytest.raises(InputError, match=f"masks: .*{text}"):
        open_masks(make(folder))


def test_names_and_sizes_come_from_the_photos(folder):
    photos = folder.parent / "photos"
    photo(photos / "a.JPEG")
    photo(photos / "b.png", width=7)
    masks = open_masks(folder, images=photos)
    assert [id for id, _ in masks] == ["a"]
    assert masks.file_name("a") == "a.JPEG"
    assert "b.png: is 5x6 pixels (HxW), but its image" in masks.problems[0]
    with pytest.raises(InputError, match="has no photos .*; folders in it .*: masks, photos"):
        open_masks(folder, images=photos.parent)
    (photos / "a.JPEG").unlink()
    (photos / "b.png").unlink()
    with pytest.raises(InputError, match=r"photos has no photos \(.*\)$"):
        open_masks(folder, images=photos)


def test_a_mask_without_a_photo_is_left_out(folder):
    photos = folder.parent / "photos"
    photo(photos / "B.jpg")
    photo(photos / "a.jpg")
    masks = open_masks(folder, images=photos)
    assert [id for id, _ in masks] == ["a"]
    assert "b.png" in masks.problems[0] and "there is 'B.jpg'" in masks.problems[0]


def test_unusable_masks_are_named_and_the_rest_is_read(folder, capfd):
    whole = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[:-30])
    (folder / "empty.png").write_bytes(b"")
    (folder / "page.png").write_bytes(b"<html>404</html>")
    write_labels(folder / "high.png", np.full((2, 2), 3, np.uint8))
    photo(folder / "colours.png")
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3)).save(folder / "colours.png")
    (folder / "back\\slash.png").write_bytes(whole)
    (folder / "._a.png").write_bytes(b"resource fork")
    (folder / "sub.png").mkdir()
    (folder / "two\nlines.png").write_bytes(whole)
    masks = open_masks(folder)
    assert [id for id, _ in masks] == ["a", "b"]
    named = "back\\slash", "colours", "cut", "empty", "high", "page", "sub", "two\\nlines"
    assert len(masks.problems) == 8
    for name, problem in zip(named, masks.problems, strict=True):
        assert name in problem
    with pytest.raises(RunError, match=r"8 of 10 masks were left out; the others are in out\.json"):
        masks.check("out.json")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 9 and lines[0].startswith("remark: ignored pixels")
    assert all(line.startswith("left out: ") for line in lines[1:])
    assert len(list(masks)) == 2 and len(masks.problems) == 8  # not counted twice


def test_no_usable_mask_is_an_error(folder):
    for name in ("a", "b"):
        write_labels(folder / f"{name}.png", np.full((2, 2), 9, np.uint8))
    with pytest.raises(InputError, match="label 9 is impossible.*none of 2 masks can be used"):
        list(open_masks(folder))


def test_masks_of_0_and_255_are_rejected(folder):
    for name in ("a", "b"):
        write_labels(folder / f"{name}.png", np.array([[0, 255]], np.uint8))
    with pytest.raises(InputError, match="255 means ignore"):
        list(open_masks(folder))


def test_masks_without_objects_are_kept(folder):
    for name in ("a", "b"):
        write_labels(folder / f"{name}.png", np.zeros((2, 2), np.uint8))
    assert len(list(open_masks(folder))) == 2
