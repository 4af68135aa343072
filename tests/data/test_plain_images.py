"""Folders and lists of images without a layout."""

import numpy as np
import pytest
from odd_folders import SIZE, photo
from PIL import Image

from wsss_fast import InputError, data
from wsss_fast.engine import remarks


@pytest.fixture
def folder(tmp_path):
    for name in ("b.JPG", "a.png", "IMG 1.jpeg"):
        photo(tmp_path / "photos" / name)
    return tmp_path / "photos"


def test_a_folder_of_images(folder):
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    photo(folder / "more" / "c.jpg")
    with remarks.collected():
        loaded = data.load_images(folder)
        (line,) = remarks.lines()
    assert "not named like images are not used: 1 file: notes.txt" in line
    assert loaded.ids == ("IMG 1", "a", "b") and loaded.size("a") == SIZE
    assert loaded.layout == "images" and not loaded.tagged and loaded.classes == ()
    assert loaded.tags.shape == (3, 0) and loaded.masks == {} == loaded.saliencies
    with pytest.raises(InputError, match=r"has no labels\.csv, and --tags FILE was not given"):
        loaded.check_tagged()


def test_one_image_and_a_list_of_images(folder):
    assert data.load_images(folder / "a.png").ids == ("a",)
    photo(folder / "more" / "c.jpg")
    loaded = data.load_images([str(folder / "more" / "c.jpg"), folder / "a.png"])
    assert loaded.ids == ("c", "a") and loaded.root == folder


def test_images_below_images_and_their_classes(tmp_path):
    photo(tmp_path / "images" / "a.jpg")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    loaded = data.load_images(tmp_path)
    assert loaded.ids == ("a",) and loaded.classes == ("cat", "dog") and loaded.tags.shape == (1, 2)


def test_every_kind_of_photo(tmp_path):
    pixels = np.full((9, 13, 3), (200, 80, 40), np.uint8)
    rgb = Image.fromarray(pixels)
    for mode, name in (("L", "l.png"), ("RGBA", "a.png"), ("P", "p.gif"), ("CMYK", "c.jpg")):
        rgb.convert(mode).save(tmp_path / name)
    rgb.save(tmp_path / "w.webp")
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(tmp_path / "turned.jpg", exif=exif)
    loaded = data.load_images(tmp_path)
    assert len(loaded) == 6 and loaded.size("turned") == (13, 9)
    assert all(loaded.image(id).shape[2] == 3 for id in loaded.ids)


def test_what_cannot_be_an_image_is_named(folder):
    (folder / "cut.jpg").write_bytes((folder / "b.JPG").read_bytes()[:200])
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    (folder / "page.png").write_text("<!doctype html><p>not found")
    loaded = data.load_images(folder, strict=False)
    assert loaded.ids == ("IMG 1", "a", "b") and set(loaded.broken) == {"cut", "phone", "page"}
    assert "HEIC, which is not supported" in loaded.broken["phone"]
    assert "web page" in loaded.broken["page"]
    with pytest.raises(InputError, match="cut.jpg: truncated JPEG"):
        data.load_images(folder)
    with pytest.raises(InputError, match=r"gone\.jpg: no such file or folder"):
        data.load_images([folder / "gone.jpg"])
    loaded = data.load_images([folder / "gone.jpg", folder / "a.png"], strict=False)
    assert loaded.ids == ("a",) and "no such image" in loaded.broken["gone"]


def test_a_name_that_cannot_be_an_id_is_left_out(folder):
    photo(folder / "bad\nname.jpg")
    loaded = data.load_images(folder, strict=False)
    assert len(loaded) == 3 and "cannot be an id" in loaded.broken["bad\nname.jpg"]
    with pytest.raises(InputError, match="cannot be an id"):
        data.load_images(folder)


def test_two_images_of_one_name(folder):
    photo(folder / "a.jpg")
    with pytest.raises(InputError, match=r"a\.png: has the same name without extension as .*a.jpg"):
        data.load_images(folder)
    with pytest.raises(InputError, match="has the same name"):
        data.load_images([folder / "b.JPG"] * 2)


def test_a_photo_and_its_heic_twin(folder):
    (folder / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    with remarks.collected():
        assert data.load_images(folder).images["a"].name == "a.png"
        assert any("twin of the same name" in line for line in remarks.lines())


def test_folders_without_images(tmp_path):
    photo(tmp_path / "deeper" / "a.jpg")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="has no images, .*; .*deeper has some"):
        data.load_images(tmp_path)
    with pytest.raises(InputError, match="images: the list is empty"):
        data.load_images([])


def test_where_no_tags_are_needed_a_plain_folder_is_opened(folder):
    assert data.opened(folder, tags=False).ids == ("IMG 1", "a", "b")
    assert data.opened(folder / "a.png", tags=False).ids == ("a",)
    with pytest.raises(InputError, match="none of the known layouts"):
        data.opened(folder)
    (folder / "labels.csv").write_text("a.png,cat\n")
    assert data.opened(folder, tags=False).ids == ("a",)
