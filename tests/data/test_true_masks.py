"""True masks against the tags of their images, and masks that cannot be used."""

import json

import numpy as np
import pytest
from odd_folders import BOX, load, make, mask

from wsss_fast import InputError, cli, data, evaluate
from wsss_fast.engine import remarks

CSV = "file,class\n" + "".join(f"t{n}.jpg,cat\n" for n in range(4))
FILES = tuple(f"t{n}.jpg" for n in range(4))


@pytest.fixture
def root(tmp_path):
    """Four images of a cat, of the classes cat and dog, with true masks."""
    folder = make(tmp_path / "mine", CSV, FILES, "cat\ndog\n")
    for n in range(4):
        mask(folder / f"masks/t{n}.png")
        mask(tmp_path / f"predictions/t{n}.png")
    return folder


def checked(root, **options):
    """Remarks of a check of the masks."""
    loaded = load(root, **options)[0]
    with remarks.collected():
        loaded.check_masks()
        return remarks.lines()


def test_masks_that_fit(root):
    assert checked(root) == []


def test_labels_that_are_not_tags_are_counted(root):
    mask(root / "masks/t1.png", BOX * 2)
    mixed = BOX * 2
    mixed[0, 0] = 1
    mask(root / "masks/t3.png", mixed)
    found = checked(root)
    assert len(found) == 2
    assert "labels that are not among their image's tags: 2 of 4 masks, first" in found[0]
    assert found[0].endswith("t1.png has 2, tags 1")
    assert "show none of their image's tags: 1 of 4 masks" in found[1]


def test_one_mask_of_0_and_255_is_noticed(root):
    mask(root / "masks/t2.png", BOX * 255)
    (line,) = checked(root)
    assert "none of their image's tags" in line and "t2.png has 0, 255, tags 1" in line


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (BOX * 255, "the 4 true masks hold 0 and 255 only, which shows no class; 255 means"),
        (BOX * 0, "the 4 true masks hold 0 only, which shows no class; their images are tagged"),
        (BOX * 0 + 255, r"all pixels of the 4 true masks are 255 \(ignored\)"),
    ],
)
def test_a_truth_without_any_class_is_refused(root, tmp_path, labels, message):
    for n in range(4):
        mask(root / f"masks/t{n}.png", labels)
    for _ in range(2):  # also when it is asked again
        with pytest.raises(InputError, match=message):
            evaluate(tmp_path / "predictions", data.load(root))


def test_untagged_images_with_empty_masks(root):
    (root / "labels.csv").write_text("".join(f"t{n}.jpg,\n" for n in range(4)))
    for n in range(4):
        mask(root / f"masks/t{n}.png", BOX * 0)
    (line,) = checked(root)
    assert "true masks show background only, so nothing else is scored: 4 of 4 masks" in line


@pytest.mark.parametrize("damage", ["label", "size", "text", "colour"])
def test_a_bad_mask_is_left_out_of_scoring(root, tmp_path, capfd, damage):
    path = root / "masks/t1.png"
    if damage == "text":
        path.write_text("not found")
    else:
        labels = {
            "label": BOX * 77,
            "size": BOX[:5],
            "colour": np.stack([BOX, BOX * 0, BOX], axis=-1),
        }
        mask(path, labels[damage])
    with pytest.raises(InputError, match=r"masks/t1\.png: "):
        data.load(root).check_masks()
    words = ["eval", "--data", str(root), "--predictions", str(tmp_path / "predictions")]
    code = cli.run([*words, "--out", str(tmp_path / "out")])
    shown = capfd.readouterr()
    assert code == 1 and "mIoU 100.00 % over 3 of 4 images" in shown.out
    assert f"left out: {path}: " in shown.err and "1 broken true masks were not" in shown.err
    assert list(json.loads((tmp_path / "out/broken_masks.json").read_text())) == ["t1"]
    assert cli.run([*words, "--strict"]) == 2
    assert f"error: {path}: " in capfd.readouterr().err


def test_all_masks_are_bad(root, tmp_path, capfd):
    for n in range(4):
        mask(root / f"masks/t{n}.png", BOX * 77)
    words = ["eval", "--data", str(root), "--predictions", str(tmp_path / "predictions")]
    assert cli.run(words) == 2
    shown = capfd.readouterr().err
    assert "none of the 4 true masks can be used; first: " in shown and shown.count("\n") == 1


def test_what_was_found_is_shared_with_parts_and_not_read_again(root):
    mask(root / "masks/t1.png", BOX * 77)
    mask(root / "masks/t2.png", BOX * 2)
    whole = data.load(root, strict=False)
    part = whole.only(["t1", "t2", "t0"])
    with remarks.collected():
        assert set(part.check_masks().masks) == {"t0", "t2"}
        assert len(remarks.lines()) == 2
    assert list(whole.broken_masks) == ["t1"]
    with remarks.collected():
        part.check_masks()
        part.only(["t2"]).check_masks()
        assert remarks.lines() == []
        mask(root / "masks/t2.png", BOX * 255)  # a changed file is read again
        whole.check_masks()
        assert any("t2.png has 0, 255" in line for line in remarks.lines())


def test_images_without_a_mask_are_counted(root, tmp_path, capfd):
    (root / "masks/t3.png").unlink()
    words = ["eval", "--data", str(root), "--predictions", str(tmp_path / "predictions")]
    assert cli.run([*words, "--out", str(tmp_path / "out")]) == 0
    shown = capfd.readouterr()
    assert "over 3 of 4 images" in shown.out
    assert "no true mask that can be used, and are not scored: 1 of 4 images: t3" in shown.err
    found = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert (found["images"], found["of_images"]) == (3, 4)


def test_perfect_predictions_with_background_in_the_list(root, tmp_path, capfd):
    (root / "classes.txt").write_text("background\ncat\n")
    words = ["eval", "--data", str(root), "--predictions", str(tmp_path / "predictions")]
    assert cli.run(words) == 0
    shown = capfd.readouterr()
    assert "mIoU 100.00 % over 4 images" in shown.out and "nan" not in shown.out
    assert "'background' before the first class is not counted" in shown.err
