"""`data.load`: which folders and names it opens."""

import numpy as np
import pytest

from wsss_fast import InputError, data
from wsss_fast.data.shapes.cache import shapes_folder


def test_wrong_folders(tmp_path):
    with pytest.raises(InputError, match="nowhere is not a directory"):
        data.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="has none of the known layouts: VOC12 has JPEGImages"):
        data.load(tmp_path)
    with pytest.raises(InputError, match="whole number"):
        data.load("shapes:x")
    with pytest.raises(
        InputError, match="'shapes-sparse' or 'shapes-sparse:SEED' with a whole number"
    ):
        data.load("shapes-sparse:x")
    with pytest.raises(
        InputError,
        match="shapes-dense:1 is not a directory .*only built-in sets are shapes, shapes-sparse",
    ):
        data.load("shapes-dense:1")


def test_the_benchmark_is_generated_once(tmp_path, monkeypatch):
    monkeypatch.setenv("WSSS_FAST_DATA", str(tmp_path))
    generated = []

    def few(out, *, seed, preset):
        generated.append((seed, preset))
        return data.make_shapes(out, seed=seed, train=2, val=1, size=48, preset=preset)

    monkeypatch.setattr("wsss_fast.data.shapes.cache.make_shapes", few)
    assert shapes_folder("shapes:7") == shapes_folder("shapes:7")
    assert generated == [(7, "standard")] and len(data.load("shapes:7")) == 2
    again = data.load("shapes:7")
    assert data.opened("shapes:7").ids == again.ids and data.opened(again) is again
    sparse = data.load("shapes-sparse:7")
    assert generated == [(7, "standard"), (7, "sparse")] and sparse.root != again.root
    assert not np.array_equal(sparse.image(sparse.ids[0]), again.image(again.ids[0]))
