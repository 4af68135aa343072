"""Saliency maps: the levels that are read, and the files that are rejected."""

import numpy as np
import pytest
from odd_images import png
from PIL import Image

from wsss_fast import InputError
from wsss_fast.readers import saliency_maps
from wsss_fast.readers.label_maps import voc_palette


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("L", [[0, 128, 255]], [[0, 128, 255]]),
        ("1", [[False, True, True]], [[0, 255, 255]]),
        ("I;16", [[0, 32896, 65535]], [[0, 128, 255]]),
        ("RGB", [[[0, 0, 0], [128, 128, 128], [255, 255, 255]]], [[0, 128, 255]]),
    ],
)
def test_saliency_in_8_and_16_bits_soft_and_binary(tmp_path, mode, values, expected):
    dtype = {"1": bool, "I;16": np.uint16}.get(mode, np.uint8)
    Image.fromarray(np.array(values, dtype)).save(tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as image:
        assert image.mode == mode
    levels = saliency_maps.read_saliency(tmp_path / "s.png")
    assert levels.dtype == np.uint8
    np.testing.assert_array_equal(levels, np.repeat(np.array(expected)[..., None], 3, 2))
    np.testing.assert_allclose(
        saliency_maps.saliency_of(levels), np.array(expected) / 255, rtol=1e-6
    )


def test_unreadable_saliency_is_named(tmp_path):
    (tmp_path / "s.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"s\.png: cannot be read as a saliency map"):
        saliency_maps.read_saliency(tmp_path / "s.png")
    with pytest.raises(InputError, match=r"t\.png: no such saliency map"):
        saliency_maps.read_saliency(tmp_path / "t.png")


def test_saliency_is_the_mean_over_colours():
    assert saliency_maps.saliency_of(np.array([[[255, 0, 0]]], np.uint8)) == pytest.approx(1 / 3)


SALIENT = np.zeros((40, 60), np.uint8)
SALIENT[10:30, 15:45] = 255
OPAQUE = np.full_like(SALIENT, 255)
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def two_colours(first, second):
    image = Image.fromarray(SALIENT // 255)
    image.putpalette([*first, *second])
    return image


def with_voc_colours(labels):
    image = Image.fromarray(labels)
    image.putpalette(voc_palette().tobytes())
    return image


def test_alpha_is_the_saliency_where_it_varies(tmp_path):
    """Cut-outs of rembg: colours of the photo, also where nothing is salient."""
    pixels = np.array([[[200, 100, 0, 255], [10, 20, 30, 0]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "s.png")
    levels = saliency_maps.read_saliency(tmp_path / "s.png")
    assert saliency_maps.saliency_of(levels).tolist() == [[1.0, 0.0]]


# Files whose saliency is SALIENT, by name.
READ = {
    "cut-out.png": Image.fromarray(np.dstack([PHOTO, SALIENT])),
    "gray cut-out.png": Image.fromarray(np.dstack([PHOTO[..., 0], SALIENT]), "LA"),
    "opaque.png": Image.fromarray(np.dstack([SALIENT, SALIENT, SALIENT, OPAQUE])),
    "half opaque.png": Image.fromarray(np.dstack([SALIENT, SALIENT, SALIENT, OPAQUE // 2])),
    "palette.png": two_colours((0, 0, 0), (255, 255, 255)),
    "1-bit.png": png(SALIENT // 255, 1),
    "4-bit.png": png(SALIENT // 17, 4),
    "16-bit.png": Image.fromarray(SALIENT.astype(np.uint16) * 257),
    "16-bit of 8.png": Image.fromarray(SALIENT.astype(np.uint16)),
    "transparent gray.png": (Image.fromarray(SALIENT), {"transparency": 255}),
    "transparent palette.png": (two_colours((9, 9, 9), (9, 9, 9)), {"transparency": 0}),
    "lossless.webp": (Image.fromarray(np.dstack([PHOTO, SALIENT])), {"lossless": True}),
}


def stored(folder, name, content):
    image, options = content if isinstance(content, tuple) else (content, {})
    if isinstance(image, bytes):
        (folder / name).write_bytes(image)
    else:
        image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("name", READ)
def test_saliency_of_cut_outs_palettes_and_depths(tmp_path, name):
    levels = saliency_maps.read_saliency(stored(tmp_path, name, READ[name]))
    np.testing.assert_array_equal(levels, np.repeat(SALIENT[..., None], 3, 2))


def test_a_wholly_transparent_map_is_black(tmp_path):
    path = stored(tmp_path, "nothing.png", Image.fromarray(np.dstack([PHOTO, 0 * OPAQUE])))
    assert not saliency_maps.read_saliency(path).any()


def test_saliency_is_turned_by_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for deep in (False, True):
        turned = np.rot90(SALIENT).astype(np.uint16) * 257 if deep else np.rot90(SALIENT)
        Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / "s.png", exif=exif)
        levels = saliency_maps.read_saliency(tmp_path / "s.png")
        np.testing.assert_array_equal(levels[..., 0], SALIENT)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.tif", Image.fromarray(SALIENT / np.float32(255)), "has floating-point values"),
        ("s.tif", Image.fromarray(SALIENT.astype(np.int32) * 999), r"spans 0\.\.254745; 16-bit"),
        ("s.tif", Image.fromarray(-SALIENT.astype(np.int32)), r"spans -255\.\.0"),
        ("s.tif", Image.fromarray(PHOTO).convert("CMYK"), "has mode CMYK"),
        (
            "s.gif",
            (
                Image.fromarray(SALIENT),
                {"save_all": True, "append_images": [Image.fromarray(OPAQUE)]},
            ),
            "has 2 pictures",
        ),
        ("s.png", png(np.dstack([SALIENT] * 3), 16, colour=2), "no value above 255"),
        ("s.png", b"", "it is empty"),
        ("s.png", png(SALIENT, 8)[:-30], "truncated saliency map"),
        ("s.png", with_voc_colours(SALIENT // 255), "VOC's colours, so it is a label map"),
        ("s.png", with_voc_colours(SALIENT), "VOC's colours, so it is a label map"),
    ],
)
def test_saliency_that_is_rejected(tmp_path, name, content, message):
    path = stored(tmp_path, name, content)
    with pytest.raises(InputError, match=rf"{name}: .*{message}"):
        saliency_maps.read_saliency(path)


def test_colours_and_small_values_are_remarked(tmp_path, capsys):
    saliency_maps.read_saliency(stored(tmp_path, "heat.png", Image.fromarray(PHOTO)))
    assert "coloured saliency map: the mean of its channels is used" in capsys.readouterr().err
    saliency_maps.read_saliency(stored(tmp_path, "8.png", READ["16-bit of 8.png"]))
    assert "16 bits with values up to 255: read as 8 bits" in capsys.readouterr().err
    jpeg = stored(tmp_path, "s.jpg", Image.fromarray(np.dstack([SALIENT] * 3)))
    saliency_maps.read_saliency(jpeg)
    assert not capsys.readouterr().err
