"""The archive for VOC's evaluation server, and what is checked before it is written."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from wsss_fast import InputError
from wsss_fast.data import VOC_CLASSES
from wsss_fast.data.lists import VOC_COUNTS
from wsss_fast.export import to_voc_test
from wsss_fast.readers.label_maps import voc_palette, write_labels

IDS = ("2008_000006", "2008_000011", "2010_006000")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A made-up VOC folder of three test images, and predictions of them."""
    monkeypatch.setitem(VOC_COUNTS, "test", len(IDS))
    rng = np.random.default_rng(0)
    (tmp_path / "voc/JPEGImages").mkdir(parents=True)
    for n, id in enumerate((*IDS, "2007_000032")):
        Image.new("RGB", (6 + n, 5)).save(tmp_path / f"voc/JPEGImages/{id}.jpg")
    for n, id in enumerate(IDS):
        labels = rng.integers(0, 21, (5, 6 + n), dtype=np.uint8)
        write_labels(tmp_path / f"masks/{id}.png", labels, b"" if n else None)
    lists = tmp_path / "voc/ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "test.txt").write_text("\n".join(IDS) + "\n")
    return tmp_path


def submit(root, **options):
    images = root / "voc/JPEGImages"
    return to_voc_test(root / "masks", root / "out.tgz", **{"images": images, **options})


def test_the_archive_is_what_the_server_takes(root):
    out = submit(root)
    with tarfile.open(out, "r:gz") as archive:
        folder = "results/VOC2012/Segmentation/comp6_test_cls"
        assert archive.getnames() == [f"{folder}/{id}.png" for id in IDS]
        for id in IDS:
            content = archive.extractfile(f"{folder}/{id}.png").read()
            image = Image.open(io.BytesIO(content))
            assert image.format == "PNG" and image.mode == "P"
            assert bytes(image.getpalette())[: 3 * 21] == voc_palette()[:21].tobytes()
            with Image.open(root / f"masks/{id}.png") as given:
                assert np.array_equal(np.asarray(image), np.asarray(given))


def test_equal_masks_give_equal_archives(root):
    first = submit(root).read_bytes()
    assert submit(root).read_bytes() == first


def test_the_competition_names_the_folder(root):
    with tarfile.open(submit(root, competition="comp5")) as archive:
        assert all("/comp5_test_cls/" in name for name in archive.getnames())


def test_without_photos_the_number_and_the_names_are_checked(root, capfd):
    submit(root, images=None)
    assert "sizes are not compared" in capfd.readouterr().err
    write_labels(root / "masks/2011_000001.png", np.zeros((1, 1)))
    with pytest.raises(InputError, match="has 4 PNGs, but VOC12's test list has 3"):
        submit(root, images=None)
    submit(root)  # the list of the test images chooses among the masks
    (root / "masks/2011_000001.png").rename(root / "masks/00001.png")
    with pytest.raises(InputError, match=r"00001\.png: is not named as VOC12's"):
        submit(root, images=None)


def refuse_ignored(root):
    write_labels(root / f"masks/{IDS[1]}.png", np.full((5, 7), 255))


def refuse_size(root):
    write_labels(root / f"masks/{IDS[1]}.png", np.zeros((7, 5)))


def refuse_label(root):
    write_labels(root / f"masks/{IDS[1]}.png", np.full((5, 7), 21))


def refuse_colours(root):
    Image.new("RGB", (7, 5), (1, 2, 3)).save(root / f"masks/{IDS[1]}.png")


def refuse_damage(root):
    path = root / f"masks/{IDS[1]}.png"
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (refuse_ignored, "has ignored pixels"),
        (refuse_size, "height and width are exchanged"),
        (refuse_label, "label 21 is impossible"),
        (refuse_colours, "is a colour image"),
        (refuse_damage, "truncated"),
    ],
)
def test_a_wrong_mask_refuses_the_whole_submission(root, spoil, text):
    spoil(root)
    with pytest.raises(InputError, match="1 of 3 masks cannot be submitted") as error:
        submit(root)
    assert f"{IDS[1]}.png" in str(error.value) and text in str(error.value)
    assert not (root / "out.tgz").exists() and not list(root.glob(".*"))


def test_a_missing_mask_is_named(root):
    (root / f"masks/{IDS[2]}.png").unlink()
    with pytest.raises(InputError, match=f"no PNG for 1 of 3 test images, first '{IDS[2]}'"):
        submit(root)


def test_another_list_is_not_the_test_list(root):
    (root / "two.txt").write_text("\n".join(IDS[:2]))
    with pytest.raises(InputError, match=r"two\.txt: has 2 ids, VOC12's test list 3"):
        submit(root, ids=root / "two.txt")


def test_classes_must_be_those_of_voc(root):
    assert submit(root, classes=VOC_CLASSES).is_file()
    names = dict(enumerate(VOC_CLASSES, 1))
    (root / "masks/classes.json").write_text(json.dumps(names))
    assert submit(root).is_file()
    (root / "masks/classes.json").write_text(json.dumps({**names, 3: "fish"}))
    with pytest.raises(InputError, match="20 of VOC12 in their order, has 20; label 3 is 'fish'"):
        submit(root)
    with pytest.raises(InputError, match="has 2$"):
        submit(root, classes=VOC_CLASSES[:2])


@pytest.mark.parametrize("name", ["out.tar", "out.zip", "masks"])
def test_other_archives_are_rejected(root, name):
    with pytest.raises(InputError, match="out: "):
        to_voc_test(root / "masks", root / name)
