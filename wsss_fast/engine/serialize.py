"""Arguments of a run as JSON, and back: dataclasses, paths, arrays, callables.

`jsonable` writes them for `config.json`, `exact` for the record of a stage; `from_config` and
`from_jsonable` read them back as the types that a function's annotations name.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import difflib
import enum
import functools
import hashlib
import importlib
import inspect
import json
import math
import re
import sys
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch

from wsss_fast.errors import InputError

_PACKAGE = __name__.partition(".")[0]
_LATER = "later"


def later(default: Any) -> Any:
    """A field of a dataclass that earlier versions lacked.

    While it has its default, no stage has it among its arguments, so that what earlier versions
    finished stays finished.
    """
    return dataclasses.field(default=default, metadata={_LATER: True})


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, without those of `later` that have their default."""
    return {
        field.name: getattr(value, field.name)
        for field in dataclasses.fields(value)
        if _LATER not in field.metadata or getattr(value, field.name) != field.default
    }


def jsonable(value: Any, name: str = "") -> Any:
    """`value` with dataclasses as dicts, paths as strings, arrays as lists, NaN as None.

    A function becomes its qualified name, a callable dataclass its class and fields, a
    `functools.partial` its function and arguments, so that callables with different results can be
    distinguished.

    Args:
        value: what to convert.
        name: of the value, for errors.

    Raises:
        InputError: a callable that cannot be distinguished from another one: a lambda, a function
            inside a function, an object with state; or a value that has no form in JSON.
    """
    return _convert(value, name, exact=False)


def exact(value: Any) -> Any:
    """As `jsonable`, but different where results may differ; for the arguments of a stage.

    Every dataclass has its class, a function or class of the user's has a hash of its source, and
    numbers that are not finite keep their kind.
    """
    return _convert(value, "", exact=True)


def _convert(value: Any, name: str, exact: bool) -> Any:
    def inner(part: Any, where: str = name) -> Any:
        return _convert(part, where, exact)

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        every = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        fields = inner(fields_of(value) if exact else every)
        if callable(value):
            return {"class": _qualified_name(type(value), name, exact), **fields}
        return {"class": _class_name(type(value)), **fields} if exact else fields
    if isinstance(value, dict):
        return {str(k): inner(v, f"{name}.{k}" if name else str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [inner(v, f"{name}[{n}]") for n, v in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return sorted((inner(v) for v in value), key=repr)
    if isinstance(value, enum.Enum):
        return f"{_class_name(type(value))}.{value.name}"
    if isinstance(value, torch.Tensor):
        return inner(value.detach().cpu().numpy())
    if isinstance(value, np.ndarray):
        return inner(value.tolist())
    if isinstance(value, np.generic):
        return inner(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value) if exact else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, functools.partial):
        return {
            "partial": inner(value.func),
            "args": inner(value.args),
            "keywords": inner(value.keywords),
        }
    if callable(value):
        return _qualified_name(value, name, exact)
    if not isinstance(value, (str, int, float, type(None))):
        raise InputError(
            f"{name or 'value'}: is of type {_class_name(type(value))}, which cannot be recorded; "
            "use numbers, text, lists, or a frozen dataclass of these"
        )
    return value


def _class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _qualified_name(value: Any, name: str, exact: bool) -> str:
    """`module.qualname` of a function or class; InputError if that name finds something else.

    If `exact`, a hash of the source follows where the user wrote it: they may edit it.
    """
    module, path = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    found: Any = sys.modules.get(module) if isinstance(module, str) else None
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is not value:
        raise InputError(
            f"{name or 'callable'}: {value!r} cannot be distinguished from another callable, so a "
            "stage would count as finished after it changed; use a function at the top level of a "
            "module, functools.partial of one, or a frozen dataclass with __call__"
        )
    if exact and not f"{module}.".startswith(f"{_PACKAGE}."):
        with contextlib.suppress(OSError, TypeError):  # built in, or typed at a prompt
            source = inspect.getsource(value)
            return f"{module}.{path} {hashlib.sha256(source.encode()).hexdigest()[:8]}"
    return f"{module}.{path}"


class Plain(str):
    """An unquoted scalar of a configuration file: a number, or a word in YAML."""


def from_config(value: Any, annotation: Any, name: str, default: Any = None) -> Any:
    """A value of a configuration file as the type that an annotation names.

    Args:
        value: mapping, list, quoted `str`, `Plain` text, bool or None.
        annotation: resolved type hint.
        name: of the value, for errors.
        default: where a mapping sets some fields of a dataclass, the others come from here.

    Raises:
        InputError: an unknown key or a value of another type, naming it.
    """
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _from_union(value, get_args(annotation), name, default)
    if origin is Literal:
        return _from_literal(value, get_args(annotation), name)
    if origin is tuple:
        return _from_tuple(value, get_args(annotation), name)
    if origin is collections.abc.Sequence:
        return _from_tuple(value, (get_args(annotation)[0], ...), name)
    if dataclasses.is_dataclass(annotation):
        return _from_mapping(value, annotation, name, default)
    if origin is collections.abc.Callable:
        return _from_callable(value, name)
    if annotation in (None, type(None)):
        return _expect(value is None, None, value, name, "null")
    if annotation is bool:
        return _expect(isinstance(value, bool), value, value, name, "true or false")
    if annotation is int:
        whole = isinstance(value, Plain) and re.fullmatch(r"[-+]?\d+", value)
        return _expect(bool(whole), int(value) if whole else 0, value, name, "a whole number")
    if annotation is float:
        number = _number(value)
        return _expect(number is not None, number, value, name, "a number")
    if annotation in (str, Path):
        text = str(value) if isinstance(value, str) else ""
        right = isinstance(value, str) and (annotation is str or bool(text))
        return _expect(right, annotation(text), value, name, "text")
    raise InputError(f"{name}: cannot be set in a configuration file")


def from_jsonable(value: Any, annotation: Any, name: str) -> Any:
    """What `jsonable` returned, as the type that an annotation names.

    Args:
        value: JSON.
        annotation: resolved type hint.
        name: of the value, for errors.

    Raises:
        InputError: as `from_config`; also for functions and classes that are not this package's.
    """
    text = json.dumps(value)
    plain = json.loads(text, parse_int=Plain, parse_float=Plain, parse_constant=Plain)
    return from_config(plain, annotation, name)


def _expect(right: bool, result: Any, value: Any, name: str, wanted: str) -> Any:
    if not right:
        kind = "the text " if isinstance(value, str) and not isinstance(value, Plain) else ""
        shown = str(value) if isinstance(value, Plain) else repr(value)
        raise InputError(f"{name}: is {kind}{shown}, must be {wanted}")
    return result


def _number(value: Any) -> float | None:
    if not isinstance(value, Plain) or "_" in value:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _from_union(value: Any, options: tuple[Any, ...], name: str, default: Any) -> Any:
    if value is None and type(None) in options:
        return None
    rest = [option for option in options if option is not type(None)]
    classes = [option for option in rest if dataclasses.is_dataclass(option)]
    if isinstance(value, dict) and classes:
        given = value.get("class")
        named = {f"{c.__module__}.{c.__qualname__}": c for c in classes}  # type: ignore[union-attr]
        short = {full.rpartition(".")[2]: c for full, c in named.items()}
        if given is None and type(default) in classes:
            return _from_mapping(value, type(default), name, default)
        chosen = named.get(str(given)) or short.get(str(given))
        if chosen is None:
            raise InputError(f"{name}.class: is {given!r}, must be one of {', '.join(short)}")
        same = default if type(default) is chosen else None
        return _from_mapping(value, chosen, name, same)
    errors = []
    for option in rest:
        try:
            return from_config(value, option, name, default)
        except InputError as error:
            errors.append(str(error))
    raise InputError(errors[0])


def _from_literal(value: Any, options: tuple[Any, ...], name: str) -> Any:
    for option in options:
        if value == option and isinstance(value, str) == isinstance(option, str):
            return option
    wanted = " or ".join(map(str, options))
    return _expect(False, None, value, name, wanted)


def _from_tuple(value: Any, items: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        _expect(False, None, value, name, "a list")
    if len(items) == 2 and items[1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(value) != len(items):
        raise InputError(f"{name}: has {len(value)} values, must have {len(items)}")
    return tuple(
        from_config(v, item, f"{name}[{n}]")
        for n, (v, item) in enumerate(zip(value, items, strict=True))
    )


def _from_mapping(value: Any, kind: Any, name: str, default: Any) -> Any:
    """A dataclass from the fields that a mapping sets; the others are the default's or its own."""
    if not isinstance(value, dict):
        _expect(False, None, value, name, "a mapping of " + ", ".join(_field_names(kind)))
    if str(value.get("class", kind.__name__)).rpartition(".")[2] != kind.__name__:
        raise InputError(f"{name}.class: is {str(value['class'])!r}, must be {kind.__name__}")
    hints = get_type_hints(kind)
    given = {key: v for key, v in value.items() if key != "class"}
    check_keys(given, _field_names(kind), name)
    base = default if isinstance(default, kind) else None
    fields = {
        key: from_config(v, hints[key], f"{name}.{key}", getattr(base, key, None))
        for key, v in given.items()
    }
    # Of fields that exclude each other, the given one replaces the default's.
    exclusive = getattr(kind, "exclusive", ())
    if any(fields.get(key) is not None for key in exclusive):
        fields = {**dict.fromkeys(exclusive), **fields}
    try:
        return dataclasses.replace(base, **fields) if base is not None else kind(**fields)
    except InputError as error:  # of the class' own checks
        raise InputError(f"{name}: {error}") from None


def _field_names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def check_keys(given: dict[str, Any], known: collections.abc.Sequence[str], name: str) -> None:
    """Raise InputError for a key that is not among `known`, with the nearest ones."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, 3, 0.6)
            hint = f"did you mean {' or '.join(near)}" if near else f"known: {', '.join(known)}"
            raise InputError(f"{name}: unknown key {key!r}; {hint}")


def _from_callable(value: Any, name: str) -> Any:
    """A function of this package by its qualified name."""
    module, _, function = str(value).rpartition(".")
    if isinstance(value, str) and module.partition(".")[0] == _PACKAGE:
        try:
            found = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError):
            found = None
        # Not what its modules import from elsewhere: the file may be a stranger's.
        own = str(getattr(found, "__module__", "")).partition(".")[0] == _PACKAGE
        if callable(found) and own:
            return found
    raise InputError(f"{name}: is {value!r}, must be the full name of a function of {_PACKAGE}")
