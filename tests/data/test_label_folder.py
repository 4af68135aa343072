"""Folders of seeds and pseudo-masks: checked as a whole before any training."""

import numpy as np
import pytest
from PIL import Image

from wsss_fast import InputError, cli
from wsss_fast.data import write_labels
from wsss_fast.data.label_folder import check_label_folder, read_label
from wsss_fast.engine import remarks


def folder_of(shapes, folder, labels_of):
    for id in shapes.ids:
        write_labels(folder / f"{id}.png", labels_of(id))
    return folder


def test_true_masks_are_pseudo_masks(shapes, tmp_path):
    folder = folder_of(shapes, tmp_path / "masks", shapes.mask)
    with remarks.collected():
        assert check_label_folder(folder, shapes, "masks") == folder
        assert not remarks.lines()
    np.testing.assert_array_equal(
        read_label(folder, shapes, shapes.ids[0]), shapes.mask(shapes.ids[0])
    )


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (255, "hold 0 and 255 only, and 255 means ignore, so that no pixel of a class is known"),
        (0, r"hold 0 only \(background\); nothing can be learned"),
    ],
)
def test_folders_that_say_nothing_are_rejected(shapes, tmp_path, factor, message):
    def binary(id):
        return (shapes.mask(id) % 255 > 0) * factor

    folder = folder_of(shapes, tmp_path / "masks", binary)
    with pytest.raises(InputError, match=rf"masks: {folder}: the maps {message}"):
        check_label_folder(folder, shapes, "masks")
    assert check_label_folder(folder, shapes, "masks", values=False) == folder


def test_single_maps_that_say_nothing_are_counted(shapes, tmp_path):
    nothing = {shapes.ids[2]: 255, shapes.ids[3]: 255, shapes.ids[5]: 0}
    folder = folder_of(
        shapes,
        tmp_path / "seeds",
        lambda id: np.full((64, 64), nothing[id]) if id in nothing else shapes.mask(id),
    )
    with remarks.collected():
        check_label_folder(folder, shapes, "seeds")
        lines = remarks.lines()
    assert any("seeds: all pixels are 255 (ignore): 2 of 24 maps" in line for line in lines)
    assert any("seeds: no pixel of a class: 1 of 24 maps" in line for line in lines)


def test_labels_that_are_no_tags_are_counted(shapes, tmp_path):
    id = shapes.ids[2]
    other = int(np.flatnonzero(shapes.tags_of(id) == 0)[0]) + 1
    folder = folder_of(
        shapes, tmp_path / "m", lambda i: np.full((64, 64), other) if i == id else shapes.mask(i)
    )
    with remarks.collected():
        check_label_folder(folder, shapes, "masks")
        (line,) = remarks.lines()
    assert "masks: labels that are not among their image's tags: 1 of 24 maps" in line
    assert f"{id}.png" in line


def test_the_first_map_that_cannot_be_used_is_named(shapes, tmp_path):
    folder = folder_of(shapes, tmp_path / "masks", shapes.mask)
    third, fifth = (folder / f"{shapes.ids[n]}.png" for n in (2, 4))
    fifth.write_bytes(b"")
    Image.new("L", (20, 30)).save(third)
    with pytest.raises(InputError, match=rf"{third.name}: is 30x20 pixels .* is 64x64"):
        check_label_folder(folder, shapes, "masks")
    write_labels(third, np.full((64, 64), 77))
    with pytest.raises(InputError, match=rf"{third.name}: label 77 is impossible"):
        check_label_folder(folder, shapes, "masks")


def test_training_on_masks_of_0_and_255_stops_before_it_starts(shapes, tmp_path, capsys):
    folder = folder_of(shapes, tmp_path / "masks", lambda id: (shapes.mask(id) % 255 > 0) * 255)
    words = ["--data", str(shapes.root), "--masks", str(folder), "--out", str(tmp_path / "run")]
    assert cli.run(["seg", "train", *words, "--backbone", "small"]) == 2
    assert "hold 0 and 255 only" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_a_library_call_prints_one_line_for_a_kind(shapes, tmp_path, capsys):
    folder = folder_of(
        shapes,
        tmp_path / "seeds",
        lambda id: shapes.mask(id) if id == shapes.ids[0] else np.full((64, 64), 255),
    )
    check_label_folder(folder, shapes, "seeds")
    err = " ".join(capsys.readouterr().err.split())
    assert err.count("remark:") == 1 and "all pixels are 255 (ignore): 23 of 24 maps" in err
