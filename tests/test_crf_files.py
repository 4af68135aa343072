"""`wsss-fast crf` on files and folders, and `wsss-fast bench crf`."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_fast import cli
from wsss_fast.bench import crf as bench
from wsss_fast.bench import harness
from wsss_fast.data.images import read_labels, voc_palette, write_labels
from wsss_fast.errors import InputError, RunError
from wsss_fast.ops import dense_crf, unary_from_labels
from wsss_fast.stages.crf import refine
from wsss_fast.stages.seeds import Crf

FEW = Crf(iterations=3)


@pytest.fixture
def scene(tmp_path):
    """Folders `im` and `lab`: a bright square on a dark ground, and label 7 a few pixels off it, 3 elsewhere."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        photo = rng.integers(0, 30, (40, 50, 3), dtype=np.uint8)
        photo[10:30, 15:35] += 200
        labels = np.full((40, 50), 3, np.uint8)
        labels[13:33, 18:38] = 7
        labels[:2] = 255
        (tmp_path / "im").mkdir(exist_ok=True)
        Image.fromarray(photo).save(tmp_path / "im" / f"{name}.png")
        write_labels(tmp_path / "lab" / f"{name}.png", labels)
    return tmp_path


def expected(scene, name):
    photo = np.array(Image.open(scene / "im" / f"{name}.png"))
    labels = read_labels(scene / "lab" / f"{name}.png")
    compact = np.select([labels == 255, labels == 7], [255, 1], 0)
    unary = unary_from_labels(torch.from_numpy(compact), 2, gt_prob=0.7, unsure_label=255)[None]
    return dense_crf(torch.from_numpy(photo).permute(2, 0, 1)[None], unary, iterations=3)[0].numpy()


def test_one_file(scene):
    result = refine(scene / "im/a.png", scene / "lab/a.png", scene / "out.png", crf=FEW, probabilities=True)
    assert (result.written, result.skipped) == (1, 0)
    q = expected(scene, "a")
    labels = read_labels(scene / "out.png")
    assert np.array_equal(labels, np.array([3, 7])[q.argmax(0)])
    assert (labels[10:30, 15:35] == 7).mean() > 0.95 > (read_labels(scene / "lab/a.png")[10:30, 15:35] == 7).mean()
    stored = np.load(scene / "out.npy")
    assert stored.dtype == np.float16 and np.abs(stored - q).max() < 1e-3


def test_palette_is_kept(scene):
    gray = np.array(Image.open(scene / "lab/a.png"))
    Image.fromarray(gray).save(scene / "gray.png")
    own = Image.fromarray(gray)
    own.putpalette([9, 8, 7] * 256)
    own.save(scene / "own.png")
    for name, mode, palette in (("gray", "L", None), ("own", "P", [9, 8, 7]), ("lab/a", "P", [*voc_palette()[0]])):
        refine(scene / "im/a.png", scene / f"{name}.png", scene / "out.png", crf=FEW, overwrite=True)
        with Image.open(scene / "out.png") as image:
            assert image.mode == mode
            assert palette is None or image.getpalette()[:3] == palette


def test_probabilities_in(scene):
    labels = read_labels(scene / "lab/a.png")
    probabilities = np.stack([labels == 3, np.zeros_like(labels), labels == 7]).astype(np.float32) * 0.6 + 0.2
    np.save(scene / "p.npy", probabilities)
    refine(scene / "im/a.png", scene / "p.npy", scene / "out.png", crf=FEW)
    assert set(np.unique(read_labels(scene / "out.png"))) == {0, 2}


def test_folders_go_on_behind_a_broken_file(scene, capsys):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(scene / "lab/c.png")
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(scene / "im/c.png")
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(scene / "im/lonely.png")
    with pytest.raises(RunError, match=r"1 of 3 maps .*c\.png: is 4x4 pixels \(HxW\), its image .* 40x50"):
        refine(scene / "im", scene / "lab", scene / "out", crf=FEW)
    assert sorted(p.name for p in (scene / "out").iterdir()) == ["a.png", "b.png"]
    (scene / "lab/c.png").unlink()
    first = (scene / "out/a.png").stat().st_mtime_ns
    result = refine(scene / "im", scene / "lab", scene / "out", crf=FEW)
    assert (result.written, result.skipped, result.unmatched) == (0, 2, 2)
    assert (scene / "out/a.png").stat().st_mtime_ns == first
    result = refine(scene / "im", scene / "lab", scene / "out", crf=FEW, overwrite=True)
    assert result.written == 2


BAD = {
    "no_image": ("im/x.png", "lab/a.png", "out.png", "x.png: no such image"),
    "no_labels": ("im/a.png", "lab/x.png", "out.png", "x.png: no such label map"),
    "mixed": ("im", "lab/a.png", "out.png", "two files or two folders"),
    "no_png": ("im/a.png", "lab/a.png", "out.jpg", r"must be named \*\.png"),
    "empty": ("im", "empty", "out", "have no name in common"),
    "unsure": ("im/a.png", "unsure.png", "out.png", "every pixel is 255"),
    "text": ("im/a.png", "text.npy", "out.png", "cannot be read as an array"),
    "integers": ("im/a.png", "integers.npy", "out.png", r"is int64 \[3\]; must be floating probabilities"),
    "range": ("im/a.png", "range.npy", "out.png", r"spans -1\.\.-1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(scene, name):
    (scene / "empty").mkdir()
    Image.fromarray(np.full((40, 50), 255, np.uint8)).save(scene / "unsure.png")
    (scene / "text.npy").write_text("no array")
    np.save(scene / "integers.npy", np.arange(3))
    np.save(scene / "range.npy", np.full((2, 40, 50), -1.0))
    image, labels, out, message = BAD[name]
    with pytest.raises(InputError, match=message):
        refine(scene / image, scene / labels, scene / out)
    assert not (scene / out).exists()


def test_command(scene, capsys):
    image, labels, out = (str(scene / n) for n in ("im/a.png", "lab/a.png", "r.png"))
    assert cli.run(["crf", image, labels, "-o", out, "--crf.iterations", "3"]) == 0
    assert "1 refined" in " ".join(capsys.readouterr().out.split())
    assert np.array_equal(read_labels(scene / "r.png"), np.array([3, 7])[expected(scene, "a").argmax(0)])
    assert cli.run(["crf", image, labels, "-o", out, "--crf.gt-prob", "2", "--overwrite", "True"]) == 2
    assert "gt_prob is 2.0" in capsys.readouterr().err


# ---- bench -----------------------------------------------------------------------------------------------------------


def test_bench_times_only_what_agrees(tmp_path, monkeypatch):
    pytest.importorskip("skimage.data")
    monkeypatch.setattr(bench, "HEIGHT", 30)
    monkeypatch.setattr(bench, "WIDTH", 40)
    monkeypatch.setattr(bench, "CASES", {"2 labels": (2, 2, 1, 1), "pair": (3, 3, 2, 1), "9 labels, 2 present": (9, 2, 1, 1)})
    monkeypatch.setattr(harness, "peak_mib", lambda *_, **__: None)
    monkeypatch.setattr(bench, "peak_mib", lambda *_, **__: 1.0)
    threads = torch.get_num_threads()
    bench.run(threads=1, out=tmp_path)
    torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "crf.json").read_text())["rows"]
    assert [row["name"] for row in rows] == list(bench.CASES) and (tmp_path / "crf.png").stat().st_size > 1000
    assert all(row["ours_ms"] > 0 and row["eager_ms"] > 0 and row["max_dq"] <= 1e-3 for row in rows)
    monkeypatch.setattr(bench, "MAX_DQ", -1.0)
    with pytest.raises(RunError, match="disagree"):
        bench.run(threads=1, quick=bench._peer(), out=tmp_path)
    assert all("ours_ms" not in row for row in json.loads((tmp_path / "crf.json").read_text())["rows"])
    torch.set_num_threads(threads)


def test_memory_of_a_call():
    def call():
        return bytearray(64 << 20)

    assert 60 < harness.added_mib(call) < 80
