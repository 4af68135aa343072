"""`wsss-fast crf` on files and folders."""

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_fast import cli
from wsss_fast.errors import InputError, RunError
from wsss_fast.ops import dense_crf, unary_from_labels
from wsss_fast.readers.label_maps import read_labels, voc_palette, write_labels
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.crf_files import refine_files

FEW = Crf(iterations=3)


@pytest.fixture
def scene(tmp_path):
    """Folders `im` (a bright square on a dark ground) and `lab` (7 a few pixels off it, else 3)."""
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
    result = refine_files(
        scene / "im/a.png", scene / "lab/a.png", scene / "out.png", crf=FEW, probabilities=True
    )
    assert (result.written, result.skipped) == (1, 0)
    q = expected(scene, "a")
    labels = read_labels(scene / "out.png")
    assert np.array_equal(labels, np.array([3, 7])[q.argmax(0)])
    square = (slice(10, 30), slice(15, 35))
    before = read_labels(scene / "lab/a.png")
    assert (labels[square] == 7).mean() > 0.95 > (before[square] == 7).mean()
    stored = np.load(scene / "out.npy")
    assert stored.dtype == np.float16 and np.abs(stored - q).max() < 1e-3


def test_palette_is_kept(scene):
    gray = np.array(Image.open(scene / "lab/a.png"))
    Image.fromarray(gray).save(scene / "gray.png")
    own = Image.fromarray(gray)
    own.putpalette([9, 8, 7] * 256)
    own.save(scene / "own.png")
    for name, mode, palette in (
        ("gray", "L", None),
        ("own", "P", [9, 8, 7]),
        ("lab/a", "P", [*voc_palette()[0]]),
    ):
        refine_files(
            scene / "im/a.png", scene / f"{name}.png", scene / "out.png", crf=FEW, overwrite=True
        )
        with Image.open(scene / "out.png") as image:
            assert image.mode == mode
            assert palette is None or image.getpalette()[:3] == palette


def test_probabilities_in(scene):
    labels = read_labels(scene / "lab/a.png")
    present = np.stack([labels == 3, np.zeros_like(labels), labels == 7]).astype(np.float32)
    probabilities = present * 0.6 + 0.2
    np.save(scene / "p.npy", probabilities)
    refine_files(scene / "im/a.png", scene / "p.npy", scene / "out.png", crf=FEW)
    assert set(np.unique(read_labels(scene / "out.png"))) == {0, 2}


def test_folders_continue_after_a_broken_file(scene, capsys):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(scene / "lab/c.png")
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(scene / "im/c.png")
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(scene / "im/lonely.png")
    with pytest.raises(
        RunError, match=r"1 of 3 maps .*c\.png: is 4x4 pixels \(HxW\), but its image .* is 40x50"
    ):
        refine_files(scene / "im", scene / "lab", scene / "out", crf=FEW)
    assert sorted(p.name for p in (scene / "out").iterdir()) == ["a.png", "b.png"]
    (scene / "lab/c.png").unlink()
    first = (scene / "out/a.png").stat().st_mtime_ns
    capsys.readouterr()
    result = refine_files(scene / "im", scene / "lab", scene / "out", crf=FEW)
    assert (result.written, result.skipped) == (0, 2)
    assert result.unmatched == (scene / "im/c.png", scene / "im/lonely.png")
    err = " ".join(capsys.readouterr().err.split())
    assert f"2 without a matching file: {scene}/im/c.png, {scene}/im/lonely.png" in err
    summary = "2 already present (--overwrite repeats them), 2 without a matching file"
    assert summary in str(result)
    assert (scene / "out/a.png").stat().st_mtime_ns == first
    result = refine_files(scene / "im", scene / "lab", scene / "out", crf=FEW, overwrite=True)
    assert result.written == 2


def test_probabilities_are_refined_where_every_image_also_has_labels(scene, capsys):
    """As `seg infer --probabilities` writes them."""
    (scene / "scores").mkdir()
    for name in "ab":
        labels = np.where(read_labels(scene / "lab" / f"{name}.png") == 7, 1, 0)
        scores = np.stack([0.8 - 0.5 * labels, 0.2 + 0.5 * labels]).astype(np.float16)
        for folder in ("lab", "scores"):
            np.save(scene / folder / f"{name}.npy", scores)
    refine_files(scene / "im", scene / "lab", scene / "both", crf=FEW)
    assert "the probabilities are refined" in " ".join(capsys.readouterr().err.split())
    refine_files(scene / "im", scene / "scores", scene / "alone", crf=FEW)
    for name in ("a.png", "b.png"):
        assert (scene / "both" / name).read_bytes() == (scene / "alone" / name).read_bytes()
    (scene / "lab/b.npy").unlink()
    with pytest.raises(InputError, match="differ only in the extension"):
        refine_files(scene / "im", scene / "lab", scene / "out", crf=FEW)


BAD = {
    "no_image": ("im/x.png", "lab/a.png", "out.png", "x.png: no such image"),
    "no_labels": ("im/a.png", "lab/x.png", "out.png", "x.png: no such label map"),
    "mixed": ("im", "lab/a.png", "out.png", "two files or two folders"),
    "no_png": ("im/a.png", "lab/a.png", "out.jpg", r"must be named \*\.png"),
    "empty": ("im", "empty", "out", "have no name in common"),
    "unsure": ("im/a.png", "unsure.png", "out.png", "every pixel is 255"),
    "text": ("im/a.png", "text.npy", "out.png", "cannot be read as probabilities"),
    "integers": (
        "im/a.png",
        "integers.npy",
        "out.png",
        r"is int64 \[3\]; must be floating-point probabilities",
    ),
    "range": ("im/a.png", "range.npy", "out.png", r"spans -1\.\.-1"),
    "nan": ("im/a.png", "nan.npy", "out.png", "4000 of 4000 values that are NaN"),
    "labels_last": (
        "im/a.png",
        "last.npy",
        "out.png",
        r"is 50x2 pixels .* is 40x50; it looks like \[H, W, L\]",
    ),
    "cut_off": ("im/a.png", "cut.npy", "out.png", "cannot be read as probabilities"),
    "archive": (
        "im/a.png",
        "archive.npy",
        "out.png",
        r"it is an archive \(\.npz\) of a",
    ),
    "zip_cut_off": ("im/a.png", "zip.npy", "out.png", "cannot be read as probabilities"),
    "deep": ("deep.png", "lab/a.png", "out.png", "image mode I;16 is not supported"),
    "colour": ("im/a.png", "im/b.png", "out.png", "label maps are palette or 8-bit gray PNGs"),
    "mixed_in": ("im", "lab", "lab", "would mix the refined maps"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(scene, name):
    (scene / "empty").mkdir()
    Image.fromarray(np.full((40, 50), 255, np.uint8)).save(scene / "unsure.png")
    (scene / "text.npy").write_text("no array")
    np.save(scene / "integers.npy", np.arange(3))
    np.save(scene / "range.npy", np.full((2, 40, 50), -1.0))
    np.save(scene / "nan.npy", np.full((2, 40, 50), np.nan))
    np.save(scene / "last.npy", np.full((40, 50, 2), 0.5))
    (scene / "cut.npy").write_bytes((scene / "last.npy").read_bytes()[:-100])
    np.savez(scene / "archive.npz", a=np.zeros(3))
    (scene / "archive.npz").rename(scene / "archive.npy")
    (scene / "zip.npy").write_bytes((scene / "archive.npy").read_bytes()[:-30])
    Image.fromarray(np.zeros((40, 50), np.uint16)).save(scene / "deep.png")
    before = {p: p.read_bytes() for p in scene.rglob("*") if p.is_file()}
    image, labels, out, message = BAD[name]
    with pytest.raises(InputError, match=message):
        refine_files(scene / image, scene / labels, scene / out)
    assert {p: p.read_bytes() for p in scene.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("crf", "message"),
    [
        (Crf(gt_prob=1.0), "gt_prob is 1.0"),
        (Crf(gaussian=(-1.0, 3.0)), "gaussian sxy is -1.0"),
        (Crf(bilateral=(50.0, 0.0, 10.0)), "bilateral srgb is 0.0"),
        (Crf(iterations=-1), "iterations is -1"),
    ],
)
def test_a_bad_parameter_stops_before_the_first_file(scene, crf, message, capsys):
    with pytest.raises(InputError, match=message):
        refine_files(scene / "im", scene / "lab", scene / "out", crf=crf)
    assert not (scene / "out").exists() and not capsys.readouterr().err
    with pytest.raises(InputError, match="clip is 0.0"):
        refine_files(scene / "im", scene / "lab", scene / "out", clip=0.0)
    with pytest.raises(InputError, match="device: got 'tpu'"):
        refine_files(scene / "im", scene / "lab", scene / "out", device="tpu")


def test_inputs_are_never_replaced(scene):
    np.save(scene / "p.npy", np.full((2, 40, 50), 0.5, np.float32))
    for labels, out in (("lab/a.png", "lab/a.png"), ("lab/a.png", "im/a.png"), ("p.npy", "p.png")):
        with pytest.raises(InputError, match="would replace"):
            refine_files(
                scene / "im/a.png",
                scene / labels,
                scene / out,
                probabilities=True,
                overwrite=True,
                crf=FEW,
            )
    assert np.load(scene / "p.npy").shape == (2, 40, 50) and not (scene / "p.png").exists()


def test_an_earlier_call_did_not_write_probabilities(scene):
    refine_files(scene / "im", scene / "lab", scene / "out", crf=FEW)
    result = refine_files(scene / "im", scene / "lab", scene / "out", crf=FEW, probabilities=True)
    assert result.written == 2 and np.load(scene / "out/b.npy").shape == (2, 40, 50)
    again = refine_files(scene / "im", scene / "lab", scene / "out", crf=FEW, probabilities=True)
    assert again.skipped == 2


def test_no_unsure_label(scene):
    image, labels, none = scene / "im/a.png", scene / "lab/a.png", Crf(iterations=0)
    refine_files(image, labels, scene / "with.png", crf=none)
    refine_files(image, labels, scene / "without.png", crf=none, unsure=None)
    assert set(np.unique(read_labels(scene / "with.png"))) == {3, 7}
    assert np.array_equal(read_labels(scene / "without.png"), read_labels(scene / "lab/a.png"))


def test_gray_alpha_and_exif(scene):
    with Image.open(scene / "im/a.png") as photo:
        gray = photo.convert("L")
    refined = {}
    # Orientation 6 shows it upright.
    turned = Image.fromarray(np.rot90(np.array(gray.convert("RGB")), 1).copy())
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(scene / "turned.png", exif=exif)
    gray.save(scene / "gray.png")
    gray.convert("RGBA").save(scene / "alpha.png")
    for name in ("gray", "alpha", "turned"):
        refine_files(
            scene / f"{name}.png", scene / "lab/a.png", scene / "out" / f"{name}.png", crf=FEW
        )
        refined[name] = read_labels(scene / "out" / f"{name}.png")
    assert np.array_equal(refined["gray"], refined["alpha"])
    assert np.array_equal(refined["gray"], refined["turned"])
    assert (refined["gray"][10:30, 15:35] == 7).mean() > 0.95


def test_command(scene, capsys):
    image, labels, out = (str(scene / n) for n in ("im/a.png", "lab/a.png", "r.png"))
    assert cli.run(["crf", image, labels, "-o", out, "--crf.iterations", "3"]) == 0
    assert "1 refined" in " ".join(capsys.readouterr().out.split())
    best = np.array([3, 7])[expected(scene, "a").argmax(0)]
    assert np.array_equal(read_labels(scene / "r.png"), best)
    assert cli.run(["crf", image, labels, "-o", out, "--crf.gt-prob", "2", "--overwrite"]) == 2
    assert "got 2.0, must be > 0 and < 1" in capsys.readouterr().err
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(scene / "lab/b.png")
    folders = [str(scene / n) for n in ("im", "lab")]
    options = ["--out", str(scene / "o"), "--crf.iterations", "1", "--probabilities"]
    assert cli.run(["crf", *folders, *options]) == 1
    assert "1 of 2 maps could not be refined" in " ".join(capsys.readouterr().err.split())
    assert sorted(p.name for p in (scene / "o").iterdir()) == ["a.npy", "a.png"]


BOX = np.zeros((40, 50), np.uint8)
BOX[10:30, 15:35] = 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            BOX * 255,
            r"one known label, 0, since 255 means unsure; nothing to refine: .*--unsure None",
        ),
        (np.stack([BOX * 255] * 3, -1), "one known label, 0, since 255 means unsure"),
        (np.where(BOX, 3, 255), r"one known label, 3, since 255 .* or divide the map by 255"),
        (BOX * 0, "one known label, 0; nothing to refine"),
        (BOX * 0 + 255, r"every pixel is 255 \(unsure\)"),
    ],
)
def test_maps_with_nothing_to_refine_are_refused(scene, labels, message):
    Image.fromarray(labels.astype(np.uint8)).save(scene / "l.png")
    with pytest.raises(InputError, match=rf"l\.png: .*{message}"):
        refine_files(scene / "im/a.png", scene / "l.png", scene / "out.png", crf=FEW)
    assert not (scene / "out.png").exists()


def test_the_cures_of_a_map_of_0_and_255_work(scene):
    for labels, unsure, value in ((BOX * 255, None, 255), (BOX, 255, 1)):
        Image.fromarray(labels).save(scene / "l.png")
        refine_files(
            scene / "im/a.png",
            scene / "l.png",
            scene / "out.png",
            unsure=unsure,
            crf=FEW,
            overwrite=True,
        )
        refined = np.array(Image.open(scene / "out.png"))
        assert set(np.unique(refined)) == {0, value} and (refined[12:28, 17:33] == value).all()


def test_maps_of_2_and_4_bits_are_refined_as_those_of_8(scene):
    refined = []
    for bits in (8, 4, 2):
        Image.fromarray(BOX * 3).save(scene / "l.png", bits=bits)
        refine_files(
            scene / "im/a.png", scene / "l.png", scene / f"{bits}.png", crf=FEW, unsure=None
        )
        refined.append(read_labels(scene / f"{bits}.png"))
    assert set(np.unique(refined[0])) == {0, 3}
    assert np.array_equal(refined[0], refined[1]) and np.array_equal(refined[0], refined[2])


def test_a_folder_goes_on_after_a_map_with_nothing_to_refine(scene):
    Image.fromarray(BOX * 255).save(scene / "lab/a.png")
    with pytest.raises(RunError, match=r"1 of 2 maps .*a\.png: has one known label, 0"):
        refine_files(scene / "im", scene / "lab", scene / "out", crf=FEW)
    assert [path.name for path in (scene / "out").iterdir()] == ["b.png"]


def test_what_is_unusual_about_a_result_is_remarked(scene, capsys):
    vanishing = BOX.copy()
    vanishing[:] = 0
    vanishing[5, 5] = 1
    Image.fromarray(vanishing).save(scene / "l.png")
    refine_files(scene / "im/a.png", scene / "l.png", scene / "out.png", crf=FEW)
    assert (
        "refined map has a single label, although its input has several" in capsys.readouterr().err
    )
    levels = np.arange(2000).reshape(40, 50) % 100
    Image.fromarray(levels.astype(np.uint8)).save(scene / "l.png")
    refine_files(scene / "im/a.png", scene / "l.png", scene / "many.png", crf=Crf(iterations=0))
    assert "more than 64 labels: is it a picture in gray levels?" in capsys.readouterr().err


@pytest.mark.parametrize("unsure", [-1, 256])
def test_unsure_must_be_a_label(scene, unsure):
    with pytest.raises(
        InputError, match=rf"unsure is {unsure}; must be a label, 0\.\.255, or None"
    ):
        refine_files(scene / "im", scene / "lab", scene / "out", unsure=unsure)


def test_archives_are_not_read(scene):
    np.savez(scene / "p.npz", np.zeros((2, 40, 50)))
    with pytest.raises(InputError, match=r"p\.npz: archives are not read; save the .* as \.npy"):
        refine_files(scene / "im/a.png", scene / "p.npz", scene / "out.png")
