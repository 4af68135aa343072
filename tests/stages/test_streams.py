"""Stages while their files are read ahead and written behind: broken files, odd sizes, signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsss_fast import InputError, data, seeds
from wsss_fast.engine import stream
from wsss_fast.maps import ClassMaps, save_maps
from wsss_fast.readers.label_maps import read_labels, write_labels
from wsss_fast.stages import labels, masks
from wsss_fast.stages.crf import Crf

ROOT = Path(__file__).resolve().parents[2]
BRIEF = Crf(iterations=1)


def pngs(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_a_photo_that_breaks_while_it_is_read_ahead(own_shapes, truth_maps, tmp_path, monkeypatch):
    """Stages end with its name; what was computed before is written, and is not made again."""
    shapes = data.load(own_shapes)
    last = max(shapes.ids, key=lambda id: (int(shapes.tags_of(id).sum()), shapes.ids.index(id)))
    path, out = shapes.images[last], tmp_path / "out"
    whole = path.read_bytes()

    def break_and_write(file, values):
        if path.stat().st_size == len(whole):
            os.truncate(path, len(whole) // 2)
        write_labels(file, values)

    monkeypatch.setattr(labels, "write_labels", break_and_write)
    monkeypatch.setattr(stream, "num_threads", lambda: 1)
    with pytest.raises(InputError, match=f"{path.name}: .*(cut off|truncated|damaged)"):
        seeds.make(shapes, truth_maps, out, crf=BRIEF, batch_size=2)
    before = pngs(out / "seeds")
    assert len(before) >= len(shapes) - 4 and f"{last}.png" not in before
    assert not list(out.rglob("*.tmp*")) and not (out / "seeds/done.json").exists()
    monkeypatch.undo()
    path.write_bytes(whole)
    seeds.make(data.load(own_shapes), truth_maps, out, crf=BRIEF, batch_size=2)
    after = pngs(out / "seeds")
    assert before.items() <= after.items() and len(after) == len(shapes)


@pytest.mark.parametrize("threads", [1, 4])
def test_number_of_threads_changes_no_byte(shapes, truth_maps, tmp_path, threads, monkeypatch):
    options = {"fg_threshold": 0.5, "bg_threshold": 0.1, "crf": BRIEF, "batch_size": 2}
    one = seeds.make(shapes, truth_maps, tmp_path / "one", **options)
    monkeypatch.setattr(stream, "num_threads", lambda: threads)
    other = seeds.make(shapes, truth_maps, tmp_path / "other", **options)
    assert pngs(one.folder) == pngs(other.folder)
    assert one.foreground == other.foreground and one.ignored == other.ignored


def test_images_of_one_pixel_and_of_many_in_one_folder(tmp_path, monkeypatch):
    """The large ones exceed the memory that may wait, and pass one at a time."""
    monkeypatch.setattr(stream, "LARGEST_WAITING", 10 << 20)
    sizes = [(1, 1), (1500, 2000), (1, 900), (2000, 1500), (900, 1)]
    root, maps, lines = tmp_path / "data", tmp_path / "maps", ["file,class"]
    root.mkdir()
    for number, (height, width) in enumerate(sizes):
        levels = np.linspace(0, 255, height * width, dtype=np.uint8).reshape(height, width)
        Image.fromarray(np.stack([levels] * 3, axis=2)).save(root / f"{number}.png")
        lines.append(f"{number}.png,cat")
        scores = (levels[None] / 255).astype(np.float32)
        save_maps(maps, str(number), ClassMaps(np.array([1]), scores[:, ::4, ::4], scores))
    (root / "labels.csv").write_text("\n".join(lines))
    loaded = data.load(root)
    found = masks.make(loaded, maps, tmp_path / "out", threshold=0.5, crf=None)
    for number, size in enumerate(sizes):
        index = read_labels(found.folder / f"{number}.png")
        levels = np.linspace(0, 255, size[0] * size[1], dtype=np.uint8).reshape(size)
        expected = (levels / 255).astype(np.float16) > 0.5
        np.testing.assert_array_equal(index, expected)


SLOW = """
import sys, time
from wsss_fast import cli
from wsss_fast.stages import labels
write = labels.write_labels
def slow(path, values):
    time.sleep(0.1)
    write(path, values)
labels.write_labels = slow
sys.exit(cli.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_many_files_wait_to_be_written(
    shapes, shapes_root, truth_maps, tmp_path, number
):
    out = tmp_path / "out"
    argv = ["seeds", "--data", shapes_root, "--maps", truth_maps, "--out", out, "crf:none"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, argv)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    )
    end = time.monotonic() + 60
    while len(list(out.glob("seeds/*.png"))) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in err, err
    assert "resumes" in err and not list(out.rglob("*.tmp*"))
    kept = pngs(out / "seeds")
    assert 2 <= len(kept) < len(shapes)
    for content in kept:
        assert read_labels(out / "seeds" / content).shape
    result = seeds.make(shapes, truth_maps, out, crf=None)
    assert kept.items() <= pngs(result.folder).items()
    assert len(pngs(result.folder)) == len(shapes)
