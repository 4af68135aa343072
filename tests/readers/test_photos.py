"""Photos: what is read, what is rejected."""

import io

import numpy as np
import pytest
from odd_images import png
from PIL import Image

from wsss_fast import InputError
from wsss_fast.readers import label_maps, photos, saliency_maps


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_gray_and_cmyk_jpegs_become_rgb(tmp_path, mode):
    path = tmp_path / "x.jpg"
    Image.new("RGB", (9, 5), (200, 30, 40)).convert(mode).save(path)
    photos.check_image(path)
    read = photos.read_image(path)
    assert read.shape == (5, 9, 3) and read.dtype == np.uint8
    if mode != "L":
        assert abs(read.astype(int) - [200, 30, 40]).max() < 12


def test_exif_rotation_is_applied(tmp_path):
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.new("RGB", (9, 5)).save(path, exif=exif)
    assert photos.read_image(path).shape == (9, 5, 3) and photos.image_size(path) == (9, 5)


def test_sixteen_bit_images_are_rejected(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(path)
    with pytest.raises(InputError, match=r"x\.png: image mode I;16"):
        photos.check_image(path)
    with pytest.raises(InputError, match=r"x\.png: image mode I;16"):
        photos.read_image(path)


def test_png_with_a_truncated_header_chunk(tmp_path):
    """Pillow raises ValueError for it, not OSError; found by fuzzing."""
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\x04IHDR" + b"\0" * 8)
    for read in (
        photos.check_image,
        photos.read_image,
        label_maps.read_labels,
        saliency_maps.read_saliency,
    ):
        with pytest.raises(InputError, match="a.png: cannot be read"):
            read(path)


NOISE = np.random.default_rng(0).integers(0, 60, (100, 150, 3))
PHOTO = (np.add.outer(np.arange(100), np.arange(150))[..., None] // 2 + NOISE).astype(np.uint8)


def encoded(kind="JPEG", image=None, **options):
    file = io.BytesIO()
    (Image.fromarray(PHOTO) if image is None else image).save(file, kind, **options)
    return file.getvalue()


JPEG, PROGRESSIVE, PNG, WEBP = (
    encoded(),
    encoded(progressive=True),
    encoded("PNG"),
    encoded("WEBP"),
)
VIDEO = b"\0\0\0\x18ftypmp42" + np.random.default_rng(1).bytes(5000)
THUMBNAIL = encoded(image=Image.fromarray(PHOTO).resize((30, 20)))
WITH_THUMBNAIL = encoded(exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + THUMBNAIL)


def two(kind):
    """A file of two pictures."""
    second = Image.fromarray(PHOTO[::-1].copy())  # a new one: saving changes its encoder options
    return encoded(kind, save_all=True, append_images=[second])


WHOLE = {
    "63 zeros": (JPEG + bytes(63), JPEG),
    "64 KiB of zeros": (JPEG + bytes(1 << 16), JPEG),
    "a video behind it": (JPEG + VIDEO, JPEG),
    "a progressive one with a video": (PROGRESSIVE + VIDEO, PROGRESSIVE),
    "a thumbnail in it": (WITH_THUMBNAIL + b"SEFT", JPEG),
    "two pictures of a phone": (two("MPO") + bytes(99), JPEG),
    "a damaged EXIF block": (encoded(exif=b"Exif\0\0garbage!"), JPEG),
    "bytes behind a PNG": (PNG + VIDEO, PNG),
    "a PNG without its end chunk": (PNG[:-12], PNG),
    "bytes behind a WebP": (WEBP + VIDEO, WEBP),
}

CUT = {
    "in its pixels": JPEG[:-700],
    "before the end marker": JPEG[:-2],
    "and filled with zeros": JPEG[:-700] + bytes(9000),
    "before a video": JPEG[:-700] + VIDEO,
    "before another picture": JPEG[:-700] + JPEG + bytes(9),
    "behind its thumbnail": WITH_THUMBNAIL[: WITH_THUMBNAIL.index(b"\xff\xd9") + 30],
    "with a thumbnail": WITH_THUMBNAIL[:-500],
    "in the last scan": PROGRESSIVE[:-300],
    "in the last scan, filled": PROGRESSIVE[:-300] + bytes(900),
    "png": PNG[:-400],
    "png, filled with zeros": PNG[:-400] + bytes(1000),
    "webp": WEBP[:-200],
}


@pytest.mark.parametrize("name", WHOLE)
def test_bytes_that_are_no_photo_do_not_matter(tmp_path, name):
    content, plain = WHOLE[name]
    (tmp_path / "a.jpg").write_bytes(content)
    photos.check_image(tmp_path / "a.jpg")
    assert photos.image_size(tmp_path / "a.jpg") == (100, 150)
    expected = np.array(Image.open(io.BytesIO(plain)).convert("RGB"))
    np.testing.assert_array_equal(photos.read_image(tmp_path / "a.jpg"), expected)


@pytest.mark.parametrize("name", CUT)
def test_cut_photos_are_found(tmp_path, name):
    (tmp_path / "a.jpg").write_bytes(CUT[name])
    for read in (photos.check_image, photos.read_image):
        with pytest.raises(InputError, match=r"a\.jpg: truncated (JPEG|image) \(its "):
            read(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_every_format(tmp_path, kind, orientation):
    """The stored picture is what its orientation turns upright."""
    stored = {
        1: PHOTO,
        2: PHOTO[:, ::-1],
        3: PHOTO[::-1, ::-1],
        4: PHOTO[::-1],
        5: PHOTO.swapaxes(0, 1),
        6: np.rot90(PHOTO),
        7: np.rot90(PHOTO, 2).swapaxes(0, 1),
        8: np.rot90(PHOTO, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    image = Image.fromarray(np.ascontiguousarray(stored))
    image.save(tmp_path / "a", kind, exif=exif, **options.get(kind, {}))
    read = photos.read_image(tmp_path / "a").astype(int)
    assert photos.image_size(tmp_path / "a") == read.shape[:2] == (100, 150)
    assert np.abs(read - PHOTO).mean() < (3 if kind == "JPEG" else 1e-9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is HEIC, which is not supported; convert it"),
        (b"\n <!DOCTYPE html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "run `git lfs pull`"),
        (b"%PDF-1.7", "it is a PDF"),
        (b"PK\x03\x04", "it is a zip archive"),
        (bytes(500), "it is nothing but zeros"),
        (bytes(range(99)), "it is damaged or of an unknown format"),
        (encoded("EPS"), "is a PostScript file"),
        (encoded("TIFF", tiffinfo={254: 1}), "a reduced preview"),
        (encoded("BMP")[:-300], "cannot be read as an image"),
        (encoded("TIFF", Image.fromarray(PHOTO[..., 0] / np.float32(255))), "mode F is not"),
        (png(PHOTO, 16, colour=2), "has 16 bits per channel, but no value above 255"),
    ],
)
def test_files_that_are_no_photos(tmp_path, content, message):
    (tmp_path / "a.jpg").write_bytes(content)
    for read in (photos.check_image, photos.read_image):
        with pytest.raises(InputError, match=rf"a\.jpg: .*{message}") as caught:
            read(tmp_path / "a.jpg")
        assert len(str(caught.value).splitlines()) == 1


def test_photos_of_other_kinds_are_read(tmp_path):
    path = tmp_path / "a"
    for content in (
        png(PHOTO.astype(np.uint16) * 257, 16, colour=2),
        png(PHOTO, 8, colour=2, interlaced=True),
        encoded("TIFF"),
        encoded("BMP"),
        encoded("PNG", Image.fromarray(np.dstack([PHOTO, 255 + 0 * PHOTO[..., 0]]))),
    ):
        path.write_bytes(content)
        photos.check_image(path)
        np.testing.assert_array_equal(photos.read_image(path), PHOTO)


def test_remarks_on_transparency_and_several_pictures(tmp_path, capsys):
    hidden = np.where(np.arange(150) < 70, 0, 255).astype(np.uint8)[None].repeat(100, 0)
    Image.fromarray(np.dstack([PHOTO, hidden])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(photos.read_image(tmp_path / "a.png"), PHOTO)
    assert "transparent photo: its alpha is dropped" in capsys.readouterr().err
    for kind in ("PNG", "TIFF"):
        (tmp_path / "b").write_bytes(two(kind))
        np.testing.assert_array_equal(photos.read_image(tmp_path / "b"), PHOTO)
        assert "several pictures: only the first is used" in capsys.readouterr().err
    (tmp_path / "c").write_bytes(two("MPO"))
    photos.read_image(tmp_path / "c")
    assert not capsys.readouterr().err


def test_photos_that_exif_turns_without_another_size_are_remarked(tmp_path, capsys):
    for orientation, size, expected in (
        (3, (60, 40), True),
        (6, (60, 40), False),
        (6, (40, 40), True),
    ):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", size).save(tmp_path / "a.jpg", exif=exif)
        photos.remark_orientation(tmp_path / "a.jpg")
        assert ("its map must be turned, too" in capsys.readouterr().err) == expected
        assert photos.is_turned(tmp_path / "a.jpg")
