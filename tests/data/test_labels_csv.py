"""labels.csv as spreadsheets and other programs write it: read right, or one line says why not."""

import pytest
from odd_folders import load, make, photo, tags

from wsss_fast import InputError, data

BOTH = {"t": ["cat"], "u": ["dog"]}


@pytest.mark.parametrize(
    ("text", "expected", "remark"),
    [
        ("image,label\nt.jpg,cat\nu.jpg,dog\n", BOTH, "'image,label' in line 1 is read as the"),
        ("Filename,Category\nt.jpg,cat\nu.jpg,dog\n", BOTH, "is read as the header file,class"),
        ("image_id,label\nt,cat\nu,dog\n", BOTH, "is read as the header file,class"),
        ("t.jpg,class\nu.jpg,label\n", {"t": ["class"], "u": ["label"]}, None),
        ("\ufefffile,class\r\nt.jpg,cat\r\nu.jpg,dog\r\n", BOTH, None),
        ("file,class\rt.jpg,cat\ru.jpg,dog\r", BOTH, None),
        ("file,class,,\nt.jpg,cat,,\nu.jpg,dog,,\n", BOTH, None),
        ("sep=,\nfile,class\nt.jpg,cat\nu.jpg,dog\n", BOTH, None),
        ('file, class\nt.jpg, "cat;dog"\n', {"t": ["cat", "dog"]}, None),
        ("t.JPG,cat\nu.jpg,dog\n", BOTH, None),
        (".\\t.jpg,cat\nu.jpg,dog\n", BOTH, None),
        (
            "t.jpg,cat\nt.jpg,dog\nu.jpg,\n",
            {"t": ["cat", "dog"], "u": []},
            "images are on several lines; their classes are put together: 1 image: t",
        ),
        (
            "t.jpg,cat\nu.jpg,background\n",
            {"t": ["cat"], "u": []},
            "'background' is not a class",
        ),
    ],
)
def test_what_is_read(tmp_path, text, expected, remark):
    loaded, said = load(make(tmp_path, text))
    assert tags(loaded) == expected
    assert (remark is None and not said) or (len(said) == 1 and remark in said[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,file\ncat,t.jpg\n", "line 1: the header 'class,file' is not file,class"),
        ("filename,cat,dog\nt.jpg,1,0\n", "line 1: the header 'filename,cat,dog' is not file"),
        ("id,file,class\n1,t.jpg,cat\n", "line 1: the header 'id,file,class' is not file,class"),
        ("Bild,Klasse\nt.jpg,cat\n", "line 1: no such image 'Bild'; a header must be file,class"),
        ("file;class\nt.jpg;cat\n", "line 1: .* the columns are separated by semicolons"),
        ("t.jpg\tcat\n", "line 1: .* the columns are separated by tabs"),
        ("sep=;\nfile;class\nt.jpg;cat\n", "line 1: 'sep=;', but expected file,class"),
        ('"t.jpg,cat"\n', "line 1: .* the whole line is in quotes"),
        ("t.jpg\n", "line 1: .* an image without tags has nothing after the comma"),
        ('t.jpg,"cat,dog"\n', "line 1: class 'cat,dog' looks like a list; separate classes by ;"),
        ("t.jpg,cat,dog\n", "line 1: .* separate the classes of an image by ;"),
        ("t.jpg,cat|dog\n", "line 1: class 'cat|dog' looks like a list"),
        ("t.jpg,\"['cat', 'dog']\"\n", "line 1: class .* looks like a list"),
        ("t.jpg,cat dog\nu.jpg,cat;dog\n", "line 1: class 'cat dog' looks like cat and dog"),
        ("t.jpg,cat\nu.jpg,nan\n", "line 2: class 'nan' looks like a missing value"),
        ("t.png,cat\n", r"line 1: no such image .*t.png'; there is 't.jpg'"),
        ("T.jpg,cat\n", r"line 1: no such image .*T.jpg'; there is 't.jpg'"),
        (
            "t.jpg,cat\nother/t.jpg,dog\n",
            "line 2: id 't' is listed more than once, first on line 1",
        ),
        ("t.jpg,cat\n".encode("utf-16"), "but UTF-16; save it as UTF-8"),
        ("t.jpg,cat\n".encode("utf-16-le"), "it has zero bytes, as in UTF-16"),
        ("t.jpg,cat\nu.jpg,café\n".encode("cp1252"), "byte 0xe9 in line 2; perhaps Windows-1252"),
        (b"PK\x03\x04\x00", "not a readable UTF-8 text"),
        ("<html>404</html>", "line 1: expected file,class"),
    ],
)
def test_what_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as raised:
        data.load(make(tmp_path, text))
    assert len(str(raised.value).splitlines()) == 1 and "labels.csv" in str(raised.value)


def test_a_class_with_a_comma_that_classes_txt_lists(tmp_path):
    root = make(tmp_path, 't.jpg,"tench, fish"\n', classes="tench, fish\n")
    assert load(root)[0].classes == ("tench, fish",)


def test_photos_in_images_are_found_per_file(tmp_path):
    root = make(tmp_path, "t.jpg,cat\nu.jpg,cat\nv,cat\n", files=("t.jpg", "images/t.jpg"))
    for file in ("images/u.jpg", "images/v.webp.jpg", "images/v.png"):
        photo(root / file)
    loaded, said = load(root)
    assert [str(p.relative_to(root)) for p in loaded.images.values()] == [
        "t.jpg",
        "images/u.jpg",
        "images/v.png",
    ]
    assert len(said) == 1 and "though images/ has files of the same name: 1 file: t.jpg" in said[0]
    photo(root / "images/v.jpg")
    with pytest.raises(InputError, match=r"line 3: no such image .*there is 'v.jpg' and 'v.png'"):
        data.load(root)


def test_a_text_file_that_is_no_list_does_not_hide_the_images(tmp_path):
    root = make(tmp_path, "t.jpg,cat\nu.jpg,dog\n")
    (root / "README.txt").write_text("My data.\n")
    assert load(root)[0].ids == ("t", "u")
    (root / "train.TXT").write_text("t\n")
    with pytest.raises(
        InputError, match=r"train.txt: no such id list; .* has the splits: train.TXT"
    ):
        data.load(root)


def test_a_folder_that_has_the_list_under_another_name(tmp_path):
    make(tmp_path / "mine", "t.jpg,cat\n")
    with pytest.raises(InputError, match=r"needs a labels.csv; .*mine has one"):
        data.load(tmp_path)
    (tmp_path / "mine/labels.csv").rename(tmp_path / "mine/Labels.csv")
    with pytest.raises(InputError, match=r"needs a labels.csv; there is Labels.csv"):
        data.load(tmp_path / "mine")
    (tmp_path / "coco/Train2014").mkdir(parents=True)
    with pytest.raises(InputError, match=r"COCO has train2014/.*; there is Train2014"):
        data.load(tmp_path / "coco")
