"""Data sets: restricted to some ids, with wrong masks, with broken images.

Of 200 images, 20 are broken in ten ways: 180 are processed, 20 reported; with --strict the first
broken one stops the command.
"""

import json
import os
import shutil
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from wsss_fast import InputError, cli, data
from wsss_fast.data import dataset, make_shapes, read_labels, write_labels


def test_only_keeps_the_tags_of_each_id(shapes):
    some = shapes.only([shapes.ids[5], shapes.ids[2]])
    assert len(some) == 2
    np.testing.assert_array_equal(some.tags_of(shapes.ids[5]), shapes.tags_of(shapes.ids[5]))
    with pytest.raises(InputError, match=r"id 'x' is not in split 'train'"):
        shapes.only([shapes.ids[5], "x"])


def test_loader_processes_share_the_room_for_decoded_images(own_shapes, monkeypatch):
    """An image of the folder has 64 x 64 x 3 bytes."""
    monkeypatch.setattr(dataset, "_CACHE_BYTES", 4 * 64 * 64 * 3)
    for processes, kept in ((None, 4), (1, 4), (2, 2), (5, 0)):
        info = processes and SimpleNamespace(num_workers=processes)
        monkeypatch.setattr(dataset, "get_worker_info", lambda info=info: info)
        found = data.load(own_shapes)
        images = [found.image(id) for id in found.ids[:6]]
        again = [found.image(id) for id in found.ids[:6]]
        assert sum(a is b for a, b in zip(images, again, strict=True)) == kept


def test_check_masks_reads_every_mask(own_shapes):
    data.load(own_shapes).check_masks()
    path = own_shapes / "SegmentationClass/train_00000.png"
    write_labels(path, np.full((64, 64), 77))
    with pytest.raises(InputError, match=r"train_00000\.png: label 77 is impossible"):
        data.load(own_shapes).check_masks()
    write_labels(path, np.zeros((64, 32)))
    with pytest.raises(
        InputError, match=r"train_00000\.png: is \(64, 32\), but its image .* is \(64, 64\)"
    ):
        data.load(own_shapes).check_masks()


def _huge(path):
    """A PNG header of 60,000 x 60,000 pixels: a decompression bomb."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def _damaged_png(path):
    """A PNG with one wrong byte in the middle of its pixels."""
    photo = Image.open(path).convert("RGB")
    photo.save(path, "PNG")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def _cut(share):
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def _folder(path):
    path.unlink()
    path.mkdir()


def _dangling(path):
    path.unlink()
    path.symlink_to(path.parent / "nowhere.jpg")


def _loop(path):
    path.unlink()
    path.symlink_to(path)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut in the middle": _cut(0.5),
    "cut before the end": _cut(0.99),
    "cut in the header": lambda path: path.write_bytes(path.read_bytes()[:30]),
    "text": lambda path: path.write_text("<html>404 not found</html>"),
    "bomb": _huge,
    "damaged png": _damaged_png,
    "folder": _folder,
    "dangling link": _dangling,
    "deep colours": lambda path: Image.fromarray(np.full((64, 64), 40000, np.uint16)).save(
        path, "PNG"
    ),
}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    root = make_shapes(tmp_path_factory.mktemp("damaged") / "shapes", train=200, val=4, size=48)
    ids = [f"train_{i:05d}" for i in range(0, 200, 10)]
    for n, id in enumerate(ids):
        list(DAMAGE.values())[n % len(DAMAGE)](root / "JPEGImages" / f"{id}.jpg")
    return root, ids


def test_broken_images_are_left_out_and_listed(damaged):
    root, ids = damaged
    found = data.load(root, strict=False)
    assert len(found) == 180 and list(found.broken) == ids
    for id, why in found.broken.items():
        assert f"{id}.jpg: " in why and len(why.splitlines()) == 1
    assert not set(found.ids) & set(ids) and len(found.tags) == 180
    with pytest.raises(InputError, match=f"{ids[0]}.jpg"):
        data.load(root)


@pytest.mark.parametrize("kind", [*DAMAGE, "loop"])
def test_each_damage_alone(shapes_root, tmp_path, kind):
    root = tmp_path / "data"
    shutil.copytree(shapes_root, root)
    path = root / "JPEGImages/train_00002.jpg"
    (_loop if kind == "loop" else DAMAGE[kind])(path)
    found = data.load(root, strict=False)
    assert list(found.broken) == ["train_00002"] and str(path) in found.broken["train_00002"]


def test_180_processed_20_reported(damaged, tmp_path, capfd):
    root, ids = damaged
    code = cli.run(["saliency", "--data", str(root), "--out", str(tmp_path / "run")])
    err = capfd.readouterr().err
    assert code == 1 and "20 broken images were left out" in err
    written = {p.stem for p in (tmp_path / "run/saliency").glob("*.png")}
    assert len(written) == 180 and not written & set(ids)
    assert all(
        read_labels(tmp_path / "run/saliency" / f"{id}.png").shape == (48, 48) for id in written
    )
    assert list(json.loads((tmp_path / "run/broken.json").read_text())) == ids
    assert all(f"{id}.jpg" in err for id in ids)


def test_strict_stops_at_the_first_broken_image(damaged, tmp_path, capfd):
    root, ids = damaged
    code = cli.run(["saliency", "--data", str(root), "--out", str(tmp_path / "run"), "--strict"])
    err = capfd.readouterr().err
    assert code == 2 and f"{ids[0]}.jpg" in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_pipeline_without_the_broken_images(damaged, tmp_path, capfd):
    """Training, maps, seeds, masks and scores of the others, and one true mask is broken too."""
    root, ids = damaged
    wrong = root / "SegmentationClass/train_00001.png"
    write_labels(wrong, np.full((48, 48), 77))
    numbers = {"epochs": 1, "batch-size": 60, "augment.crop": 48}
    words = ["--pipeline.refine.irn.steps", "8"]
    for stage in ("cam", "amn", "refine.irn"):
        for key, value in numbers.items():
            words += [f"--pipeline.{stage}.{key}", str(value)]
    where = ["--data", str(root), "--out", str(tmp_path / "run")]
    code = cli.run(["amn", "run", "--preset", "shapes", "--until", "masks", *where, *words])
    shown = capfd.readouterr()
    assert code == 1 and "20 broken images were left out" in shown.err and "amn+crf" in shown.out
    assert len(list((tmp_path / "run/masks").glob("*.png"))) == 180
    assert len(json.loads((tmp_path / "run/broken.json").read_text())) == 20
    assert f"left out: {wrong}: label 77 is impossible" in shown.err
    assert list(json.loads((tmp_path / "run/broken_masks.json").read_text())) == ["train_00001"]
    stages = json.loads((tmp_path / "run/metrics.json").read_text())["stages"]
    assert {(s["images"], s["of_images"]) for s in stages if "miou" in s} == {(179, 180)}


def test_all_images_are_broken(shapes_root, tmp_path, capfd):
    root = tmp_path / "data"
    shutil.copytree(shapes_root, root)
    for path in (root / "JPEGImages").iterdir():
        path.write_bytes(b"")
    code = cli.run(["saliency", "--data", str(root), "--out", str(tmp_path / "run")])
    err = capfd.readouterr().err
    assert code == 2 and "none of the 24 images can be read" in err
    assert len(err.strip().splitlines()) == 1


def test_unusual_but_valid_names(shapes_root, tmp_path):
    """Unicode, spaces, a symbolic link to an image elsewhere."""
    (tmp_path / "photos").mkdir()
    source = sorted((shapes_root / "JPEGImages").iterdir())[0]
    names = ["Zürich 東京.jpg", "a b'c\"d.jpg", "été;1.jpg", "link.jpg"]
    for name in names[:3]:
        shutil.copy(source, tmp_path / "photos" / name)
    os.symlink(source, tmp_path / "photos/link.jpg")
    quoted = [n.replace('"', '""') for n in names if ";" not in n]
    lines = "".join(f'"{name}",cat\n' for name in quoted)
    (tmp_path / "photos/labels.csv").write_text("file,class\n" + lines, encoding="utf-8")
    found = data.load(tmp_path / "photos", strict=False)
    assert len(found) == 3 and not found.broken
    assert all(found.image(id).ndim == 3 for id in found.ids)
