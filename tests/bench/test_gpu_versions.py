"""Two versions of the package on the same rows: benchmarks/gpu_versions.py, gpu_goals.json."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import figures, gpu_goals, gpu_rows, gpu_versions
from benchmarks.gpu_goals import MS, OVER, RATE, Goal
from benchmarks.gpu_version_worker import Worker
from benchmarks.gpu_versions import Failure, Version
from wsss_fast import _native

ROOT = Path(__file__).parents[2]


def test_goals_and_predictions_are_of_rows_that_are_measured():
    rows = {row.name: row for row in gpu_rows.rows()}
    assert len(rows) == len(gpu_rows.rows())
    goals = gpu_goals.read()
    assert len(goals) >= 18 and set(goals) <= set(rows)
    for name, goal in goals.items():
        assert set(goal.target) <= {MS, RATE, *OVER} and len(goal.target) <= 1
        assert (RATE in goal.target) <= bool(rows[name].images)
        assert {OVER[kind] for kind in goal.target if kind in OVER} <= set(rows[name].baselines())
        assert "\n" not in goal.why and "|" not in goal.why
        if goal.predicted is not None:
            assert goal.predicted > 0 and goal.bound and goal.why


@pytest.mark.parametrize(
    ("target", "images", "value", "text"),
    [
        ({"ms": 0.6}, None, 0.6, "0.6 ms"),
        ({"images_per_s": 3000}, 32, 3000, "3,000 images/s"),
        ({"over_eager": 3}, None, 4.0, "3x eager"),
        ({"over_torch": 1}, None, None, "1x torch"),
        ({}, None, None, "-"),
    ],
)
def test_a_goal_is_a_number_in_the_rows_unit(target, images, value, text):
    goal = Goal(target)
    assert goal.value(images, {"eager": 12.0}) == value and goal.text() == text


def test_rows_of_several_inputs_and_of_stored_lattices():
    rows = {row.name: row for row in gpu_rows.rows()}
    one, several = (rows[f"pixel_adaptive_refine par3{more}"] for more in ("", " 8 images"))
    masks, image = several.make(3, quick=True)
    assert len(masks) == len(image) == 8 and image.shape[1:] == one.make(3, quick=True)[1].shape[1:]
    direct, stored = (rows[f"dense_crf 2 labels{more}"] for more in ("", " stored lattice"))
    inputs = direct.make(0, quick=True)
    assert torch.equal(stored.prepared(inputs)(), direct.prepared(inputs)())


def test_verdicts():
    def measured(ms, **more):
        versions = {"old": {"ms": 4.0, "peak_mib": 100.0}, "new": {"ms": ms, "peak_mib": 60.0}}
        found = {"row": "r", "errors": {"error": 0.0}, "wrong": [], "baselines": {"eager": 6.0}}
        return {**found, **versions, "ratio": 4.0 / ms, **more}

    def says(goal, ms, images=None, **more):
        return gpu_versions.verdict(measured(ms, **more), goal, images).partition(";")[0]

    assert says(Goal({"over_eager": 3}), 1.9) == "reached"
    assert says(Goal({"over_eager": 3}, memory=0.5), 2.1) == "MISSED, MEMORY above 0.5 x old"
    assert says(Goal({"images_per_s": 1000}), 2.0, images=2) == "reached"
    assert says(Goal({"images_per_s": 1000}), 2.1, images=2) == "MISSED"
    assert says(Goal(), 4.1) == "-" and says(Goal(), 5.0) == "SLOWER"
    assert says(Goal(), 3.0, wrong=["error"]) == "DIFFERS: error"
    line = gpu_versions.table_line(measured(2.0), Goal({"ms": 3.0}, predicted=2.5), None)
    assert line.split()[2:8] == ["4", "2", "2.00x", "3", "ms", "2.5"]


def test_other_results_are_found(tmp_path):
    row = "label_conditioned bfloat16 cam-train channels_last"
    worker, inputs, results = Worker(ROOT, "cpu", quick=True), tmp_path / "in", tmp_path / "out"
    worker.make(row, str(inputs))
    assert torch.load(inputs)[0].is_contiguous(memory_format=torch.channels_last)
    worker.load(row, str(inputs))
    worker.save(str(results))
    assert worker.compare(row, str(results)) == {"errors": {"error": 0.0}, "wrong": []}
    changed = torch.load(results)
    changed[0][0, 0, 0, 0] = float("nan")
    torch.save(changed, results)
    assert worker.compare(row, str(results))["wrong"] == ["error"]
    assert worker.baselines(row, str(inputs), 0.0).keys() == {"eager"}


def test_a_version_is_started_again_after_a_crash(tmp_path):
    code = (
        "import json, os, sys\n"
        "for line in sys.stdin:\n"
        "    do = json.loads(line)['do']\n"
        "    if do == 'crash':\n"
        "        os.write(2, b'illegal memory access\\n'); os.abort()\n"
        "    if do != 'hang':\n"
        "        print(json.dumps({'problem': 'E: no'} if do == 'refuse' else {'did': do}))\n"
        "        sys.stdout.flush()\n"
    )
    version = Version("old", ROOT, [], tmp_path)
    version.command = [sys.executable, "-c", code]
    assert version.ask("load") == {"did": "load"}
    with pytest.raises(Failure, match="old: E: no"):
        version.ask("refuse")
    with pytest.raises(Failure, match="ended with -6: illegal memory access"):
        version.ask("crash")
    assert version.ask("load") == {"did": "load"}
    with pytest.raises(Failure, match="no answer"):
        version.ask("hang", limit=0.2)
    assert version.process is None


def test_the_command_measures_both_versions(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OUT", str(tmp_path))
    for name in ("OLD", "NEW"):  # both are this version, whose library has been built
        monkeypatch.setenv(f"GPU_VERSIONS_CACHE_{name}", str(_native.cache_folder()))
    only = ["--only", "seg41", "saliency_loss voc"]
    argv = ["gpu_versions.py", str(ROOT), "--device", "cpu", "--quick", *only]
    monkeypatch.setattr(sys, "argv", argv)
    ask = Version.ask

    def lacks_saliency(self, do, *limit, **arguments):
        found = ask(self, do, *limit, **arguments)
        if do == "names" and self.name == "old":
            found["rows"] = [row for row in found["rows"] if row["benchmark"] != "saliency_loss"]
        return found

    monkeypatch.setattr(Version, "ask", lacks_saliency)
    assert gpu_versions.main() == 0
    written = json.loads((tmp_path / "versions.json").read_text())
    rows = written["rows"]
    assert [row["row"] for row in rows] == ["pixel_cross_entropy seg41", "aamr_loss seg41"]
    assert all(row["ratio"] > 0 and row["errors"] == {"error": 0.0} for row in rows)
    assert rows[0]["baselines"].keys() == {"eager", "torch"}
    (tmp_path / "figures.json").write_text(json.dumps({**written, "quick": False}))
    found = figures.of_gpu_file(tmp_path / "figures.json")
    assert [f.name for f in found] == [row["row"] for row in rows]
    assert found[0].ms["ours"] == [rows[0]["new"]["ms"]] and found[0].date == written["date"]
    with pytest.raises(SystemExit, match="tiny inputs"):
        figures.of_gpu_file(tmp_path / "versions.json")
    shown = capsys.readouterr().out.splitlines()
    assert "old" in shown[1] and shown[2].startswith("| pixel_cross_entropy seg41")
    assert any(line.split()[1:] == f"{only[2]} only in this version".split() for line in shown)
    assert shown[-1].startswith("| 2 rows, 0 failed or different")
    monkeypatch.setattr(sys, "argv", [*argv, "--seconds", "0"])
    assert gpu_versions.main() == 1
    assert "FAILED no time left" in capsys.readouterr().out
