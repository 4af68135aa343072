"""Objects as COCO polygons, CVAT archives and YOLO data sets, read as their tools read them."""

import io
import json
import zipfile

import numpy as np
import pytest
import yaml
from PIL import Image

from wsss_fast import InputError, RunError
from wsss_fast.cli import run
from wsss_fast.export import command, open_masks, to_coco_polygons, to_cvat, to_yolo
from wsss_fast.export.objects import find_objects
from wsss_fast.readers.label_maps import voc_palette, write_labels

coco_mask = pytest.importorskip("pycocotools.mask")
pycoco = pytest.importorskip("pycocotools.coco")


@pytest.fixture
def more_masks(masks):
    """The three masks and: noise, an object that fills its image, one with a hole in a hole."""
    rng = np.random.default_rng(0)
    noise = rng.choice([0, 1, 2, 255], (23, 37), p=[0.5, 0.2, 0.25, 0.05]).astype(np.uint8)
    noise[2:15, 3:20] = np.where(rng.random((13, 17)) < 0.9, 1, noise[2:15, 3:20])
    write_labels(masks / "noise.png", noise)
    write_labels(masks / "full.png", np.full((3, 4), 2, np.uint8))
    ring = np.zeros((9, 9), np.uint8)
    ring[1:8, 1:8], ring[2:7, 2:7], ring[4, 4] = 1, 0, 1
    write_labels(masks / "ring.png", ring)
    return masks


@pytest.fixture
def photos(masks, tmp_path):
    """A photo for each mask, of different suffixes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    suffixes = {"one": ".JPG", "two": ".png"}
    for id, labels in open_masks(masks):
        Image.new("RGB", labels.shape[::-1]).save(folder / f"{id}{suffixes.get(id, '.jpg')}")
    return folder


def expected(folder, min_area=1):
    """By id, the labels without ignored pixels and objects below `min_area`."""
    found = {}
    for id, labels in open_masks(folder):
        objects = find_objects(labels, min_area=min_area)
        found[id] = np.append(0, objects.labels)[objects.region]
        if min_area == 1:
            assert np.array_equal(found[id], np.where(labels == 255, 0, labels))
    return found


def assert_equal(found, wanted):
    assert list(found) == list(wanted)
    for id, labels in wanted.items():
        np.testing.assert_array_equal(found[id], labels, err_msg=id)


# ---- COCO polygons


def painted(path):
    """By id, the labels that pycocotools paints; and all annotations."""
    read = pycoco.COCO(str(path))
    found = {}
    for image in read.loadImgs(read.getImgIds()):
        labels = np.zeros((image["height"], image["width"]), np.int64)
        for one in read.loadAnns(read.getAnnIds(image["id"])):
            mask = read.annToMask(one).astype(bool)
            labels[mask] = one["category_id"]
        found[image["file_name"].partition(".")[0]] = labels
    return found, read.loadAnns(read.getAnnIds())


@pytest.mark.parametrize(("holes", "min_area"), [("rle", 1), ("cut", 1), ("rle", 4), ("cut", 4)])
def test_pycocotools_paints_the_same_pixels(more_masks, tmp_path, holes, min_area):
    out = to_coco_polygons(more_masks, tmp_path / "p.json", holes=holes, min_area=min_area)
    found, annotations = painted(out)
    assert_equal(found, expected(more_masks, min_area))
    kinds = {type(one["segmentation"]) for one in annotations}
    assert kinds == ({list, dict} if holes == "rle" else {list})
    read = pycoco.COCO(str(out))
    for one in annotations:
        mask = read.annToMask(one)
        y, x = np.nonzero(mask)
        assert one["area"] == mask.sum() >= min_area and one["iscrowd"] == 0
        assert one["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
        if isinstance(one["segmentation"], list):
            assert len(one["segmentation"]) == 1 and len(one["segmentation"][0]) >= 6


def test_worked_example_of_a_polygon(masks, tmp_path):
    content = json.loads(to_coco_polygons(masks, tmp_path / "p.json").read_text())
    first = content["annotations"][0]
    assert first["segmentation"] == [[1, 1, 4, 1, 4, 3, 1, 3]]
    assert (first["area"], first["bbox"], first["category_id"]) == (6, [1, 1, 3, 2], 2)


def test_holes_can_be_filled(more_masks, tmp_path):
    out = to_coco_polygons(more_masks, tmp_path / "p.json", holes="fill")
    _, annotations = painted(out)
    ring = [one for one in annotations if one["area"] == 49]
    assert [one["segmentation"] for one in ring] == [[[1, 1, 8, 1, 8, 8, 1, 8]]]


@pytest.mark.parametrize("holes", ["rle", "cut", "fill"])
def test_outlines_are_simplified_only_if_asked(tmp_path, masks, holes):
    y, x = np.mgrid[:80, :90]
    disc = (y - 40) ** 2 + (x - 44) ** 2
    write_labels(masks / "disc.png", ((disc < 35**2) & (disc > 9**2)).astype(np.uint8))
    write_labels(masks / "plain.png", (disc < 35**2).astype(np.uint8))

    def vertices(tolerance):
        out = to_coco_polygons(masks, tmp_path / "p.json", holes=holes, tolerance=tolerance)
        found, annotations = painted(out)
        both = (found["plain"] == 1) & (disc < 35**2)
        assert both.sum() > 0.97 * ((found["plain"] == 1) | (disc < 35**2)).sum()
        areas = [one["area"] for one in annotations]
        assert max(areas) == pytest.approx(np.pi * 35**2, rel=0.02)
        lists = [one["segmentation"] for one in annotations]
        return sum(len(one[0]) // 2 for one in lists if isinstance(one, list))

    exact = vertices(0.0)
    assert vertices(1.0) < exact / 3
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="tolerance: is .* pixels >= 0"):
            vertices(wrong)


# ---- CVAT


def imported(path):
    """By id, the objects as (class name, mask); read as CVAT reads the format.

    Colours are compared, as of an image without a palette. A colour of an object must be one of
    VOC's, one of a class must be in the list of labels, and an object has one class.
    """
    voc = {tuple(colour): n for n, colour in enumerate(voc_palette().tolist())}
    found = {}
    with zipfile.ZipFile(path) as archive:
        names = {}
        for line in archive.read("labelmap.txt").decode().splitlines():
            if line.strip() and not line.startswith("#"):
                name, colour, _, _ = line.strip().split(":")
                assert name not in names.values()
                names[tuple(int(c) for c in colour.split(","))] = name
        for id in archive.read("ImageSets/Segmentation/default.txt").decode().split("\n")[:-1]:
            planes = []
            for folder, known in (("SegmentationClass", names), ("SegmentationObject", voc)):
                with Image.open(io.BytesIO(archive.read(f"{folder}/{id}.png"))) as image:
                    colours = np.asarray(image.convert("RGB"))
                planes.append(
                    np.array([[known[tuple(c)] for c in row] for row in colours.tolist()])
                )
            of_class, number = planes
            assert ((of_class == "background") == (number == 0)).all()
            found[id] = []
            for n in range(1, number.max() + 1):
                (name,) = np.unique(of_class[number == n])
                found[id].append((str(name), number == n))
        assert len(archive.namelist()) == 2 + 2 * len(found)
    return found


@pytest.mark.parametrize("min_area", [1, 4])
def test_cvat_reads_the_objects(more_masks, tmp_path, min_area):
    out = to_cvat(more_masks, tmp_path / "a/cvat.zip", min_area=min_area)
    names = ("background", *open_masks(more_masks).classes)
    painted = {}
    for id, objects in imported(out).items():
        shape = Image.open(more_masks / f"{id}.png").size[::-1]
        painted[id] = np.zeros(shape, np.int64)
        for name, mask in objects:
            assert find_objects(mask.astype(np.uint8)).labels.tolist() == [1]  # in one piece
            assert mask.sum() >= min_area
            painted[id][mask] = names.index(name)
    assert_equal(painted, expected(more_masks, min_area))
    again = to_cvat(more_masks, tmp_path / "again.zip", min_area=min_area)
    assert out.read_bytes() == again.read_bytes()


def test_the_list_of_labels_has_four_fields(masks, tmp_path):
    with zipfile.ZipFile(to_cvat(masks, tmp_path / "c.zip")) as archive:
        text = archive.read("labelmap.txt").decode()
    assert text == "background:0,0,0::\ncat & <dog>:128,0,0::\ngröße:0,128,0::\n".replace(
        "gr", "gr"
    )


@pytest.mark.parametrize("name", ["a:b", "#1"])
def test_class_names_that_cvat_cannot_read_are_refused(masks, tmp_path, name, files_of):
    with pytest.raises(InputError, match=f"classes: '{name}': CVAT's list of labels"):
        to_cvat(masks, tmp_path / "c.zip", classes=["x", name])
    assert files_of() == []


def test_an_image_of_more_than_255_objects_is_named_with_the_cure(masks, tmp_path, capfd):
    labels = np.zeros((40, 60), np.uint8)
    labels[::2, ::2] = 1
    labels[0:2, 0:40] = 2
    labels[4:6, 0:30] = 1  # 538 single pixels and two larger objects
    write_labels(masks / "many.png", labels)
    out = tmp_path / "c.zip"
    with pytest.raises(RunError, match="1 of 4 masks"):
        to_cvat(masks, out)
    assert list(imported(out)) == ["one", "two", "zero"]
    assert "many.png: has " in (text := capfd.readouterr().err)
    assert "255 per image; --min-area 2 leaves out" in text
    to_cvat(masks, out, min_area=2)
    assert len(imported(out)["many"]) == 2


def test_255_objects_are_written(masks, tmp_path):
    labels = np.zeros((1, 510), np.uint8)
    labels[0, ::2] = 1
    write_labels(masks / "one.png", labels)
    assert len(imported(to_cvat(masks, tmp_path / "c.zip"))["one"]) == 255


# ---- YOLO


def trained_on(folder, shapes):
    """By id, the labels that YOLO's training reads: classes from 0, polygons of shares."""
    description = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))
    assert set(description) == {"path", "train", "val", "names"}
    assert description["path"] == str(folder.resolve())
    found = {}
    for id, shape in shapes.items():
        labels = np.zeros(shape, np.int64)
        for row in (folder / "labels" / f"{id}.txt").read_text().splitlines():
            values = row.split()
            assert len(values) >= 7 and len(values) % 2 == 1
            label, points = int(values[0]), np.array(values[1:], float).reshape(-1, 2)
            assert description["names"][label] and points.min() >= 0 and points.max() <= 1
            polygon = (points * shape[::-1]).round(3).reshape(-1).tolist()
            mask = coco_mask.decode(coco_mask.frPyObjects([polygon], *shape))[..., 0]
            labels[mask.astype(bool)] = label + 1
        found[id] = labels
    return found, description["names"]


def test_yolo_reads_the_objects(more_masks, photos, tmp_path):
    write_labels(more_masks / "wide.png", np.eye(7, 960, 3, np.uint8))
    Image.new("RGB", (960, 7)).save(photos / "wide.jpg")
    out = to_yolo(more_masks, tmp_path / "yolo", images=photos)
    wanted = expected(more_masks)
    found, names = trained_on(out, {id: labels.shape for id, labels in wanted.items()})
    assert_equal(found, wanted)
    assert names == {0: "cat & <dog>", 1: "größe"}
    copies = sorted(out.glob("images/*"))
    assert [p.name for p in copies] == sorted(p.name for p in photos.iterdir())
    for copy in copies:
        original = photos / copy.name
        assert copy.read_bytes() == original.read_bytes() and not copy.samefile(original)
        # Where YOLO looks for the labels of a photo.
        assert (out / "labels" / copy.name).with_suffix(".txt").is_file()


def test_worked_example_of_a_row(masks, tmp_path):
    out = to_yolo(masks, tmp_path / "yolo")
    assert (out / "labels/one.txt").read_text() == (
        "1 0.166667 0.2 0.666667 0.2 0.666667 0.6 0.166667 0.6\n"
    )
    assert (out / "labels/zero.txt").read_text() == ""  # no object
    assert not (out / "images").exists()


def test_names_that_yaml_takes_for_something_else(masks, tmp_path):
    out = to_yolo(masks, tmp_path / "yolo", classes=["no", "2007_000032"])
    assert yaml.safe_load((out / "data.yaml").read_text())["names"] == {0: "no", 1: "2007_000032"}


def test_photos_in_the_folder_of_the_data_set_stay(masks, photos, tmp_path):
    (tmp_path / "yolo").mkdir()
    inside = photos.rename(tmp_path / "yolo/images")
    before = {p: p.stat() for p in inside.iterdir()}
    out = to_yolo(masks, tmp_path / "yolo", images=inside)
    assert {p: p.stat() for p in inside.iterdir()} == before
    assert len(list(out.glob("labels/*.txt"))) == 3


def test_a_broken_mask_has_neither_labels_nor_photo(masks, photos, tmp_path):
    (masks / "one.png").write_bytes(b"\x89PNG")
    with pytest.raises(RunError, match="1 of 3 masks were left out"):
        to_yolo(masks, tmp_path / "yolo", images=photos)
    assert {p.stem for p in tmp_path.glob("yolo/*/*")} == {"two", "zero"}


def test_labels_of_other_images_are_not_mixed_in(masks, tmp_path):
    out = to_yolo(masks, tmp_path / "yolo")
    (masks / "one.png").unlink()
    with pytest.raises(InputError, match=r"labels/one\.txt: is of an image without a mask"):
        to_yolo(masks, out)
    with pytest.raises(InputError, match="is a file, but a YOLO data set is a folder"):
        to_yolo(masks, out / "data.yaml")
    with pytest.raises(InputError, match="holes: is rle, must be cut or fill"):
        to_yolo(masks, out, holes="rle")


# ---- the command


def test_the_command_writes_all_three(more_masks, photos, tmp_path, capfd):
    def export(*words):
        code = run(["export", str(more_masks), "--images", str(photos), *map(str, words)])
        return code, capfd.readouterr().err

    paths = {
        "coco-polygons": tmp_path / "p.json",
        "cvat": tmp_path / "c.zip",
        "yolo": tmp_path / "y",
    }
    for name, path in paths.items():
        options = ("--min-area", 2) if name != "yolo" else ("--holes", "fill", "--no-copy-images")
        assert export("--to", name, "-o", path, *options)[0] == 0
    assert_equal(painted(paths["coco-polygons"])[0], expected(more_masks, 2))
    assert not (paths["yolo"] / "images").exists()
    with pytest.raises(InputError, match="--copy-images: is an option of yolo, not of coco"):
        command.export(more_masks, tmp_path / "x.json", to="coco", copy_images=False)
    with pytest.raises(InputError, match="holes: is an option of coco-polygons and yolo, not of"):
        command.export(more_masks, tmp_path / "x.zip", to="cvat", holes="cut")
    with pytest.raises(InputError, match="must end with .zip"):
        to_cvat(more_masks, tmp_path / "x.txt")
