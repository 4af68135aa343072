"""The folder layout: labels.csv, classes.txt and lists of ids."""

import pytest
from layouts import FOLDER_CLASSES, FOLDER_ROWS, make_folder, masked, tagged

from wsss_fast import InputError, data


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "mine")


def test_a_folder_with_labels_csv(folder):
    loaded = data.load(folder).check_masks()
    assert loaded.classes == FOLDER_CLASSES and loaded.ids == tuple(FOLDER_ROWS)
    assert set(loaded.masks) == {"a", "b", "c"}
    for id, names in FOLDER_ROWS.items():
        assert [loaded.classes[k - 1] for k in tagged(loaded, id)] == sorted(names)
    assert masked(loaded, "b") == [1, 2] and masked(loaded, "c") == []
    assert loaded.saliency("d").max() > 0.8
    assert data.load(folder, ids=["d", "a"]).ids == ("d", "a")
    # Labels mean the same in every part of the data set.
    assert data.load(folder, ids=["d"]).classes == FOLDER_CLASSES


def test_splits_and_classes_of_a_folder(folder):
    (folder / "train.txt").write_text("b\n\na\n")
    (folder / "held_out.txt").write_text("\ufeffd\n", encoding="utf-8")
    assert data.load(folder).ids == ("b", "a") and data.load(folder, split="held_out").ids == ("d",)
    with pytest.raises(
        InputError, match=r"val\.txt: no such id list; .* has the splits: held_out, train"
    ):
        data.load(folder, split="val")
    (folder / "classes.txt").write_text("spoon\ncup\ndish\nfork\n")
    loaded = data.load(folder)
    assert loaded.classes == ("spoon", "cup", "dish", "fork") and tagged(loaded, "b") == [2, 3]
    with pytest.raises(InputError, match=r"classes\.txt: no such id list"):
        data.load(folder, split="classes")


def test_labels_csv_as_spreadsheets_write_it(folder):
    (folder / "labels.csv").write_bytes(
        '\ufeffFile,Labels\r\n"photos/a.png","cup; dish"\r\n\r\nphotos/c.png,\r\n'.encode()
    )
    loaded = data.load(folder)
    assert loaded.ids == ("a", "c") and tagged(loaded, "a") == [1, 2] and tagged(loaded, "c") == []
    (folder / "photos").rename(folder / "images")
    (folder / "labels.csv").write_text("a.png,cup\n")
    assert data.load(folder).images["a"] == folder / "images/a.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "photos/a.png,cup\nphotos/b.png;dish\n",
            r"labels\.csv, line 2: expected file,class\[;class\.\.\.\], got 'photos/b.png;dish'",
        ),
        ("photos/a.png,cup,dish\n", r"labels\.csv, line 1: expected file,class"),
        (",cup\n", r"labels\.csv, line 1: expected file,class"),
        (
            "photos/a.png,cup\n\nother/a.jpg,cup\n",
            r"labels\.csv, line 3: id 'a' is listed more than once, first on line 1",
        ),
        (
            "photos/a.png,cup\nphotos/x.png,cup\n",
            r"labels\.csv, line 2: no such image .*photos/x\.png",
        ),
        (
            "../mine/photos/a.png,cup\n",
            r"labels\.csv, line 1: '\.\./mine/photos/a\.png' must be a path below",
        ),
        ("file,class\n", r"labels\.csv: lists no image"),
        ("photos/a.png,\n", r"labels\.csv: needs 1 to 254 classes, has 0"),
        ('photos/a.png,"cup\n', r"labels\.csv, line 1: not readable as CSV"),
    ],
)
def test_wrong_lines_of_labels_csv(folder, text, message):
    (folder / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        data.load(folder)


def test_classes_txt_and_labels_csv_disagree(folder):
    (folder / "classes.txt").write_text("cup\ndish\n")
    with pytest.raises(
        InputError, match=r"labels\.csv, line 5: class 'spoon' is not in .*classes\.txt"
    ):
        data.load(folder)
    (folder / "classes.txt").write_text("cup\ndish\nspoon\ncup\n")
    with pytest.raises(InputError, match=r"txt, line 4: class 'cup' is listed more than once"):
        data.load(folder)


def test_the_folder_of_masks_and_what_is_scored(folder):
    (folder / "train.txt").write_text("a\nb\nd\n")
    (folder / "few.txt").write_text("b\nc\n")
    assert set(data.load(folder).masks) == {"a", "b"} and data.load(folder).truth == "masks"
    loaded = data.load(folder, score_on="few")
    assert set(loaded.masks) == loaded.scored == {"b"} and loaded.score_on == "few"
    (folder / "masks").rename(folder / "truth")
    assert not data.load(folder).masks
    assert set(data.load(folder, truth="truth").masks) == {"a", "b"}
    with pytest.raises(InputError, match=r"truth: no folder masks, .* has no masks$"):
        data.load(folder, truth="masks")
    with pytest.raises(InputError, match=r"none\.txt: no such id list; .* splits: few, train"):
        data.load(folder, score_on="none")
