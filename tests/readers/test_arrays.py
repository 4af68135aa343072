"""Reading arrays while other threads read theirs."""

import ast

import numpy as np
import pytest

from wsss_fast.readers import arrays, pickled_maps


@pytest.fixture
def interrupted(monkeypatch):
    """Every other header cannot be parsed, as when another thread parses one at the same time."""
    parse, calls = ast.literal_eval, []

    def literal_eval(text):
        calls.append(text)
        if len(calls) % 2:
            raise SystemError("AST constructor recursion depth mismatch (before=51, after=48)")
        return parse(text)

    monkeypatch.setattr(ast, "literal_eval", literal_eval)
    return calls


def test_headers_are_parsed_again(tmp_path, interrupted):
    np.save(tmp_path / "array.npy", np.arange(6.0))
    np.savez(tmp_path / "arrays.npz", one=np.arange(3), two=np.ones(4))
    np.save(tmp_path / "maps.npy", {"keys": np.arange(2), "high_res": np.ones((2, 3, 4), "f4")})

    assert arrays.load_array(tmp_path / "array.npy").tolist() == [0, 1, 2, 3, 4, 5]
    found = arrays.load_arrays(tmp_path / "arrays.npz", ("one", "two"))
    assert found["one"].tolist() == [0, 1, 2] and found["two"].tolist() == [1, 1, 1, 1]
    maps = pickled_maps.read(tmp_path / "maps.npy")
    assert maps["high_res"].shape == (2, 3, 4)
    assert len(interrupted) == 8


def test_other_system_errors_are_raised(tmp_path, monkeypatch):
    def fail(text):
        raise SystemError("error return without exception set")

    np.save(tmp_path / "array.npy", np.arange(6.0))
    monkeypatch.setattr(ast, "literal_eval", fail)
    with pytest.raises(SystemError):
        arrays.load_array(tmp_path / "array.npy")
