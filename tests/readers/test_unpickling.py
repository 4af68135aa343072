"""Pickled objects: damaged ones are refused, and never crash the process."""

import io
import random

import numpy as np
import pytest
import torch

from wsss_fast import InputError
from wsss_fast.readers.unpickling import unpickle


def npy(content):
    buffer = io.BytesIO()
    np.save(buffer, content, allow_pickle=True)
    return buffer.getvalue()


def test_arrays_scalars_and_tensors(tmp_path):
    content = {
        np.int32(3): np.arange(6, dtype=">i2").reshape(2, 3, order="F").copy("F"),
        np.str_("a"): [np.float16([1, 2]), (np.array([True, False]), "text")],
        "t": {"deep": torch.arange(3)},
        "empty": np.zeros((0, 4), np.float32),
    }
    (tmp_path / "a.npy").write_bytes(npy(content))
    found = unpickle(tmp_path / "a.npy", "maps")
    assert list(found) == [3, "a", "t", "empty"]
    np.testing.assert_array_equal(found[3], content[3])
    np.testing.assert_array_equal(found["a"][1][0], [True, False])
    assert type(found[3]) is type(found["a"][0]) is np.ndarray
    assert found["a"][0].dtype == np.float16 and found["empty"].shape == (0, 4)
    assert found["t"]["deep"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"K\x14", b"K\x13", "more or fewer values than its shape"),  # one value less than stored
        (b"f4", b"V4", "dtype 'V4'"),
        (b"_reconstruct", b"_reconstrucT", "refers to numpy"),
        (b"multiarray", b"multi\narra", "refers to numpy.*multi.*only arrays and tensors"),
    ],
)
def test_changed_bytes_are_refused(tmp_path, old, new, message):
    content = npy({"a": np.ones(20, np.float32)})
    assert old in content
    (tmp_path / "a.npy").write_bytes(content.replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        unpickle(tmp_path / "a.npy", "maps")
    assert "\n" not in str(caught.value)


def test_a_dtype_is_its_name_whatever_its_flags(tmp_path):
    """With the flags of objects, NumPy would take the bytes of numbers for pointers."""
    path, content = tmp_path / "a.npy", npy({"a": np.ones(20, np.float32)})
    minus_one, flags = b"J\xff\xff\xff\xff" * 2, b"K\x00"
    assert content.count(minus_one + flags) == 1
    path.write_bytes(content.replace(minus_one + flags, minus_one + b"K\x3f"))
    assert unpickle(path, "maps")["a"].tolist() == [1.0] * 20


def test_random_damage_is_refused(tmp_path):
    path, content = tmp_path / "a.npy", npy({"a": np.ones(4, np.float32), np.int32(7): [1]})
    chance, refused = random.Random(0), 0
    for _ in range(100):
        damaged = bytearray(content)
        for _ in range(chance.choice([1, 2, 5])):
            damaged[chance.randrange(128, len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            unpickle(path, "maps")
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 30
