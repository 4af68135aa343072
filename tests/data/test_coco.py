"""The COCO14 layout: what is read from it, and one line that names the file for every error."""

import json
import re

import numpy as np
import odd_folders
import pytest
from layouts import COCO_CATEGORIES, COCO_LABELS, coco_id, make_coco, masked, tagged

from wsss_fast import InputError, cli, data
from wsss_fast.data import write_labels
from wsss_fast.data.coco_json import read_coco

INSTANCES = "annotations/instances_train2014.json"


@pytest.fixture(scope="module")
def coco_root(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp("layouts") / "coco14")


@pytest.fixture
def coco(tmp_path):
    return make_coco(tmp_path / "coco14")


def test_categories_of_the_helper_are_cocos():
    assert len(COCO_CATEGORIES) == 80 and COCO_CATEGORIES[-1] == (90, "toothbrush")
    assert dict(COCO_CATEGORIES)[44] == "bottle" and dict(COCO_CATEGORIES)[62] == "chair"


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
        # Labels are 1..80, though the category ids have gaps.
        assert tagged(loaded, id) == masked(loaded, id) == sorted(labels)
        assert loaded.image(id).shape == (*loaded.size(id), 3)  # also of the gray image
        assert loaded.saliency(id).shape == loaded.size(id)


def test_coco_images_below_jpegimages(coco):
    (coco / "JPEGImages").mkdir()
    (coco / "masks").rename(coco / "SegmentationClass")
    for folder in ("train2014", "val2014"):
        (coco / folder).rename(coco / "JPEGImages" / folder)
    for path in (coco / "annotations").iterdir():
        path.rename(coco / path.name)
    loaded = data.load(coco)
    assert len(loaded.check_masks()) == 8
    assert loaded.images[loaded.ids[0]].parent == coco / "JPEGImages" / "train2014"


def test_coco_masks_named_by_number(coco):
    masks = coco / "masks/train2014"
    for number in COCO_LABELS["train"]:
        (masks / f"{coco_id(number)}.png").rename(masks / f"{number:012d}.png")
    loaded = data.load(coco)
    assert len(loaded.masks) == 8 and masked(loaded, coco_id(25)) == [24]
    assert data.load(coco, split="val").masks.keys() == set(data.load(coco, split="val").ids)
    # In a folder of both splits the numbers do: no two photos of COCO's have the same.
    for path in masks.iterdir():
        path.rename(coco / "masks" / path.name)
    masks.rmdir()
    assert masked(data.load(coco), coco_id(25)) == [24]


def test_numbers_of_masks_of_several_splits(coco):
    """Photos with names of another kind may have equal numbers in two splits."""

    def rename(content):
        for image in content["images"]:
            image["file_name"] = f"photo {image['id']}.jpg"

    edit(coco, rename)
    for path in (coco / "train2014").iterdir():
        path.rename(path.with_name(f"photo {int(path.stem[-12:])}.jpg"))
    masks = coco / "masks/train2014"
    for path in [*masks.iterdir()]:
        path.rename(path.with_name(f"{path.stem[-12:]}.png"))
    assert len(data.load(coco).masks) == 8
    for path in [*masks.iterdir()]:
        path.rename(coco / "masks" / path.name)
    assert not data.load(coco).masks


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("mask/train2014", "{}.png"),  # ReCAM, LPCAM, CLIMS
        ("coco_seg_anno", "{:012d}.png"),  # RIB's archive, for AMN
        ("SegmentationClass/train2014", "COCO_train2014_{:012d}.png"),  # EPS, ToCo
        ("masks", "{}.png"),
        ("masks", "COCO_train2014_{:012d}.png"),
    ],
)
def test_public_archives_of_masks(coco, folder, name):
    masks = coco / "masks"
    (coco / "masks/train2014").rename(coco / "old")
    (masks / "val2014").rename(coco / "old val")
    masks.rmdir()
    (coco / folder).mkdir(parents=True)
    for number in COCO_LABELS["train"]:
        (coco / "old" / f"{coco_id(number)}.png").rename(coco / folder / name.format(number))
    for number in COCO_LABELS["val"]:  # of the other split: not used
        other = f"COCO_val2014_{number:012d}.png" if "COCO" in name else name.format(number)
        (coco / "old val" / f"{coco_id(number, 'val')}.png").rename(coco / folder / other)
    loaded = data.load(coco).check_masks()
    assert len(loaded.masks) == 8 and loaded.truth == folder
    assert masked(loaded, coco_id(25)) == [24] and masked(loaded, coco_id(49)) == [1, 18]


def test_masks_in_a_folder_of_another_name_are_mentioned(coco, capfd):
    (coco / "masks").rename(coco / "my masks")
    loaded = data.load(coco)
    assert not loaded.masks
    with pytest.raises(InputError, match="no true masks are read; .*/my masks/train2014 has PNGs"):
        loaded.with_masks()
    assert len(data.load(coco, truth="my masks").with_masks()) == 8


def numbered(coco, number_of):
    """Masks whose labels, except 0 and 255, are replaced."""
    for path in (coco / "masks/train2014").iterdir():
        labels = data.read_labels(path)
        table = np.array([v if v in (0, 255) else number_of(v) for v in range(256)])
        write_labels(path, table[labels])
    return data.load(coco)


def test_masks_with_category_ids_are_refused(coco):
    """Read as labels they would be other classes, for the ids up to 80 without any error."""
    ids = [0, *(id for id, _ in COCO_CATEGORIES)]
    loaded = numbered(coco, lambda label: ids[label] if label <= 80 else label)
    message = "which are category ids of the tags .*, not labels; labels are 1..80"
    with pytest.raises(InputError, match=message):
        loaded.check_masks()


def test_maps_of_coco_stuff_are_refused(coco):
    ids = [255, *(id - 1 for id, _ in COCO_CATEGORIES)]
    numbered(coco, lambda label: ids[label] if label <= 80 else label)
    loaded = data.load(coco, strict=False)  # labels above 80 are left out, the others are wrong
    with pytest.raises(InputError, match="which are category ids - 1, as in COCO-Stuff's maps"):
        loaded.check_masks()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (lambda label: min(label + 10, 90), "perhaps these are COCO's category ids 1..90"),
        (lambda label: min(label + 100, 181), "perhaps these are COCO-Stuff's"),
        (lambda label: 200, r"allowed are 0..80 and 255$"),
    ],
)
def test_other_numberings_of_coco_are_named(coco, number, message):
    with pytest.raises(InputError, match=message):
        numbered(coco, number).check_masks()


def test_predictions_of_mctformer_are_named(coco):
    path = coco / "masks/train2014" / f"{coco_id(9)}.png"
    write_labels(path, data.read_labels(path).clip(0, 80) + 91)
    with pytest.raises(InputError, match="label 91 is impossible.* 91 was added to all labels"):
        data.load(coco).check_masks()


def test_labels_follow_the_category_ids(coco_root):
    (path,) = coco_root.glob("annotations/*train*.json")
    label = {id: label for label, id in enumerate(read_coco(path).category_ids, 1)}
    assert [label[id] for id in (1, 11, 13, 27, 46, 67, 90)] == [1, 11, 12, 25, 41, 61, 80]


def test_coco_id_lists(coco_root, tmp_path):
    """Entries are numbers, padded numbers, file names or paths, in the list's order."""
    listed = tmp_path / "train14.txt"
    listed.write_text(
        f"\n36\n000000000009\n  \n{coco_id(25)}\ntrain2014/{coco_id(61)}.jpg masks/x.png\n\n"
    )
    expected = tuple(coco_id(n) for n in (36, 9, 25, 61))
    loaded = data.load(coco_root, ids=listed)
    assert loaded.ids == expected and tagged(loaded, coco_id(25)) == [24]
    assert loaded.split == f"train: {listed}"  # part of the fingerprint
    assert data.load(coco_root, ids=[36, 9, "25", "61"]).ids == expected
    assert data.load(coco_root, split="val", ids=["42"]).ids == (coco_id(42, "val"),)


WRONG_LISTS = [
    (
        "9\n\n000000000009\n",
        r"list\.txt, line 3: id '\w+_000000000009' is listed more than once, first at .*, line 1",
    ),
    (
        "9\n42\n",
        r"list\.txt, line 2: image 42 is not in .*\.json; does it belong to the other split",
    ),
    (
        f"{coco_id(42, 'val')}\n",
        r"list\.txt, line 1: '\w+_000000000042' belongs to val2014, but .* is train2014's",
    ),
    (
        "2007_000032\n",
        r"list\.txt, line 1: '2007_000032' is not an image of .*\.json; expected a number",
    ),
    (" \n\n", r"list\.txt: the id list is empty"),
]


@pytest.mark.parametrize(("text", "message"), WRONG_LISTS)
def test_wrong_coco_id_lists(coco_root, tmp_path, text, message):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        data.load(coco_root, ids=path)


def edit(root, change):
    path = root / INSTANCES
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def damage_no_categories(root):
    edit(root, lambda c: c.pop("categories"))


def damage_empty_categories(root):
    edit(root, lambda c: c.update(categories=[]))


def damage_no_images(root):
    edit(root, lambda c: c.pop("images"))


def damage_truncated(root):
    path = root / INSTANCES
    path.write_bytes(path.read_bytes()[:-500])


def damage_empty_file(root):
    (root / INSTANCES).write_bytes(b"")


def damage_binary(root):
    (root / INSTANCES).write_bytes(b"\x89PNG\xff\xfe")


def damage_a_list(root):
    (root / INSTANCES).write_text("[1, 2]")


def damage_missing_json(root):
    (root / INSTANCES).unlink()


def damage_unknown_category(root):
    edit(root, lambda c: c["annotations"][0].update(category_id=91))


def damage_unknown_image(root):
    edit(root, lambda c: c["annotations"][0].update(image_id=77))


def damage_two_categories(root):
    edit(root, lambda c: c["categories"][0].update(id=c["categories"][1]["id"]))


def damage_repeated_image(root):
    edit(root, lambda c: c["images"].append(c["images"][0]))


def damage_text_for_a_number(root):
    edit(root, lambda c: c["annotations"][2].update(category_id="17"))


def damage_escaping_name(root):
    edit(
        root, lambda c: c["images"][1].update(file_name="../val2014/COCO_val2014_000000000042.jpg")
    )


def damage_missing_photo(root):
    (root / "train2014" / f"{coco_id(25)}.jpg").unlink()


def damage_broken_photo(root):
    path = root / "train2014" / f"{coco_id(25)}.jpg"
    path.write_bytes(path.read_bytes()[:-300])


COCO_DAMAGE = [  # (damage, message after the name of the instances file)
    (damage_no_categories, r": has no categories; expected COCO's instances JSON"),
    (damage_empty_categories, r": has no categories"),
    (damage_no_images, r": has no images"),
    (damage_truncated, r": not a valid JSON file, perhaps truncated"),
    (damage_empty_file, r": not a valid JSON file"),
    (damage_binary, r": not a readable UTF-8 text"),
    (damage_a_list, r": has no images"),
    (damage_missing_json, r" does not exist, and --tags FILE was not given"),
    (
        damage_unknown_category,
        r": annotation \d+ refers to category 91, which is not in the file",
    ),
    (damage_unknown_image, r": annotation \d+ refers to image 77, which is not in the file"),
    (damage_two_categories, r": two categories have the same id"),
    (damage_repeated_image, r": image 64 is listed more than once"),
    (damage_text_for_a_number, r": annotations\[2\] needs 'category_id' \(int\)"),
    (damage_escaping_name, r": image 61 has file name '\.\./val2014/"),
]
PHOTO_DAMAGE = [
    (damage_missing_photo, r": no such image \(1 of the 8 listed by .*json are missing\)"),
    (damage_broken_photo, r": truncated JPEG"),
]
DAMAGE = [(d, rf"instances_train2014\.json{message}") for d, message in COCO_DAMAGE]
DAMAGE += [(d, rf"COCO_train2014_000000000025\.jpg{message}") for d, message in PHOTO_DAMAGE]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[d.__name__ for d, _ in DAMAGE])
def test_damage_is_reported_in_one_line_and_nothing_is_written(
    coco, tmp_path, capfd, damage, message
):
    damage(coco)
    out = tmp_path / "run"
    code = cli.run(
        ["cam", "train", "--data", str(coco), "--out", str(out), "--backbone", "small", "--strict"]
    )
    err = capfd.readouterr().err
    assert code == 2 and re.search(message, err) and len(err.strip().splitlines()) == 1
    assert not out.exists()


def small(root, categories, *, names=None, category_ids=(1, 2)):
    """A COCO folder of as many tiny photos as there are category ids, one annotation each."""
    names = names or [f"{n}.jpg" for n in range(1, len(category_ids) + 1)]
    content = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(names, 1)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": c} for n, c in enumerate(category_ids, 1)
        ],
        "categories": [
            {"id": id, "name": name, "supercategory": "animal"} for id, name in categories
        ],
    }
    (root / "annotations").mkdir(parents=True)
    (root / INSTANCES).write_text(json.dumps(content))
    for name in names:
        odd_folders.photo(root / "train2014" / name.removeprefix("train2014/"))
    return root


@pytest.mark.parametrize(
    ("categories", "used", "named", "remark"),
    [
        ([(0, "background"), (1, "cat"), (2, "dog")], (1, 2), (["cat"], ["dog"]), "label 0 is"),
        ([(1, "_BACKGROUND_"), (2, "cat")], (1, 2), ([], ["cat"]), "label 1 is 'cat'"),
        ([(0, "animal"), (1, "cat"), (2, "dog")], (1, 2), (["cat"], ["dog"]), "super-category"),
        ([(0, "animal"), (1, "cat")], (0, 1), (["animal"], ["cat"]), None),
        ([(0, "cat"), (1, "dog")], (0, 1), (["cat"], ["dog"]), None),
    ],
)
def test_categories_that_are_no_classes(tmp_path, categories, used, named, remark):
    loaded, said = odd_folders.load(small(tmp_path, categories, category_ids=used))
    assert tuple(odd_folders.tags(loaded).values()) == named
    assert (remark is None and not said) or (len(said) == 1 and remark in said[0])


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([(1, "cat"), (2, "background")], "category 2: 'background' is not a class"),
        ([(1, "cat"), (2, "cat")], "category 2: class 'cat' is listed more than once"),
        ([(1, "cat"), (2, "Cat")], "category 2: class 'Cat' reads like 'cat' in .* category 1"),
    ],
)
def test_wrong_names_of_categories(tmp_path, categories, message):
    with pytest.raises(InputError, match=rf"instances_train2014.json, {message}"):
        data.load(small(tmp_path, categories))


def test_file_names_in_the_json(tmp_path):
    names = ["train2014/x.JPG", "sub/y.png", "z a.jpeg"]
    classes = [(1, "cat"), (2, "dog")]
    root = small(tmp_path, classes, names=names, category_ids=(1, 2, 2))
    (root / "train2014/x.JPG").rename(root / "train2014/x.jpg")
    loaded = data.load(root, ids=["x", "y.png", "3"])
    assert loaded.ids == ("x", "y", "z a")
    assert [p.name for p in loaded.images.values()] == ["x.jpg", "y.png", "z a.jpeg"]
    (root / "train2014/x.jpg").rename(root / "train2014/X.webp")
    with pytest.raises(
        InputError, match=r"x.JPG: no such image \(1 of the 3 .*; there is 'X.webp'"
    ):
        data.load(root)


def test_a_name_that_is_the_number_of_another_image(tmp_path):
    root = small(tmp_path, [(1, "cat"), (2, "dog")], names=["2.jpg", "b.jpg"])
    assert data.load(root, ids=["1", "b"]).ids == ("2", "b")
    with pytest.raises(InputError, match="'2' is the file name of image 1, and the number of 'b'"):
        data.load(root, ids=["2"])


def test_photos_and_masks_of_several_folders(coco):
    id, other = coco_id(25), coco_id(9)
    (coco / "JPEGImages/train2014").mkdir(parents=True)
    (coco / f"train2014/{id}.jpg").rename(coco / f"JPEGImages/train2014/{id}.jpg")
    (coco / f"masks/train2014/{id}.png").rename(coco / f"masks/{id}.png")
    (coco / f"saliency/train2014/{other}.png").rename(coco / f"saliency/{other}.png")
    loaded, said = odd_folders.load(coco)
    assert loaded.images[id].parent.parent.name == "JPEGImages"
    assert len(loaded.masks) == len(loaded.saliencies) == 8
    assert len(said) == 2 and all("1 of 8 images" in line for line in said)


def test_coco_splits(coco, tmp_path):
    with pytest.raises(
        InputError,
        match="has COCO14's layout, whose splits are train, val, .*; got split 'train_aug'",
    ):
        data.load(coco, split="train_aug")
    (coco / "val2014").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="has no folder val2014 for split 'val'"):
        data.load(coco, split="val")


def test_a_mask_larger_than_its_image_is_not_scored(coco, tmp_path, capfd):
    loaded, id = data.load(coco), coco_id(30)
    height, width = loaded.size(id)
    write_labels(coco / "masks/train2014" / f"{id}.png", np.zeros((height + 4, width)))
    message = (
        rf"{id}\.png: is \({height + 4}, {width}\), "
        rf"but its image .*{id}\.jpg is \({height}, {width}\)"
    )
    with pytest.raises(InputError, match=message):
        loaded.check_masks()
    for other in loaded.ids:
        write_labels(tmp_path / "predictions" / f"{other}.png", np.zeros(loaded.size(other)))
    out = tmp_path / "out"
    command = ["eval", "--data", str(coco), "--predictions", str(tmp_path / "predictions")]
    code = cli.run([*command, "--out", str(out)])
    shown = capfd.readouterr()
    assert code == 1 and re.search(message, shown.err) and "over 7 of 8 images" in shown.out
    assert list(json.loads((out / "broken_masks.json").read_text())) == [id]
    found = json.loads((out / "evaluation.json").read_text())
    assert (found["images"], found["of_images"]) == (7, 8)


def test_label_81_is_not_a_coco_class(coco):
    path = coco / "masks/train2014" / f"{coco_id(9)}.png"
    mask = np.full(data.load(coco).size(coco_id(9)), 81)
    write_labels(path, mask)
    with pytest.raises(
        InputError, match=r"000000000009\.png: label 81 is impossible; allowed are 0\.\.80 and 255"
    ):
        data.load(coco).check_masks()


def test_lists_of_images_with_an_annotation(coco_root):
    annotated = tuple(coco_id(n) for n in sorted(COCO_LABELS["train"]) if COCO_LABELS["train"][n])
    loaded = data.load(coco_root, split="train-annotated")
    assert (
        loaded.ids == annotated and loaded.split == "train-annotated" and loaded.tags.any(1).all()
    )
    assert set(loaded.masks) == set(annotated) and loaded.score_on == "all"
    assert len(data.load(coco_root, split="val-annotated")) == 3
    scored = data.load(coco_root, score_on="train-annotated")
    assert len(scored) == 8 and set(scored.masks) == set(annotated)
    assert scored.score_on == "train-annotated" and "64" not in scored.scored
    assert data.load(coco_root, split="train-annotated", score_on="train").score_on == "all"
    with pytest.raises(InputError, match="no image of split 'train' .* is on list 'val'"):
        data.load(coco_root, score_on="val")
    with pytest.raises(InputError, match="got score_on 'train2015'"):
        data.load(coco_root, score_on="train2015")


def test_the_folder_of_coco_masks(coco):
    for id in (coco_id(9), coco_id(25)):  # directly in the folder, without train2014/
        mask = data.read_labels(coco / "masks/train2014" / f"{id}.png")
        write_labels(coco / "other" / f"{id}.png", mask)
    loaded = data.load(coco, truth="other")
    assert set(loaded.masks) == {coco_id(9), coco_id(25)} and loaded.truth == "other"
    assert data.load(coco).truth == "masks/train2014"
    with pytest.raises(InputError, match=r"truth: no folder SegmentationClass, .* has masks$"):
        data.load(coco, truth="SegmentationClass")
