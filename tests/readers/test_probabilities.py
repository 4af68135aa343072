"""Probabilities of other tools: arrays that are read, and arrays that are rejected."""

from pathlib import Path

import numpy as np
import pytest

from wsss_fast import InputError
from wsss_fast.readers.probabilities import read_probabilities

PHOTO, SIZE = Path("photo.jpg"), (40, 60)
OBJECT = np.full(SIZE, 0.2, np.float32)
OBJECT[10:30, 15:45] = 0.8
GOOD = np.stack([1 - OBJECT, OBJECT])


@pytest.mark.parametrize(
    "values",
    [
        GOOD.astype(np.float64),
        GOOD.astype(">f4"),
        np.asfortranarray(GOOD),
        GOOD.astype(np.longdouble),
        (GOOD > 0.5).astype(np.float16),
        np.concatenate([GOOD.astype(np.float16) / 21] * 21),
    ],
)
def test_arrays_of_any_layout_are_read(tmp_path, values, capsys):
    np.save(tmp_path / "p.npy", values)
    read = read_probabilities(tmp_path / "p.npy", PHOTO, SIZE)
    assert read.dtype == np.float32 and read.flags.c_contiguous
    np.testing.assert_array_equal(read, values.astype(np.float32))
    assert not capsys.readouterr().err


def somewhere(value):
    values = GOOD.copy()
    values[1, 3, 4] = value
    return values


REJECTED = {
    "one label": (GOOD[:1], "has one label, so that there is nothing to refine"),
    "no label": (GOOD[:0], "with 2 to 256 labels first"),
    "too many labels": (np.zeros((300, *SIZE), np.float16), "2 to 256 labels first"),
    "tall, labels last": (np.zeros((300, 40, 2), np.float16), r"save array\.transpose\(2, 0, 1\)"),
    "no pixel": (np.zeros((2, 0, 0), np.float32), "which has no pixel"),
    "constant": (np.full((2, *SIZE), 0.5), "the same probabilities at every pixel"),
    "constant rows": (np.ones((2, *SIZE)) * [[[0.3]], [[0.7]]], "the same probabilities"),
    "zeros": (0 * GOOD, "the same probabilities at every pixel"),
    "nan": (somewhere(np.nan), "1 of 4800 values that are NaN or infinite"),
    "infinite": (somewhere(np.inf), "1 of 4800 values that are NaN or infinite"),
    "negative": (somewhere(-0.1), "softmax over L"),
    "logits": (np.log(GOOD) * 3 + 2, "apply the softmax over L to logits"),
    "percent": (GOOD * 100, "such as 100"),
    "levels": (GOOD * 255, "such as 255"),
    "bytes": ((GOOD * 255).astype(np.uint8), r"is uint8 .*divide levels 0\.\.255 by 255\.0"),
    "booleans": (GOOD > 0.5, r"is bool \[2, 40, 60\]; must be floating-point"),
    "complex": (GOOD.astype(complex), "is complex128"),
    "labels": ((OBJECT > 0.5).astype(int), "save a label map as PNG"),
    "one map": (OBJECT, r"np\.stack\(\[1 - p, p\]\)"),
    "batch": (GOOD[None], r"save array\[0\]"),
    "labels last": (GOOD.transpose(1, 2, 0), r"it looks like \[H, W, L\]"),
    "turned": (GOOD.transpose(0, 2, 1), "height and width are exchanged"),
    "other size": (GOOD[:, :20], "is 20x60 pixels .* but its image photo.jpg is 40x60"),
    "objects": (
        np.array([GOOD, None], object),
        "Python objects",
    ),
    "dictionary": (np.array({"cam": OBJECT}, object), "Python objects"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_arrays_that_are_rejected(tmp_path, name):
    values, message = REJECTED[name]
    np.save(tmp_path / "p.npy", values, allow_pickle=True)
    with pytest.raises(InputError, match=rf"p\.npy: .*{message}") as caught:
        read_probabilities(tmp_path / "p.npy", PHOTO, SIZE)
    assert len(str(caught.value).splitlines()) == 1


def test_damaged_arrays_are_rejected(tmp_path):
    np.save(tmp_path / "p.npy", GOOD)
    whole = (tmp_path / "p.npy").read_bytes()
    for content in (
        b"",
        b"no array",
        whole[:50],
        whole[:-9],
        whole.replace(b"(2, 40, 60), }    ", b"(2,999999,99999),}", 1),
    ):
        (tmp_path / "p.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"p\.npy: cannot be read as probabilities: "):
            read_probabilities(tmp_path / "p.npy", PHOTO, SIZE)
    with pytest.raises(InputError, match=r"q\.npy: no such file"):
        read_probabilities(tmp_path / "q.npy", PHOTO, SIZE)


def test_sums_are_remarked(tmp_path, capsys):
    np.save(tmp_path / "p.npy", GOOD / 2)
    read_probabilities(tmp_path / "p.npy", PHOTO, SIZE)
    assert "that do not sum to 1 over the labels" in capsys.readouterr().err
