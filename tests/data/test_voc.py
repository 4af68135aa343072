"""The VOC12 layout: what is read from it, and one line that names the file for every error."""

import numpy as np
import pytest
from layouts import VOC_LABELS, make_voc, masked, tagged

from wsss_fast import InputError, data
from wsss_fast.engine import remarks
from wsss_fast.readers import label_maps


def first(root):
    """The first id of the training split."""
    return (root / "ImageSets/Segmentation/train.txt").read_text().split()[0]


@pytest.fixture
def voc(tmp_path):
    return make_voc(tmp_path / "VOC2012")


def test_voc_layout(voc):
    for split, labels_of in VOC_LABELS.items():
        loaded = data.load(voc, split=split).check_masks()
        assert loaded.ids == tuple(labels_of) and loaded.classes == data.VOC_CLASSES
        assert len(loaded.saliencies) == len(labels_of)
        for id, labels in labels_of.items():
            assert tagged(loaded, id) == masked(loaded, id) == sorted(labels)


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


def test_default_classes_without_classes_txt(own_shapes):
    (own_shapes / "classes.txt").unlink()
    for path in (own_shapes / "Annotations").iterdir():
        path.write_text("<annotation><object><name>dog</name></object></annotation>")
    for path in (own_shapes / "SegmentationClass").iterdir():
        path.unlink()
    loaded = data.load(own_shapes)
    assert loaded.classes == data.VOC_CLASSES and not loaded.masks
    assert (loaded.tags[:, data.VOC_CLASSES.index("dog")] == 1).all()
    with pytest.raises(InputError, match="no id of split 'train' has a mask"):
        loaded.with_masks()


def test_masks_of_train_aug_are_preferred(own_shapes):
    aug = own_shapes / "SegmentationClassAug"
    aug.mkdir()
    label_maps.write_labels(aug / f"{first(own_shapes)}.png", np.full((64, 64), 2))
    with remarks.collected():
        loaded = data.load(own_shapes)
        (line,) = remarks.lines()
    assert (loaded.mask(first(own_shapes)) == 2).all() and len(loaded.masks) == 24
    others = {path.parent.name for id, path in loaded.masks.items() if id != first(own_shapes)}
    assert others == {"SegmentationClass"} and "23 of 24 images" in line


def damage_missing_image(root):
    (root / "JPEGImages" / f"{first(root)}.jpg").unlink()


def damage_truncated(root):
    path = root / "JPEGImages" / f"{first(root)}.jpg"
    path.write_bytes(path.read_bytes()[:-200])


def damage_empty_image(root):
    (root / "JPEGImages" / f"{first(root)}.jpg").write_bytes(b"")


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
    ("damage", "message"),
    [
        (damage_missing_image, r"id 'train_00000' has no image .*train_00000\.jpg"),
        (damage_truncated, r"train_00000\.jpg: truncated JPEG"),
        (damage_empty_image, r"train_00000\.jpg: cannot be read"),
        (damage_bad_xml, r"train_00000\.xml: not a readable VOC annotation"),
        (
            damage_unknown_tag,
            r"train_00000\.xml: class 'zebra' is not in .*classes\.txt",
        ),
        (damage_empty_list, r"train\.txt: the id list is empty"),
        (damage_repeated_id, r"id 'train_00000' is listed more than once"),
        (damage_escaping_id, r"'\.\./\.\./etc/passwd' cannot be an id"),
        (damage_no_list, r"no such id list; .* has the splits: val"),
    ],
)
def test_damage_is_reported_when_the_data_set_is_opened(own_shapes, damage, message):
    damage(own_shapes)
    with pytest.raises(InputError, match=message):
        data.load(own_shapes)


def test_without_an_annotation_there_are_no_tags(own_shapes):
    (own_shapes / "Annotations" / f"{first(own_shapes)}.xml").unlink()
    loaded = data.load(own_shapes)
    assert not loaded.tagged and data.opened(own_shapes, tags=False).masks
    missing = (
        r"no tags, since .*train_00000\.xml is missing \(1 of the \d+ annotations are\); --tags"
    )
    with pytest.raises(InputError, match=missing):
        data.opened(own_shapes)
