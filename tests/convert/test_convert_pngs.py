"""Class maps as gray PNGs per class, and WSSS-BED's pseudo-masks of them."""

import numpy as np
import pytest
from PIL import Image

from wsss_fast import InputError, RunError, convert
from wsss_fast.cli import run
from wsss_fast.maps import ClassMaps, load_maps, save_maps

SIZE = (12, 17)
LEVELS = np.random.default_rng(0).integers(0, 256, (2, *SIZE), dtype=np.uint8)


@pytest.fixture
def pngs(tmp_path):
    """Maps of classes 0 and 14 of 2007_000032, and of class 3 of b."""
    folder = tmp_path / "pngs"
    folder.mkdir()
    for name, levels in (("2007_000032_0", LEVELS[0]), ("2007_000032_14", LEVELS[1])):
        Image.fromarray(levels).save(folder / f"{name}.png")
    Image.fromarray(LEVELS[0, :6]).save(folder / "b_3.png")
    return folder


def public_masks(folder, id, classes, saliency, threshold, num_classes=20):
    """Pseudo-masks as WSSS-BED's run.py makes them."""
    salient = (np.float32(np.array(Image.open(saliency).convert("L"))) / 255.0 > 0.2).astype("f4")
    pred = np.zeros((num_classes + 1, *salient.shape), np.float32)
    pred[0] = 1.0 - salient
    for c in classes:
        pred[c + 1] = np.array(Image.open(folder / f"{id}_{c}.png")).astype(np.float32) / 255.0
    pred[1:] = np.where(pred[1:] < threshold, 0, pred[1:])
    return pred.argmax(0).astype(np.uint8)


def test_to_our_maps_and_back_bit_for_bit(tmp_path, pngs):
    convert.maps_from_pngs(pngs, tmp_path / "ours")
    ours = load_maps(tmp_path / "ours", "2007_000032")
    assert ours.keys.tolist() == [1, 15] and ours.strided.shape == (2, 3, 5)
    np.testing.assert_allclose(ours.high_res, LEVELS / 255, atol=5e-4)
    assert load_maps(tmp_path / "ours", "b").keys.tolist() == [4]
    convert.maps_to_pngs(tmp_path / "ours", tmp_path / "back")
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == sorted(
        p.name for p in pngs.iterdir()
    )
    for path in pngs.iterdir():
        back = Image.open(tmp_path / "back" / path.name)
        assert back.mode == "L"
        np.testing.assert_array_equal(np.array(back), np.array(Image.open(path)))


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_masks_are_those_of_wsss_bed(tmp_path, pngs, threshold):
    saliency = tmp_path / "saliency"
    saliency.mkdir()
    levels = np.random.default_rng(1).integers(40, 62, SIZE, dtype=np.uint8)  # 51 is .2
    Image.fromarray(levels).save(saliency / "2007_000032.png")
    (pngs / "b_3.png").unlink()
    words = ["--saliency", str(saliency), "--threshold", str(threshold)]
    assert run(["convert", "from-pngs", str(pngs), str(tmp_path / "ours"), *words]) == 0
    ours = load_maps(tmp_path / "ours", "2007_000032")
    assert ours.keys.tolist() == [0, 1, 15]
    wanted = public_masks(pngs, "2007_000032", (0, 14), saliency / "2007_000032.png", threshold)
    np.testing.assert_array_equal(ours.keys[ours.high_res.argmax(axis=0)], wanted)
    assert set(np.unique(wanted)) == {0, 1, 15}


def test_photos_without_a_class_have_empty_maps(tmp_path, pngs):
    photos = tmp_path / "photos"
    photos.mkdir()
    sizes = {"2007_000032": SIZE, "b": (6, SIZE[1]), "plain": (9, 9)}
    for id, size in sizes.items():
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(photos / f"{id}.jpg")
    convert.maps_from_pngs(pngs, tmp_path / "ours", images=photos)
    plain = load_maps(tmp_path / "ours", "plain")
    assert plain.keys.size == 0 and plain.high_res.shape == (0, 9, 9)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(photos / "b.jpg")
    with pytest.raises(RunError, match="1 of 3 files were left out"):
        convert.maps_from_pngs(pngs, tmp_path / "again", images=photos)


def test_odd_files_are_named_and_the_rest_is_converted(tmp_path, pngs, capsys):
    (pngs / "cut_1.png").write_bytes((pngs / "b_3.png").read_bytes()[:60])
    Image.fromarray(LEVELS[0]).save(pngs / "two_1.png")
    Image.fromarray(LEVELS[0, :5]).save(pngs / "two_2.png")
    Image.fromarray(LEVELS[0]).save(pngs / "2007_000033.png")  # not class 33: it has zeros before
    Image.fromarray(LEVELS[0]).save(pngs / "c_254.png")
    with pytest.raises(RunError, match="2 of 4 files were left out"):
        convert.maps_from_pngs(pngs, tmp_path / "ours")
    err = capsys.readouterr().err
    assert "2 PNGs are not <id>_<class>.png" in err and "2007_000033.png" in err
    assert "cut_1.png: truncated" in err
    assert "two_2.png: is (5, 17), but the other maps of two (12, 17)" in err
    assert sorted(p.stem for p in (tmp_path / "ours").iterdir()) == ["2007_000032", "b"]


def test_wrong_folders_and_numbers(tmp_path, pngs):
    nowhere = tmp_path / "nowhere"
    cases = (
        ((nowhere,), {}, r"no maps <id>_<class>\.png, .*; there is no such folder"),
        ((pngs,), {"threshold": 1.5}, r"threshold is 1\.5"),
        ((pngs,), {"saliency_threshold": float("nan")}, "saliency_threshold is nan"),
        ((pngs,), {"saliency": nowhere}, "saliency: .* is not a directory"),
        ((pngs,), {"saliency": pngs}, "none of 2 files"),
    )
    for arguments, options, message in cases:
        with pytest.raises(InputError, match=message):
            convert.maps_from_pngs(*arguments, tmp_path / "out", **options)
    (tmp_path / "masks").mkdir()
    Image.fromarray(LEVELS[0]).save(tmp_path / "masks/a.png")
    with pytest.raises(InputError, match=r"such as a\.png is not <id>_<class>\.png"):
        convert.maps_from_pngs(tmp_path / "masks", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="has no maps"):
        convert.maps_to_pngs(pngs, tmp_path / "out")
    save_maps(tmp_path / "small", "a", ClassMaps(np.array([1]), np.ones((1, 3, 4), np.float32)))
    with pytest.raises(InputError, match=r"a\.npz: has no scores at the photo's size"):
        convert.maps_to_pngs(tmp_path / "small", tmp_path / "out")
