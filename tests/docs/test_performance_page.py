"""docs/performance.md is made from the JSON files; bounds, slower rows, adding measurements."""

import dataclasses
import json
import sys

import pytest
from pages import ROOT

from benchmarks import figures, gpu_bounds
from benchmarks.figures import Figure
from wsss_fast.bench import summaries

sys.path.insert(0, str(ROOT / "tools"))
import performance_page  # noqa: E402


def test_the_page_is_made_of_the_json_files():
    text = performance_page.PAGE.read_text()
    made = {name for _, name, _ in performance_page.REGION.findall(text)}
    assert made == set(performance_page.regions())
    assert performance_page.page(text) == text, "run python tools/performance_page.py"


def test_every_benchmark_of_an_operator_has_a_table():
    shown = {name for names in performance_page.TABLES.values() for name in names}
    assert shown == set(summaries()) - {"inference"}


def test_faster_implementations_are_named(monkeypatch):
    figure = Figure("pixel_bce", "bce32", "16x21", {"ours": [2.0], "eager": [4.0], "torch": [1.0]})
    monkeypatch.setattr(performance_page, "on_cpu", lambda: [figure])
    monkeypatch.setattr(performance_page, "on_gpu", list)
    assert performance_page.slower() == ["- CPU, `pixel_bce bce32`: 2 ms; torch's own 1 ms"]
    assert "**0.50x**" in "".join(performance_page.table([figure]))
    better = dataclasses.replace(figure, ms={"ours": [0.5, 0.8], "eager": [4.0, 4.0]})
    monkeypatch.setattr(performance_page, "on_cpu", lambda: [better])
    assert performance_page.slower() == ["None."]
    assert "| 0.5 / 0.8 |" in performance_page.table([better])[2]
    assert "8.0x / 5.0x" in performance_page.table([better])[2]
    low = dataclasses.replace(better, target="9x (12x)")
    monkeypatch.setattr(performance_page, "on_cpu", lambda: [low])
    assert performance_page.missed() == ["- `pixel_bce bce32`: 6.2x, target 9x (12x)"]
    late = [dataclasses.replace(better, target=f"{ms} ms") for ms in (0.6, 0.7)]
    monkeypatch.setattr(performance_page, "on_cpu", lambda: late)
    assert performance_page.missed() == ["- `pixel_bce bce32`: 0.65 ms, target 0.6 ms"]


@pytest.mark.parametrize(
    ("benchmark", "key", "options", "milliseconds", "what"),
    [
        # 25 MB an iteration and image, ten iterations, 16 images.
        ("dense_crf", "21 labels", {}, 16 * 0.059, "bytes"),
        # 65 GFLOP without the taps that leave the map.
        ("label_conditioned", "amn16-train", {"dtype": "bfloat16"}, 0.088, "products"),
        ("label_conditioned", "cam-train", {"dtype": "bfloat16"}, 0.048, "bytes"),
        # 88 million exponentials take 0.02 ms.
        ("pixel_cross_entropy", "pcl512", {}, 0.024, "arithmetic"),
        ("pixel_bce", "bce512", {}, 0.063, "exponentials"),
        ("merge_maps", "amn16", {}, 0.013, "bytes"),
        # 48 multiply-adds for each of 55 million values.
        ("pixel_adaptive_refine", "par", {}, 0.079, "arithmetic"),
    ],
)
def test_bounds_on_a_gpu(benchmark, key, options, milliseconds, what):
    rates = gpu_bounds.Rates(copy=4.2e12, bf16=700e12)
    found, bound_by = gpu_bounds.bound(benchmark, key, options, rates)
    assert found == pytest.approx(milliseconds, rel=0.05) and bound_by == what


def test_no_measurement_is_faster_than_its_bound():
    for figure in (*performance_page.on_cpu(), *performance_page.on_gpu()):
        assert figure.bound and figure.median("ours") > figure.bound[0], figure.name


def report(path, ms, **more):
    row = {
        "key": "2",
        "case": "2 labels",
        "times": {"ours": [ms / 1e3], "eager": [1.0]},
        "bytes": {},
        "figures": {"ours": {"max dQ": 1e-6}},
        "roofline": {"plain_rate": 20.0},
    }
    machine = {"device": "cpu", "cpu": "2 x New", "threads": 2, "info": {"torch": "9.0"}}
    content = {"benchmark": "dense_crf", "options": {}, "date": "2030-01-02", "rows": [row]}
    path.write_text(json.dumps({**content, **machine, **more}))
    return path


def test_measurements_are_added(tmp_path, monkeypatch):
    copy = tmp_path / "ops_cpu.json"
    copy.write_text(figures.CPU_FILE.read_text())
    monkeypatch.setattr(figures, "CPU_FILE", copy)
    content = json.loads(copy.read_text())
    assert figures.as_text(content) == copy.read_text()  # the order and the digits are kept
    first, second = report(tmp_path / "a.json", 30.0), report(tmp_path / "b.json", 32.0)
    monkeypatch.setattr(figures, "commit", lambda: "abc1234")
    assert figures.add([first, second]) == 1
    changed = json.loads(copy.read_text())
    assert len(changed["rows"]) == len(content["rows"])
    (row,) = (r for r in changed["rows"] if (r["benchmark"], r["key"]) == ("dense_crf", "2"))
    peer = content["rows"][0]["ms"]["pydensecrf"]  # not measured again, nor was memory
    assert row["ms"] == {"ours": [30.0, 32.0], "eager": [1000.0, 1000.0], "pydensecrf": peer}
    assert row["mb"] == content["rows"][0]["mb"]
    assert (row["date"], row["commit"], row["plain_rate"]) == ("2030-01-02", "abc1234", 20.0)
    assert changed["machines"][row["machine"]]["name"] == "2 x New, 2 threads, torch 9.0"
    with pytest.raises(SystemExit, match="not on a CPU"):
        figures.add([report(first, 1.0, device="NVIDIA H200")])
