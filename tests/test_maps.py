"""Map files, and labels from maps."""

import zipfile

import numpy as np
import pytest
import torch
from labels_at import label_index

from wsss_fast import InputError
from wsss_fast.engine import remarks
from wsss_fast.maps import (
    ClassMaps,
    check_maps,
    load_maps,
    merge_views,
    save_maps,
    strided_size,
    to_labels,
)
from wsss_fast.readers.arrays import num_finite, value_range


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


def stored(path, **arrays):
    np.savez(path, **arrays)
    return load_maps(path.parent, path.stem)


GOOD = {
    "keys": np.array([1, 3], np.int16),
    "strided": np.linspace(0, 1, 2 * 3 * 4, dtype=np.float16).reshape(2, 3, 4),
    "high_res": np.linspace(0, 1, 2 * 9 * 13, dtype=np.float16).reshape(2, 9, 13),
}


def with_value(name, value):
    changed = GOOD[name].copy()
    changed[-1, 0, 0] = value
    return {name: changed}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (with_value("high_res", np.nan), "high_res has 1 of 234 values that are NaN or infinite"),
        (with_value("strided", -np.inf), "strided has 1 of 24 values that are NaN or infinite"),
        ({"strided": np.full((2, 3, 4), 1e300)}, "strided has 24 of 24 values"),
        ({"keys": np.array([1, np.nan])}, "keys has 1 of 2 values"),
        (with_value("high_res", 1.5), r"high_res has scores 0\.\.1\.5; must be within 0\.\.1"),
        (with_value("high_res", -0.5), r"high_res has scores -0\.5\.\.1; must be"),
        ({"high_res": np.full((2, 9, 13), 99, np.uint8)}, r"scores 99\.\.99; .* divide each map"),
        ({"strided": np.full((2, 3, 4), 9.0)}, r"strided has scores 9\.\.9"),
        ({"keys": np.array([True, False])}, r"keys are \[True, False\]"),
        ({"keys": np.array([1, 1])}, r"keys are \[1, 1\]; must be different whole numbers"),
        ({"keys": np.array([1, 2.5])}, r"keys are \[1\.0, 2\.5\]"),
        ({"keys": np.array([1, -1])}, r"keys are \[1, -1\]"),
        ({"keys": np.array([1, 255])}, r"keys are \[1, 255\]; .* in 0\.\.254"),
        ({"keys": np.array(1)}, r"needs keys \[K\] and strided \[K,h,w\], has keys \[\]"),
        ({"keys": np.arange(3)}, r"keys \[K\] and strided \[K,h,w\], has \[3\] and \[2, 3, 4\]"),
        ({"strided": np.zeros((1, 2, 3, 4))}, r"needs keys .* strided \[1, 2, 3, 4\]"),
        ({"high_res": np.zeros((9, 13))}, r"and high_res \[K,h,w\], has \[2\] and \[9, 13\]"),
        ({"high_res": np.zeros((3, 9, 13))}, r"has \[2\] and \[3, 9, 13\]"),
        ({"high_res": np.zeros((2, 0, 13))}, r"high_res is \[2, 0, 13\], which holds no scores"),
        ({"strided": GOOD["strided"].astype(complex)}, "strided is complex128"),
        ({"strided": np.full((2, 3, 4), "x")}, "strided is <U1"),
        ({"keys": np.array([1, 3], object)}, "holds pickled Python objects, which may run code"),
    ],
)  # fmt: skip
def test_content_that_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=rf"a\.npz: .*{message}") as raised:
        stored(tmp_path / "a.npz", **{**GOOD, **changes})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.astype(np.float64),
        lambda a: a.astype(">f4"),
        np.asfortranarray,
        lambda a: a[:, ::-1][:, ::-1],
        lambda a: a + np.float16(0.002),
    ],
    ids=["float64", "big-endian", "column-major", "strides", "rounded above 1"],
)
def test_other_layouts_of_the_same_scores(tmp_path, change, capsys):
    arrays = {name: change(GOOD[name]) for name in ("strided", "high_res")}
    maps = stored(tmp_path / "a.npz", keys=np.array([1.0, 3.0]), other=np.zeros(2), **arrays)
    assert maps.keys.dtype == np.int16 and maps.high_res.dtype == np.float32
    assert maps.high_res.flags.c_contiguous and maps.strided.flags.c_contiguous
    np.testing.assert_allclose(maps.high_res, GOOD["high_res"], atol=3e-3)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"it is empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
        (b"<html>Sign in", "it is a web page"),
        (bytes(500), "it is nothing but zeros"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'", "it is an array of NumPy"),
        (b"\x80\x04\x95", "it holds pickled Python objects"),
    ],
)
def test_files_of_other_things(tmp_path, content, message):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.npz: cannot be read as maps: {message}"):
        load_maps(tmp_path, "a")


def test_truncated_and_changed_files(tmp_path):
    np.savez(tmp_path / "a.npz", **GOOD)
    whole = (tmp_path / "a.npz").read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 255
    for content in (*(whole[:n] for n in range(1, len(whole), 97)), bytes(changed)):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npz: ") as raised:
            load_maps(tmp_path, "a")
        assert "\n" not in str(raised.value)
    np.savez(tmp_path / "a.npz", cam=np.zeros(3))
    with pytest.raises(InputError, match=r"a\.npz: needs keys and strided and high_res, has cam"):
        load_maps(tmp_path, "a")


def test_constant_maps_and_foreign_classes_are_remarked(tmp_path, shapes, capsys):
    id = shapes.ids[0]
    tags = np.flatnonzero(shapes.tags_of(id)) + 1
    size = strided_size(*shapes.size(id))
    other = next(k for k in range(1, len(shapes.classes) + 1) if k not in tags)
    ramp = np.broadcast_to(np.linspace(0, 1, size[1]), (2, *size))
    with remarks.collected():
        for scores in (np.zeros((2, *size)), ramp):
            save_maps(tmp_path, id, ClassMaps(np.array([0, other]), scores))
            load_maps(tmp_path, id, shapes)
    err = capsys.readouterr().err
    name = f"{tmp_path.name}/{id}.npz"
    assert f"class has the same score everywhere: 1 file: {name}" in err
    assert f"not among their image's tags: 1 of {len(shapes)} files: {name}" in err
    save_maps(tmp_path, id, ClassMaps(np.array([0, 200]), ramp))
    with pytest.raises(InputError, match=r"has maps of label 200, but the data set has only"):
        load_maps(tmp_path, id, shapes)


def test_errors_about_sizes_name_the_file(tmp_path):
    np.savez(tmp_path / "a.npz", **GOOD)
    maps = load_maps(tmp_path, "a").foreground()
    with pytest.raises(InputError, match=r"a\.npz: maps are \(9, 13\), but the image is \(9, 12\)"):
        maps.at_size(9, 12)
    np.savez(tmp_path / "a.npz", keys=GOOD["keys"], strided=GOOD["strided"])
    maps = load_maps(tmp_path, "a")
    assert maps.at_size(9, 13).shape == (2, 9, 13)
    with pytest.raises(InputError, match=r"a\.npz: strided maps are \(3, 4\), .* needs \(5, 4\)"):
        maps.at_size(20, 13)


def test_maps_that_are_not_finite_are_not_saved(tmp_path):
    scores = np.full((1, 2, 2), np.nan)
    with pytest.raises(InputError, match=r"a\.npz: not written: scores are NaN or infinite"):
        save_maps(tmp_path, "a", ClassMaps(np.array([1]), scores))
    assert not list(tmp_path.iterdir())


def test_missing_maps_are_hinted_at(tmp_path, shapes):
    (tmp_path / "cam/maps").mkdir(parents=True)
    for place in (tmp_path / "cam/maps", tmp_path / "cam"):
        with pytest.raises(InputError, match="has no maps for 24 of 24 ids, first 'train_00000'$"):
            check_maps(place, shapes)
    (tmp_path / "cam/maps" / f"{shapes.ids[0]}.npz").touch()
    with pytest.raises(InputError, match=r"24 of 24 ids, .*; did you mean .*/cam/maps\?$"):
        check_maps(tmp_path / "cam", shapes)
    (tmp_path / f"{shapes.ids[0]}.npy").touch()
    with pytest.raises(InputError, match=r"24 of 24 ids, .*; it has \.npy files: .* from-pickles"):
        check_maps(tmp_path, shapes)


@pytest.mark.parametrize(
    "values",
    [[0.0, 0.5, 1.0], [-0.0, 0.25], [-0.5, -0.25], [-0.5, 0.0, 3.0], [0.0], [-0.0, 0.0], [6e-8, 1]],
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_value_range(values, dtype):
    array = np.array(values, dtype)
    assert value_range(array) == (array.min(), array.max())
    assert value_range(array[::-1]) == (array.min(), array.max())


def test_number_of_finite_values():
    values = [0, 1, -1, 65504, np.nan, np.inf, -np.inf, -np.nan]
    assert num_finite(np.array(values, np.float16)) == 4
    assert num_finite(np.array([*values, 1e39], np.float64)) == 4
