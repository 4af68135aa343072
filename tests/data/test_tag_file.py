"""Image tags from files of their own, with data of every layout."""

import io
import os
import pickle
import shutil

import numpy as np
import pytest
from layouts import COCO_LABELS, VOC_LABELS, coco_id, make_coco, make_folder, make_voc, tagged
from odd_folders import photo, tags

from wsss_fast import InputError, data
from wsss_fast.data import VOC_CLASSES
from wsss_fast.data.lists import COCO_CLASSES
from wsss_fast.engine import remarks

VOC_TAGS = {**VOC_LABELS["train"], "2007_000032": [1, 15], "2007_000033": [1]}


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """VOC12 without annotations."""
    root = make_voc(tmp_path_factory.mktemp("data") / "VOC2012", (12, 16))
    for path in (root / "Annotations").iterdir():
        path.unlink()
    return root


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp("data") / "coco", (12, 16))


@pytest.fixture
def photos(tmp_path):
    """A folder of three images."""
    for name in ("a.jpg", "b.png", "IMG 1.jpg"):
        photo(tmp_path / "photos" / name)
    return tmp_path / "photos"


def one_hot(labels, count=20, dtype=np.float32):
    found = np.zeros(count, dtype)
    found[np.array(labels, int) - 1] = 1
    return found


def saved(path, content):
    np.save(path, content, allow_pickle=True)
    return path


def load(*arguments, **options):
    """The data set, and the remarks on it."""
    with remarks.collected():
        loaded = data.load(*arguments, **options)
        return loaded, remarks.lines()


# ---- dictionaries --------------------------------------------------------------------------------


def number(id):
    """The keys of IRN's code: its way back is s[:4] + "_" + s[4:]."""
    return np.int32(int(id.replace("_", "")))


@pytest.mark.parametrize("key", [str, number, lambda id: int(number(id))])
def test_voc_dictionaries(voc, tmp_path, key):
    path = saved(tmp_path / "cls_labels.npy", {key(i): one_hot(t) for i, t in VOC_TAGS.items()})
    loaded = data.load(voc, tags=path)
    assert loaded.tagged and loaded.classes == VOC_CLASSES and loaded.tags.dtype == np.uint8
    assert {id: tagged(loaded, id) for id in loaded.ids} == {
        id: sorted(labels) for id, labels in VOC_LABELS["train"].items()
    }
    assert np.flatnonzero(loaded.tags_of("2007_000032")).tolist() == [0, 14]
    one = data.load(voc, ids=["2007_000033"], tags=str(path))
    assert np.flatnonzero(one.tags_of("2007_000033")).tolist() == [0]
    assert data.opened(loaded) is loaded and loaded.source["tags"] == str(path)
    assert data.load(loaded.source["data"], tags=loaded.source["tags"]).fingerprint() == (
        loaded.fingerprint()
    )


@pytest.mark.parametrize("key", [int, str, coco_id, "{:012d}".format])
def test_coco_dictionaries(coco, tmp_path, key):
    content = {key(n): one_hot(labels, 80) for n, labels in COCO_LABELS["train"].items()}
    loaded, said = load(coco, tags=saved(tmp_path / "cls_labels_coco.npy", content))
    assert loaded.tags.sum() == sum(map(len, COCO_LABELS["train"].values())) and said == []
    assert tagged(loaded, coco_id(9)) == [46, 50, 51]
    # The tags count, not the annotations; a remark says that they differ.
    content[key(9)] = one_hot([1], 80)
    loaded, said = load(coco, tags=saved(tmp_path / "cls_labels_coco.npy", content))
    assert tagged(loaded, coco_id(9)) == [1]
    (line,) = said
    assert (
        f"not those of the data's own annotations: 1 of 8 images, first {coco_id(9)}" in line
        or ("1 of 8 images" in line)
    )


def test_coco_without_its_json(coco, tmp_path):
    shutil.copytree(coco / "train2014", tmp_path / "coco/train2014")
    content = {n: one_hot(labels, 80) for n, labels in COCO_LABELS["train"].items()}
    loaded = data.load(tmp_path / "coco", tags=saved(tmp_path / "cls_labels_coco.npy", content))
    assert loaded.tagged and loaded.classes == COCO_CLASSES
    assert tagged(loaded, coco_id(9)) == [46, 50, 51]


def test_a_name_of_the_other_split_is_another_image(coco, tmp_path):
    content = {coco_id(n, "val"): one_hot(t, 80) for n, t in COCO_LABELS["train"].items()}
    with pytest.raises(InputError, match=r"has no tags of image 'COCO_train2014_0.*8 of the 8"):
        data.load(coco, tags=saved(tmp_path / "tags.npy", content))


def test_tags_of_another_data_set(voc, coco, tmp_path):
    """Public folders for COCO hold VOC's file, too."""
    path = saved(tmp_path / "cls_labels.npy", {number(i): one_hot(t) for i, t in VOC_TAGS.items()})
    with pytest.raises(
        InputError, match=r"has tags of 20 classes, the data set has 80 .*2007000032"
    ):
        data.load(coco, tags=path)
    wide = saved(tmp_path / "wide.npy", {i: one_hot(t, 21) for i, t in VOC_TAGS.items()})
    with pytest.raises(InputError, match="tags of 21 classes.*first column is the background"):
        data.load(voc, tags=wide)
    few = saved(tmp_path / "few.npy", {"2007_000032": one_hot([1])})
    with pytest.raises(InputError, match=r"no tags of image '2007_000039' \(7 of the 8 images"):
        data.load(voc, tags=few)


def test_odd_values_of_dictionaries(voc, tmp_path):
    import torch

    ids = VOC_LABELS["train"]
    content = {id: torch.tensor(one_hot(t)) for id, t in ids.items()}
    assert tagged(data.load(voc, tags=saved(tmp_path / "t.npy", content)), "2007_000032") == [1, 15]
    content = {id: (3 * one_hot(t)).astype(int).tolist() for id, t in ids.items()}
    loaded, said = load(voc, tags=saved(tmp_path / "l.npy", content))
    assert tagged(loaded, "2007_000032") == [1, 15]
    assert "other values than 0 and 1" in said[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": one_hot([1]), "b": one_hot([1], 19)}, "'b' has 19 values, the first image 20"),
        ({"a": one_hot([1]) * np.nan}, "20 of 20 values that are NaN"),
        ({"a": "cat"}, "'a' has str; expected a dictionary of image -> tags"),
        ({"a": {"b": 1}}, "'a' has dict; expected"),
        ({"a": np.ones((2, 3))}, r"'a' has float64 \[2, 3\]; expected"),
        ({b"a": one_hot([1])}, "key b'a' is neither the name nor the number"),
        ({}, "has no tags"),
        ({"a": np.zeros(0)}, "has no tags"),
        (np.array(["a"], object), r"is an array object \[1\]; expected a pickled dictionary"),
        (np.zeros(3), r"is an array \[3\]; expected a dictionary"),
        (np.zeros((2, 3), complex), "something other than arrays of numbers"),
        ({2007000032: one_hot([1]), "2007_000032": one_hot([2])}, "are both image '2007_000032'"),
    ],
)
def test_arrays_that_are_no_tags(voc, tmp_path, content, message):
    with pytest.raises(InputError, match=message) as caught:
        data.load(voc, tags=saved(tmp_path / "tags.npy", content))
    assert str(tmp_path / "tags.npy") in str(caught.value) and "\n" not in str(caught.value)


class RunsCode:
    def __reduce__(self):
        return os.mkdir, (os.environ["HOSTILE"],)


def test_nothing_is_executed(voc, tmp_path, monkeypatch):
    monkeypatch.setenv("HOSTILE", str(tmp_path / "made"))
    path = saved(tmp_path / "tags.npy", {"2007_000032": RunsCode()})
    with pytest.raises(InputError, match="refers to posix.mkdir; only arrays and tensors"):
        data.load(voc, tags=path)
    (tmp_path / "tags.pkl").write_bytes(pickle.dumps(RunsCode()))
    with pytest.raises(InputError, match=r"tags\.pkl: not a readable UTF-8 text"):
        data.load(voc, tags=tmp_path / "tags.pkl")
    assert not (tmp_path / "made").exists()


# ---- arrays --------------------------------------------------------------------------------------


def test_a_plain_array_has_the_order_of_the_images_numbers(coco, tmp_path):
    rows = np.stack([one_hot(COCO_LABELS["train"][n], 80) for n in sorted(COCO_LABELS["train"])])
    path = saved(tmp_path / "train_labels.npy", rows)
    for options in ({}, {"split": "train-annotated"}, {"ids": ["49", "9"]}):
        loaded, said = load(coco, tags=path, **options)
        assert tagged(loaded, coco_id(49)) == [1, 18] and said == []
    with pytest.raises(InputError, match="has 8 rows of tags, one per image, but there are 4"):
        data.load(coco, split="val", tags=path)
    # Rows of images in another order are noticed.
    assert "not those of the data's own" in load(coco, tags=saved(path, rows[::-1]))[1][0]


def test_a_plain_array_has_the_order_of_a_list(voc, photos, tmp_path):
    rows = np.stack([one_hot(t) for t in VOC_LABELS["train"].values()])
    loaded = data.load(voc, tags=saved(tmp_path / "voc.npy", rows))
    assert tagged(loaded, "2011_003276") == [14, 15]
    path = saved(tmp_path / "rows.npy", np.array([[1, 0], [0, 1]]))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(InputError, match="the images no order; give tags by name.* --ids, a list"):
        data.load(photos, tags=path)
    loaded = data.load(photos, tags=path, ids=["b", "a"])
    assert tags(loaded) == {"b": ["cat"], "a": ["dog"]}


# ---- lines of numbers ----------------------------------------------------------------------------


def test_lines_of_numbers(voc, coco, tmp_path):
    text = "".join(
        f"{id} {' '.join(str(k - 1) for k in labels)} \n" for id, labels in VOC_TAGS.items()
    )
    assert text.startswith("2007_000032 0 14 \n")
    (tmp_path / "voc.txt").write_text(text)
    loaded = data.load(voc, tags=tmp_path / "voc.txt")
    assert tagged(loaded, "2007_000032") == [1, 15] and tagged(loaded, "2008_000015") == [5]
    lines = "COCO_train2014_000000000009 45 49 50\nCOCO_train2014_000000000064\n"
    (tmp_path / "coco.txt").write_text(lines)
    loaded = data.load(coco, ids=["9", "64"], tags=tmp_path / "coco.txt")
    assert tagged(loaded, coco_id(9)) == [46, 50, 51] and tagged(loaded, coco_id(64)) == []


def test_names_with_spaces_and_paths(photos):
    (photos / "classes.txt").write_text("cat\ndog\n")
    path = photos.parent / "tags.txt"
    path.write_text("photos/a.jpg 0 1\nIMG 1 1\nb.png\n\n")
    expected = {"IMG 1": ["dog"], "a": ["cat", "dog"], "b": []}
    assert tags(data.load(photos, tags=path)) == expected
    photo(photos / "IMG.jpg")
    with pytest.raises(InputError, match="'IMG 1 1' may mean image 'IMG' or 'IMG 1'"):
        data.load(photos, tags=path)


def test_names_in_another_spelling(tmp_path):
    """Accents in either Unicode form are found; another case is another image, and is named."""
    photo(tmp_path / "in/caf\u00e9.JPG")
    photo(tmp_path / "in/B.jpg")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    for name in ("tags.txt", "tags.npy"):
        (tmp_path / "tags.txt").write_text("cafe\u0301.jpg 1\nb.jpg 0\n", encoding="utf-8")
        saved(tmp_path / "tags.npy", {"cafe\u0301": [0, 1], "b.jpg": [1, 0]})
        loaded = data.load(tmp_path / "in", tags=tmp_path / name)
        assert tags(loaded) == {"caf\u00e9": ["dog"]}
        with pytest.raises(
            InputError, match=r"no tags of image 'B' \(1 of the 1 .*; there is 'b.jpg'"
        ):
            data.load(tmp_path / "in", tags=tmp_path / name, ids=["B"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a cat\n", "line 1: got 'a cat', expected an id and the numbers.*csv of file,class"),
        ("a -1\nb 1\n", "line 1: 'a -1': -1 means that a class is absent in VOC's ImageSets/Main"),
        ("a 1\na 0\n", "line 2: image 'a' is already on line 1"),
        ("a 1\nb 2\n", r"line 2: class 2, but the data set's 2 classes are numbered 0\.\.1"),
        ("", r"is empty \(0 bytes\)"),
        ("x 1\n", "has tags of images such as 'x', but none of the 3 images"),
        ("version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("<!doctype html><title>Login</title>", "a web page"),
        ('{"a": [1]}', "JSON text"),
        ("\x00\x01\x02", "zero bytes|not a readable"),
    ],
)
def test_lines_that_are_no_tags(photos, text, message):
    (photos / "classes.txt").write_text("cat\ndog\n")
    (photos.parent / "tags.txt").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        data.load(photos, tags=photos.parent / "tags.txt")
    assert "tags.txt" in str(caught.value) and "\n" not in str(caught.value)


def test_numbers_from_one_are_noticed(photos):
    (photos / "classes.txt").write_text("cat\ndog\ncow\n")
    (photos.parent / "tags.txt").write_text("a 1\nb 2\nIMG 1 1\n")
    assert any(
        "class 0, 'cat', is in no line" in line
        for line in load(photos, tags=photos.parent / "tags.txt")[1]
    )


# ---- csv -----------------------------------------------------------------------------------------


def test_a_csv_and_a_folder_of_images(photos):
    path = photos.parent / "tags.csv"
    path.write_text("file,class\na.jpg,cat;dog\nIMG 1.jpg,\n")
    loaded, said = load(photos, tags=path)
    assert tags(loaded) == {"a": ["cat", "dog"], "IMG 1": []} and loaded.tagged
    assert said == ["remark: images have no tags in tags.csv and are left out: 1 of 3 images: b"]
    assert loaded.source["data"] == str(photos)
    (photos.parent / "classes.txt").write_text("dog\ncat\n")
    assert data.load(photos, tags=path).classes == ("dog", "cat")
    path.write_text("file,class\na.jpg,cat\ngone.jpg,dog\n")
    with pytest.raises(InputError, match=r"tags\.csv, line 3: no such image .*gone\.jpg"):
        data.load(photos, tags=path)


def test_a_csv_replaces_the_tags_of_a_layout(voc, tmp_path):
    path = tmp_path / "tags.csv"
    path.write_text("id,class\n2007_999999,cat\n2007_000032.jpg,bird\n2007_000039,cat;dog\n")
    loaded = data.load(voc, ids=["2007_000032", "2007_000039"], tags=path)
    assert tagged(loaded, "2007_000032") == [3] and tagged(loaded, "2007_000039") == [8, 12]
    path.write_text("2007_000032.jpg,birds\n")
    with pytest.raises(InputError, match=r"line 1: class 'birds' is none of the data set's"):
        data.load(voc, ids=["2007_000032"], tags=path)


def test_labels_csv_and_another_file(tmp_path):
    root = make_folder(tmp_path / "mine", (12, 16))
    (tmp_path / "other.csv").write_text("photos/a.png,fork\n")
    loaded = data.load(root, tags=tmp_path / "other.csv")
    assert loaded.classes == ("fork",) and loaded.ids == ("a",)
    (tmp_path / "numbers.txt").write_text("a 2\nb 1\nc\nd 0\n")
    loaded, said = load(root, tags=tmp_path / "numbers.txt")
    assert tagged(loaded, "a") == [3] and "3 of 4 images" in said[0]


# ---- folders of images ---------------------------------------------------------------------------


def test_class_names_of_a_folder_of_images(tmp_path, photos):
    path = saved(tmp_path / "tags.npy", {"a": [0, 1], "b": [1, 0], "x": [1, 1]})
    with pytest.raises(InputError, match=r"classes\.txt: no such file; .* \(2 names\) is needed"):
        data.load(photos, tags=path)
    (photos / "classes.txt").write_text("cat\ndog\n")
    loaded, said = load(photos, tags=path)
    assert tags(loaded) == {"a": ["dog"], "b": ["cat"]} and loaded.layout == "images"
    assert any("left out: 1 of 3 images: IMG 1" in line for line in said)
    assert any("1 of 3 tagged images are not in" in line for line in said)
    with pytest.raises(InputError, match="has no tags of image 'IMG 1'"):
        data.load(photos, tags=path, ids=["IMG 1"])


def test_published_ids_name_the_classes(tmp_path):
    photo(tmp_path / "voc/2007_000032.jpg")
    photo(tmp_path / f"coco/{coco_id(9)}.jpg")
    (tmp_path / "tags.txt").write_text(f"2007_000032 0 14 \n{coco_id(9)} 45 49 50\n")
    loaded, said = load(tmp_path / "voc", tags=tmp_path / "tags.txt")
    assert loaded.classes == VOC_CLASSES and tags(loaded)["2007_000032"] == ["aeroplane", "person"]
    assert any("the classes are VOC12's" in line for line in said)
    loaded = data.load(tmp_path / "coco", tags=tmp_path / "tags.txt")
    assert loaded.classes == COCO_CLASSES
    assert tags(loaded)[coco_id(9)] == ["bowl", "orange", "broccoli"]


def test_a_folder_of_images_has_masks_lists_and_broken_files(photos):
    (photos / "classes.txt").write_text("cat\n")
    (photos / "train.txt").write_text("b\n")
    (photos.parent / "tags.txt").write_text("a 0\nb 0\n")
    np_mask = np.ones((12, 16), np.uint8)
    data.write_labels(photos / "masks/b.png", np_mask)
    loaded = data.load(photos, tags=photos.parent / "tags.txt")
    assert loaded.ids == ("b",) == tuple(loaded.masks)
    (photos / "a.jpg").write_bytes(b"\xff\xd8")
    loaded = data.load(photos, ids=["a", "b"], tags=photos.parent / "tags.txt", strict=False)
    assert loaded.ids == ("b",) and set(loaded.broken) == {"a"}


def test_files_that_cannot_be_opened(photos):
    with pytest.raises(InputError, match=r"none\.npy: no such file"):
        data.load(photos, tags=photos / "none.npy")
    with pytest.raises(InputError, match="is a directory, not a file of image tags"):
        data.load(photos, tags=photos)
    buffer = io.BytesIO()
    np.save(buffer, {"a": one_hot([1])}, allow_pickle=True)
    for length in (20, 100, 200):
        (photos / "cut.npy").write_bytes(buffer.getvalue()[:length])
        with pytest.raises(InputError, match=r"cut\.npy: cannot be"):
            data.load(photos, tags=photos / "cut.npy")
