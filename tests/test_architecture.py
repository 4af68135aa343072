"""The plan of the house, kept by machine: imports run one way, README's code runs, sources are listed once."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "wsss_fast"
# A module imports from its own layer and from the layers before it. The only list of layers.
LAYERS = [
    {"_version", "errors", "command", "_build", "_native"},
    {"ops", "compat", "engine"},
    {"nets", "data", "maps"},
    {"stages", "convert"},
    {"evaluation"},
    {"cam", "irn", "seg"},
    {"pipeline"},
    {"METHODS"},
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
    """Modules of the package that a file imports, without the package's name; relative ones resolved."""
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


def test_every_native_source_is_listed():
    listed = {
        line.split("#")[0].strip() for line in (ROOT / "csrc/sources.txt").read_text().splitlines()
    } - {""}
    found = {
        str(p.relative_to(ROOT / "csrc"))
        for p in (ROOT / "csrc").rglob("*")
        if p.suffix in (".cpp", ".cu") and p.parent.name != "tests"
    }
    assert found == listed
