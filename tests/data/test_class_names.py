"""Class names: their order, background among them, names that a reader takes for the same."""

import re

import pytest
from layouts import make_voc
from odd_folders import load, make, tags

from wsss_fast import InputError, data


@pytest.mark.parametrize(
    ("lines", "classes", "remark"),
    [
        ("background\ncat\n", ("cat",), "'background' before the first class is not counted"),
        ("_Background_\ncat\n", ("cat",), "label 1 is 'cat'"),
        ("__background__\r\ncat\r\n", ("cat",), "label 0 is background"),
        ("BG\ncat\n", ("cat",), "label 0 is background"),
        ("__ignore__\n_background_\ncat\n", ("cat",), "'_background_' before the first class"),
        ("dog\n\ncat\n", ("dog", "cat"), "blank lines in a list of classes are not counted"),
        ("void\ncat\n", ("void", "cat"), "'void' is a class like any other, with label 1"),
        ("0\ncat\n", ("0", "cat"), None),
        ("cat\n\n\n", ("cat",), None),
        ("hot dog \ncat\n", ("hot dog", "cat"), None),
    ],
)
def test_classes_txt(tmp_path, lines, classes, remark):
    loaded, said = load(make(tmp_path, "t.jpg,cat\n", classes=lines))
    assert loaded.classes == classes and tags(loaded) == {"t": ["cat"]}
    assert (remark is None and not said) or (len(said) == 1 and remark in said[0])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("cat\nbackground\n", "line 2: 'background' is not a class, since label 0 is background"),
        ("cat\n__ignore__\n", "line 2: '__ignore__' is not a class, since label 255 is ignored"),
        ("__ignore__\ncat\n", "line 1: '__ignore__' must be followed by background"),
        ("cat\nCat\n", r"line 2: class 'Cat' reads like 'cat' in .*classes.txt, line 1"),
        ("cat\nc\u200bat\n", r"line 2: class 'c\\u200bat' reads like 'cat'"),
        ("cat\n\uff43at\n", r"line 2: class '\uff43at' reads like 'cat'"),
        ("café\ncafe\u0301\n", "line 2: class 'café' is listed more than once"),
        ("hot dog\nhot\u00a0dog\n", "line 2: class 'hot dog' is listed more than once"),
        ("ca\x07t\n", r"line 1: class 'ca\\x07t' has a character that cannot be printed"),
        ("background\n", "needs 1 to 254 classes, has 0"),
        ("Cat\n", r"labels.csv, line 1: class 'cat' is not in .*classes.txt, which has 'Cat'"),
        ("cat,dog\n", "class 'cat' is not in .*classes.txt, which has cat,dog"),
        ("1 cat\n2 dog\n", "class 'cat' is not in .*classes.txt, which has 1 cat, 2 dog"),
    ],
)
def test_a_classes_txt_that_is_refused(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        data.load(make(tmp_path, "t.jpg,cat\n", classes=lines))


@pytest.mark.parametrize(
    ("named", "classes", "remark"),
    [
        ("dog;cat", ("cat", "dog"), None),
        ("cat;background", ("cat",), "'background' is not a class"),
        ("1;2;10", ("1", "2", "10"), "class '10' has label 3"),
        ("3;1;2", ("1", "2", "3"), None),
        ("0;1", ("0", "1"), "class '0' has label 1"),
        ("apple;Zebra", ("Zebra", "apple"), "follow the order Zebra, apple"),
        ("a10;a2", ("a10", "a2"), "follow the order a10, a2"),
        ("éclair;zebra", ("zebra", "éclair"), "follow the order zebra, éclair"),
        ("Apple;Zebra", ("Apple", "Zebra"), None),
        ("café;cafe\u0301", ("café",), None),
        ("hot dog;hot\u00a0 dog", ("hot dog",), None),
    ],
)
def test_the_order_of_classes_without_a_list(tmp_path, named, classes, remark):
    loaded, said = load(make(tmp_path, f"t.jpg,{named}\n"))
    assert loaded.classes == classes
    assert (remark is None and not said) or (len(said) == 1 and remark in said[0])


def test_two_spellings_of_one_class_are_named_with_their_lines(tmp_path):
    message = r"line 2: class 'cat' reads like 'Cat' in .*labels.csv, line 1; write both the same"
    with pytest.raises(InputError, match=message):
        data.load(make(tmp_path, "t.jpg,Cat\nu.jpg,cat\n"))


def test_a_list_of_classes_whose_name_is_in_another_case_is_not_overlooked(tmp_path):
    (tmp_path / "Classes.TXT").write_text("dog\ncat\n")
    with pytest.raises(InputError, match=r"Classes.TXT: must be named classes.txt"):
        data.load(make(tmp_path, "t.jpg,cat\n"))


def test_a_tag_that_is_not_among_vocs_classes(tmp_path):
    root = make_voc(tmp_path / "VOC")
    path = root / "Annotations/2007_000032.xml"
    path.write_text(path.read_text().replace("aeroplane", "airplane"))
    message = r"tag 'airplane' is not in the class list .*; other classes .* in classes.txt"
    with pytest.raises(InputError, match=message):
        data.load(root)
    (root / "classes.txt").write_text("background\n" + "\n".join(data.VOC_CLASSES))
    path.write_text(path.read_text().replace("airplane", " aeroplane\n"))
    loaded, said = load(root)
    assert loaded.classes == data.VOC_CLASSES and re.search("label 1 is 'aeroplane'", said[0])
