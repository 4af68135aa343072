"""Configuration files: `config.json` of a run, or arguments of a command as YAML or JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from wsss_fast.engine.run_folder import FORMAT
from wsss_fast.engine.serialize import Plain
from wsss_fast.errors import InputError


def read_config(path: Path, command: str) -> dict[str, Any]:
    """Arguments of a command from a file: `config.json` of a run, or a mapping of arguments.

    Args:
        path: JSON (*.json) or YAML.
        command: the words typed after `wsss-fast`; a file that names another one is rejected.

    Returns:
        Values by argument: mappings, lists, quoted `str`, `Plain` scalars, bool, None.

    Raises:
        InputError: the file is missing, not readable, of another command or of another version.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"{path}: cannot be read ({why})") from None
    found = _parse_json(path, text) if path.suffix.lower() == ".json" else _parse_yaml(path, text)
    if not isinstance(found, dict):
        raise InputError(f"{path}: must hold a mapping of arguments")
    version = str(found.get("format", 1))
    if "arguments" in found and version != str(FORMAT):
        raise InputError(
            f"{path}: written by another version of wsss-fast (format {version}, this version "
            f"reads {FORMAT}); repeat the command with its options instead"
        )
    named = found.get("command")
    if named is not None and named != command:
        raise InputError(f"{path}: holds arguments of `{named}`, not of `{command}`")
    if "arguments" not in found:
        return {key: value for key, value in found.items() if key != "command"}
    if not isinstance(found["arguments"], dict):
        raise InputError(f"{path}: arguments must be a mapping")
    return found["arguments"]


def _parse_json(path: Path, text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return _mapping(path, pairs)

    try:
        return json.loads(
            text,
            parse_int=Plain,
            parse_float=Plain,
            parse_constant=Plain,
            object_pairs_hook=unique,
        )
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply") from None


def _parse_yaml(path: Path, text: str) -> Any:
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise InputError(f"{path}: YAML aliases (*name) are not supported")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return None if node is None else _from_node(path, node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        why = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{path}{where}: not valid YAML ({why})") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply") from None


def _from_node(path: Path, node: yaml.Node) -> Any:
    """Values as they are written: YAML 1.1 would read 2e-4 as text and 2007_000032 as a number."""
    if isinstance(node, yaml.MappingNode):
        pairs = [(str(_from_node(path, k)), _from_node(path, v)) for k, v in node.value]
        return _mapping(path, pairs)
    if isinstance(node, yaml.SequenceNode):
        return [_from_node(path, item) for item in node.value]
    if not isinstance(node, yaml.ScalarNode) or node.style is not None:  # quoted, or a text block
        return str(node.value)
    constants = {"": None, "~": None, "null": None, "true": True, "false": False}
    constants |= {"True": True, "False": False, "None": None}
    return constants[node.value] if node.value in constants else Plain(node.value)


def _mapping(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InputError(f"{path}: key {key!r} is listed more than once")
        found[key] = value
    return found
