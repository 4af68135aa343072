"""The fingerprint of a data set changes with everything that a result depends on, and names it."""

import os

import pytest
from odd_folders import BOX, load, make, mask, photo

TEXT = "file,class\nt0.jpg,cat\nt1.jpg,dog\n"
FILES = ("t0.jpg", "t1.jpg", "t2.jpg")


@pytest.fixture
def root(tmp_path):
    folder = make(tmp_path, TEXT, FILES)
    for n in range(2):
        mask(folder / f"masks/t{n}.png")
        mask(folder / f"saliency/t{n}.png", BOX * 255)
    return folder


def found(root, **options):
    return load(root, **options)[0].fingerprint(saliency=True, masks=True)


def changed(before, after):
    return {name for name in before if before[name] != after[name]}


def rewrite(text):
    return lambda root: (root / "labels.csv").write_text(text)


def later(name):
    def change(root):
        path = root / name
        time = path.stat().st_mtime_ns + 1_000_000
        os.utime(path, ns=(time, time))

    return change


CHANGES = [
    (rewrite(TEXT.replace("cat", "x").replace("dog", "cat").replace("x", "dog")), {"tags"}),
    (rewrite("t0.jpg,cat\nt1.jpg,cat;dog\n"), {"tags"}),
    (rewrite("t1.jpg,dog\nt0.jpg,cat\n"), {"ids", "tags", "photos", "masks", "saliency"}),
    (rewrite("t0.jpg,cat\nt2.jpg,dog\n"), {"ids", "photos", "masks", "saliency"}),
    (rewrite("t0.jpg,cow\nt1.jpg,dog\n"), {"classes"}),
    (rewrite("t0.jpg,cat\nt1.jpg,dog\n"), set()),
    (lambda root: photo(root / "t2.jpg"), set()),
    (later("t1.jpg"), set()),  # a copy of a data set is the same data set
    (lambda root: (root / "t1.jpg").write_bytes((root / "t1.jpg").read_bytes() + b"x"), {"photos"}),
    (lambda root: mask(root / "saliency/t0.png", 255 - BOX * 255), {"saliency"}),
    (lambda root: (root / "saliency/t0.png").unlink(), {"saliency"}),
    (lambda root: mask(root / "masks/t0.png", BOX * 2), {"masks"}),
    (lambda root: (root / "masks/t0.png").unlink(), {"masks"}),
    (lambda root: (root / "classes.txt").write_text("dog\ncat\n"), {"classes", "tags"}),
]


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_what_changes(root, number):
    change, names = CHANGES[number]
    before = found(root)
    assert found(root) == before
    change(root)
    assert changed(before, found(root)) == names


def test_order_and_split_of_ids(root):
    assert changed(found(root, ids=["t0", "t1"]), found(root, ids=["t1", "t0"])) == {
        *("ids", "tags", "photos", "masks", "saliency")
    }


def test_masks_and_saliency_only_where_they_matter(root):
    plain = load(root)[0].fingerprint()
    assert set(found(root)) - set(plain) == {"masks", "saliency"}
    assert all(len(plain[name]) == 16 for name in ("ids", "tags", "photos"))
