"""The architecture: imports run one way, every native source is compiled and packed."""

import ast
import re
from pathlib import Path

import pytest

from wsss_fast import _build

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "wsss_fast"
# A module imports from its own layer and from the layers before it. The only list of layers.
LAYERS = [
    {"_version", "errors", "command", "_process", "_build", "_native"},
    {"ops", "compat", "engine"},
    {"readers"},
    {"nets", "data", "maps", "presets", "regions", "thresholds"},
    {"stages", "convert", "export"},
    {"evaluation"},
    {"runs"},
    {"cam", "irn", "seg", "refinement"},
    {"pipeline"},
    {"METHODS"},
    {"reproduce", "prediction", "deployment"},
    {"bench", "cli"},
    {"__init__", "__main__"},
]


# All other packages with commands are methods. They do not import each other.
METHODS = {path.parent.name for path in PACKAGE.glob("*/commands.py")} - set().union(*LAYERS)


def layer(module):
    top = module.split(".")[0]
    name = "METHODS" if top in METHODS else top
    return next(number for number, names in enumerate(LAYERS) if name in names)


def imports(path):
    """Modules that a file imports, without the package's name; relative ones resolved."""
    here = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "wsss_fast":
                    yield alias.name.partition(".")[2]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = [*here[: len(here) - node.level], *(node.module or "").split(".")]
            elif (node.module or "").split(".")[0] == "wsss_fast":
                base = node.module.split(".")[1:]
            else:
                continue
            base = [b for b in base if b]
            yield from [".".join(base)] if base else [alias.name for alias in node.names]


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_run_one_way(path):
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for other in imports(path):
        assert other, f"{name} imports the package root"
        assert layer(other) <= layer(name), f"{name} must not import {other}"
        own, imported = name.split(".")[0], other.split(".")[0]
        if own in METHODS:
            assert imported == own or imported not in METHODS, f"{name} must not import {other}"


def test_every_native_source_is_compiled_into_one_part():
    """Sources are found by folder and suffix; a file elsewhere would not be compiled."""
    compiled = [path for part in _build.NAMES for path in _build.list_sources(part)]
    sources = (p for p in _build.csrc().rglob("*") if p.suffix in (".cpp", ".cu"))
    found = [path for path in sources if path.parent.name != "tests"]
    assert sorted(compiled) == sorted(found)
    assert {path.name for path in compiled} >= set(_build.SLOWEST)


def test_packages_contain_every_native_source():
    text = (ROOT / "pyproject.toml").read_text()
    (line,) = re.findall(r'^"wsss_fast.csrc" = \[(.*)\]$', text, re.MULTILINE)
    patterns = re.findall(r'"(.*?)"', line)
    packed = {path for pattern in patterns for path in _build.csrc().glob(pattern)}
    assert packed == {path for path in _build.csrc().rglob("*") if path.is_file()}


# Readers of the package's own files, and of data that no user gives. All other files are read by
# `readers/`, which knows what their values may be.
OWN_READERS = {
    "wsss_fast/bench/harness/photos.py",  # photos that scikit-image brings
    "wsss_fast/engine/checkpoint.py",  # the package's own checkpoints
}
READING = {
    "Image": {"open"},
    "np": {"load", "fromfile", "loadtxt", "genfromtxt", "memmap"},
    "torch": {"load"},
    "pickle": {"load", "loads"},
}


def calls_of_readers(tree):
    """`Image.open`, `np.load` and their like in a syntax tree, as (line, name)."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
            continue
        if node.attr in READING.get(node.value.id, ()):
            yield node.lineno, f"{node.value.id}.{node.attr}"


def test_files_of_users_are_read_by_the_readers_only():
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        calls = list(calls_of_readers(ast.parse(path.read_text())))
        if calls and path.parent != PACKAGE / "readers":
            found[str(path.relative_to(ROOT))] = calls
    assert set(found) - OWN_READERS == set(), found
    assert list(calls_of_readers(ast.parse("import numpy as np\nnp.load('a')"))) == [(2, "np.load")]
