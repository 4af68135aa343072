"""The plan of the house, kept by machine: imports run one way, README's code runs, sources are listed once."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "wsss_fast"
# A module may import from its own floor and from the floors before it.
FLOORS = [
    {"errors", "_build", "_native", "ranks"},
    {"ops", "compat", "progress", "interrupt"},
    {"nets", "data", "maps", "fit", "parallel", "run", "checkpoint"},
    {"stages", "convert"},
    {"report"},
    {"cam", "irn", "seg", "pipeline", "amn", "eps", "ccr"},
    {"cli", "bench"},
    {"__init__", "__main__"},
]


def floor(module):
    top = module.split(".")[0]
    return next(i for i, names in enumerate(FLOORS) if top in names)


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
        assert floor(other) <= floor(name), f"{name} must not import {other}"


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
