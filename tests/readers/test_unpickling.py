"""Pickled arrays: rebuilt without NumPy's own unpickling, which trusts what a file says."""

import collections
import pickle

import numpy as np
import pytest

from wsss_fast import InputError
from wsss_fast.readers.unpickling import unpickle

CORE = getattr(np, "_core", None) or np.core
PLAIN_TYPE = (3, "<", None, None, None, -1, -1, 0)


class Type:
    """Pickles as a type with any state."""

    def __init__(self, text, *state):
        self.text, self.state = text, state

    def __reduce__(self):
        return np.dtype, (self.text, False, True), self.state


class Array:
    """Pickles as an array with any state."""

    def __init__(self, *state):
        self.state = state

    def __reduce__(self):
        return CORE.multiarray._reconstruct, (np.ndarray, (0,), b"b"), self.state


def read(path, content, protocol=4):
    """What the reader makes of a dictionary with one value."""
    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        whole = np.empty((), object)
        whole[()] = content
        file.write(pickle.dumps(whole, protocol))
    return unpickle(path, "maps")


VALUES = {
    "Fortran order": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "not contiguous": np.arange(12).reshape(3, 4)[:, ::2],
    "big-endian": np.arange(3, dtype=">f4"),
    "half": np.arange(3, dtype=np.float16),
    "truth values": np.array([True, False]),
    "empty": np.zeros((0, 4), np.float32),
    "no dimensions": np.array(3, np.int16),
    "texts": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"bcd"]),
    "objects": np.array([1, "a", None], object),
    "complex": np.array([1j]),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_are_as_numpy_reads_them(tmp_path, kind, protocol):
    found = read(tmp_path / "a.npy", {"a": [VALUES[kind], (VALUES[kind],)]}, protocol)["a"]
    for array in (found[0], found[1][0]):
        np.testing.assert_array_equal(array, VALUES[kind])
        assert array.dtype == VALUES[kind].dtype and array.flags.writeable


def test_numbers_as_keys_and_values(tmp_path):
    content = {np.int32(2007000032): np.float32(0.5), np.str_("a"): np.bool_(True), 3: (1, [2])}
    found = read(tmp_path / "a.npy", content)
    assert found == content and {type(k) for k in found} == {np.int32, np.str_, int}


def test_what_is_shared_is_built_once_and_may_contain_itself(tmp_path):
    """Thirty levels of pairs would be a billion arrays, if each were built anew."""
    value = [np.zeros(3)]
    for _ in range(30):
        value = [value, value]
    loop = {"value": value}
    loop["loop"] = loop
    found = read(tmp_path / "a.npy", loop)
    assert found["loop"] is found and found["value"][0] is found["value"][1]


OBJECT = (3, "|", None, None, None, -1, -1, 63)
NUMBER = Type("f4", *PLAIN_TYPE)
WRONG = {
    # NumPy would take the eight bytes for the address of an object.
    "address": (Array(1, (1,), Type("O8", *OBJECT[:-1], 0), False, b"\x08" * 8), "other content"),
    "too few bytes": (Array(1, (9,), NUMBER, False, b"1234"), r"array \[9\] of float32 has 4"),
    "negative size": (Array(1, (-1,), NUMBER, False, b""), r"shape of an array is \(-1,\)"),
    "huge size": (Array(1, (10**30,), NUMBER, False, b""), "has 0 bytes"),
    "no shape": (Array(1, "ab", NUMBER, False, b""), "shape of an array is ab"),
    "no type": (Array(1, (1,), "f4", False, b"1234"), "type of an array is a str"),
    "no bytes": (Array(1, (1,), NUMBER, False, [1]), "values of an array are a list"),
    "other state": (Array(1, 2), "cannot be unpickled as maps"),
    "record": (Array(1, (1,), Type("V4", *PLAIN_TYPE), False, b"1234"), "type 'V4' are not read"),
    "time": (Array(1, (1,), Type("M8[s]", *PLAIN_TYPE), False, b"12345678"), "are not read"),
    "fields": (
        Array(1, (1,), Type("f4", 3, "<", None, ("a",), {"a": 1}, 4, 1, 16), False, b"1234"),
        "composite types",
    ),
    "long text": (Array(1, (1,), Type("U999999", *PLAIN_TYPE), False, b""), "are not read"),
    "no character": (Array(1, (1,), Type("U1", *PLAIN_TYPE), False, b"\xff" * 4), "character 0xff"),
    "object as number": (np.float32, "refers to numpy.float32"),
    "ordered": (collections.Counter(), "refers to collections.Counter"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_states_that_numpy_would_trust(tmp_path, kind):
    content, message = WRONG[kind]
    with pytest.raises(InputError, match=rf"a\.npy: .*{message}"):
        read(tmp_path / "a.npy", {"keys": content})


def test_a_header_whose_type_is_no_python(tmp_path):
    np.save(tmp_path / "a.npy", {"a": 1}, allow_pickle=True)
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content.replace(b"'|O'", b"',O'"))
    with pytest.raises(InputError, match=r"a\.npy: cannot be unpickled as maps \(.*syntax"):
        unpickle(tmp_path / "a.npy", "maps")
