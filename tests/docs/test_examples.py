"""The scripts in examples/ run and print the numbers that the documentation shows."""

import os
import re
import subprocess
import sys

import pytest
from pages import ROOT, relative

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
# Numbers that differ between machines: accuracies of a training, differences of roundings.
LOOSE = {"amn_on_own_images": 15.0, "crf_in_a_segmentation_project": 0.1}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=relative)
def test_it_prints_what_the_documentation_shows(script, tmp_path):
    result = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    expected = (ROOT / "examples/expected" / f"{script.stem}.txt").read_text()
    printed, shown = result.stdout.splitlines(), expected.splitlines()
    if printed[0] != shown[0] and "torch.compile" in shown[0]:
        assert "without torch.compile" in printed.pop(0)  # no compiler here
        shown.pop(0)
    assert [words(line) for line in printed] == [words(line) for line in shown]
    for got, want in zip(map(numbers, printed), map(numbers, shown), strict=True):
        assert got == pytest.approx(want, abs=LOOSE.get(script.stem, 0.001))


def words(line):
    return re.sub(r"\d[\d.e-]*", "N", line)


def numbers(line):
    return [float(n) for n in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", line)]
