"""Masks that every format is given."""

import json

import numpy as np
import pytest

from wsss_fast.readers.label_maps import write_labels


@pytest.fixture
def masks(tmp_path):
    """A folder of three masks: a rectangle, two classes with ignored pixels, nothing."""
    folder = tmp_path / "masks"
    one, two = np.zeros((2, 5, 6), np.uint8)
    one[1:3, 1:4] = 2
    two[:, :2], two[0, 0], two[4, 5] = 1, 255, 2
    for id, labels in (("one", one), ("two", two), ("zero", np.zeros((4, 3), np.uint8))):
        write_labels(folder / f"{id}.png", labels)
    names = {"0": "background", "1": "cat & <dog>", "2": "größe", "255": "ignore"}
    (folder / "classes.json").write_text(json.dumps(names))
    return folder


@pytest.fixture
def files_of(tmp_path):
    """Function that gives the names of all files below the test's folder, but for the masks."""

    def files():
        found = (p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
        return sorted(name for name in found if not name.startswith("masks/"))

    return files
