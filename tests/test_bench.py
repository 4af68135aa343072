"""The benchmarks: results are compared before a time is printed, memory comes from a process of its own."""

import dataclasses
import json

import pytest
import torch
from PIL import Image

from wsss_fast import InputError, RunError, bench, cli
from wsss_fast.bench import crf, harness, memory, show

SIZE = (40, 56)


@pytest.fixture(autouse=True)
def needs_photos():
    pytest.importorskip("skimage")


@pytest.fixture
def slightly_wrong(monkeypatch):
    """dense_crf, but Q of every image's first pixel is off by 0.01."""
    right = crf.ops.dense_crf

    def wrong(image, unary, **terms):
        q = right(image, unary, **terms).clone()
        q[..., 0, 0] += 0.01
        return q

    monkeypatch.setattr(crf.ops, "dense_crf", wrong)


def measure(out, **options):
    return harness.run_suite(crf.suite(size=SIZE, **options.pop("suite", {})), out,
                             **{"device": "cpu", "threads": 1, "repeats": 2, "memory": False, **options})


def test_every_row_agrees_and_is_written(tmp_path):
    report = measure(tmp_path, repeats=1, quick=True, suite={"unary": "soft", "setting": "eps"})
    report.check()
    written = json.loads((tmp_path / "crf-eps-soft.json").read_text())
    assert [row["key"] for row in written["rows"]] == list(crf.ROWS)
    for row in written["rows"]:
        assert len(row["times"]["ours"]) == 1 and row["seconds"]["ours"] == row["times"]["ours"][0] > 0
        assert row["ratio"] == pytest.approx(row["seconds"][row["judge"]] / row["seconds"]["ours"])
        assert row["figures"]["ours"]["max dQ"] <= 1e-3
    assert written["threads"] == 1 and written["cpu"] and written["info"]["backend"]
    with Image.open(tmp_path / "crf-eps-soft.png") as plot:
        assert plot.width > 400 and len(plot.convert("RGB").getcolors(1 << 20)) > 10


def test_a_wrong_answer_has_no_time(tmp_path, slightly_wrong):
    report = measure(tmp_path, rows=("3", "pair"), quick=True)
    for row in report.rows:
        assert "ours" not in row.times and row.ratio() is None and "max dQ is 0.01" in row.problems["ours"]
        assert row.times[row.judge]
    with pytest.raises(RunError, match="2 of 2 rows were wrong, first 3 labels: disagrees with"):
        report.check()
    cells = [list(column.cells) for column in show.table(report).columns]
    assert ["WRONG", "WRONG"] in cells


def test_a_nan_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(crf.ops, "dense_crf", lambda image, unary, **terms: torch.full_like(unary, torch.nan))
    with pytest.raises(RunError, match="max dQ is nan"):
        measure(tmp_path, rows=("2",), quick=True).check()


def test_without_the_peer_the_reference_judges(tmp_path, monkeypatch):
    monkeypatch.setattr(crf, "densecrf", None)
    report = measure(tmp_path, rows=("3",), quick=True, repeats=1)
    assert report.rows[0].judge == "eager" and report.columns() == ["ours", "eager"]
    assert "not installed" in report.suite.notes[0] and "not installed" in show.table(report).caption


def test_repeats_use_other_photos_and_labels():
    first, second = (crf.problem(crf.ROWS["4of21"][1], which, "hard", *SIZE) for which in (0, 1))
    assert not torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])
    shown = first[1].argmin(2).unique()
    assert len(shown) == 4 and shown[0] == 0 and shown[-1] == 20
    images, _ = crf.problem(crf.ROWS["batch8"][1], 0, "soft", *SIZE)
    assert len({image.numpy().tobytes() for image in images}) == 8


def test_ratio_compares_the_inputs_that_both_were_timed_on():
    row = harness.Row("a", "a", "eager", times={"ours": [1.0, 5.0, 5.0], "eager": [8.0]})
    assert row.ratio() == 8.0 and row.seconds("ours") == 5.0


def test_a_contender_that_fails_leaves_the_others(tmp_path):
    suite = crf.suite(size=SIZE)

    def fails(image, unary):
        raise MemoryError("too large")

    broken = dataclasses.replace(suite, contenders=lambda row: {**suite.contenders(row), "eager": harness.Contender(fails)})
    (row,) = harness.run_suite(broken, tmp_path, rows=("2",), device="cpu", threads=1, repeats=1, memory=False).rows
    if row.judge != "eager":
        assert row.problems == {"eager": "MemoryError: too large"} and row.times["ours"]


def test_memory_is_what_a_call_adds_at_its_peak(tmp_path, monkeypatch):
    def needs(megabytes):
        def call(given):
            return torch.ones(megabytes << 20, dtype=torch.uint8)[:1].clone()
        return call

    given = torch.zeros(8 << 20)
    sizes = [memory._resident_growth(needs(m), (given,)) for m in (20, 60)]
    if sizes[0] is None:
        pytest.skip("the system does not tell")
    assert sizes[0] / 2**20 == pytest.approx(20, abs=3) and sizes[1] / 2**20 == pytest.approx(60, abs=3)


def test_memory_is_measured_in_a_process_of_its_own():
    size = memory.of_one_call("crf", {"size": (200, 250)}, "5", "ours", "cpu", 1)
    if size is None:
        pytest.skip("the system does not tell")
    # More than Q's 1 MB of float32 once, less than every lattice entry in float64 ten times over.
    assert 1e6 < size < 1e8
    with pytest.raises(RunError, match="memory of nobody was not measured: KeyError"):
        memory.of_one_call("crf", {"size": SIZE}, "5", "nobody", "cpu", 1)


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="no row '7'; there are 2, 3"):
        measure(tmp_path, rows=("7",))
    with pytest.raises(InputError, match="threads=-1"):
        measure(tmp_path, threads=-1)
    with pytest.raises(InputError, match="repeats=0"):
        measure(tmp_path, repeats=0)
    with pytest.raises(InputError, match="size must be at least 1 1, got 0 5"):
        crf.suite(size=(0, 5))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, must be a folder"):
        measure(tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_commands(capfd, tmp_path, slightly_wrong):
    rest = ["--out", str(tmp_path), "--size", "40", "56", "--rows", "2", "--repeats", "1", "--quick", "--no-memory",
            "--threads", "1", "--device", "cpu"]
    code = cli.run(["bench", "crf", *rest])
    out, err = capfd.readouterr()
    assert code == 1 and "WRONG" in out and "crf.png" in out and "1 of 1 rows were wrong" in err
    code = cli.run(["bench", "crf2"])
    assert code == 2 and "no command 'bench crf2'; did you mean bench or bench crf" in capfd.readouterr().err


def test_bench_without_a_name_runs_all(capfd, tmp_path, monkeypatch):
    called = []

    def small(name):
        def run_suite(suite, out, **options):
            called.append((suite.name, options))
            return harness.run_suite(dataclasses.replace(suite, make=crf.suite(size=SIZE).make), out, **options, rows=("2",))
        return run_suite

    monkeypatch.setattr(bench, "run_suite", small("all"))
    assert cli.run(["bench", "--out", str(tmp_path), "--repeats", "1", "--quick", "--no-memory", "--threads", "1"]) == 0
    assert [name for name, _ in called] == list(bench.BENCHMARKS) and called[0][1]["quick"] is True
    assert "2 labels" in capfd.readouterr().out
