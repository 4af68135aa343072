"""Map files, and labels from maps."""

import zipfile

import numpy as np
import pytest
import torch

from wsss_fast import InputError
from wsss_fast.maps import (
    ClassMaps,
    check_maps,
    label_index,
    load_maps,
    merge_views,
    save_maps,
    strided_size,
    to_labels,
)


def maps(keys=(0, 3, 5), high_res=True):
    rng = np.random.default_rng(0)
    strided = rng.random((len(keys), *strided_size(9, 13))).astype(np.float32)
    full = rng.random((len(keys), 9, 13)).astype(np.float32) if high_res else None
    return ClassMaps(np.array(keys), strided, full)


def test_round_trip_in_half_precision(tmp_path):
    save_maps(tmp_path, "a", maps())
    again = load_maps(tmp_path, "a")
    np.testing.assert_array_equal(again.keys, [0, 3, 5])
    np.testing.assert_allclose(again.high_res, maps().high_res, atol=5e-4)
    assert again.strided.shape == (3, 3, 4) and list(tmp_path.iterdir()) == [tmp_path / "a.npz"]


def test_foreground_and_size():
    front = maps().foreground()
    np.testing.assert_array_equal(front.keys, [3, 5])
    np.testing.assert_array_equal(front.at_size(9, 13), maps().high_res[1:])
    upsampled = maps(high_res=False).at_size(9, 13)
    assert upsampled.shape == (3, 9, 13)
    with pytest.raises(InputError, match="image is"):
        maps().at_size(9, 12)
    none = ClassMaps(np.zeros(0, np.int16), np.zeros((0, 3, 4), np.float32))
    assert none.at_size(9, 13).shape == (0, 9, 13)


def test_damaged_files_are_reported(tmp_path, shapes):
    with pytest.raises(InputError, match=r"a\.npz: no maps"):
        load_maps(tmp_path, "a")
    save_maps(tmp_path, "a", maps())
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:40])
    with pytest.raises(InputError, match=r"a\.npz: cannot be read"):
        load_maps(tmp_path, "a")
    np.savez(tmp_path / "b.npz", keys=np.array([1]))
    with pytest.raises(InputError, match=r"b\.npz: needs keys"):
        load_maps(tmp_path, "b")
    pickled = np.array([object()], dtype=object)
    np.savez(tmp_path / "c.npz", keys=pickled, strided=np.zeros((1, 2, 2)))
    with pytest.raises(InputError, match=r"c\.npz: cannot be read"):  # nothing is unpickled
        load_maps(tmp_path, "c")
    with pytest.raises(InputError, match="no maps for 24 of 24 ids"):
        check_maps(tmp_path, shapes)


def test_background_wins_ties_in_float32():
    scores = np.array([[[0.3, 0.3001, 0.1]], [[0.2, 0.3002, 0.1]]], np.float32)
    index = label_index(scores, 0.3)
    np.testing.assert_array_equal(index, [[0, 2, 0]])
    np.testing.assert_array_equal(to_labels(index, np.array([4, 9])), [[0, 9, 0]])
    none = np.zeros((0, 2, 2), np.float32)
    np.testing.assert_array_equal(label_index(none, 0.3), np.zeros((2, 2)))


def test_views_are_resized_then_summed():
    views = [torch.full((2, 3, 4), 1.0), torch.full((2, 5, 7), 2.0)]
    np.testing.assert_allclose(merge_views(views, 6, 8), np.full((2, 6, 8), 3.0))


def test_damage_found_by_fuzzing(tmp_path):
    """A member without NumPy's header is read as bytes; the other has an unknown compression."""
    with zipfile.ZipFile(tmp_path / "bytes.npz", "w") as file:
        file.writestr("keys.npy", b"no array")
        file.writestr("strided.npy", b"no array")
    save_maps(tmp_path, "zip", ClassMaps(np.array([1], np.int16), np.ones((1, 2, 2), np.float32)))
    content = bytearray((tmp_path / "zip.npz").read_bytes())
    for place in (content.find(b"PK\x03\x04") + 8, content.find(b"PK\x01\x02") + 10):
        content[place] = 77  # compression method of the first member
    (tmp_path / "zip.npz").write_bytes(bytes(content))
    for id, message in (("bytes", "other than arrays"), ("zip", "cannot be read as maps")):
        with pytest.raises(InputError, match=message):
            load_maps(tmp_path, id)
