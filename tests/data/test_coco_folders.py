"""Folders with COCO's JSON as programs and people write them: what is found in them."""

import json

import numpy as np
import odd_folders
import pytest

from wsss_fast import InputError, data
from wsss_fast.data import write_labels

ROBOFLOW = "_annotations.coco.json"
CLASSES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def content(names, categories=CLASSES, first=1):
    """A JSON of images, the first tagged cat, the second dog, and so on."""
    ids = [c["id"] for c in categories][-2:]
    return {
        "images": [
            {"id": n, "file_name": name, "height": 12, "width": 16}
            for n, name in enumerate(names, first)
        ],
        "annotations": [
            {
                "id": n,
                "image_id": n,
                "category_id": ids[(n - first) % 2],
                "bbox": [4, 3, 8, 6],
                "segmentation": [[4, 3, 12, 3, 12, 9, 4, 9]],
                "area": 48,
                "iscrowd": 0,
            }
            for n in range(first, first + len(names))
        ],
        "categories": categories,
    }


def make(root, files, photos):
    """A folder of JSON files, by name, and photos."""
    for name, value in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(value))
    for name in photos:
        odd_folders.photo(root / name)
    return root


A, B, V = "a.jpg", "b.jpg", "v.jpg"
TRAIN, VAL = content([A, B]), content([V], first=1)
PADDED = "000000000009.jpg"
SUPER = [{"id": 0, "name": "animals", "supercategory": "none"}] + [
    {**one, "supercategory": "animals"} for one in CLASSES
]
# By what they come from: JSON files, photos, split, ids of that split.
FOLDERS = {
    "coco17": (
        {"annotations/instances_train2017.json": content([PADDED], first=9)},
        [f"train2017/{PADDED}"],
        "train",
        ["000000000009"],
    ),
    "coco17 by year": (
        {"annotations/instances_val2017.json": VAL},
        [f"val2017/{V}"],
        "val2017",
        ["v"],
    ),
    "roboflow": (
        {f"train/{ROBOFLOW}": content([A, B], SUPER), f"valid/{ROBOFLOW}": content([V], SUPER)},
        ["train/a.jpg", "train/b.jpg", "valid/v.jpg"],
        "train",
        ["a", "b"],
    ),
    "roboflow, val": (
        {f"train/{ROBOFLOW}": TRAIN, f"valid/{ROBOFLOW}": VAL},
        ["train/a.jpg", "train/b.jpg", "valid/v.jpg"],
        "val",
        ["v"],
    ),
    "cvat": (
        {"annotations/instances_default.json": TRAIN},
        ["images/a.jpg", "images/b.jpg"],
        "train",
        ["a", "b"],
    ),
    "datumaro": (
        {"annotations/instances_train.json": TRAIN, "annotations/instances_val.json": VAL},
        ["images/train/a.jpg", "images/train/b.jpg", "images/val/v.jpg"],
        "val",
        ["v"],
    ),
    "fiftyone": ({"labels.json": TRAIN}, ["data/a.jpg", "data/b.jpg"], "train", ["a", "b"]),
    "label studio": (
        {"result.json": content(["images\\a.jpg", "images/b.jpg"])},
        ["images/a.jpg", "images/b.jpg"],
        "train",
        ["a", "b"],
    ),
    "labelme2coco": (
        {"annotations.json": content(["JPEGImages/a.jpg", "JPEGImages/b.jpg"])},
        ["JPEGImages/a.jpg", "JPEGImages/b.jpg"],
        "train",
        ["a", "b"],
    ),
    "one folder": ({"my-cats.json": TRAIN}, ["a.jpg", "b.jpg"], "train", ["a", "b"]),
    "a JSON per split": (
        {"train.json": TRAIN, "test.json": VAL},
        ["a.jpg", "b.jpg", "v.jpg"],
        "test",
        ["v"],
    ),
    "names with the split as a word": (
        {"annotations/pets_train_v2.json": TRAIN, "annotations/pets-validation.json": VAL},
        ["train/a.jpg", "train/b.jpg", "val/v.jpg"],
        "val",
        ["v"],
    ),
    "a folder of another machine": (
        {"train.json": content(["upload/7/a.jpg"])},
        ["images/a.jpg"],
        "train",
        ["a"],
    ),
    "parts of val2014": (
        {
            "annotations/instances_minival2014.json": VAL,
            "annotations/instances_val2014.json": content([V, A]),
        },
        ["val2014/v.jpg", "val2014/a.jpg"],
        "minival2014",
        ["v"],
    ),
    "text as image ids": (
        {
            "train.json": {
                **TRAIN,
                "images": [{"id": "x", "file_name": A}],
                "annotations": [{"image_id": "x", "category_id": 1}],
            }
        },
        [A],
        "train",
        ["a"],
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_programs(tmp_path, name):
    files, photos, split, ids = FOLDERS[name]
    loaded = data.load(make(tmp_path, files, photos), split=split)
    assert list(loaded.ids) == ids and loaded.classes == ("cat", "dog") and loaded.layout == "coco"
    expected = {id: ["cat"] if n == 0 else ["dog"] for n, id in enumerate(ids)}
    assert odd_folders.tags(loaded) == expected


def test_masks_made_from_the_json_are_found(tmp_path):
    pytest.importorskip("pycocotools")
    root = make(tmp_path, {"train.json": TRAIN, "val.json": VAL}, ["a.jpg", "b.jpg", "v.jpg"])
    assert not data.load(root).masks
    data.masks_from_coco(root / "train.json", root / "masks")
    loaded = data.load(root).check_masks()
    assert len(loaded.masks) == 2 and not data.load(root, split="val").masks
    np.testing.assert_array_equal(loaded.mask("b"), 2 * odd_folders.BOX)


def test_both_years_in_one_folder(tmp_path):
    files = {f"annotations/instances_train{year}.json": TRAIN for year in ("2014", "2017")}
    photos = [f"train{year}/{name}" for year in ("2014", "2017") for name in (A, B)]
    root = make(tmp_path, files, photos)
    loaded, said = odd_folders.load(root)
    assert loaded.images["a"].parent.name == "train2014"
    assert len(said) == 1 and "read as train2014; train2017 names the other one" in said[0]
    loaded, said = odd_folders.load(root, split="train2017")
    assert loaded.images["a"].parent.name == "train2017" and not said


def test_masks_of_coco17_by_number(tmp_path):
    files = {"annotations/instances_train2017.json": content([PADDED], first=9)}
    root = make(tmp_path, files, [f"train2017/{PADDED}"])
    write_labels(root / "mask/9.png", odd_folders.BOX)
    assert data.load(root, ids=["9"]).check_masks().masks.keys() == {"000000000009"}


def test_test_images_have_no_tags(tmp_path):
    listed = {key: value for key, value in VAL.items() if key != "annotations"}
    files = {"annotations/image_info_test2017.json": listed}
    loaded = data.load(make(tmp_path, files, ["test2017/v.jpg"]), split="test")
    assert loaded.ids == ("v",) and not loaded.tagged and loaded.classes == ("cat", "dog")
    with pytest.raises(InputError, match="have no tags"):
        data.opened(loaded)


def test_photos_without_a_json(tmp_path):
    """Their tags come from another file, or are not needed."""
    ids = [f"COCO_train2014_{n:012d}" for n in (9, 25)]
    root = make(tmp_path / "coco", {}, [f"train2014/{id}.jpg" for id in ids])
    write_labels(root / "coco_seg_anno/000000000025.png", odd_folders.BOX)
    loaded = data.load(root)
    assert list(loaded.ids) == ids and len(loaded.classes) == 80 and not loaded.tagged
    assert list(loaded.check_masks().masks) == ids[1:]
    with pytest.raises(InputError, match=r"since .*instances_train2014\.json does not exist"):
        data.opened(root)
    tags = {9: np.eye(80, dtype=np.float32)[0], 25: np.eye(80, dtype=np.float32)[22]}
    np.save(tmp_path / "cls_labels_coco.npy", np.array(tags, dtype=object), allow_pickle=True)
    loaded = data.load(root, tags=tmp_path / "cls_labels_coco.npy", ids=["25", "9"])
    assert odd_folders.tags(loaded) == {ids[1]: ["zebra"], ids[0]: ["person"]}
    with pytest.raises(InputError, match="no such file, so split 'train-annotated' is empty"):
        data.load(root, split="train-annotated")
    odd_folders.photo(root / "train2014/mine.jpg")
    with pytest.raises(
        InputError, match=r"json: no such file; image tags and names .* classes.txt"
    ):
        data.load(root)
    (root / "classes.txt").write_text("cat\n")
    assert data.load(root).classes == ("cat",) and len(data.load(root)) == 3
    (tmp_path / "none/train2017").mkdir(parents=True)
    with pytest.raises(InputError, match="no such file, and .*train2017 has no images"):
        data.load(tmp_path / "none")


def test_other_json_files_are_no_layout(tmp_path):
    files = {
        "annotations/captions_train2017.json": {
            "images": TRAIN["images"],
            "annotations": [{"image_id": 1, "caption": "a cat"}],
        },
        "annotations/instances_train2017.json": TRAIN,
        "classes.json": {"0": "background", "1": "cat"},
        "._train.json": {},
    }
    assert len(data.load(make(tmp_path, files, ["images/a.jpg", "images/b.jpg"]))) == 2
    shapes = {"shapes": [], "imagePath": "a.jpg"}
    with pytest.raises(InputError, match="none of the known layouts"):
        data.load(make(tmp_path / "labelme", {"a.json": shapes}, ["a.jpg"]))
    voc = make(tmp_path / "voc", {"train.json": TRAIN}, ["JPEGImages/a.jpg"])
    (voc / "Annotations").mkdir()
    assert not data.coco_folders.is_coco(voc)
    many = {f"{n}.json": TRAIN for n in range(201)}  # one per image
    assert not data.coco_folders.is_coco(make(tmp_path / "many", many, []))


@pytest.mark.parametrize(
    ("files", "split", "message"),
    [
        ({"val.json": VAL}, "train", "splits are val, val-annotated; got split 'train'"),
        (
            {"a_train.json": TRAIN, "b_train.json": TRAIN},
            "train",
            r"split 'train' may mean a_train\.json and b_train\.json; use a_train or b_train",
        ),
        (
            {"annotations/train.json": TRAIN, "train.json": TRAIN},
            "train",
            r"may mean annotations/train\.json and train\.json; rename all but one",
        ),
        ({f"train/{ROBOFLOW}": TRAIN}, "val", "whose splits are train, .*; got split 'val'"),
        ({"train.json": TRAIN}, "train", "no such image .2 of the 2 listed by .*train.json"),
        ({"train.json": {"images": [], "file_name": ""}, "x.json": TRAIN}, "x", "no such image"),
        (
            {"train.json": content(["../a.jpg"])},
            "train",
            r"image 1 has file name '\.\./a\.jpg'; expected .* below the folder of photos",
        ),
        ({"train.json": content(["/etc/a.jpg"])}, "train", "file name '/etc/a.jpg'"),
        ({"train.json": content(["x\0/a.jpg"])}, "train", "image 1 has file name"),
        ({"train.json": {**TRAIN, "annotations": []}}, "train-annotated", "is empty"),
        (
            {"train.json": {**TRAIN, "categories": [*CLASSES, {"id": 3, "name": "x" * 3 + "\0"}]}},
            "train",
            "category 3: .*cannot be printed",
        ),
    ],
)
def test_wrong_folders(tmp_path, files, split, message):
    with pytest.raises(InputError, match=message):
        data.load(make(tmp_path, files, ["other.jpg"]), split=split)


def test_the_json_itself_is_no_data_set(tmp_path):
    root = make(tmp_path, {"train.json": TRAIN}, [A, B])
    with pytest.raises(InputError, match=r"train\.json is not a directory; name the folder that"):
        data.load(root / "train.json")


def test_odd_values_of_super_categories(tmp_path):
    odd = [{"id": 0, "name": "cat", "supercategory": ["x"]}, {"id": 1, "name": "dog"}]
    root = make(tmp_path, {"train.json": content([A, B], odd)}, [A, B])
    assert data.load(root).classes == ("cat", "dog")
