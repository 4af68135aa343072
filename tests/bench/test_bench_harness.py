"""The harness of the benchmarks: results are compared before times are printed; memory; errors."""

import dataclasses
import functools
import json
import shutil

import pytest
import torch
from bench_runs import SIZE, crf_suite, measure, printed

from wsss_fast import InputError, RunError, ops
from wsss_fast.bench import dense_crf, label_conditioned, pixel_cross_entropy
from wsss_fast.bench.harness import memory, roofline, run
from wsss_fast.bench.harness.suite import Implementation, relative_error


def test_wrong_results_are_not_timed(tmp_path, slightly_wrong):
    report = measure(tmp_path, crf_suite(), rows=("3", "pair"), quick=True)
    for row in report.rows:
        assert "ours" not in row.times and row.ratio() is None and row.rate() is None
        assert "max dQ is 0.01" in row.problems["ours"] and row.times[row.baseline]
    wrong = report.wrong()
    assert len(wrong) == 2 and wrong[0].startswith("dense_crf, 3 labels: disagrees with")
    text = printed(report)
    assert text.count("WRONG") == 2 and "3 labels: ours: disagrees with" in text


def test_every_input_is_compared(tmp_path, monkeypatch):
    right, calls = ops.dense_crf, []

    def wrong_later(image, unary, **terms):
        calls.append(1)
        return right(image, unary, **terms) + 0.01 * (len(calls) == 3)

    monkeypatch.setattr(ops, "dense_crf", wrong_later)
    report = measure(tmp_path, crf_suite(), rows=("2",), quick=True, repeats=3)
    assert len(report.wrong()) == 1 and len(calls) == 3 and "ours" not in report.rows[0].times


def test_nan_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(
        ops, "dense_crf", lambda image, unary, **terms: torch.full_like(unary, torch.nan)
    )
    report = measure(tmp_path, crf_suite(), rows=("2",), quick=True)
    assert "max dQ is nan" in report.wrong()[0]


def test_relative_error():
    want = [torch.tensor([4.0, -2.0]), torch.tensor([0.5])]
    assert relative_error([want[0] + 0.04, want[1]], want) == {"error": pytest.approx(0.01)}
    nan = relative_error([want[0], want[1] * torch.nan], want)["error"]
    assert nan != nan and relative_error(want, want)["error"] == 0
    other_shape = relative_error([want[0], torch.tensor(0.5)], want)
    assert other_shape["error"] == float("inf")
    assert relative_error([torch.zeros(1)], [torch.zeros(1)]) == {"error": 0}
    assert relative_error([torch.ones(1)], [torch.zeros(1)])["error"] > 1


def test_ratio_compares_the_inputs_that_both_were_timed_on():
    row = run.Row("a", "a", "eager", times={"ours": [1.0, 5.0, 5.0], "eager": [8.0]})
    assert row.ratio() == 8.0 and row.seconds("ours") == 5.0


def test_a_failing_implementation_does_not_affect_the_others(tmp_path):
    suite = crf_suite()

    def fails(image, unary):
        raise MemoryError("too large\nwith details")

    broken = dataclasses.replace(
        suite,
        implementations=lambda row: {**suite.implementations(row), "other": Implementation(fails)},
    )
    report = measure(tmp_path, broken, rows=("2",), repeats=1)
    (row,) = report.rows
    assert row.problems == {"other": "MemoryError: too large"}
    assert row.times["ours"] and not report.wrong()
    assert "2 labels: other: MemoryError: too large" in printed(report)


def test_the_number_of_threads_is_restored(tmp_path, monkeypatch):
    before, inside = torch.get_num_threads(), []
    monkeypatch.setattr(
        ops, "dense_crf", lambda *_, **__: inside.append(torch.get_num_threads()) or torch.zeros(1)
    )
    with pytest.raises(RuntimeError):  # shapes that cannot be compared
        measure(tmp_path, crf_suite(), rows=("2",), quick=True, threads=before + 1)
    assert inside == [before + 1] and torch.get_num_threads() == before


def test_wrong_options(tmp_path):
    suite = crf_suite()
    with pytest.raises(InputError, match="unknown row '7', must be one of 2, 3"):
        measure(tmp_path, suite, rows=("7",))
    with pytest.raises(InputError, match="threads=-1"):
        measure(tmp_path, suite, threads=-1)
    with pytest.raises(InputError, match="repeats=0"):
        measure(tmp_path, suite, repeats=0)
    with pytest.raises(InputError, match="size must be at least 1 1, got 0 5"):
        crf_suite(size=(0, 5))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, must be a directory"):
        measure(tmp_path / "file", suite)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_rooflines():
    """A product [m, k] x [k, n] has 2 m k n operations; a copy reads and writes."""
    product = roofline.matmul(64, 32, 16, products=3)
    assert (product.work, product.plain_work, product.unit) == (3 * 65536, 65536, "GFLOP/s")
    assert product.prepare(torch.device("cpu"))().shape == (64, 16)
    copied = roofline.copy(1000)
    assert (copied.work, copied.plain_work, copied.unit) == (1000, 2 * (1 << 16), "GB/s")
    assert copied.plain_rate(torch.device("cpu")) > 0
    row = run.Row("a", "a", "eager", times={"ours": [0.5]}, roofline={"work": 3.0})
    assert row.rate() == 6.0


def test_a_note_says_that_ours_has_no_kernel(tmp_path, tiny_rows, monkeypatch):
    monkeypatch.setattr(
        run, "has_native_kernel", lambda name, device: name != "pixel_cross_entropy"
    )
    options = {"quick": True, "repeats": 1}
    report = measure(tmp_path, pixel_cross_entropy.suite(), rows=("seg41",), **options)
    assert report.notes == [
        "pixel_cross_entropy has no native kernel for cpu here: ours is the PyTorch reference."
    ]
    assert not measure(tmp_path, label_conditioned.suite(), rows=("logits",), **options).notes


@pytest.mark.parametrize(
    ("rows", "backend"),
    [
        # Dynamo counts compilations with any backend; this one takes a tenth of the time.
        pytest.param(10, "aot_eager", id="more-than-torch-compiles-one-function"),
        pytest.param(1, "inductor", id="default"),
    ],
)
def test_compiled_implementations(rows, backend, tmp_path, monkeypatch):
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a compiler")
    heads = {
        str(k): (str(k), label_conditioned.Head((1, 4, 5, 5), 2 + k, (1,), 1)) for k in range(rows)
    }
    monkeypatch.setattr(label_conditioned, "ROWS", heads)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    report = measure(tmp_path, label_conditioned.suite(), repeats=1)
    problems = [row.problems for row in report.rows]
    assert all(row.times.get("compiled") for row in report.rows), problems


def test_a_failure_of_torch_compile_is_reported(tmp_path, monkeypatch, tiny_rows):
    def breaks(function, **_):
        def call(*_):
            raise RuntimeError("no backend\nlong story")

        return call

    monkeypatch.setattr(torch, "compile", breaks)
    report = measure(tmp_path, label_conditioned.suite(), rows=("logits",), repeats=1)
    assert report.rows[0].problems == {"compiled": "RuntimeError: no backend"}
    assert not report.wrong() and "logits: compiled: RuntimeError: no backend" in printed(report)


def test_memory_is_the_growth_of_a_call_at_its_peak():
    def allocates(megabytes):
        def call(tensor):
            return torch.ones(megabytes << 20, dtype=torch.uint8)[:1].clone()

        return call

    given = torch.zeros(8 << 20)
    sizes = [memory._resident_growth(allocates(m), (given,)) for m in (20, 60)]
    if sizes[0] is None:
        pytest.skip("the system does not report it")
    for size, megabytes in zip(sizes, (20, 60), strict=True):
        assert size / 2**20 == pytest.approx(megabytes, abs=3)


def test_memory_is_measured_in_a_process_of_its_own():
    options = dataclasses.asdict(dense_crf.Options(size=(200, 250)))
    size = memory.peak_of_one_call("dense_crf", options, "5", "ours", "cpu", 1)
    if size is None:
        pytest.skip("the system does not report it")
    # More than the 1 MB of Q in float32, less than ten times all lattice entries in float64.
    assert 1e6 < size < 1e8
    # Eager scales the features, 134 MB here; the 1x1 head allocates nothing of that size.
    eager = memory.peak_of_one_call("label_conditioned", {}, "amn-inference", "eager", "cpu", 1)
    assert eager > 2048 * 32 * 32 * 4
    with pytest.raises(RunError, match="memory of nobody was not measured: KeyError"):
        memory.peak_of_one_call("dense_crf", {"size": SIZE}, "5", "nobody", "cpu", 1)


def test_memory_that_could_not_be_measured_is_reported(tmp_path, monkeypatch):
    problem = "memory of ours was not measured: Killed"

    def fails(benchmark, options, row, implementation, *_):
        if implementation == "ours":
            raise RunError(problem)
        return 5_000_000

    monkeypatch.setattr(memory, "peak_of_one_call", fails)
    report = measure(tmp_path, crf_suite(), rows=("2",), repeats=1, memory=True)
    text = " ".join(printed(report).split())
    assert "failed" in text and "5.0" in text and f"2 labels: ours: {problem}" in text
    assert json.loads(report.json.read_text())["rows"][0]["unmeasured"] == {"ours": problem}
