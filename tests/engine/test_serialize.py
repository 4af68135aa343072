"""Arguments as JSON: fingerprints that differ where results differ, and values read back."""

import dataclasses
import functools
import json
import math
import operator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from wsss_fast import InputError, cam
from wsss_fast.engine.optimizers import Adam, AdamW, Sgd
from wsss_fast.engine.run_folder import stage
from wsss_fast.engine.schedules import Constant, OneCycle, Poly
from wsss_fast.engine.serialize import Plain, check_keys, from_config, jsonable


def test_jsonable_converts_arrays_functions_and_nan():
    value = {
        "array": (np.arange(2), np.float32(0.5)),
        "nan": float("nan"),
        "function": jsonable,
        "path": Path("a/b"),
        "size": torch.Size([2]),
    }
    assert jsonable(value) == {
        "array": [[0, 1], 0.5],
        "nan": None,
        "function": "wsss_fast.engine.serialize.jsonable",
        "path": "a/b",
        "size": [2],
    }


@dataclasses.dataclass(frozen=True)
class Scaled:
    by: float

    def __call__(self, x):
        return self.by * x


@dataclasses.dataclass(frozen=True)
class Shifted:
    by: float

    def __call__(self, x):
        return self.by + x

    def method(self, x):
        return x


def callables():
    """Callables with different results, some of which have functions or fields of one name."""
    partial = functools.partial
    return [
        Poly(),
        Poly(1.0),
        Poly(warmup=0.1),
        Poly(stairs=2000),
        Poly(stairs=5),
        OneCycle(),
        OneCycle(0.2),
        Constant(),
        Scaled(2.0),
        Scaled(3.0),
        Shifted(2.0),
        Sgd(),
        Sgd(momentum=0.9),
        Adam(0.01),
        AdamW(0.01),
        math.cos,
        math.sin,
        operator.truediv,
        partial(pow, 2),
        partial(pow, 3),
        partial(pow, exp=2),
        partial(math.pow, 2),
        partial(Scaled(2.0)),
        partial(Scaled(3.0)),
    ]


def test_different_callables_have_different_fingerprints():
    fingerprints = [json.dumps(jsonable(value), sort_keys=True) for value in callables()]
    assert len(set(fingerprints)) == len(fingerprints) == 24
    again = [json.dumps(jsonable(value), sort_keys=True) for value in callables()]
    assert fingerprints == again  # of equal values
    assert jsonable(Poly(stairs=5)) == {
        "class": "wsss_fast.engine.schedules.Poly",
        "power": 0.9,
        "warmup": 0.0,
        "stairs": 5,
        "every": None,
    }


@pytest.mark.parametrize(
    "unnamed",
    [
        lambda x: x,
        functools.wraps(math.cos)(lambda x: x),
        Shifted(1.0).method,
        torch.nn.Identity(),
        functools.partial(lambda x: x),
        dataclasses.make_dataclass("Local", (), namespace={"__call__": lambda self, x: x})(),
    ],
)
def test_callables_without_a_name_raise(tmp_path, unnamed):
    recipe = dataclasses.replace(cam.RECIPES["small"], schedule=unnamed)
    with pytest.raises(
        InputError, match=r"^recipe\.schedule: .* cannot be distinguished from another"
    ):
        stage(tmp_path, "cam", {"recipe": recipe}, dict)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (Plain("3"), int, 3),
        (Plain("-3"), float, -3.0),
        (Plain("2e-4"), float, 2e-4),
        (Plain("3"), str, "3"),
        ("3", str, "3"),
        (True, bool, True),
        (None, int | None, None),
        (Plain("3"), int | None, 3),
        (Plain("a"), Path, Path("a")),
        ([Plain("1"), Plain("2")], tuple[int, ...], (1, 2)),
        ([], tuple[float, ...], ()),
        ([Plain("1"), "b"], tuple[int, str], (1, "b")),
        (False, Literal[False, True, "image"], False),
        (Plain("image"), Literal[False, True, "image"], "image"),
        ({"class": "Poly"}, Poly | OneCycle, Poly()),
        ({"by": Plain("2")}, Scaled, Scaled(2.0)),
    ],
)
def test_values_are_read_as_the_annotated_type(value, annotation, expected):
    result = from_config(value, annotation, "value")
    assert result == expected and type(result) is type(expected)


def test_fields_that_a_mapping_does_not_set_are_the_defaults():
    given, default = {"power": Plain("0.5")}, Poly(stairs=5)
    assert from_config(given, Poly | OneCycle, "schedule", default) == Poly(0.5, stairs=5)
    other_class = {"class": "OneCycle"}
    assert from_config(other_class, Poly | OneCycle, "schedule", default) == OneCycle()


def test_unannotated_types_raise():
    with pytest.raises(InputError, match="value: cannot be set in a configuration file"):
        from_config(Plain("3"), np.ndarray, "value")


def test_unknown_keys_raise_with_the_nearest_or_all_keys():
    with pytest.raises(InputError, match="file: unknown key 'sede'; did you mean seed"):
        check_keys({"sede": 1}, ["seed", "out"], "file")
    with pytest.raises(InputError, match="file: unknown key 'x'; known: seed, out"):
        check_keys({"x": 1}, ["seed", "out"], "file")
