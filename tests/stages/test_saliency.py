"""Saliency maps: what is read and refused, how they move with the image, and the maps made from colours."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from wsss_fast import InputError, data
from wsss_fast.data.images import read_saliency, saliency_of
from wsss_fast.data.transforms import Augment
from wsss_fast.maps import ClassMaps, save_maps
from wsss_fast.stages import saliency


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("L", [[0, 128, 255]], [[0, 128, 255]]),
        ("1", [[False, True, True]], [[0, 255, 255]]),
        ("I;16", [[0, 32896, 65535]], [[0, 128, 255]]),
        ("RGB", [[[0, 0, 0], [128, 128, 128], [255, 255, 255]]], [[0, 128, 255]]),
    ],
)
def test_soft_and_binary_in_8_and_16_bits(tmp_path, mode, values, expected):
    dtype = {"1": bool, "I;16": np.uint16}.get(mode, np.uint8)
    Image.fromarray(np.array(values, dtype)).save(tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as image:
        assert image.mode == mode
    levels = read_saliency(tmp_path / "s.png")
    assert levels.dtype == np.uint8
    np.testing.assert_array_equal(levels, np.repeat(np.array(expected)[..., None], 3, 2))
    np.testing.assert_allclose(saliency_of(levels), np.array(expected) / 255, rtol=1e-6)


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "s.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"s\.png: cannot be read as a saliency map"):
        read_saliency(tmp_path / "s.png")
    with pytest.raises(InputError, match=r"t\.png: no such saliency map"):
        read_saliency(tmp_path / "t.png")


def test_colours_are_averaged():
    assert saliency_of(np.array([[[255, 0, 0]]], np.uint8)) == pytest.approx(1 / 3)


def with_maps(shapes, folder, levels_of):
    """`shapes` with the saliency maps that `levels_of(id)` gives."""
    for id in shapes.ids:
        data.write_labels(folder / f"{id}.png", levels_of(id), palette=b"")
    return data.load(shapes.root, saliency=folder)


def objects(shapes, bright=255):
    return lambda id: np.where(shapes.mask(id) % 255 > 0, bright, 0)


def test_missing_maps_are_counted_before_anything_starts(shapes, tmp_path):
    some = with_maps(shapes, tmp_path / "maps", objects(shapes))
    assert saliency.check(some) == 0
    lacking = dataclasses.replace(
        some, saliencies={k: v for k, v in some.saliencies.items() if k != shapes.ids[4]}
    )
    with pytest.raises(
        InputError, match=f"no map for 1 of 24 ids, first '{shapes.ids[4]}'; needs <id>.png in"
    ):
        saliency.check(lacking)


def test_black_maps(shapes, tmp_path, capsys):
    dark = with_maps(
        shapes,
        tmp_path / "one",
        lambda id: objects(shapes)(id) if id != shapes.ids[2] else np.zeros((64, 64)),
    )
    assert saliency.check(dark) == 1
    said = capsys.readouterr().err
    assert "1 of 24 maps are black" in said and shapes.ids[2] in said
    with pytest.raises(InputError, match="all maps are black"):
        saliency.check(with_maps(shapes, tmp_path / "all", objects(shapes, 0)))
    with pytest.raises(InputError, match="hold 0 and 1 only; write binary ones as 0 and 255"):
        saliency.check(with_maps(shapes, tmp_path / "ones", objects(shapes, 1)))


@pytest.fixture
def class_maps(shapes, tmp_path):
    """Maps that light the upper half of each object, as a classifier's light a part."""
    for id in shapes.ids:
        keys = np.flatnonzero(shapes.tags_of(id)) + 1
        on = np.stack([shapes.mask(id) == k for k in keys])[:, ::4, ::4].astype(np.float32)
        rows = np.nonzero(on.any(axis=(0, 2)))[0]
        if len(rows):
            on[:, int(rows.mean()) + 1 :] = 0
        save_maps(tmp_path / "cam", id, ClassMaps(keys, on))
    return tmp_path / "cam"


def test_inverted_maps_are_found_by_their_overlap(shapes, class_maps, tmp_path, capsys):
    right = saliency.overlap(with_maps(shapes, tmp_path / "right", objects(shapes)), class_maps)
    assert (
        right.inside > 0.5 > right.outside
        and not right.inverted
        and "inverted" not in capsys.readouterr().err
    )
    detector = saliency.overlap(shapes, class_maps)  # with missed objects and distractors
    assert (
        detector.inside > detector.outside
        and not detector.inverted
        and "inverted" not in capsys.readouterr().err
    )
    turned = saliency.overlap(
        with_maps(shapes, tmp_path / "turned", lambda id: 255 - objects(shapes)(id)), class_maps
    )
    assert (
        turned.inside == pytest.approx(1 - right.inside, abs=0.5 / 255)
        and len(turned.inverted) > 12
    )
    assert "these maps look inverted; objects must be bright" in capsys.readouterr().err
    three = shapes.ids[:3]
    some = with_maps(
        shapes, tmp_path / "some", lambda id: objects(shapes)(id) ^ (255 if id in three else 0)
    )
    found = saliency.overlap(some, class_maps)
    assert found.inverted and set(found.inverted) <= set(three) and found.inside > found.outside
    assert f"{len(found.inverted)} of 24 maps look inverted, first" in capsys.readouterr().err


def test_saliency_follows_its_image_through_augmentation():
    """The red channel says the saliency, so that both can be compared after any transform."""
    levels = np.zeros((40, 60, 3), np.uint8)
    levels[:, 35:] = 255
    augment, sides = Augment(crop=32, scale=(0.5, 1.5)), set()
    for seed in range(20):
        image, moved = augment.with_saliency(levels, levels, np.random.default_rng(seed))
        plain, _ = augment(levels, None, np.random.default_rng(seed))
        assert (image == plain).all()  # the same draws
        assert (
            image.shape == (3, 32, 32)
            and moved.shape == (1, 32, 32)
            and moved.min() >= 0
            and moved.max() <= 1
        )
        red = image[0].numpy() * 0.229 + 0.485
        inside = (image != 0).all(dim=0).numpy()
        np.testing.assert_allclose(moved[0].numpy()[inside], red[inside], atol=1e-5)
        assert (moved[0].numpy()[~inside] == 0).all()
        sides.add(bool(moved[..., :16].sum() > moved[..., 16:].sum()))
    assert sides == {True, False}


def test_maps_of_another_size_are_stretched():
    levels = np.zeros((10, 10, 3), np.uint8)
    levels[:, 5:] = 255
    _, moved = Augment(crop=60, flip=False).with_saliency(
        np.zeros((40, 60, 3), np.uint8), levels, np.random.default_rng(0)
    )
    inside = moved[0][moved[0].sum(dim=1) > 0]
    assert len(inside) == 40 and (inside[:, :25] < 0.1).all() and (inside[:, 35:] > 0.9).all()


def test_hue_turns_colours_and_nothing_else():
    red = np.full((8, 8, 3), (200, 40, 40), np.uint8)
    gray = np.full((8, 8, 3), 90, np.uint8)
    turning = Augment(crop=8, flip=False, jitter=1e-9, hue=0.5)
    seen = np.stack(
        [turning(red, None, np.random.default_rng(seed))[0].numpy() for seed in range(12)]
    )
    assert np.ptp(seen[:, 0, 0, 0]) > 1 and np.ptp(seen[:, 2, 0, 0]) > 1
    still = turning(gray, None, np.random.default_rng(0))[0]
    np.testing.assert_allclose(
        still, Augment(crop=8, flip=False)(gray, None, np.random.default_rng(0))[0], atol=0.02
    )
    with pytest.raises(InputError, match=r"hue must be in 0\.\.0\.5, got 0\.6"):
        Augment(crop=8, hue=0.6)


def test_what_stands_out_from_the_border_is_salient():
    image = np.zeros((60, 80, 3), np.uint8)
    image[:30], image[30:] = (120, 160, 220), (90, 130, 60)  # sky above, grass below
    image[20:45, 30:50] = (220, 60, 40)
    contrast = saliency.border_contrast(image)
    assert (
        contrast[24:41, 34:46].min() > 0.8
        and contrast[:, :20].max() < 0.2
        and contrast[:, 60:].max() < 0.2
    )
    assert (saliency.border_contrast(np.full((5, 7, 3), 90, np.uint8)) == 0).all()
    assert np.isfinite(saliency.border_contrast(image[:1, :1])).all()


def test_maps_from_colours_are_saliency_maps(shapes, tmp_path):
    made = saliency.make(shapes, tmp_path)
    loaded = data.load(shapes.root, saliency=made.folder)
    assert saliency.check(loaded) == 0
    inside, outside = [], []
    for id in shapes.ids:
        salient, mask = loaded.saliency(id), shapes.mask(id)
        assert salient.shape == mask.shape
        inside.append(salient[mask % 255 > 0].mean())
        outside.append(salient[mask == 0].mean())
    assert (
        np.nanmean(inside) > np.mean(outside) + 0.1
    )  # better than nothing, and no more is claimed
    assert (
        json.loads((tmp_path / "saliency/done.json").read_text())["notes"]["images_per_second"] > 0
    )
