"""Seeds from class maps."""

import numpy as np
import pytest
import torch

from wsss_fast import InputError, data, seeds
from wsss_fast.data import read_labels
from wsss_fast.maps import ClassMaps, save_maps
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.seeds import combine


def test_combine():
    confident, loose = np.array([[3, 0, 0, 2]]), np.array([[3, 1, 0, 0]])
    found = combine(torch.from_numpy(confident), torch.from_numpy(loose))
    np.testing.assert_array_equal(found.numpy(), [[3, 255, 0, 2]])


def test_without_a_crf_the_two_thresholds_decide(shapes, truth_maps, tmp_path):
    result = seeds.make(
        shapes, truth_maps, tmp_path / "run", fg_threshold=0.5, bg_threshold=0.1, crf=None
    )
    for id in shapes.ids:
        seed, truth = read_labels(result.folder / f"{id}.png"), shapes.mask(id)
        tagged = np.isin(truth, np.flatnonzero(shapes.tags_of(id)) + 1)
        np.testing.assert_array_equal(seed[tagged], truth[tagged])
        assert (seed == 255).any() and not np.isin(seed[~tagged], range(1, 9)).any()
    assert result.foreground + result.background + result.ignored == pytest.approx(1, abs=1e-3)


def test_the_crf_moves_labels_to_the_edges_of_the_image(shapes, truth_maps, tmp_path):
    crf = Crf(bilateral=(20.0, 13.0, 10.0))
    options = {"fg_threshold": 0.5, "bg_threshold": 0.1, "crf": crf}
    result = seeds.make(shapes, truth_maps, tmp_path / "run", **options, batch_size=3)
    single = seeds.make(shapes, truth_maps, tmp_path / "one", **options, batch_size=1)
    for id in shapes.ids:
        seed = read_labels(result.folder / f"{id}.png")
        assert set(np.unique(seed)) <= {0, 255, *(np.flatnonzero(shapes.tags_of(id)) + 1)}
        assert (seed == read_labels(single.folder / f"{id}.png")).mean() > 0.999


def test_an_image_without_tags_is_background(own_shapes, tmp_path):
    (own_shapes / "Annotations/train_00000.xml").write_text("<annotation></annotation>")
    some = data.load(own_shapes, ids=["train_00000"])
    none = ClassMaps(np.zeros(0), np.zeros((0, 16, 16)), np.zeros((0, 64, 64)))
    save_maps(tmp_path / "maps", "train_00000", none)
    result = seeds.make(some, tmp_path / "maps", tmp_path / "run")
    assert (read_labels(result.folder / "train_00000.png") == 0).all() and result.background == 1.0


def test_bad_input_is_reported_before_anything_is_written(shapes, truth_maps, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(InputError, match="bg_threshold=0.4 and fg_threshold=0.3"):
        seeds.make(shapes, truth_maps, out, fg_threshold=0.3, bg_threshold=0.4)
    with pytest.raises(InputError, match="is not a directory"):
        seeds.make(shapes, tmp_path / "nowhere", out)
    (truth_maps / f"{shapes.ids[7]}.npz").unlink()
    with pytest.raises(InputError, match=f"no maps for 1 of 24 ids, first '{shapes.ids[7]}'"):
        seeds.make(shapes, truth_maps, out)
    assert not out.exists()


def test_a_crf_that_these_photos_cannot_have_is_rejected(shapes, truth_maps, tmp_path):
    with pytest.raises(InputError, match="too small for a 64x64 image"):
        seeds.make(shapes, truth_maps, tmp_path, crf=Crf(gaussian=(1e-30, 3.0)))


def test_maps_of_other_tags_are_rejected(shapes, truth_maps, tmp_path):
    id = shapes.ids[0]
    save_maps(
        truth_maps, id, ClassMaps(np.arange(1, 9), np.zeros((8, 16, 16)), np.zeros((8, 64, 64)))
    )
    with pytest.raises(InputError, match=f"{id}.npz: has maps of labels"):
        seeds.make(shapes, truth_maps, tmp_path / "run")


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f2", "longdouble"])
def test_maps_of_any_float_dtype_give_the_same_seeds(shapes, truth_maps, tmp_path, dtype):
    """As other programs save them; in Fortran order, too."""
    some, other = shapes.only(shapes.ids[:4]), tmp_path / "other"
    other.mkdir()
    for id in some.ids:
        stored = np.load(truth_maps / f"{id}.npz")
        np.savez(
            other / f"{id}.npz",
            keys=stored["keys"],
            strided=stored["strided"].astype(dtype),
            high_res=np.asfortranarray(stored["high_res"].astype(dtype)),
        )
    options = {"fg_threshold": 0.5, "bg_threshold": 0.1, "crf": None}
    expected = seeds.make(some, truth_maps, tmp_path / "one", **options).folder
    found = seeds.make(some, other, tmp_path / "two", **options).folder
    for id in some.ids:
        assert (found / f"{id}.png").read_bytes() == (expected / f"{id}.png").read_bytes()
