"""Lists of ids: errors name the list and the line."""

import pytest
from layouts import make_folder, make_voc

from wsss_fast import InputError, data


def test_errors_name_the_line(tmp_path):
    voc, folder = make_voc(tmp_path / "VOC2012"), make_folder(tmp_path / "mine")
    path = tmp_path / "train_aug.txt"
    path.write_text("2007_000032\n\n\n2007_000039\n2007_000032\n")
    with pytest.raises(
        InputError,
        match=r"train_aug\.txt, line 5: id '2007_000032' is listed .* first at .*, line 1",
    ):
        data.load(voc, ids=path)
    path.write_text("2007_000032\n\n2007_999999\n")
    with pytest.raises(InputError, match=r"train_aug\.txt, line 3: id '2007_999999' has no image"):
        data.load(voc, ids=path)
    path.write_bytes(b"2007_\xff000032\n")
    with pytest.raises(InputError, match=r"train_aug\.txt: not a readable UTF-8 text"):
        data.load(voc, ids=path)
    with pytest.raises(InputError, match=r"ids\[1\]: id 'x' has no line in .*labels\.csv"):
        data.load(folder, ids=["a", "x"])
    with pytest.raises(InputError, match=r"nowhere\.txt: no such file"):
        data.load(folder, ids=tmp_path / "nowhere.txt")
