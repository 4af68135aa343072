"""`wsss_fast.refine` and `wsss-fast refine` on files and folders."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

import wsss_fast as wf
from wsss_fast import cli
from wsss_fast.errors import InputError, RunError
from wsss_fast.maps import ClassMaps, load_maps, save_maps
from wsss_fast.ops import pixel_adaptive_refine
from wsss_fast.readers.label_maps import read_labels, voc_palette, write_labels
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.crf_files import refine_files
from wsss_fast.stages.par import Par

SIZE = (23, 30)
FEW = Par(dilations=(1, 2), iterations=3)
SHORT = Crf(iterations=2)
SQUARE = np.zeros(SIZE, bool)
SQUARE[6:17, 8:20] = True


def moved(by):
    return np.roll(SQUARE, (by, by), (0, 1))


@pytest.fixture
def scene(tmp_path):
    """Photos `im`, their square as `truth`, and maps that are two pixels off it."""
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        photo = rng.integers(0, 30, (*SIZE, 3), dtype=np.uint8)
        photo[SQUARE] += 200
        for folder in ("im", "lab", "truth", "npy", "npz"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(photo).save(tmp_path / "im" / f"{name}.png")
        write_labels(tmp_path / "truth" / f"{name}.png", np.where(SQUARE, 7, 0))
        labels = np.where(moved(2), 7, 0)
        labels[0] = 255
        write_labels(tmp_path / "lab" / f"{name}.png", labels)
        score = 0.8 * moved(2).astype(np.float32) + 0.1
        np.save(tmp_path / "npy" / f"{name}.npy", np.stack([1 - score, score]).astype(np.float16))
        maps = ClassMaps(np.array([7]), score[None, ::4, ::4], score[None])
        save_maps(tmp_path / "npz", name, maps)
    return tmp_path


def photo(scene, name="a"):
    return torch.from_numpy(np.array(Image.open(scene / "im" / f"{name}.png"))).permute(2, 0, 1)


def expected(scene, scores, kind="par"):
    """Scores refined by the op at the photo's size, in their own range."""
    image, masks = photo(scene)[None].float(), torch.from_numpy(np.float32(scores))[None]
    refined = pixel_adaptive_refine(image, masks, dilations=(1, 2), iterations=3, kind=kind)
    return refined[0].numpy() / (1.01**3 if kind == "par" else 1)


@pytest.mark.parametrize("kind", ["par", "pamr"])
def test_label_maps(scene, kind):
    wf.refine(scene / "im", scene / "lab", scene / "out", method=kind, par=FEW)
    given = read_labels(scene / "lab/a.png")
    refined = expected(scene, np.stack([given == 0, given == 7]), kind)
    labels = read_labels(scene / "out/a.png")
    assert np.array_equal(labels, np.array([0, 7])[refined.argmax(0)])
    assert not (labels == 255).any(), "three iterations reach the first row"
    assert (labels == 7)[SQUARE].mean() > (given == 7)[SQUARE].mean()
    with Image.open(scene / "out/a.png") as image:
        assert image.getpalette()[21:24] == [*voc_palette()[7]]


def test_arrays_keep_their_dtype_and_their_range(scene):
    given = np.load(scene / "npy/a.npy")
    wf.refine(scene / "im", scene / "npy", scene / "out", par=FEW, labels=True)
    stored = np.load(scene / "out/a.npy")
    assert stored.dtype == np.float16 and np.abs(stored - expected(scene, given)).max() < 1e-3
    assert np.abs(stored.sum(0, dtype=np.float32) - 1).max() < 2e-3
    assert np.array_equal(read_labels(scene / "out/labels/a.png"), stored.argmax(0))
    wf.refine(scene / "im", scene / "out", scene / "again", par=FEW)
    assert np.load(scene / "again/b.npy").shape == (2, *SIZE)


def test_class_maps_against_a_constant_background(scene):
    result = wf.refine(
        scene / "im", scene / "npz", scene / "out", par=FEW, labels=True, background=0.3
    )
    refined = expected(scene, load_maps(scene / "npz", "a").high_res)
    stored = load_maps(scene / "out", "a")
    assert stored.keys.tolist() == [7] and stored.strided.shape == (1, 6, 8)
    assert np.abs(stored.high_res - refined).max() < 1e-3
    labels = read_labels(scene / "out/labels/a.png")
    assert np.array_equal(labels, np.where(stored.high_res[0] > np.float32(0.3), 7, 0))
    before = np.where(load_maps(scene / "npz", "a").high_res[0] > np.float32(0.3), 7, 0)
    assert result.changes.changed["a"] == pytest.approx((before != labels).mean())
    with pytest.raises(RunError, match=r"3 of 3 .* has no scores of the background; give --back"):
        wf.refine(scene / "im", scene / "npz", scene / "none", par=FEW)


def test_arrays_without_a_background_row(scene):
    for name in "abc":
        path = scene / "npy" / f"{name}.npy"
        np.save(path, np.load(path)[1:])
    wf.refine(scene / "im", scene / "npy", scene / "out", par=FEW, background=0.3, labels=True)
    stored = np.load(scene / "out/a.npy")
    assert stored.shape == (1, *SIZE)
    found = read_labels(scene / "out/labels/a.png")
    assert np.array_equal(found, stored[0].astype(np.float32) > np.float32(0.3))
    with pytest.raises(RunError, match="one label"):
        wf.refine(scene / "im", scene / "npy", scene / "none", par=FEW)


def test_pickled_maps_become_class_maps_and_code_is_refused(scene):
    (scene / "pickles").mkdir()
    score = np.float32(0.9) * moved(2)
    content = {"keys": np.array([6]), "cam": score[None, ::4, ::4], "high_res": score[None]}
    np.save(scene / "pickles/a.npy", content, allow_pickle=True)
    np.save(scene / "pickles/b.npy", {"keys": print}, allow_pickle=True)
    with pytest.raises(RunError, match=r"1 of 2 .*b\.npy: refers to builtins\.print"):
        wf.refine(scene / "im", scene / "pickles", scene / "out", par=FEW, background=0.3)
    assert load_maps(scene / "out", "a").keys.tolist() == [7]
    assert not list((scene / "out").glob("b*"))


def test_maps_of_every_public_form(scene):
    """The refined maps are those of this package's maps with the same scores."""
    folder = scene / "public"
    folder.mkdir()
    score = load_maps(scene / "npz", "a").high_res[0]
    both = np.stack([1 - score, score])
    logits = np.full((1, 9, *SIZE), -20, np.float32)
    logits[0, [0, 7]] = np.log(both)
    forms = {
        "amn": {"keys": [6], "cam": both[:, ::4, ::4], "high_res": both},
        "clip-es": {"keys": [6], "attn_highres": both[1:].astype(np.float16)},
        "int-keys": {6: score},
        "crf": {0: both[0], 7: both[1]},
        "logits": {"msc_seg": logits},
    }
    for form, content in forms.items():
        np.save(folder / f"{form}.npy", content, allow_pickle=True)
        Image.open(scene / "im/a.png").save(scene / f"im/{form}.png")
    wf.refine(scene / "im", scene / "npz", scene / "ours", par=FEW, background=0.3)
    wf.refine(scene / "im", folder, scene / "out", par=FEW, background=0.3)
    ours = load_maps(scene / "ours", "a")
    for form in forms:
        refined = load_maps(scene / "out", form).foreground()
        assert refined.keys.tolist() == [7]
        np.testing.assert_allclose(refined.high_res, ours.high_res, atol=2e-3)


def test_logits_are_taken_by_their_softmax(scene, capsys):
    for name in "abc":
        both = np.load(scene / "npy" / f"{name}.npy").astype(np.float32)
        np.save(scene / "npy" / f"{name}.npy", np.log(both) - 1)
    wf.refine(scene / "im", scene / "npy", scene / "out", par=FEW)
    assert "remark: logits: their softmax" in capsys.readouterr().err
    scores = np.stack([0.9 - 0.8 * moved(2), 0.1 + 0.8 * moved(2)])
    np.testing.assert_allclose(np.load(scene / "out/a.npy"), expected(scene, scores), atol=2e-3)
    with pytest.raises(RunError, match="has logits, whose first row is the background; leave out"):
        wf.refine(scene / "im", scene / "npy", scene / "none", par=FEW, background=0.3)


@pytest.mark.parametrize(("folder", "background"), [("lab", None), ("npy", None), ("npz", 0.3)])
def test_crf_is_that_of_the_crf_command(scene, folder, background):
    wf.refine(
        scene / "im",
        scene / folder,
        scene / "out",
        method="crf",
        crf=SHORT,
        background=background,
        labels=True,
    )
    given = scene / folder
    if folder == "npz":  # the CRF refines their labels
        given = scene / "argmax"
        for name in "abc":
            score = load_maps(scene / "npz", name).high_res[0]
            write_labels(given / f"{name}.png", np.where(score > np.float32(0.3), 7, 0))
    refine_files(scene / "im", given, scene / "crf", crf=SHORT)
    out = scene / "out" if folder == "lab" else scene / "out/labels"
    for name in "abc":
        assert np.array_equal(
            read_labels(out / f"{name}.png"), read_labels(scene / "crf" / f"{name}.png")
        )
    if folder == "npz":
        assert load_maps(scene / "out", "a").keys.tolist() == [0, 7]


def test_unsure_pixels_out_of_reach_stay_unsure(scene):
    labels = np.full(SIZE, 255, np.uint8)
    labels[:2, :2], labels[-2:, -2:] = 0, 7
    write_labels(scene / "far.png", labels)
    wf.refine(scene / "im/a.png", scene / "far.png", scene / "out.png", par=FEW)
    found = read_labels(scene / "out.png")
    assert found[0, 0] == 0 and found[-1, -1] == 7
    assert found[1 + 6, 1] == 0 and found[1 + 6 + 1, 1] == 255, "2 pixels in each of 3 iterations"


def test_report_scores_both_on_the_same_pixels(scene):
    result = wf.refine(scene / "im", scene / "lab", scene / "out", par=FEW, truth=scene / "truth")
    changes = result.changes
    truth = np.where(SQUARE, 7, 0)[1:]
    for metrics, folder in ((changes.before, "lab"), (changes.after, "out")):
        found = read_labels(scene / folder / "a.png")[1:]
        iou = ((found == 7) & (truth == 7)).sum() / ((found == 7) | (truth == 7)).sum()
        assert metrics.iou["label 7"] == pytest.approx(iou, abs=0.05), "of one map of three"
    assert changes.after.miou > changes.before.miou
    assert changes.filled == pytest.approx(1 / SIZE[0])
    assert "% before" in str(result) and f"report: {scene / 'out/refine.html'}" in str(result)
    page = result.report.read_text()
    assert "Refinement by PAR" in page and page.count("<img") == 3 * 5
    assert "label 7" in page and "iterations 3" in page
    record = json.loads((scene / "out/refine.json").read_text())
    assert record["maps"] == 3 and record["seconds_per_map"] > 0
    assert record["after"]["miou"] == pytest.approx(changes.after.miou)
    assert record["changed_of_each"]["b"] == pytest.approx(changes.changed["b"])


def test_a_data_set_gives_photos_names_and_true_masks(shapes_root, tmp_path):
    data = wf.data.load(shapes_root)
    for id in data.ids[:3]:
        truth = data.mask(id)
        write_labels(tmp_path / "maps" / f"{id}.png", np.where(truth == 255, 0, truth))
    result = wf.refine(shapes_root, tmp_path / "maps", tmp_path / "out", par=FEW)
    assert result.written == 3 and result.changes.before.miou > 0.99
    assert set(result.changes.before.iou) == {"background", *data.classes}
    with pytest.raises(InputError, match="would mix the refined maps with their inputs"):
        wf.refine(shapes_root, tmp_path / "maps", shapes_root / "JPEGImages", par=FEW)


def test_resumes_and_names_other_arguments(scene):
    arguments = (scene / "im", scene / "lab", scene / "out")
    assert wf.refine(*arguments, par=FEW).written == 3
    (scene / "out/b.png").unlink()
    times = (scene / "out/a.png").stat().st_mtime_ns
    result = wf.refine(*arguments, par=FEW)
    assert (result.written, result.skipped) == (1, 2) and "2 already present" in str(result)
    assert (scene / "out/a.png").stat().st_mtime_ns == times
    with pytest.raises(InputError, match="other arguments: iterations was 3, now 4"):
        wf.refine(*arguments, par=Par(dilations=(1, 2), iterations=4))
    with pytest.raises(InputError, match="method was 'par', now 'pamr'"):
        wf.refine(*arguments, par=FEW, method="pamr")
    assert wf.refine(*arguments, par=FEW, method="pamr", overwrite=True).written == 3
    (scene / "out/refine.json").unlink()
    with pytest.raises(InputError, match=r"a\.png: is there already, but not from this command"):
        wf.refine(*arguments, par=FEW)


def test_a_broken_file_does_not_stop_the_others(scene, capsys):
    path = scene / "npy/b.npy"
    path.write_bytes(path.read_bytes()[:-40])
    np.save(scene / "npy/c.npy", np.full((2, *SIZE), np.nan, np.float32))
    command = ["refine", str(scene / "im"), str(scene / "npy"), "-o", str(scene / "out")]
    short = ["--par.dilations", "1", "2", "--par.iterations", "3"]
    assert cli.run([*command, *short]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "b.npy: cannot be read as scores" in error and "c.npy" in error and "NaN" in error
    assert "failed: 2 of 3 maps could not be refined" in error
    assert sorted(p.name for p in (scene / "out").iterdir()) == [
        *("a.npy", "refine.html", "refine.json")
    ]
    assert cli.run([*command, *short, "--method", "pram"]) == 2
    assert "pamr" in capsys.readouterr().err
    assert cli.run([*command, *short, "--background", "3"]) == 2
    assert "background is 3.0; must be in 0..1" in capsys.readouterr().err


def test_scores_of_another_size_are_resized_to_the_photo(scene):
    small = np.float32([[[0.9, 0.2], [0.1, 0.3]], [[0.1, 0.8], [0.9, 0.7]]])
    np.save(scene / "s.npy", small)
    wf.refine(scene / "im/a.png", scene / "s.npy", scene / "out.npy", par=FEW)
    large = torch.nn.functional.interpolate(
        torch.from_numpy(small)[None], SIZE, mode="bilinear", align_corners=False
    )[0]
    assert np.abs(np.load(scene / "out.npy") - expected(scene, large)).max() < 1e-5
    for shape, message in (((2, 30, 23), "height and width are exchanged"), ((2, 9, 30), "9x30")):
        np.save(scene / "s.npy", np.full(shape, 0.5, np.float32))
        with pytest.raises(InputError, match=message):
            wf.refine(scene / "im/a.png", scene / "s.npy", scene / "no.npy", par=FEW)


def test_rows_of_zeros_stay_zeros(scene):
    given = np.zeros((4, *SIZE), np.float32)
    given[0], given[2] = 1 - 0.8 * moved(2), 0.8 * moved(2)
    np.save(scene / "s.npy", given)
    wf.refine(scene / "im/a.png", scene / "s.npy", scene / "out.npy", par=FEW)
    stored = np.load(scene / "out.npy")
    assert np.abs(stored - expected(scene, given)).max() < 1e-5 and not stored[[1, 3]].any()


def test_names_that_are_not_text(scene):
    name = os.fsdecode(b"caf\xe9")
    for folder in ("im", "lab"):
        (scene / folder / "b.png").rename(scene / folder / f"{name}.png")
    result = wf.refine(scene / "im", scene / "lab", scene / "out", par=FEW)
    assert name in result.changes.changed and r"caf\udce9" in result.report.read_text()


def refused(scene, message, *paths, **options):
    before = {p: p.read_bytes() for p in scene.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=message):
        wf.refine(*(scene / path for path in paths), **{"par": FEW, **options})
    assert {p: p.read_bytes() for p in scene.rglob("*") if p.is_file()} == before


def test_bad_arguments(scene):
    (scene / "empty").mkdir()
    write_labels(scene / "one.png", np.where(SQUARE, 255, 0))
    refused(scene, r"no name in common", "im", "empty", "out")
    refused(scene, r"no name in common", "empty", "lab", "out")
    refused(scene, r"lost: no such file or folder", "im", "lost", "out")
    refused(scene, r"lost: no such file or folder", "lost", "lab", "out")
    refused(scene, r"two files or two folders", "im", "lab/a.png", "out.png")
    refused(scene, r"must be named \*\.png", "im/a.png", "lab/a.png", "out.npy")
    refused(scene, r"must be named \*\.npy", "im/a.png", "npy/a.npy", "out.png")
    refused(scene, r"would replace its own input", "im/a.png", "lab/a.png", "lab/a.png")
    refused(scene, r"would mix", "im", "lab", "lab")
    refused(scene, r"would mix", "im", "lab", "truth", truth=scene / "truth")
    refused(scene, r"truth: .* has no PNG", "im", "lab", "out", truth=scene / "empty")
    refused(scene, r"one known label, 0, since 255 means unsure", "im/a.png", "one.png", "o.png")
    refused(scene, r"par\.iterations: got -1", "im", "lab", "out", par=Par(iterations=-1))
    refused(scene, r"par\.dilations: got \(\)", "im", "lab", "out", par=Par(dilations=()))
    refused(scene, r"par\.scale: got 0", "im", "lab", "out", par=Par(scale=0))
    refused(scene, r"unsure is 256", "im", "lab", "out", unsure=256)
    refused(scene, r"device: got 'tpu'", "im", "lab", "out", device="tpu")
