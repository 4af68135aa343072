"""The subset of the golden data in this repository: small, and equal to the full data."""

import runpy
from pathlib import Path

import numpy as np
from golden import GOLDEN, SUBSET, needs_full_golden

TOOL = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "golden_subset.py"))


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_files_and_size():
    arrays = [f"{name}.npz" for name in TOOL["ARRAYS"]]
    keys = [f"keys/{name}.json" for name in TOOL["KEYS"]]
    assert files(SUBSET) == sorted(["README.md", *arrays, *keys])
    assert sum((SUBSET / name).stat().st_size for name in files(SUBSET)) <= TOOL["MAX_BYTES"]


@needs_full_golden
def test_equals_the_full_data(tmp_path):
    TOOL["write_subset"](GOLDEN, tmp_path)
    for name in files(tmp_path):
        if name.endswith(".npz"):
            ours, full = np.load(SUBSET / name), np.load(tmp_path / name)
            assert ours.files == full.files, name
            for key in full.files:
                assert ours[key].dtype == full[key].dtype, (name, key)
                np.testing.assert_array_equal(ours[key], full[key], err_msg=f"{name} {key}")
        else:
            assert (SUBSET / name).read_bytes() == (tmp_path / name).read_bytes(), name
