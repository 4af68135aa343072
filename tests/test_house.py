"""The plan of the house, kept by machine: imports run one way, README's code runs, all sources are built."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wsss_fast import _build

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "wsss_fast"
# A module may import from its own floor and from the floors before it.
FLOORS = [
    {"errors", "_build", "_native", "ranks"},
    {"ops", "compat", "progress", "interrupt"},
    {"nets", "data", "maps", "fit", "parallel", "run", "checkpoint"},
    {"stages", "convert"},
    {"report"},
    {"cam", "irn", "seg", "road", "amn", "eps", "ccr"},
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
                base = [*here[:len(here) - node.level], *(node.module or "").split(".")]
            elif (node.module or "").split(".")[0] == "wsss_fast":
                base = node.module.split(".")[1:]
            else:
                continue
            base = [b for b in base if b]
            yield from [".".join(base)] if base else [alias.name for alias in node.names]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for other in imports(path):
        assert other, f"{name} imports the package root"
        assert floor(other) <= floor(name), f"{name} must not import {other}"


def test_every_native_source_is_compiled_into_one_part():
    """The parts' sources are found by folder and suffix; a file elsewhere would not be compiled."""
    compiled = [path for part in _build.NAMES for path in _build.list_sources(part)]
    found = [p for p in _build.csrc().rglob("*") if p.suffix in (".cpp", ".cu") and p.parent.name != "tests"]
    assert sorted(compiled) == sorted(found)
    assert {path.name for path in compiled} >= set(_build.SLOWEST)


def test_packages_contain_every_native_source():
    (line,) = re.findall(r'^"wsss_fast.csrc" = \[(.*)\]$', (ROOT / "pyproject.toml").read_text(), re.M)
    packed = {path for pattern in re.findall(r'"(.*?)"', line) for path in _build.csrc().glob(pattern)}
    assert packed == {path for path in _build.csrc().rglob("*") if path.is_file()}


def readme_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def test_the_readmes_python_example_runs(tmp_path):
    (code,) = readme_blocks("python")
    assert len(code.strip().splitlines()) <= 15
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600,
                            check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_the_readme_names_files_that_exist():
    section = (ROOT / "README.md").read_text().partition("## Where do I change X?")[2].partition("\n## ")[0]
    rows = re.findall(r"^\|[^|]*\|\s*(`[^|]*`)\s*\|$", section, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(named) >= 10
    for name in named:
        assert list(ROOT.glob(name)), f"README names {name}, which does not exist"
