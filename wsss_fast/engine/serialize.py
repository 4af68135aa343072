"""Values of recipes as JSON: dataclasses, paths, arrays, callables by what they compute."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np

from wsss_fast.errors import InputError


def jsonable(value: Any, name: str = "") -> Any:
    """`value` with dataclasses as dicts, paths as strings, numpy as lists, NaN as None, and callables by what they compute.

    A function becomes its qualified name, a callable dataclass its class and fields, a `functools.partial` its function and
    arguments: two results that two callables may differ in must not get one fingerprint.

    Args:
        value: what to convert.
        name: of the value, for errors.

    Raises:
        InputError: a callable that nothing tells from another one: a lambda, a function inside a function, an object with
            a state of its own.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = jsonable({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, name)
        return (
            {"class": _qualified_name(type(value), name), **fields} if callable(value) else fields
        )
    if isinstance(value, dict):
        return {str(k): jsonable(v, f"{name}.{k}" if name else str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v, f"{name}[{n}]") for n, v in enumerate(value)]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist(), name)
    if isinstance(value, np.generic):
        return jsonable(value.item(), name)
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, functools.partial):
        return {
            "partial": jsonable(value.func, name),
            "args": jsonable(value.args, name),
            "keywords": jsonable(value.keywords, name),
        }
    if callable(value):
        return _qualified_name(value, name)
    return value


def _qualified_name(value: Any, name: str) -> str:
    """Where a function or class is found again: `module.qualname`. Raises InputError where nothing or another one is there."""
    module, path = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    found: Any = sys.modules.get(module) if isinstance(module, str) else None
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is not value:
        raise InputError(
            f"{name or 'callable'}: {value!r} cannot be told from another one, so a stage made with it would be "
            "taken for finished when it has changed; use a function at the top level of a module, "
            "functools.partial of one, or a frozen dataclass with __call__"
        )
    return f"{module}.{path}"
