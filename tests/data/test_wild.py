"""Odd files of strangers: each is read right, or rejected in one line that names it."""

from pathlib import Path

import pytest
import wild

from wsss_fast.engine import remarks
from wsss_fast.errors import InputError, RunError

ROWS = wild.rows()


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.file}-{row.reader}" for row in ROWS])
def test_expected_result(row, tmp_path, capfd):
    path = wild.WILD / row.file
    try:
        with remarks.collected():
            found = wild.READERS[row.reader](path, tmp_path)
    except (InputError, RunError) as error:
        found = f"error: {error}"
        assert len(found.splitlines()) == 1
        read_as = {
            "classes": "classes.txt",
            "tags": "labels.csv",
            "coco": "instances_train2014.json",
        }
        assert read_as.get(row.reader, path.name) in found
    printed = capfd.readouterr().err
    if row.expected.startswith("error: "):
        assert found.startswith("error: ") and row.expected.removeprefix("error: ") in found
    else:
        assert found == row.expected
    assert row.remark in printed if row.remark else not printed


def test_every_file_has_a_row_and_the_corpus_is_small():
    files = [path for path in wild.WILD.rglob("*") if path.is_file() and path.suffix != ".csv"]
    files += [*(wild.WILD / "tags").iterdir()]
    files += [path for path in (wild.WILD / "ids").iterdir() if path.suffix == ".csv"]
    listed = {row.file for row in ROWS}
    assert {str(path.relative_to(wild.WILD)) for path in files} == listed
    assert sum(path.stat().st_size for path in files) < 1_000_000


def test_the_files_are_those_that_the_tool_writes():
    """Text and hand-made files; what encoders write may change with their versions."""
    import runpy

    tool = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools/wild_files.py"))
    for kind in ("ids", "classes", "tags", "coco"):
        for name, content in tool["KINDS"][kind]().items():
            assert (wild.WILD / kind / name).read_bytes() == content, f"{kind}/{name}"
