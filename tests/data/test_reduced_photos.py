"""Large JPEGs are decoded smaller where the augmentation shrinks them far more than that."""

import numpy as np
import pytest
from PIL import Image

from wsss_fast import amn, cam, data, eps, irn, seg
from wsss_fast.data.transforms import Augment
from wsss_fast.readers.photos import read_image, reduction

PUBLISHED = {
    "cam": cam.RECIPES["resnet50"].augment,
    "cam38": cam.RECIPES["resnet38"].augment,
    "amn": amn.RECIPES["resnet50"].augment,
    "irn": irn.RECIPES["resnet50"].augment,
    "eps": eps.RECIPES["resnet38"].augment,
    "eps-coco": eps.COCO.augment,
    "seg": seg.RECIPES["resnet101"].augment,
}
SHRINKING = Augment(crop=96, long_side=(64, 96))


def smooth(height, width):
    """A photo whose left half is dark and whose top is red."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width // 2 :] = 200
    image[: height // 4, :, 0] = 255
    return image


@pytest.fixture
def folder(tmp_path):
    """A data set of a large JPEG, one turned by EXIF, and a large PNG."""
    (tmp_path / "images").mkdir()
    photo = Image.fromarray(smooth(600, 800))
    photo.save(tmp_path / "images" / "plain.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by a quarter
    photo.transpose(Image.Transpose.ROTATE_90).save(
        tmp_path / "images" / "turned.jpg", quality=95, exif=exif
    )
    photo.save(tmp_path / "images" / "lossless.png")
    (tmp_path / "labels.csv").write_text("id,tags\nplain,a\nturned,a\nlossless,a\n")
    return data.load(tmp_path)


def test_largest_reduction_that_leaves_enough():
    assert reduction((3000, 4000), (375, 500)) == 8
    assert reduction((3000, 4000), (376, 500)) == 4
    assert reduction((3000, 4000), (375, 501)) == 4
    assert reduction((3000, 4000), (1500, 1)) == 2
    assert reduction((3000, 4000), (1501, 1)) == 1
    assert reduction((7, 7), (1, 1)) == 4


@pytest.mark.parametrize("name", ["plain", "turned"])
def test_jpeg_is_decoded_smaller_and_upright(folder, name):
    asked = []

    def least(size):
        asked.append(size)
        return 150, 200

    small = folder.image(name, least)
    whole = folder.image(name)
    assert asked == [(600, 800)] and small.shape == (150, 200, 3) and whole.shape == (600, 800, 3)
    shrunk = np.asarray(Image.fromarray(whole).resize((200, 150), Image.Resampling.BOX))
    difference = np.abs(small.astype(int) - shrunk)
    assert difference.mean() < 1 and np.quantile(difference, 0.98) < 8  # all but edges
    # The whole photo is in the cache now, and is not returned instead.
    assert folder.image(name, least).tobytes() == small.tobytes()
    assert folder.image(name, lambda size: (301, 1)) is whole


def test_other_formats_are_read_whole(folder):
    small = folder.image("lossless", lambda size: (10, 10))
    assert small.shape == (600, 800, 3)
    np.testing.assert_array_equal(small, smooth(600, 800))


@pytest.mark.parametrize("name", ["plain", "turned", "lossless"])
def test_samples_are_those_of_the_whole_photo(folder, name):
    """The same random numbers, place and labels; nearly the same pixels, whatever is cached."""
    labels = (smooth(600, 800)[..., 1] > 0).astype(np.uint8)
    for seed in range(6):
        generators = [np.random.default_rng(seed) for _ in range(3)]
        first = SHRINKING(folder.photo(name), labels, generators[0])
        whole = SHRINKING(folder.image(name), labels, generators[1])
        again = SHRINKING(folder.photo(name), labels, generators[2])
        assert (first[0] == again[0]).all() and (first[1] == whole[1]).all()
        assert (first[0] - whole[0]).abs().mean() < 0.05
        folder._cache.clear()


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_photo_of_voc_or_coco_is_reduced_by_the_published_recipes(name):
    for size in ((375, 500), (500, 375), (480, 640), (640, 640)):
        for seed in range(200):

            def photo(least, size=size):
                assert reduction(size, least(size)) == 1
                return np.zeros((*size, 3), np.uint8)

            PUBLISHED[name]._opened(photo, np.random.default_rng(seed))


def test_reader_decodes_whole_photos_unless_asked(folder):
    assert read_image(folder.images["plain"]).shape == (600, 800, 3)
