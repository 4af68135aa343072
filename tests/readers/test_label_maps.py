"""Label maps: the labels that are read, and the files that are rejected."""

import numpy as np
import pytest
from odd_images import chunk, png, tiff
from PIL import Image

from wsss_fast import InputError
from wsss_fast.engine import remarks
from wsss_fast.readers import label_maps
from wsss_fast.readers.label_maps import read_labels

BOX = np.zeros((40, 60), np.uint8)
BOX[10:30, 15:45] = 1
LABELS = BOX.copy()
LABELS[35:] = 3
VOC = label_maps.voc_palette()
GAMMA = chunk(b"gAMA", (45455).to_bytes(4, "big"))


def palette_image(indices, colours):
    image = Image.fromarray(indices)
    image.putpalette([int(level) for colour in colours for level in colour])
    return image


def gray_palette(*levels):
    return palette_image(
        np.searchsorted([0, 1, 3], LABELS).astype(np.uint8), [[g] * 3 for g in levels]
    )


def rotated(orientation):
    """Save options of a file that is shown upright by its EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


def test_labels_are_stored_unchanged_with_vocs_colours(tmp_path):
    labels = np.array([[0, 1, 20], [255, 3, 7]], np.uint8)
    label_maps.write_labels(tmp_path / "l.png", labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "l.png", 20), labels)
    with Image.open(tmp_path / "l.png") as image:
        assert image.convert("RGB").getpixel((1, 0)) == (128, 0, 0)  # aeroplane
        assert image.convert("RGB").getpixel((2, 0)) == (0, 64, 128)  # tvmonitor
        assert image.convert("RGB").getpixel((0, 1)) == (224, 224, 192)  # ignore


def test_impossible_labels_are_rejected(tmp_path):
    label_maps.write_labels(tmp_path / "l.png", np.array([[0, 57]]))
    with pytest.raises(
        InputError, match=r"l\.png: label 57 is impossible; allowed are 0\.\.20 and 255"
    ):
        read_labels(tmp_path / "l.png", 20)
    Image.fromarray(np.full((3, 3), 300, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(
        InputError, match=r"deep\.png: label 300 is impossible; allowed are 0\.\.255"
    ):
        read_labels(tmp_path / "deep.png")
    Image.fromarray(np.full((3, 3), 65535, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match="label 65535 .*; write the object as 1"):
        read_labels(tmp_path / "deep.png", 20)


# Files of LABELS, by name: bytes, or an image and the options of `save`.
EXACT = {
    "2-bit gray.png": png(LABELS, 2),
    "4-bit gray.png": png(LABELS, 4),
    "16-bit gray.png": (Image.fromarray(LABELS.astype(np.uint16)), {}),
    "interlaced.png": png(LABELS, 8, interlaced=True),
    "interlaced 2-bit.png": png(LABELS, 2, interlaced=True),
    "gamma.png": png(LABELS, 8, extra=GAMMA),
    "gamma 4-bit.png": png(LABELS, 4, extra=GAMMA),
    "transparent label.png": (Image.fromarray(LABELS), {"transparency": 0}),
    "2-bit palette.png": (palette_image(LABELS, VOC[:4]), {"bits": 2}),
    "4-bit palette.png": (palette_image(LABELS, VOC[:16]), {"bits": 4}),
    "transparent palette.png": (palette_image(LABELS, VOC), {"transparency": 0}),
    "own palette.png": (palette_image(LABELS, [(9, 8, 7), (1, 2, 3), (0, 0, 0), (99, 0, 9)]), {}),
    "three equal channels.png": (Image.fromarray(np.stack([LABELS] * 3, -1)), {}),
    "opaque.png": (Image.fromarray(LABELS).convert("RGBA"), {}),
    "opaque gray.png": (Image.fromarray(LABELS).convert("LA"), {}),
    "gray.tif": tiff(LABELS),
    "deflated.tif": (Image.fromarray(LABELS), {"compression": "tiff_adobe_deflate"}),
    "32-bit.tif": (Image.fromarray(LABELS.astype(np.int32)), {}),
    "float.tif": (Image.fromarray(LABELS.astype(np.float32)), {}),
    "gray.bmp": (Image.fromarray(LABELS), {}),
    "palette.bmp": (palette_image(LABELS, VOC), {}),
    "gray.pgm": (Image.fromarray(LABELS), {}),
    "gray.tga": (Image.fromarray(LABELS), {}),
    "turned.png": (Image.fromarray(np.rot90(LABELS).copy()), rotated(6)),
    "upside down.png": (Image.fromarray(LABELS[::-1, ::-1].copy()), rotated(3)),
    "turned.tif": (Image.fromarray(np.rot90(LABELS).copy()), rotated(6)),
    "bytes behind its end.png": png(LABELS, 8) + bytes(500),
}

REJECTED = {
    "jpeg.png": ((Image.fromarray(LABELS), {"format": "JPEG"}), "its format is JPEG, which may"),
    "lossy.webp": ((Image.fromarray(LABELS), {}), "its format is WEBP, which may change labels"),
    "wavelets.jp2": ((Image.fromarray(LABELS), {}), "its format is JPEG2000"),
    "renumbered.gif": ((Image.fromarray(LABELS), {}), "GIF, whose writers renumber palettes; save"),
    "jpeg.tif": (
        (Image.fromarray(LABELS), {"compression": "jpeg"}),
        "a TIFF with jpeg compression",
    ),
    "inverted.tif": (tiff(LABELS, white_is_zero=True), "not stored as 0..255 from black"),
    "scaled.pgm": (b"P5\n60 40\n20\n" + LABELS.tobytes(), "not stored as 0..255 from black"),
    "scaled plain.pgm": (b"P2\n3 1\n20\n0 1 3\n", "not stored as 0..255 from black"),
    "colour.png": ((palette_image(LABELS, VOC).convert("RGB"), {}), "is a colour image"),
    "deep colour.png": (png(np.stack([LABELS] * 3, -1), 16, colour=2), "of 16 bits per channel"),
    "alpha.png": (
        (Image.fromarray(np.stack([LABELS, BOX], -1), "LA"), {}),
        "varying alpha channel",
    ),
    "fractions.tif": ((Image.fromarray(LABELS * np.float32(0.5)), {}), "label 0.5 is impossible"),
    "nan.tif": ((Image.fromarray(LABELS * np.float32("nan")), {}), "label nan is impossible"),
    "animated.png": (
        (Image.fromarray(LABELS), {"save_all": True, "append_images": [Image.fromarray(BOX)]}),
        "has 2 pictures, but a label map is one",
    ),
    "pages.tif": (
        (Image.fromarray(LABELS), {"save_all": True, "append_images": [Image.fromarray(BOX)]}),
        "has 2 pictures, but a label map is one",
    ),
    "renumbered gray.png": ((gray_palette(0, 1, 3), {}), "index 2 has the gray value 3"),
    "ignore renumbered.png": ((gray_palette(0, 1, 255), {}), "index 2 has the gray value 255"),
    "white first.png": (
        (palette_image(BOX, [(255,) * 3, (0,) * 3]), {}),
        "0 has the gray value 255",
    ),
    "renumbered colours.png": (
        (palette_image(LABELS, [VOC[0], VOC[15], VOC[1], VOC[255]]), {}),
        "index 3 has VOC's colour of label 255",
    ),
    "cut.png": (png(LABELS, 8)[:-30], r"truncated label map \(its data end too early\)"),
    "cut and zeros.png": (png(LABELS, 8)[:-30] + bytes(90), "truncated label map"),
    "empty.png": (b"", "cannot be read as a label map: it is empty"),
    "page.png": (b"\n<!DOCTYPE html><html>", "it is a web page"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid", "`git lfs pull`"),
    "array.png": (b"\x93NUMPY\x01\0", "it is an array of NumPy"),
}


def stored(folder, name, content):
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content[0].save(path, **content[1])
    return path


@pytest.mark.parametrize("name", EXACT)
def test_stored_labels_are_read(tmp_path, name):
    path = stored(tmp_path, name, EXACT[name])
    labels = read_labels(path, 3)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_array_equal(read_labels(path), LABELS)


def test_one_bit_is_label_1(tmp_path):
    black_and_white = palette_image(BOX, [(0,) * 3, (255,) * 3])
    for name, image, options in (
        ("gray.png", Image.fromarray(BOX), {"bits": 1}),
        ("bool.png", Image.fromarray(BOX.astype(bool)), {}),
        ("palette.png", black_and_white, {"bits": 1}),
        ("fax.tif", Image.fromarray(BOX.astype(bool)), {"compression": "group4"}),
        ("bool.bmp", Image.fromarray(BOX.astype(bool)), {}),
    ):
        image.save(tmp_path / name, **options)
        np.testing.assert_array_equal(read_labels(tmp_path / name), BOX)


@pytest.mark.parametrize("name", REJECTED)
def test_files_that_lose_labels_are_rejected(tmp_path, name):
    content, message = REJECTED[name]
    path = stored(tmp_path, name, content)
    with pytest.raises(InputError, match=message) as caught:
        read_labels(path)
    assert str(caught.value).startswith(str(path)) and len(str(caught.value).splitlines()) == 1


def test_colours_that_are_no_labels_do_not_matter(tmp_path):
    """VOC's colours of classes that the data set lacks; gray levels beyond the classes."""
    palette_image(BOX, [VOC[0], VOC[15]]).save(tmp_path / "own.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "own.png", 3), BOX)
    with pytest.raises(InputError, match="index 1 has VOC's colour of label 15"):
        read_labels(tmp_path / "own.png", 20)
    palette_image(BOX, [(0, 0, 0), (40, 40, 40)]).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "gray.png", 3), BOX)


def test_vocs_first_colours_in_another_order_are_remarked(tmp_path, capsys):
    """Green is VOC's label 2, and many programs' first colour."""
    palette_image(BOX, [(0, 0, 0), (0, 128, 0)]).save(tmp_path / "green.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "green.png", 3), BOX)
    assert "VOC's colours in another order: its indices are read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "needed", "message"),
    [
        ([{0, 255}, {0, 255}], False, "hold 0 and 255 only, and 255 means ignore"),
        ([{0}, {0, 255}], True, "hold 0 and 255 only"),
        ([{255}], False, "hold 255 only"),
        ([{0}, {0}], True, r"hold 0 only \(background\)"),
    ],
)
def test_folders_that_say_nothing_are_rejected(tmp_path, labels, needed, message):
    present = {tmp_path / f"{n}.png": found for n, found in enumerate(labels)}
    with pytest.raises(InputError, match=rf"masks: {tmp_path}: the maps {message}"):
        label_maps.check_folder_values(present, "masks", needed=needed)


def test_single_maps_that_say_nothing_are_remarked(tmp_path):
    present = {
        tmp_path / f"{n}.png": found
        for n, found in enumerate([{0, 1}, {255}, {0}, {0, 255}, {1, 255}])
    }
    for needed, count in ((True, 2), (False, 1)):
        with remarks.collected():
            label_maps.check_folder_values(present, "masks", needed=needed)
            ignored, without = remarks.lines()
        assert "all pixels are 255 (ignore): 1 of 5 maps" in ignored and "1.png" in ignored
        assert f"no pixel of a class: {count} of 5 maps" in without
    label_maps.check_folder_values({}, "masks")
    label_maps.check_folder_values({tmp_path / "a.png": {0}}, "masks", needed=False)


def test_size_messages_name_the_turned_photo(tmp_path):
    turned, plain = tmp_path / "turned.jpg", tmp_path / "plain.jpg"
    Image.new("RGB", (60, 40)).save(turned, **rotated(6))
    Image.new("RGB", (40, 60)).save(plain)
    label_maps.check_size(tmp_path / "l.png", (60, 40), turned, (60, 40))
    for photo, hint in (
        (turned, "the photo is turned by its EXIF orientation"),
        (plain, "height and width are exchanged"),
    ):
        with pytest.raises(InputError, match=rf"l\.png: is 40x60 pixels .* is 60x40; {hint}"):
            label_maps.check_size(tmp_path / "l.png", (40, 60), photo, (60, 40))
