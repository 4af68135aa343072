"""The documentation: it builds, its examples print what they show, named files exist."""

import doctest
import importlib.util
import re
import subprocess
import sys

import pytest
from pages import PAGES, ROOT, blocks, relative

CONTRIBUTING = ROOT / "CONTRIBUTING.md"


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(m) is None for m in ("sphinx", "myst_parser", "furo")),
    reason="needs the extra docs",
)
def test_it_builds_without_warnings(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
        + ["-d", str(tmp_path / "doctrees"), str(ROOT / "docs"), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    html = tmp_path / "html"
    assert len(list(html.rglob("*.html"))) > 40
    ops = (html / "api/ops.html").read_text()
    assert 'id="wsss_fast.ops.dense_crf"' in ops
    assert "<math" in (html / "ops.html").read_text()
    assert "--pipeline.cam.epochs" in (html / "generated/cli/amn.html").read_text()
    remote = re.findall(r'(?:src|href)="https?://[^"]*\.(?:js|css|woff2?)"', ops)
    assert not remote  # the pages work offline


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_examples_print_what_they_show(page):
    code = "\n".join(blocks(page, "pycon"))
    example = doctest.DocTestParser().get_doctest(code, {}, page.name, str(page), 0)
    assert doctest.DocTestRunner().run(example).failed == 0


def test_operators_have_examples():
    assert len(blocks(ROOT / "docs/ops.md", "pycon")) > 8


def test_the_table_of_contributing_names_files_that_exist():
    table = CONTRIBUTING.read_text().partition("## Where each thing lives")[2]
    named = re.findall(r"`([\w./]+/[\w.]+)`", table)
    assert len(named) > 60
    for name in named:
        assert (ROOT / name).exists(), f"CONTRIBUTING names {name}, which does not exist"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_paths_of_the_repository_exist(page):
    """Paths in backticks below a folder of the repository; words in capitals are placeholders."""
    folders = "wsss_fast|csrc|tests|docs|tools|benchmarks|examples"
    for path in re.findall(rf"`((?:{folders})/[\w./*]+)`", page.read_text()):
        if not re.search(r"(?<![A-Za-z])[A-Z]+(?![A-Za-z])", path.removesuffix("RESULTS.md")):
            assert list(ROOT.glob(path)), f"{path} does not exist"


def test_the_data_layout_of_contributing_works(tmp_path):
    from PIL import Image

    from wsss_fast import data

    (code,) = (b for b in blocks(CONTRIBUTING, "python") if "is_class_folders" in b and "def" in b)
    layout = {}
    exec(code, layout)
    for name in ("cats/1.jpg", "dogs/2.jpg"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert layout["is_class_folders"](tmp_path)
    found = layout["load_class_folders"](tmp_path, "train", None, None, None, None).check()
    assert isinstance(found, data.Dataset)
    assert found.classes == ("cats", "dogs") and found.tags.tolist() == [[1, 0], [0, 1]]
