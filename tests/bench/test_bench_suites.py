"""The suites of the benchmarks: implementations agree, rooflines are right, tables are narrow."""

import importlib
import json

import pytest
import torch
from bench_runs import SIZE, crf_suite, measure, printed
from PIL import Image
from rich.console import Console

from wsss_fast import bench, ops
from wsss_fast.bench import (
    aamr_loss,
    dense_crf,
    dense_energy_loss,
    image_views,
    label_conditioned,
    merge_maps,
    pixel_adaptive_refine,
    pixel_bce,
    pixel_cross_entropy,
    random_walk,
    saliency_loss,
)
from wsss_fast.bench.harness import photos, run, show


@pytest.mark.parametrize("name", bench.summaries())
def test_tables_fit_80_columns(name, tmp_path):
    suite = importlib.import_module(f"wsss_fast.bench.{name}").suite()
    implementations = [*suite.implementations(next(iter(suite.rows)))]
    if name == "dense_crf" and "pydensecrf" not in implementations:
        implementations.append("pydensecrf")
    baseline = next(b for b in suite.baselines if b in implementations)
    rows = []
    for key, text in suite.rows.items():
        least = suite.roofline(key)
        fastest = {"GB/s": 4321, "GFLOP/s": 12346}[least.unit]
        bound = {"unit": least.unit, "work": 1e4, "plain": least.plain, "plain_rate": fastest}
        rows.append(
            run.Row(
                key,
                text,
                baseline,
                {c: [20.312] for c in implementations},
                dict.fromkeys(implementations, 1234567890),
                figures={"ours": dict.fromkeys(suite.limits, 2e-5)},
                roofline=bound,
            )
        )
    machine = run.machine(torch.device("cpu"))
    report = run.Report(suite, rows, machine, [], tmp_path, tmp_path)
    for table in (show.times(report), show.memory(report)):
        console = Console(width=200)
        with console.capture() as capture:
            console.print(table)
        lines = capture.get().rstrip("\n").split("\n")
        assert max(map(len, lines)) <= 80 and len(lines) == 3 + len(rows)


def test_every_crf_row_agrees_and_is_written(tmp_path):
    suite = crf_suite(setting="eps", unary="soft")
    report = measure(tmp_path, suite, tuple(dense_crf.ROWS), repeats=1, quick=True)
    assert not report.wrong()
    written = json.loads((tmp_path / "dense_crf-eps-soft.json").read_text())
    assert written["options"] == {"setting": "eps", "unary": "soft", "size": list(SIZE)}
    assert [row["key"] for row in written["rows"]] == list(dense_crf.ROWS)
    for row in written["rows"]:
        (ours,) = row["times"]["ours"]
        assert row["seconds"]["ours"] == ours > 0
        assert row["ratio"] == pytest.approx(row["seconds"][row["baseline"]] / ours)
        assert row["rate"] == pytest.approx(row["roofline"]["work"] / ours)
        assert row["figures"]["ours"]["max dQ"] <= 1e-3
    assert written["threads"] == 1 and written["load"] >= 0
    assert written["cpu"] and written["info"]["backend"]
    with Image.open(tmp_path / "dense_crf-eps-soft.png") as plot:
        assert plot.width > 400 and len(plot.convert("RGB").getcolors(1 << 20)) > 10


def test_without_pydensecrf_the_reference_is_the_baseline(tmp_path, monkeypatch):
    monkeypatch.setattr(dense_crf, "densecrf", None)
    report = measure(tmp_path, crf_suite(), rows=("3",), quick=True, repeats=1)
    assert report.rows[0].baseline == "eager" and report.columns() == ["ours", "eager"]
    assert "not installed" in report.notes[0] and "not installed" in printed(report)


def test_repeats_use_other_photos_and_labels():
    first, second = (
        dense_crf.problem(dense_crf.ROWS["4of21"][1], number, "hard", *SIZE) for number in (0, 1)
    )
    assert not torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])
    present = first[1].argmin(2).unique()
    assert len(present) == 4 and present[0] == 0 and present[-1] == 20
    images, _ = dense_crf.problem(dense_crf.ROWS["batch8"][1], 0, "soft", *SIZE)
    assert len({image.numpy().tobytes() for image in images}) == 8


def test_without_scikit_image_textures_are_synthetic(monkeypatch):
    photos._originals.cache_clear()
    photos.photos.cache_clear()
    monkeypatch.setattr(photos, "skimage_data", None)
    try:
        assert "4 synthetic textures (scikit-image is not installed)" in crf_suite().title
        images = photos.batch(0, 40, *SIZE)
        assert images.dtype == torch.uint8
        assert len({image.numpy().tobytes() for image in images}) == 40
        assert all(image.float().std() > 20 for image in images)
    finally:
        photos._originals.cache_clear()
        photos.photos.cache_clear()


def test_the_least_bytes_of_crf():
    """25 MB for an iteration of 500x375x21: the energies, and 6 entries of 8 bytes per pixel."""
    pixels, problem = 500 * 375, dense_crf.Problem
    least = dense_crf.least_bytes
    assert least(problem(21), pixels, True) == 10 * pixels * (21 * 4 + 48)
    assert least(problem(21, present=4), pixels, True) == 10 * pixels * (5 * 4 + 48)
    assert least(problem(3, sets=2, images=8), pixels, False) == 80 * pixels * (6 * 4 + 24)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_label_conditioned(dtype, tmp_path, tiny_rows):
    suite = label_conditioned.suite(label_conditioned.Options(dtype))
    report = measure(tmp_path, suite, rows=tuple(label_conditioned.ROWS), quick=True)
    assert not report.wrong()
    for row in report.rows:
        assert row.baseline == "eager" and row.rate() > 0
        assert len(row.times["ours"]) == 2 and "compiled" not in row.times
        assert row.figures["ours"]["error"] <= (2e-5 if dtype == "float32" else 4 * 2**-7)
    suffix = "" if dtype == "float32" else "-bfloat16"
    assert report.json.name == f"label_conditioned{suffix}.json"


@pytest.mark.parametrize("op", ["label_conditioned_logits", "label_conditioned_activation"])
def test_wrong_results_of_label_conditioned_are_not_timed(op, monkeypatch, tmp_path, tiny_rows):
    right = getattr(ops, op)
    monkeypatch.setattr(ops, op, lambda *args, **options: 1.001 * right(*args, **options))
    row = "logits" if op.endswith("logits") else "activation"
    report = measure(tmp_path, label_conditioned.suite(), quick=True, rows=(row,))
    times = report.rows[0].times
    assert len(report.wrong()) == 1 and "ours" not in times and times["eager"]


def test_gradients_are_compared(monkeypatch, tmp_path, tiny_rows):
    """The scale's gradient is lost, while the logits are right."""
    right = ops.label_conditioned_logits
    monkeypatch.setattr(
        ops,
        "label_conditioned_logits",
        lambda f, scale, *rest, **o: right(f, scale.detach() + 0 * scale, *rest, **o),
    )
    report = measure(tmp_path, label_conditioned.suite(), quick=True, rows=("train",))
    assert "error is 1, allowed" in report.wrong()[0]


def test_the_least_products_of_a_head():
    """36 taps, whose four centres are one; a 3x3 kernel of dilation 1 on 2x2 cells reaches 16."""
    amn = label_conditioned.least_products(label_conditioned.ROWS["amn4"][1], torch.float32)
    all_cells = 2 * 4 * 21 * 33 * 2048 * 32 * 32
    assert 0.4 * all_cells < amn.work < 0.5 * all_cells
    tiny = label_conditioned.least_products(
        label_conditioned.Head((1, 8, 2, 2), 3, (1,), backward=True), torch.float32
    )
    # The cells of a tap are rounded to a whole number.
    assert tiny.work == pytest.approx(3 * 2 * 3 * 8 * 16, rel=0.15)
    cam = label_conditioned.least_products(label_conditioned.ROWS["cam"][1], torch.float32)
    assert cam.work == 2 * 16 * 20 * 2048 * 32 * 32


@pytest.mark.parametrize(
    ("module", "key"),
    [(module, key) for module in (pixel_cross_entropy, pixel_bce) for key in module.ROWS],
)
def test_pixel_losses_agree_with_torch(module, key, tmp_path, tiny_rows):
    report = measure(tmp_path, module.suite(), quick=True, rows=(key,))
    (row,) = report.rows
    assert not row.problems and {"ours", "eager", "torch"} == set(row.times)
    assert all(figures["error"] <= 2e-5 for figures in row.figures.values())


@pytest.mark.parametrize(
    ("module", "others"),
    [(saliency_loss, ()), (aamr_loss, ("scipy",)), (random_walk, ("scipy", "dense"))],
    ids=["saliency", "aamr", "walk"],
)
def test_other_ops_agree_with_other_implementations(module, others, tmp_path, tiny_rows):
    pytest.importorskip("scipy")
    report = measure(tmp_path, module.suite(), quick=True)
    for row in report.rows:
        assert not row.problems and {"ours", "eager", *others} == set(row.times) and row.rate() > 0
        assert row.figures["ours"]["error"] <= 2e-5  # float32 walks of others may have more


def test_dense_energy_losses_agree(tmp_path, tiny_rows):
    report = measure(tmp_path, dense_energy_loss.suite(), quick=True, rows=("half", "exact"))
    for row in report.rows:
        assert not row.problems and {"ours", "eager"} <= set(row.times) and row.rate() > 0


def test_views_are_pillows_to_the_bit(tmp_path, tiny_rows, monkeypatch):
    report = measure(tmp_path, image_views.suite(), quick=True)
    for row in report.rows:
        assert not row.problems and {"ours", "eager", "pillow"} == set(row.times)
        assert row.figures["ours"]["error"] == row.figures["eager"]["error"] == 0 < row.rate()
    right = ops.image_views
    monkeypatch.setattr(
        ops, "image_views", lambda *given, **named: [v + 1e-6 for v in right(*given, **named)]
    )
    report = measure(tmp_path, image_views.suite(), quick=True)
    assert len(report.wrong()) == len(report.rows)


def test_merged_maps_are_compared(tmp_path, tiny_rows, monkeypatch):
    report = measure(tmp_path, merge_maps.suite(), quick=True)
    assert not report.wrong() and all(row.rate() > 0 for row in report.rows)
    monkeypatch.setattr(ops, "merge_maps", without_last_view)
    report = measure(tmp_path, merge_maps.suite(), quick=True)
    assert len(report.wrong()) == len(report.rows)


def without_last_view(views, *given, **named):
    return ops.reference.merge_maps(views[:-1], *given, **named)


def test_refined_masks_are_compared(tmp_path, tiny_rows, monkeypatch):
    """A run that is not quick also measures the convolutions of the public modules."""
    suite = pixel_adaptive_refine.suite()
    report = measure(tmp_path, suite, rows=("par128",), repeats=1)
    (row,) = report.rows
    assert not row.problems and {"ours", "eager", "stacked"} == set(row.times)
    assert row.figures["stacked"]["error"] <= 1e-5
    report = measure(tmp_path, suite, rows=("cams",), repeats=1, quick=True)
    assert not report.wrong() and all(row.rate() > 0 for row in report.rows)
    right = ops.pixel_adaptive_refine

    def without_an_iteration(*given, iterations, **named):
        return right(*given, iterations=iterations - 1, **named)

    monkeypatch.setattr(ops, "pixel_adaptive_refine", without_an_iteration)
    assert measure(tmp_path, suite, quick=True, rows=("par128",), repeats=1).wrong()


@pytest.mark.parametrize(("module", "package"), [(aamr_loss, "ndimage"), (random_walk, "sparse")])
def test_a_note_says_that_scipy_is_missing(module, package, tmp_path, monkeypatch, tiny_rows):
    monkeypatch.setattr(module, package, None)
    report = measure(tmp_path, module.suite(), quick=True, repeats=1)
    assert "scipy is not installed" in report.notes[-1]
    assert "scipy" not in report.columns() and not report.wrong()


def test_wrong_regions_and_steps_are_detected(tmp_path, monkeypatch, tiny_rows):
    """A loss over all pixels, and a walk of too few steps."""
    loss, walk = ops.aamr_loss, ops.random_walk
    monkeypatch.setattr(ops, "aamr_loss", lambda *given: loss(*given, active=2.0, overlap=0.0))
    monkeypatch.setattr(ops, "random_walk", lambda *given: walk(*given, steps=200))
    for module in (aamr_loss, random_walk):
        report = measure(tmp_path, module.suite(), quick=True)
        assert len(report.wrong()) == len(report.rows)


def test_the_least_steps_of_a_walk():
    """Steps x about 70 x cells x maps multiply-adds."""
    work = random_walk.least_steps(random_walk.ROWS["irn3"][1]).work
    assert 0.9 * 69 < work / (2 * 256 * 3 * 128 * 96) < 69
