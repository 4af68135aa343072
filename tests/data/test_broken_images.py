"""200 images of which 20 are broken in ten ways: 180 are done, 20 named; with --strict the first one stops the command."""

import json
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from wsss_fast import InputError, cli, data
from wsss_fast.data import make_shapes, read_labels


def _huge(path):
    """A PNG header of 60,000 x 60,000 px: a decompression bomb."""

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
    """A whole PNG but for one byte in the middle of its pixels."""
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


WAYS = {
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
def spoilt(tmp_path_factory):
    root = make_shapes(tmp_path_factory.mktemp("spoilt") / "shapes", train=200, val=4, size=48)
    ids = [f"train_{i:05d}" for i in range(0, 200, 10)]
    for n, id in enumerate(ids):
        list(WAYS.values())[n % len(WAYS)](root / "JPEGImages" / f"{id}.jpg")
    return root, ids


def test_the_list_of_a_data_set(spoilt):
    root, ids = spoilt
    found = data.load(root, strict=False)
    assert len(found) == 180 and list(found.broken) == ids
    for id, why in found.broken.items():
        assert f"{id}.jpg: " in why and len(why.splitlines()) == 1
    assert not set(found.ids) & set(ids) and len(found.tags) == 180
    with pytest.raises(InputError, match=f"{ids[0]}.jpg"):
        data.load(root)


@pytest.mark.parametrize("way", [*WAYS, "loop"])
def test_each_way_alone(shapes_root, tmp_path, way):
    root = tmp_path / "data"
    shutil.copytree(shapes_root, root)
    path = root / "JPEGImages/train_00002.jpg"
    (_loop if way == "loop" else WAYS[way])(path)
    found = data.load(root, strict=False)
    assert list(found.broken) == ["train_00002"] and str(path) in found.broken["train_00002"]


def test_180_done_20_named(spoilt, tmp_path, capfd):
    root, ids = spoilt
    code = cli.run(["saliency", "--data", str(root), "--out", str(tmp_path / "run")])
    said = capfd.readouterr().err
    assert code == 1 and "20 broken images were left out" in said
    written = {p.stem for p in (tmp_path / "run/saliency").glob("*.png")}
    assert len(written) == 180 and not written & set(ids)
    assert all(
        read_labels(tmp_path / "run/saliency" / f"{id}.png").shape == (48, 48) for id in written
    )
    assert list(json.loads((tmp_path / "run/broken.json").read_text())) == ids
    assert all(f"{id}.jpg" in said for id in ids)


def test_strict_stops_at_the_first(spoilt, tmp_path, capfd):
    root, ids = spoilt
    code = cli.run(["saliency", "--data", str(root), "--out", str(tmp_path / "run"), "--strict"])
    said = capfd.readouterr().err
    assert code == 2 and f"{ids[0]}.jpg" in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_whole_road_beside_broken_images(spoilt, tmp_path, capfd):
    """Training, maps, seeds, masks and figures of what is left."""
    root, ids = spoilt
    numbers = {
        "cam.epochs": 1,
        "amn.epochs": 1,
        "refine.irn.epochs": 1,
        "refine.irn.steps": 8,
        "cam.batch-size": 60,
        "amn.batch-size": 60,
        "refine.irn.batch-size": 60,
        "cam.augment.crop": 48,
        "amn.augment.crop": 48,
        "refine.irn.augment.crop": 48,
    }
    code = cli.run(
        [
            "amn",
            "run",
            "--preset",
            "shapes",
            "--until",
            "masks",
            "--data",
            str(root),
            "--out",
            str(tmp_path / "run"),
            *(word for key, value in numbers.items() for word in (f"--pipeline.{key}", str(value))),
        ]
    )
    shown = capfd.readouterr()
    assert code == 1 and "20 broken images were left out" in shown.err and "amn+crf" in shown.out
    assert len(list((tmp_path / "run/masks").glob("*.png"))) == 180
    assert len(json.loads((tmp_path / "run/broken.json").read_text())) == 20


def test_nothing_left(shapes_root, tmp_path, capfd):
    root = tmp_path / "data"
    shutil.copytree(shapes_root, root)
    for path in (root / "JPEGImages").iterdir():
        path.write_bytes(b"")
    code = cli.run(["saliency", "--data", str(root), "--out", str(tmp_path / "run")])
    said = capfd.readouterr().err
    assert (
        code == 2
        and "none of the 24 images can be read" in said
        and len(said.strip().splitlines()) == 1
    )


def test_names_that_are_odd_but_fine(shapes_root, tmp_path):
    """Unicode, blanks, a symbolic link to an image elsewhere."""
    (tmp_path / "photos").mkdir()
    source = sorted((shapes_root / "JPEGImages").iterdir())[0]
    names = ["Zürich 東京.jpg", "a b'c\"d.jpg", "été;1.jpg", "link.jpg"]
    for name in names[:3]:
        shutil.copy(source, tmp_path / "photos" / name)
    os.symlink(source, tmp_path / "photos/link.jpg")
    lines = [
        f'"{n.replace(chr(34), chr(34) * 2)}",cat' if '"' in n else f"{n},cat"
        for n in names
        if ";" not in n
    ]
    (tmp_path / "photos/labels.csv").write_text(
        "file,class\n" + "\n".join(lines) + "\n", encoding="utf-8"
    )
    found = data.load(tmp_path / "photos", strict=False)
    assert len(found) == 3 and not found.broken
    assert all(found.image(id).ndim == 3 for id in found.ids)
