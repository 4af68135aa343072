"""Class maps from and to the pickled files of IRN's public code."""

import os

import numpy as np
import pytest
import torch

from wsss_fast import InputError, convert
from wsss_fast.maps import ClassMaps, load_maps, save_maps


def stored(path, content):
    np.save(path, content, allow_pickle=True)


def maps(generator, keys=(3, 7)):
    scores = (
        generator.random((len(keys), 5, 6), dtype=np.float32),
        generator.random((len(keys), 17, 22), dtype=np.float32),
    )
    return np.array(keys), *(s.astype(np.float16).astype(np.float32) for s in scores)


@pytest.mark.parametrize("tensors", [False, True])
def test_round_trip(tmp_path, tensors):
    """IRN's code stores keys and cam as tensors, others as arrays."""
    keys, strided, high_res = maps(np.random.default_rng(0))
    public = tmp_path / "public"
    public.mkdir()
    wrap = torch.from_numpy if tensors else np.asarray
    stored(public / "a.npy", {"keys": wrap(keys - 1), "cam": wrap(strided), "high_res": high_res})
    stored(
        public / "none.npy",
        {"keys": wrap(keys[:0]), "cam": wrap(strided[:0]), "high_res": high_res[:0]},
    )
    convert.maps_from_pickles(public, tmp_path / "ours")
    ours = load_maps(tmp_path / "ours", "a")
    np.testing.assert_array_equal(ours.keys, keys)
    np.testing.assert_array_equal(ours.strided, strided)
    np.testing.assert_array_equal(ours.high_res, high_res)
    assert len(load_maps(tmp_path / "ours", "none").keys) == 0

    convert.maps_to_pickles(tmp_path / "ours", tmp_path / "back")
    back = np.load(tmp_path / "back/a.npy", allow_pickle=True).item()  # as IRN's code reads it
    np.testing.assert_array_equal(back["keys"], keys - 1)
    np.testing.assert_array_equal(back["cam"], strided)
    np.testing.assert_array_equal(back["high_res"], high_res)


def test_a_background_row_is_left_out(tmp_path):
    _, strided, _ = maps(np.random.default_rng(1), keys=(0, 2))
    save_maps(tmp_path / "ours", "a", ClassMaps(np.array([0, 2]), strided))
    convert.maps_to_pickles(tmp_path / "ours", tmp_path / "public")
    back = np.load(tmp_path / "public/a.npy", allow_pickle=True).item()
    assert back["keys"].tolist() == [1] and back["cam"].shape == (1, 5, 6)
    assert "high_res" not in back


class Malicious:
    """Unpickled without restrictions, it would run a command."""

    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"keys": np.array([1]), "cam": Malicious()}, r"refers to \w+.system; only arrays"),
        (Malicious(), "refers to"),
        ({"keys": np.array([1])}, "has no maps"),
        (
            {"keys": np.array([1, 2]), "cam": np.zeros((1, 4, 4))},
            r"keys, cam and high_res are \[\[2\], \[1, 4, 4\]",
        ),
        ({"keys": np.array([300]), "cam": np.zeros((1, 4, 4))}, "expected whole numbers"),
        ({"keys": np.array([1]), "cam": np.full((1, 4, 4), np.nan)}, "finite"),
        ({"keys": np.array([1]), "cam": "text"}, "not arrays"),
    ],
)
def test_rejected_content(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "public").mkdir()
    np.save(tmp_path / "public/a.npy", np.array(content, dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=f"a.npy: .*{message}"):
        convert.maps_from_pickles(tmp_path / "public", tmp_path / "ours")
    assert not (tmp_path / "exploded").exists() and not (tmp_path / "ours").exists()


def test_damaged_and_missing_files(tmp_path):
    public = tmp_path / "public"
    public.mkdir()
    stored(public / "a.npy", {"keys": np.array([1]), "cam": np.zeros((1, 4, 4), np.float32)})
    whole = (public / "a.npy").read_bytes()
    for content in (whole[:-40], whole[:90], b"", b"not an array"):
        (public / "a.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npy: "):
            convert.maps_from_pickles(public, tmp_path / "ours")
    np.save(public / "a.npy", np.zeros(3))
    with pytest.raises(InputError, match="is an array float64"):
        convert.maps_from_pickles(public, tmp_path / "ours")
    with pytest.raises(InputError, match="has no .npy files"):
        convert.maps_from_pickles(tmp_path / "nowhere", tmp_path / "ours")
    with pytest.raises(InputError, match="has no maps"):
        convert.maps_to_pickles(tmp_path / "nowhere", tmp_path / "back")
