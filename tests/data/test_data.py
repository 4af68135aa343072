"""Reading data sets: the VOC12 layout, and one clear line for everything that can be wrong with it."""

import numpy as np
import pytest
from PIL import Image

from wsss_fast import InputError, data
from wsss_fast.data import images
from wsss_fast.data.shapes.cache import shapes_folder


def first(root):
    return (root / "ImageSets/Segmentation/train.txt").read_text().split()[0]


def test_tags_come_from_the_annotations(shapes):
    for id in shapes.ids:
        present = np.setdiff1d(np.unique(shapes.mask(id)), [0, 255])
        assert set(present) <= set(np.flatnonzero(shapes.tags_of(id)) + 1)
    assert shapes.tags.shape == (24, 8) and shapes.tags.max() == 1


def test_splits_and_id_lists(shapes_root, tmp_path):
    assert len(data.load(shapes_root, split="val")) == 8
    names = data.load(shapes_root).ids[:3]
    listed = tmp_path / "some.txt"
    listed.write_text("\n".join(f"/JPEGImages/{n}.jpg /SegmentationClass/{n}.png" for n in names))
    assert data.load(shapes_root, ids=listed).ids == names
    assert data.load(shapes_root, ids=list(names[:2])).ids == names[:2]


def test_a_folder_without_classes_txt_has_vocs_classes(own_shapes):
    (own_shapes / "classes.txt").unlink()
    for path in (own_shapes / "Annotations").iterdir():
        path.write_text("<annotation><object><name>dog</name></object></annotation>")
    for path in (own_shapes / "SegmentationClass").iterdir():
        path.unlink()
    loaded = data.load(own_shapes)
    assert (
        loaded.classes == data.VOC_CLASSES
        and (loaded.tags[:, data.VOC_CLASSES.index("dog")] == 1).all()
    )
    assert not loaded.masks
    with pytest.raises(InputError, match="no id of split 'train' has a mask"):
        loaded.with_masks()


def test_masks_of_trainaug_come_first(own_shapes):
    aug = own_shapes / "SegmentationClassAug"
    aug.mkdir()
    images.write_labels(aug / f"{first(own_shapes)}.png", np.full((64, 64), 2))
    loaded = data.load(own_shapes)
    assert set(loaded.masks) == {first(own_shapes)} and (loaded.mask(first(own_shapes)) == 2).all()
    assert len(loaded.with_masks()) == 1


def test_only_keeps_tags_beside_ids(shapes):
    some = shapes.only([shapes.ids[5], shapes.ids[2]])
    assert len(some) == 2
    np.testing.assert_array_equal(some.tags_of(shapes.ids[5]), shapes.tags_of(shapes.ids[5]))


def damage_missing_image(root):
    (root / "JPEGImages" / f"{first(root)}.jpg").unlink()


def damage_truncated(root):
    path = root / "JPEGImages" / f"{first(root)}.jpg"
    path.write_bytes(path.read_bytes()[:-200])


def damage_empty_image(root):
    (root / "JPEGImages" / f"{first(root)}.jpg").write_bytes(b"")


def damage_no_annotation(root):
    (root / "Annotations" / f"{first(root)}.xml").unlink()


def damage_bad_xml(root):
    (root / "Annotations" / f"{first(root)}.xml").write_text("<annotation><object>")


def damage_unknown_tag(root):
    (root / "Annotations" / f"{first(root)}.xml").write_text(
        "<annotation><object><name>zebra</name></object></annotation>"
    )


def damage_empty_list(root):
    (root / "ImageSets/Segmentation/train.txt").write_text("\n\n")


def damage_repeated_id(root):
    (root / "ImageSets/Segmentation/train.txt").write_text(f"{first(root)}\n" * 2)


def damage_escaping_id(root):
    (root / "ImageSets/Segmentation/train.txt").write_text("../../etc/passwd\n")


def damage_no_list(root):
    (root / "ImageSets/Segmentation/train.txt").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_missing_image, r"id 'train_00000' has no image .*train_00000\.jpg"),
        (damage_truncated, r"train_00000\.jpg: truncated JPEG"),
        (damage_empty_image, r"train_00000\.jpg: cannot be read"),
        (damage_no_annotation, r"train_00000\.xml: no such annotation"),
        (damage_bad_xml, r"train_00000\.xml: not a readable VOC annotation"),
        (damage_unknown_tag, r"train_00000\.xml: tag 'zebra' is not in the class list"),
        (damage_empty_list, r"train\.txt: the id list is empty"),
        (damage_repeated_id, r"id 'train_00000' stands there more than once"),
        (damage_escaping_id, r"'\.\./\.\./etc/passwd' cannot be an id"),
        (damage_no_list, r"no such id list; .* has the splits: val"),
    ],
)
def test_damage_is_named_when_the_set_is_opened(own_shapes, damage, said):
    damage(own_shapes)
    with pytest.raises(InputError, match=said):
        data.load(own_shapes)


def test_masks_are_checked_as_a_whole(own_shapes):
    data.load(own_shapes).check_masks()
    path = own_shapes / "SegmentationClass" / f"{first(own_shapes)}.png"
    images.write_labels(path, np.full((64, 64), 77))
    with pytest.raises(InputError, match=r"train_00000\.png: label 77 is impossible"):
        data.load(own_shapes).check_masks()
    images.write_labels(path, np.zeros((64, 32)))
    with pytest.raises(
        InputError, match=r"train_00000\.png: is \(64, 32\), but its image .* is \(64, 64\)"
    ):
        data.load(own_shapes).check_masks()


def test_wrong_folders(tmp_path):
    with pytest.raises(InputError, match="nowhere is no folder"):
        data.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="has none of the known layouts: VOC12 has JPEGImages"):
        data.load(tmp_path)
    with pytest.raises(InputError, match="whole number"):
        data.load("shapes:x")
    with pytest.raises(
        InputError, match="'shapes-sparse' or 'shapes-sparse:SEED' with a whole number"
    ):
        data.load("shapes-sparse:x")
    with pytest.raises(
        InputError,
        match="shapes-dense:1 is no folder .*only built-in sets are shapes, shapes-sparse",
    ):
        data.load("shapes-dense:1")


def test_the_benchmark_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("WSSS_FAST_DATA", str(tmp_path))
    made = []

    def few(out, *, seed, preset):
        made.append((seed, preset))
        return data.make_shapes(out, seed=seed, train=2, val=1, size=48, preset=preset)

    monkeypatch.setattr("wsss_fast.data.shapes.cache.make_shapes", few)
    assert shapes_folder("shapes:7") == shapes_folder("shapes:7")
    assert made == [(7, "standard")] and len(data.load("shapes:7")) == 2
    again = data.load("shapes:7")
    assert data.opened("shapes:7").ids == again.ids and data.opened(again) is again
    sparse = data.load("shapes-sparse:7")
    assert made == [(7, "standard"), (7, "sparse")] and sparse.root != again.root
    assert not np.array_equal(sparse.image(sparse.ids[0]), again.image(again.ids[0]))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_gray_and_cmyk_jpegs_become_rgb(tmp_path, mode):
    path = tmp_path / "x.jpg"
    Image.new("RGB", (9, 5), (200, 30, 40)).convert(mode).save(path)
    images.check_image(path)
    read = images.read_image(path)
    assert read.shape == (5, 9, 3) and read.dtype == np.uint8
    if mode != "L":
        assert abs(read.astype(int) - [200, 30, 40]).max() < 12


def test_exif_rotation_is_applied(tmp_path):
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    Image.new("RGB", (9, 5)).save(path, exif=exif)
    assert images.read_image(path).shape == (9, 5, 3) and images.image_size(path) == (9, 5)


def test_sixteen_bit_images_are_refused(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(path)
    with pytest.raises(InputError, match=r"x\.png: image mode I;16"):
        images.check_image(path)
    with pytest.raises(InputError, match=r"x\.png: image mode I;16"):
        images.read_image(path)


def test_labels_survive_their_png_and_wear_vocs_colours(tmp_path):
    labels = np.array([[0, 1, 20], [255, 3, 7]], np.uint8)
    images.write_labels(tmp_path / "l.png", labels)
    np.testing.assert_array_equal(images.read_labels(tmp_path / "l.png", 20), labels)
    with Image.open(tmp_path / "l.png") as image:
        assert image.convert("RGB").getpixel((1, 0)) == (128, 0, 0)  # aeroplane
        assert image.convert("RGB").getpixel((2, 0)) == (0, 64, 128)  # tvmonitor
        assert image.convert("RGB").getpixel((0, 1)) == (224, 224, 192)  # ignore


def test_impossible_labels_are_refused(tmp_path):
    images.write_labels(tmp_path / "l.png", np.array([[0, 57]]))
    with pytest.raises(
        InputError, match=r"l\.png: label 57 is impossible, allowed are 0\.\.20 and 255"
    ):
        images.read_labels(tmp_path / "l.png", 20)
    Image.new("RGB", (3, 3)).save(tmp_path / "colour.png")
    with pytest.raises(InputError, match=r"colour\.png: label maps are palette"):
        images.read_labels(tmp_path / "colour.png", 20)


def test_a_png_whose_header_chunk_is_cut_short(tmp_path):
    """Pillow says ValueError there, not OSError; found by fuzzing."""
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\x04IHDR" + b"\0" * 8)
    for read in (images.check_image, images.read_image, images.read_labels, images.read_saliency):
        with pytest.raises(InputError, match="a.png: cannot be read"):
            read(path)
