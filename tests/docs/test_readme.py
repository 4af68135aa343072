"""The README: its length, its commands, its example and its figures."""

import json
import os
import re
import subprocess
import sys

import pytest
from pages import ROOT, blocks

README = ROOT / "README.md"


def test_it_is_short():
    assert len(README.read_text().splitlines()) <= 110


def test_it_has_the_commands_of_the_demo_and_of_the_tests():
    commands = "".join(blocks(README, "bash"))
    install = 'pip install torch==2.13.0 && pip install ".[test]" && wsss-fast demo'
    assert install in commands
    assert "python -m pytest" in commands


@pytest.mark.slow
def test_the_python_example_runs(tmp_path):
    (code,) = blocks(README, "python")
    assert len(code.strip().splitlines()) <= 15
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    assert 0 <= float(result.stdout) <= 1  # a threshold


def gpu_rows():
    content = json.loads((ROOT / "benchmarks/gpu_h200.json").read_text())
    return content["crf"]["figures"]["rows"]


def numbers(text):
    return {float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*(?:\.\d+)?", text)}


def test_its_figures_are_measured_figures():
    pages = "benchmarks/RESULTS.md", "docs/performance.md"
    measured = set().union(*(numbers((ROOT / page).read_text()) for page in pages))
    measured |= {round(row["images_per_s"]) for row in gpu_rows()}
    rows = re.findall(r"^\|[^|]+\|(.*)\|$", README.read_text(), re.MULTILINE)[2:]
    assert len(rows) >= 8
    for row in rows:
        assert not numbers(row) - measured, f"not in {pages}: {row}"


@pytest.mark.parametrize("name", ["21 labels", "seed pair of 3 labels"])
def test_the_figures_of_the_gpu_are_those_of_its_json_file(name):
    (row,) = (row for row in gpu_rows() if row["name"] == name)
    assert f"{row['images_per_s']:,.0f} images/s" in README.read_text()


def test_links_lead_to_files():
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert (ROOT / target).exists(), target
