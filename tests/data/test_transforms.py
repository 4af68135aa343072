"""Augmentation: random numbers, padding, and that image, labels and maps are moved together."""

import colorsys

import numpy as np
import pytest

from wsss_fast import InputError
from wsss_fast.data.colours import shift_hsv
from wsss_fast.data.transforms import Augment, normalise, resize_image, resize_labels, subtract_mean


def scene(height=40, width=60):
    """Image and labels; the red channel shows the label, to compare them after any transform."""
    labels = np.zeros((height, width), np.uint8)
    labels[:, width // 2 :] = 1
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = labels * 255
    return image, labels


def test_normalise_by_imagenets_statistics():
    image = np.full((2, 3, 3), 255, np.uint8)
    white = (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(normalise(image)[:, 0, 0], white, rtol=1e-6)


def test_the_table_of_normalise_is_exact():
    """uint8 uses the table, other types the formula, with the same bits; on mirrored views too."""
    levels = np.random.default_rng(0).permutation(np.arange(3 * 256) // 3).astype(np.uint8)
    image = levels.reshape(16, 16, 3)[:, ::-1]
    found = normalise(image)
    np.testing.assert_array_equal(found, normalise(image.astype(np.float64)))
    assert found.dtype == np.float32 and found.flags.c_contiguous


def test_same_generator_same_sample_and_labels_follow_the_image():
    augment = Augment(crop=32, scale=(0.5, 1.5))
    image, labels = scene()
    flips = set()
    for seed in range(20):
        x, y = augment(image, labels, np.random.default_rng(seed))
        x2, y2 = augment(image, labels, np.random.default_rng(seed))
        assert x.shape == (3, 32, 32) and y.shape == (32, 32)
        assert (x == x2).all() and (y == y2).all()
        red = x[0].numpy() * 0.229 + 0.485
        inside = y.numpy() != 255
        agree = (red > 0.5) == (y.numpy() == 1)
        assert agree[inside].mean() > 0.9  # bicubic and nearest differ along the edge
        flips.add(bool((y == 1).any() and (y[:, :16] == 1).sum() > (y[:, 16:] == 1).sum()))
    assert flips == {True, False}


def test_padding_is_mean_colour_and_ignored():
    augment = Augment(crop=64, flip=False)
    image, labels = scene(20, 30)
    x, y = augment(image, labels, np.random.default_rng(0))
    assert (y != 255).sum() == 20 * 30
    assert (x[:, y == 255] == 0).all() and (x[:, y != 255] != 0).all()


def test_long_side():
    augment = Augment(crop=200, long_side=(90, 100), flip=False)
    sizes = set()
    for seed in range(10):
        _, y = augment(*scene(40, 60), np.random.default_rng(seed))
        rows, columns = np.nonzero(y.numpy() != 255)
        sizes.add(int(np.ptp(columns)) + 1)
        assert abs((np.ptp(rows) + 1) / (np.ptp(columns) + 1) - 40 / 60) < 0.02
    assert min(sizes) >= 90 and max(sizes) <= 100 and len(sizes) > 3


def test_jitter_changes_colours_only_if_enabled():
    image = np.random.default_rng(0).integers(60, 200, (32, 32, 3)).astype(np.uint8)
    still, _ = Augment(crop=32, flip=False)(image, None, np.random.default_rng(1))
    moved, _ = Augment(crop=32, flip=False, jitter=0.3)(image, None, np.random.default_rng(1))
    np.testing.assert_allclose(still, normalise(image))
    assert 0.01 < float((moved - still).abs().mean()) < 2


@pytest.mark.parametrize(
    "wrong", [{"scale": (1.5, 0.5)}, {"scale": (0.0, 1.0)}, {"crop": 0}, {"jitter": 1.0}]
)
def test_impossible_augmentation(wrong):
    with pytest.raises(InputError):
        Augment(**{"crop": 8, **wrong})


def test_no_resize_to_the_same_size():
    image, labels = scene()
    assert resize_image(image, 40, 60) is image and resize_labels(labels, 40, 60) is labels
    assert set(np.unique(resize_labels(labels, 13, 17))) == {0, 1}
    assert resize_image(image, 13, 17).shape == (13, 17, 3)


def test_mean_colour_of_caffes_networks():
    image = np.array([[[123, 117, 104], [255, 0, 10]]], np.uint8)  # RGB
    expected = np.array(
        [[104 - 104.008, 10 - 104.008], [117 - 116.669, -116.669], [123 - 122.675, 255 - 122.675]]
    )
    np.testing.assert_allclose(subtract_mean(image)[:, 0], expected, atol=1e-4)


def test_upper_left_corner():
    image = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
    np.testing.assert_array_equal(Augment(crop=3).cropped(image, None, 0, 0)[0], image[:, :3, :3])
    larger, labels = Augment(crop=7).cropped(image, np.ones((4, 5), np.uint8), 0, 0)
    np.testing.assert_array_equal(larger[:, :4, :5], image)
    assert larger.shape == (3, 7, 7) and larger.sum() == image.sum()
    assert (labels == 255).sum() == 49 - 20


def test_deeplabs_augmentation():
    """One of the given factors, sizes rounded down, no antialiasing, small images in the corner."""
    augment = Augment(
        crop=50, factors=(0.5, 0.8), linear=True, corner=True, flip=False, to_input=subtract_mean
    )
    image, labels = scene(41, 61)
    seen = set()
    for seed in range(20):
        cropped, moved = augment(image, labels, np.random.default_rng(seed))
        inside = moved != 255
        assert inside[0, 0] and (cropped[:, ~inside] == 0).all()
        seen.add((int(inside[:, 0].sum()), int(inside[0].sum())))
    assert seen == {(20, 30), (32, 48)}
    checkers = np.indices((8, 8)).sum(0) % 2 * np.uint8(255)
    shrunk, _ = Augment(crop=4, linear=True).resized(checkers[..., None].repeat(3, 2), None, 1 / 3)
    assert shrunk.shape == (2, 2, 3) and shrunk.dtype == np.float32
    assert not np.isin(shrunk, [0, 255]).any()
    with pytest.raises(InputError, match="augment.factors"):
        Augment(crop=8, factors=(0.5, 0.0))


def test_saliency_moves_with_its_image():
    """The red channel shows the saliency, to compare them after any transform."""
    levels = np.zeros((40, 60, 3), np.uint8)
    levels[:, 35:] = 255
    augment, sides = Augment(crop=32, scale=(0.5, 1.5)), set()
    for seed in range(20):
        image, moved = augment.with_saliency(levels, levels, np.random.default_rng(seed))
        plain, _ = augment(levels, None, np.random.default_rng(seed))
        assert (image == plain).all()  # the same random numbers
        assert image.shape == (3, 32, 32) and moved.shape == (1, 32, 32)
        assert moved.min() >= 0 and moved.max() <= 1
        red = image[0].numpy() * 0.229 + 0.485
        inside = (image != 0).all(dim=0).numpy()
        np.testing.assert_allclose(moved[0].numpy()[inside], red[inside], atol=1e-5)
        assert (moved[0].numpy()[~inside] == 0).all()
        sides.add(bool(moved[..., :16].sum() > moved[..., 16:].sum()))
    assert sides == {True, False}


def test_saliency_of_another_size_is_stretched():
    levels = np.zeros((10, 10, 3), np.uint8)
    levels[:, 5:] = 255
    _, moved = Augment(crop=60, flip=False).with_saliency(
        np.zeros((40, 60, 3), np.uint8), levels, np.random.default_rng(0)
    )
    inside = moved[0][moved[0].sum(dim=1) > 0]
    assert len(inside) == 40 and (inside[:, :25] < 0.1).all() and (inside[:, 35:] > 0.9).all()


def test_maps_move_with_their_image():
    """Each of M maps is resized as a channel of an RGB image, and moved as the labels."""
    rng = np.random.default_rng(0)
    image, labels = scene()
    maps = rng.integers(0, 256, (3, 25, 35), dtype=np.uint8)
    augment = Augment(crop=48, scale=(0.5, 1.5))
    for seed in range(8):
        x, y, three = augment.with_maps(image, labels, maps, np.random.default_rng(seed))
        plain_x, plain_y = augment(image, labels, np.random.default_rng(seed))
        assert (x == plain_x).all() and (y == plain_y).all()
        _, _, one = augment.with_maps(image, labels, maps[1:2], np.random.default_rng(seed))
        assert three.shape == (3, 48, 48) and (three[1] == one[0]).all()
        assert (three[:, y == 255] == 0).all()
    whole = Augment(crop=60, flip=False)  # the image is 40 x 60
    _, y, moved = whole.with_maps(image, labels, maps, np.random.default_rng(0))
    as_rgb = resize_image(maps.transpose(1, 2, 0), 40, 60).transpose(2, 0, 1)
    inside = moved[:, y[:, 0] != 255]
    np.testing.assert_array_equal(inside, (as_rgb / 255).astype(np.float32))


def test_hue_changes_colours_but_not_gray():
    red = np.full((8, 8, 3), (200, 40, 40), np.uint8)
    gray = np.full((8, 8, 3), 90, np.uint8)
    hued = Augment(crop=8, flip=False, jitter=1e-9, hue=0.5)
    seen = np.stack([hued(red, None, np.random.default_rng(s))[0].numpy() for s in range(12)])
    assert np.ptp(seen[:, 0, 0, 0]) > 1 and np.ptp(seen[:, 2, 0, 0]) > 1
    still = hued(gray, None, np.random.default_rng(0))[0]
    plain, _ = Augment(crop=8, flip=False)(gray, None, np.random.default_rng(0))
    np.testing.assert_allclose(still, plain, atol=0.02)
    with pytest.raises(InputError, match=r"hue must be in 0\.\.0\.5, got 0\.6"):
        Augment(crop=8, hue=0.6)


def test_hue_saturation_and_value_are_shifted():
    """By colorsys, whose numbers are not rounded to whole levels."""
    rng = np.random.default_rng(0)
    image = rng.integers(30, 220, (8, 9, 3), np.uint8)
    image[..., 0] //= 2  # far from gray, where the hue is uncertain
    shifted = shift_hsv(image, 9, -10, 7)
    for before, after in zip(image.reshape(-1, 3), shifted.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before / 255.0)
        moved = ((hue + 9 / 180) % 1, max(saturation - 10 / 255, 0), value + 7 / 255)
        np.testing.assert_allclose(after, np.array(colorsys.hsv_to_rgb(*moved)) * 255, atol=5)
    np.testing.assert_array_equal(shift_hsv(np.full((1, 1, 3), 250, np.uint8), 0, 0, 10), 255)


def test_only_hsv_changes_the_colours():
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    plain, shifted = (
        Augment(crop=12, hsv=hsv)(image, None, np.random.default_rng(3))[0] for hsv in (0, 10)
    )
    assert 0 < (plain - shifted).abs().max() < 1.5  # in standard deviations
