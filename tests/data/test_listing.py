"""Lists of ids: what a line means, and errors that name the list and the line."""

import re

import pytest
from layouts import make_folder, make_voc
from odd_folders import load, make, mask, photo

from wsss_fast import InputError, data
from wsss_fast.engine import remarks


def test_errors_name_the_line(tmp_path):
    voc, folder = make_voc(tmp_path / "VOC2012"), make_folder(tmp_path / "mine")
    path = tmp_path / "train_aug.txt"
    path.write_text("2007_000032\n\n\n2007_000039\n2007_000032\n")
    with pytest.raises(
        InputError,
        match=r"train_aug\.txt, line 5: id '2007_000032' is listed .* first at .*, line 1",
    ):
        data.load(voc, ids=path)
    path.write_text("2007_000032\n\n2007_999999\n")
    with pytest.raises(InputError, match=r"train_aug\.txt, line 3: id '2007_999999' has no image"):
        data.load(voc, ids=path)
    path.write_bytes(b"2007_\xff000032\n")
    with pytest.raises(InputError, match=r"train_aug\.txt: not a readable UTF-8 text"):
        data.load(voc, ids=path)
    with pytest.raises(InputError, match=r"ids\[1\]: id 'x' has no line in .*labels\.csv"):
        data.load(folder, ids=["a", "x"])
    with pytest.raises(InputError, match=r"nowhere\.txt: no such file"):
        data.load(folder, ids=tmp_path / "nowhere.txt")


NAMES = {  # files of the data set
    "plain": ("a.jpg", "b.jpg"),
    "spaces": ("IMG 1.jpg", "IMG.jpg", "a b.jpg", "end .jpg"),
    "suffixes": ("a.JPG", "b.jpeg", "x.y.z.png"),
    "numbers": ("000032.jpg", "1.jpg", "2.jpg"),
    "decomposed": ("cafe\u0301.jpg",),
    "odd": ("a#1.jpg", "-x.jpg", "50%.jpg", "\U0001f431.jpg", "a\u2028b.jpg", f"{'y' * 240}.jpg"),
}
READ = [
    ("spaces", ["IMG 1"], ("IMG 1",)),
    ("spaces", "IMG\nIMG 1\n", ("IMG", "IMG 1")),
    ("spaces", "end \n", ("end ",)),
    ("spaces", "/JPEGImages/a b.jpg /SegmentationClass/a b.png\n", ("a b",)),
    ("plain", "/JPEGImages/b.jpg\t/SegmentationClass/b.png\na.jpg a.png\n", ("b", "a")),
    ("plain", "a.jpg\nb.JPG\n", ("a", "b")),
    ("plain", "/JPEGImages/b.jpg /SegmentationClass/a.png\n", ("b",)),
    ("plain", "./b.jpg\na.jpg\n", ("b", "a")),
    ("plain", '\ufeff"a"\r\n"b.jpg" \r\n', ("a", "b")),
    ("plain", "a \t\nb\n\n", ("a", "b")),
    ("suffixes", "a\nb\nx.y.z\n", ("a", "b", "x.y.z")),
    ("suffixes", "x.y.z.png\nb.jpeg\n", ("x.y.z", "b")),
    ("numbers", [2, 1], ("2", "1")),
    ("decomposed", "caf\u00e9\n", ("cafe\u0301",)),
    ("odd", "\n".join(n.removesuffix(".jpg") for n in NAMES["odd"]), None),
]
REFUSED = [
    ("plain", "a -1\nb  1\n", r"line 1: 'a -1' is an id and -1, as in VOC's ImageSets/Main"),
    ("plain", "a\nb  0\n", r"line 2: 'b  0' is an id and 0"),
    ("plain", "a 1\n", r"line 1: 'a 1' is an id and 1"),
    ("plain", "image_id\na\n", r"line 1: .* if 'image_id' is a header, remove this line"),
    ("plain", "file,class\na.jpg,cat\n", r"line 1: .* if 'file,class' is a header"),
    ("plain", "a.jpg,cat\n", r"line 1: .* an id list has one id per line and no other columns"),
    ("plain", "a\tcat\n", r"line 1: .* no other columns"),
    ("plain", "# mine\na\n", r"line 1: .* an id list has no comments"),
    ("plain", "a\na.jpg\n", r"line 2: id 'a' is listed more than once, first at .*, line 1"),
    ("plain", "A\n", r"line 1: .*; there is 'a'"),
    ("plain", ["a", ""], r"ids\[1\]: the id is empty"),
    ("plain", "../../etc/passwd\n", r"line 1: '../../etc/passwd' cannot be an id"),
    ("plain", "a\nb\n".encode("utf-16"), "but UTF-16; save it as UTF-8"),
    ("spaces", ["IMG 2"], r"ids\[0\]: id 'IMG 2' has no"),
    ("spaces", "a%20b\n", r"line 1: .*; there is 'a b'"),
    ("numbers", "32\n", r"line 1: .*; there is '000032'"),
]


@pytest.fixture(params=["labels.csv", "VOC"])
def folder(request, tmp_path):
    """Function from names of NAMES to a data set of these photos, in two layouts."""

    def make_folder_of(names):
        files = NAMES[names]
        if request.param == "labels.csv":
            lines = "".join(f'"{file}",cat\n' for file in files)
            (tmp_path / "labels.csv").write_text(lines, encoding="utf-8")
        where = tmp_path / ("JPEGImages" if request.param == "VOC" else "")
        for file in files:
            photo(where / file)
        (tmp_path / "Annotations").mkdir()
        for file in files:
            id = file.rpartition(".")[0]
            (tmp_path / "Annotations" / f"{id}.xml").write_text(
                "<annotation><object><name>cat</name></object></annotation>"
            )
        return tmp_path

    return make_folder_of


def listed(path, text):
    if isinstance(text, list):
        return text
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(("names", "text", "ids"), READ)
def test_what_a_line_means(folder, tmp_path, names, text, ids):
    expected = ids or tuple(name.removesuffix(".jpg") for name in NAMES[names])
    loaded, said = load(folder(names), ids=listed(tmp_path / "list.lst", text))
    assert loaded.ids == expected and all("in another folder" in line for line in said)
    assert all(loaded.images[id].stem == id for id in expected)


@pytest.mark.parametrize(("names", "text", "message"), REFUSED)
def test_a_line_that_is_no_id(folder, tmp_path, names, text, message):
    with pytest.raises(InputError, match=message) as raised:
        data.load(folder(names), ids=listed(tmp_path / "list.lst", text))
    assert len(str(raised.value).splitlines()) == 1


def test_an_id_that_looks_like_a_line_of_main(tmp_path):
    root = make(tmp_path, "a.jpg,cat\na 1.jpg,dog\n", files=("a.jpg", "a 1.jpg"))
    assert load(root, ids=listed(tmp_path / "list.lst", "a 1\n"))[0].ids == ("a 1",)


def test_paths_of_another_folder_are_counted(tmp_path):
    root = make(tmp_path, "train/a.jpg,cat\nb.jpg,dog\n", files=("train/a.jpg", "b.jpg"))
    assert not load(root, ids=["/elsewhere/train/a.jpg"])[1]
    loaded, said = load(root, ids=listed(tmp_path / "list.lst", "val/a.jpg\nb.jpg\n"))
    assert loaded.ids == ("a", "b") and len(said) == 1
    assert "in another folder than the image that is read: 1 of 2 lines" in said[0]


def test_a_pair_names_the_image_first(tmp_path):
    root = make(tmp_path, "a.jpg,cat\na.jpg copy.png,dog\n", files=("a.jpg", "a.jpg copy.png"))
    assert load(root, ids=["a.jpg copy.png"])[0].ids == ("a.jpg copy",)
    assert load(root, ids=["x/a.jpg y/a.jpg copy.png"])[0].ids == ("a",)


def test_masks_are_found_per_file_and_in_another_unicode_form(folder, tmp_path):
    root = folder("decomposed")
    place = root / ("masks" if (root / "labels.csv").exists() else "SegmentationClass")
    mask(place / "caf\u00e9.PNG")
    mask(root / "SegmentationClassAug/other.png")
    loaded, _ = load(root, ids=["caf\u00e9"])
    assert [p.parent.name for p in loaded.masks.values()] == [place.name]


def test_a_folder_of_masks_whose_names_do_not_fit(tmp_path):
    root = make_folder(tmp_path / "mine")
    for path in (root / "masks").iterdir():
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    loaded = load(root)[0]
    text = r"no file of .*masks is used, since none is named <id>.png .* \(first a_mask.png\)"
    with pytest.raises(InputError, match=f"no id of split 'train' has a mask; .*: {text}"):
        loaded.with_masks()
    with remarks.collected():
        loaded.check_masks()
        (line,) = remarks.lines()
    assert re.search(text, line)
    # Masks of other images of the data set are no reason for a remark.
    mask(root / "masks/a.png")
    assert not load(root, ids=["d"])[0].unused_masks
