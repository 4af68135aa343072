"""What is written once, or must agree in two places: the version, the results, plain words."""

import re
import sys

import pytest
from pages import PAGES, ROOT, relative

import wsss_fast
from wsss_fast import _version

sys.path.insert(0, str(ROOT / "tools"))
import results_json  # noqa: E402

# Words of one project only. Say pipeline, after CRF refinement, in addition to, resumes, compared
# with, available; implementations with wrong results are not timed.
PRIVATE = [
    r"\broads?\b",
    r"\bbehind (the|a|its) CRF\b",
    r"\bbeside the\b",
    r"\bgo(es)? on\b",
    r"\bheld against\b",
    r"\bat hand\b",
    r"who is wrong has no time",
    r"\bcontenders?\b",
    r"\bimages? a second\b",
    r"\ba line an image\b",
]
# The surroundings in the Shapes benchmark are called rails, water, grass and road.
SURROUNDINGS = re.compile(r"\brails, water, grass(,| and) road\b")


@pytest.mark.parametrize("path", [*PAGES, *sorted((ROOT / "examples").rglob("*.py"))], ids=relative)
def test_words_are_plain(path):
    text = SURROUNDINGS.sub("", " ".join(path.read_text().split()))
    for word in PRIVATE:
        match = re.search(word, text, re.IGNORECASE)
        around = match and text[max(0, match.start() - 40) : match.end() + 40]
        assert not match, f"{relative(path)}: ...{around}..."


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_lines_have_at_most_100_columns(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert len(line) <= 100 or line.startswith("|"), f"line {number} has {len(line)} columns"


def test_the_version_is_written_once():
    assert wsss_fast.__version__ == _version.__version__
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in pyproject
    assert not re.search(r'^version = "', pyproject, re.MULTILINE)
    assert not re.search(r"^version:", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest.group(1) == _version.__version__


def test_the_json_files_are_those_of_the_results_page():
    files = results_json.files()
    assert len(files) >= 20
    assert set(results_json.FOLDER.glob("*.json")) == set(files)
    for path, content in files.items():
        assert path.read_text() == content, f"{path}: run python tools/results_json.py"
