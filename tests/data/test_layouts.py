"""VOC2012, COCO14 and labels.csv folders: what is read from them, and one line that names the file for what is wrong."""

import json
import re

import numpy as np
import pytest
from layouts import (
    COCO_CATEGORIES,
    COCO_LABELS,
    FOLDER_CLASSES,
    FOLDER_ROWS,
    VOC_LABELS,
    coco_id,
    make_coco,
    make_folder,
    make_voc,
)

from wsss_fast import InputError, cli, data
from wsss_fast.data import write_labels

INSTANCES = "annotations/instances_train2014.json"


@pytest.fixture(scope="module")
def coco_root(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp("layouts") / "coco14")


@pytest.fixture
def coco(tmp_path):
    return make_coco(tmp_path / "coco14")


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "mine")


@pytest.fixture
def voc(tmp_path):
    return make_voc(tmp_path / "VOC2012")


def tagged(loaded, id):
    """Labels 1..C of the tags of one image."""
    return sorted(np.flatnonzero(loaded.tags_of(id)) + 1)


def masked(loaded, id):
    return sorted(np.setdiff1d(np.unique(loaded.mask(id)), [0, 255]))


def test_cocos_categories_are_the_known_ones():
    assert len(COCO_CATEGORIES) == 80 and COCO_CATEGORIES[-1] == (90, "toothbrush")
    assert dict(COCO_CATEGORIES)[44] == "bottle" and dict(COCO_CATEGORIES)[62] == "chair"


def test_voc_layout(voc):
    for split, images in VOC_LABELS.items():
        loaded = data.load(voc, split=split).check_masks()
        assert (
            loaded.ids == tuple(images)
            and loaded.classes == data.VOC_CLASSES
            and len(loaded.saliencies) == len(images)
        )
        for id, labels in images.items():
            assert tagged(loaded, id) == masked(loaded, id) == sorted(labels)


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_layout(coco_root, split):
    loaded = data.load(coco_root, split=split).check_masks()
    images = COCO_LABELS[split]
    assert loaded.ids == tuple(coco_id(n, split) for n in sorted(images)) and loaded.split == split
    assert loaded.classes == tuple(name for _, name in COCO_CATEGORIES)
    assert loaded.tags.shape == (len(images), 80) and loaded.tags.dtype == np.uint8
    assert len(loaded.masks) == len(loaded.saliencies) == len(images)
    for number, labels in images.items():
        id = coco_id(number, split)
        assert (
            tagged(loaded, id) == masked(loaded, id) == sorted(labels)
        )  # 1..80, though the category ids have gaps
        assert loaded.image(id).shape == (*loaded.size(id), 3)  # the gray one too
        assert loaded.saliency(id).shape == loaded.size(id)


def test_coco_images_below_jpegimages(coco):
    (coco / "JPEGImages").mkdir()
    (coco / "masks").rename(coco / "SegmentationClass")
    for folder in ("train2014", "val2014"):
        (coco / folder).rename(coco / "JPEGImages" / folder)
    for path in (coco / "annotations").iterdir():
        path.rename(coco / path.name)
    loaded = data.load(coco)
    assert (
        len(loaded.check_masks()) == 8
        and loaded.images[loaded.ids[0]].parent == coco / "JPEGImages" / "train2014"
    )


def test_coco_masks_called_by_number(coco):
    masks = coco / "masks/train2014"
    for number in COCO_LABELS["train"]:
        (masks / f"{coco_id(number)}.png").rename(masks / f"{number:012d}.png")
    loaded = data.load(coco)
    assert len(loaded.masks) == 8 and masked(loaded, coco_id(25)) == [24]
    assert data.load(coco, split="val").masks.keys() == set(data.load(coco, split="val").ids)
    # In a folder of both splits a number alone would not say of which one: such masks are not taken.
    for path in masks.iterdir():
        path.rename(coco / "masks" / path.name)
    masks.rmdir()
    assert not data.load(coco).masks


def test_coco_id_lists(coco_root, tmp_path):
    """Numbers, padded numbers, file names and paths mean the same image; order is the list's; blank lines are nothing."""
    listed = tmp_path / "train14.txt"
    listed.write_text(
        f"\n36\n000000000009\n  \n{coco_id(25)}\ntrain2014/{coco_id(61)}.jpg masks/x.png\n\n"
    )
    expected = tuple(coco_id(n) for n in (36, 9, 25, 61))
    loaded = data.load(coco_root, ids=listed)
    assert loaded.ids == expected and tagged(loaded, coco_id(25)) == [24]
    assert loaded.split == f"train: {listed}"  # a run folder tells lists apart by it
    assert data.load(coco_root, ids=[36, 9, "25", "61"]).ids == expected
    assert data.load(coco_root, split="val", ids=["42"]).ids == (coco_id(42, "val"),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "9\n\n000000000009\n",
            r"list\.txt, line 3: id '9' stands there more than once, first at .*list\.txt, line 1",
        ),
        (
            "9\n42\n",
            r"list\.txt, line 2: image 42 is not in .*instances_train2014\.json; is it of the other split",
        ),
        (
            f"{coco_id(42, 'val')}\n",
            r"list\.txt, line 1: 'COCO_val2014_000000000042' is of val2014, but .* is train2014's",
        ),
        ("2007_000032\n", r"list\.txt, line 1: '2007_000032' is no COCO14 image"),
        (" \n\n", r"list\.txt: the id list is empty"),
    ],
)
def test_wrong_coco_id_lists(coco_root, tmp_path, text, said):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        data.load(coco_root, ids=path)


def edit(root, change):
    path = root / INSTANCES
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def damage_coco_no_categories(root):
    edit(root, lambda c: c.pop("categories"))


def damage_coco_empty_categories(root):
    edit(root, lambda c: c.update(categories=[]))


def damage_coco_no_images(root):
    edit(root, lambda c: c.pop("images"))


def damage_coco_truncated(root):
    path = root / INSTANCES
    path.write_bytes(path.read_bytes()[:-500])


def damage_coco_empty_file(root):
    (root / INSTANCES).write_bytes(b"")


def damage_coco_binary(root):
    (root / INSTANCES).write_bytes(b"\x89PNG\xff\xfe")


def damage_coco_a_list(root):
    (root / INSTANCES).write_text("[1, 2]")


def damage_coco_missing_json(root):
    (root / INSTANCES).unlink()


def damage_coco_unknown_category(root):
    edit(root, lambda c: c["annotations"][0].update(category_id=91))


def damage_coco_unknown_image(root):
    edit(root, lambda c: c["annotations"][0].update(image_id=77))


def damage_coco_two_categories(root):
    edit(root, lambda c: c["categories"][0].update(id=c["categories"][1]["id"]))


def damage_coco_repeated_image(root):
    edit(root, lambda c: c["images"].append(c["images"][0]))


def damage_coco_text_for_a_number(root):
    edit(root, lambda c: c["annotations"][2].update(category_id="17"))


def damage_coco_escaping_name(root):
    edit(
        root, lambda c: c["images"][1].update(file_name="../val2014/COCO_val2014_000000000042.jpg")
    )


def damage_coco_missing_photo(root):
    (root / "train2014" / f"{coco_id(25)}.jpg").unlink()


def damage_coco_broken_photo(root):
    path = root / "train2014" / f"{coco_id(25)}.jpg"
    path.write_bytes(path.read_bytes()[:-300])


COCO_DAMAGE = [
    (
        damage_coco_no_categories,
        r"instances_train2014\.json: has no categories; expected COCO's instances json",
    ),
    (damage_coco_empty_categories, r"instances_train2014\.json: has no categories"),
    (damage_coco_no_images, r"instances_train2014\.json: has no images"),
    (damage_coco_truncated, r"instances_train2014\.json: not a whole JSON file, perhaps truncated"),
    (damage_coco_empty_file, r"instances_train2014\.json: not a whole JSON file"),
    (damage_coco_binary, r"instances_train2014\.json: not a readable UTF-8 text"),
    (damage_coco_a_list, r"instances_train2014\.json: has no images"),
    (
        damage_coco_missing_json,
        r"instances_train2014\.json: no such file; image tags are read from it",
    ),
    (
        damage_coco_unknown_category,
        r"instances_train2014\.json: annotation \d+ names category 91, which is not in the file",
    ),
    (
        damage_coco_unknown_image,
        r"instances_train2014\.json: annotation \d+ names image 77, which is not in the file",
    ),
    (damage_coco_two_categories, r"instances_train2014\.json: two categories have the same id"),
    (
        damage_coco_repeated_image,
        r"instances_train2014\.json: image 64 stands there more than once",
    ),
    (
        damage_coco_text_for_a_number,
        r"instances_train2014\.json: annotations\[2\] needs 'category_id' \(int\)",
    ),
    (
        damage_coco_escaping_name,
        r"instances_train2014\.json: image 61 has file name '\.\./val2014/",
    ),
    (
        damage_coco_missing_photo,
        r"COCO_train2014_000000000025\.jpg: no such image \(1 of the 8 listed by .*json are missing\)",
    ),
    (damage_coco_broken_photo, r"COCO_train2014_000000000025\.jpg: truncated JPEG"),
]


@pytest.mark.parametrize(("damage", "said"), COCO_DAMAGE, ids=[d.__name__ for d, _ in COCO_DAMAGE])
def test_coco_damage_is_one_line_and_nothing_is_written(coco, tmp_path, capfd, damage, said):
    damage(coco)
    out = tmp_path / "run"
    code = cli.run(
        ["cam", "train", "--data", str(coco), "--out", str(out), "--backbone", "small", "--strict"]
    )
    err = capfd.readouterr().err
    assert code == 2 and re.search(said, err) and len(err.strip().splitlines()) == 1
    assert not out.exists()


def test_coco_splits(coco, tmp_path):
    with pytest.raises(
        InputError,
        match="has COCO14's layout, whose splits are train and val; got split 'train_aug'",
    ):
        data.load(coco, split="train_aug")
    (coco / "val2014").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="has no folder val2014 for split 'val'"):
        data.load(coco, split="val")


def test_a_folder_with_labels_csv(folder):
    loaded = data.load(folder).check_masks()
    assert (
        loaded.classes == FOLDER_CLASSES
        and loaded.ids == tuple(FOLDER_ROWS)
        and set(loaded.masks) == {"a", "b", "c"}
    )
    for id, names in FOLDER_ROWS.items():
        assert [loaded.classes[k - 1] for k in tagged(loaded, id)] == sorted(names)
    assert (
        masked(loaded, "b") == [1, 2]
        and masked(loaded, "c") == []
        and loaded.saliency("d").max() > 0.8
    )
    assert data.load(folder, ids=["d", "a"]).ids == ("d", "a")
    assert (
        data.load(folder, ids=["d"]).classes == FOLDER_CLASSES
    )  # labels mean the same in every part of the set


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
    ("text", "said"),
    [
        (
            "photos/a.png,cup\nphotos/b.png;dish\n",
            r"labels\.csv, line 2: expected file,class\[;class\.\.\.\], got 'photos/b.png;dish'",
        ),
        ("photos/a.png,cup,dish\n", r"labels\.csv, line 1: expected file,class"),
        (",cup\n", r"labels\.csv, line 1: expected file,class"),
        (
            "photos/a.png,cup\n\nother/a.jpg,cup\n",
            r"labels\.csv, line 3: id 'a' stands there more than once, first on line 1",
        ),
        (
            "photos/a.png,cup\nphotos/x.png,cup\n",
            r"labels\.csv, line 2: no such image .*photos/x\.png",
        ),
        (
            "../mine/photos/a.png,cup\n",
            r"labels\.csv, line 1: '\.\./mine/photos/a\.png' must be a path below",
        ),
        ("file,class\n", r"labels\.csv: names no image"),
        ("photos/a.png,\n", r"labels\.csv: needs 1 to 254 classes, has 0"),
        ('photos/a.png,"cup\n', r"labels\.csv, line 1: not readable as CSV"),
    ],
)
def test_wrong_lines_of_labels_csv(folder, text, said):
    (folder / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        data.load(folder)


def test_classes_txt_and_labels_csv_at_odds(folder):
    (folder / "classes.txt").write_text("cup\ndish\n")
    with pytest.raises(
        InputError, match=r"labels\.csv, line 5: class 'spoon' is not in .*classes\.txt"
    ):
        data.load(folder)
    (folder / "classes.txt").write_text("cup\ndish\nspoon\ncup\n")
    with pytest.raises(InputError, match=r"classes\.txt: class 'cup' stands there more than once"):
        data.load(folder)


def test_an_id_list_names_its_line(voc, folder, tmp_path):
    path = tmp_path / "train_aug.txt"
    path.write_text("2007_000032\n\n\n2007_000039\n2007_000032\n")
    with pytest.raises(
        InputError, match=r"train_aug\.txt, line 5: id '2007_000032' stands .* first at .*, line 1"
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


def test_a_mask_larger_than_its_image_is_named_by_every_reader(coco, tmp_path, capfd):
    loaded, id = data.load(coco), coco_id(30)
    height, width = loaded.size(id)
    write_labels(coco / "masks/train2014" / f"{id}.png", np.zeros((height + 4, width)))
    said = rf"{id}\.png: is \({height + 4}, {width}\), but its image .*{id}\.jpg is \({height}, {width}\)"
    with pytest.raises(InputError, match=said):
        loaded.check_masks()
    for other in loaded.ids:
        size = loaded.size(other) if other != id else (height + 4, width)
        write_labels(tmp_path / "predictions" / f"{other}.png", np.zeros(size))
    code = cli.run(["eval", "--data", str(coco), "--predictions", str(tmp_path / "predictions")])
    err = capfd.readouterr().err
    assert code == 2 and re.search(said, err) and len(err.strip().splitlines()) == 1


def test_label_81_is_no_coco_class(coco):
    path = coco / "masks/train2014" / f"{coco_id(9)}.png"
    mask = np.full(data.load(coco).size(coco_id(9)), 81)
    write_labels(path, mask)
    with pytest.raises(
        InputError, match=r"000000000009\.png: label 81 is impossible, allowed are 0\.\.80 and 255"
    ):
        data.load(coco).check_masks()
