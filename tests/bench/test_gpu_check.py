"""benchmarks/gpu_check.sh, which itself needs a GPU: limits, deadlines, packing, logs."""

import json
import os
import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from benchmarks import gpu_check, gpu_plan, gpu_results, gpu_runner, stage_rates, train_rates
from benchmarks.gpu_runner import Check, Step
from wsss_fast import cli, data
from wsss_fast.bench.harness import synthetic_voc
from wsss_fast.cli.arguments import parse

ROOT = Path(__file__).parents[2]


@pytest.fixture
def check(tmp_path):
    return Check(tmp_path / "out", tmp_path / "work", deadline=60)


def shell(name, script, limit=10, **options):
    return Step(name, ["sh", "-c", script], limit, **{"needs": 1, "native": False, **options})


def statuses(check):
    return {r.name: r.status for r in check.results}


def test_a_failing_and_a_hanging_step_do_not_stop_the_others(check, capfd):
    steps = [
        shell("one", "echo '| 5 images/s'; echo more"),
        shell("two", "echo broken; exit 3"),
        shell("three", "echo '| half done'; sleep 60 & sleep 60", limit=0.5),
        shell("four", "true"),
    ]
    start = time.monotonic()
    assert check.run(steps) == 2 and time.monotonic() - start < 20
    assert statuses(check) == {"one": "ok", "two": "failed", "three": "timed out", "four": "ok"}
    shown = capfd.readouterr().out
    assert re.search(r"one: ok, \d\.\d s: 5 images/s\n", shown)
    assert "two: failed (exit 3)" in shown and "broken" in shown
    assert "half done" in shown and "more" not in shown
    assert shown == (check.out / "summary.txt").read_text()
    assert "2 ok, 2 failed (two, three), 0 skipped" in shown.splitlines()[-1]


@pytest.mark.parametrize("parent", ["exec sleep 9", "trap '' TERM; sleep 9"])
def test_children_of_a_step_are_stopped(check, tmp_path, monkeypatch, parent):
    """Also if the step or its children ignore SIGTERM."""
    monkeypatch.setattr(gpu_runner, "GRACE", 0.2)
    child = f"(trap '' TERM; sleep 1.2; touch {tmp_path}/late)"
    check.run([shell("nested", f"{child} & {parent}", limit=0.3)])
    assert statuses(check) == {"nested": "timed out"} and check.running == {}
    time.sleep(1.2)
    assert not (tmp_path / "late").exists()


def test_logs_are_packed_after_every_step(check):
    (check.figures / "one.json").write_text('{"rate": 7}')
    check.run([shell("one", "echo first"), shell("two", f"tar tzf {check.out}/gpu_check.tar.gz")])
    assert "gpu_check/one.log" in (check.logs / "two.log").read_text()
    with tarfile.open(check.out / "gpu_check.tar.gz") as archive:
        assert {
            "gpu_check/one.log",
            "gpu_check/two.log",
            "gpu_check/figures/one.json",
            "gpu_check/summary.txt",
            "gpu_check/gpu_check.json",
        } <= set(archive.getnames())
    assert json.loads((check.out / "gpu_check.json").read_text())["one"]["figures"] == {"rate": 7}
    assert sorted(p.name for p in check.out.iterdir()) == [
        "gpu_check.json",
        "gpu_check.tar.gz",
        "summary.txt",
    ]


def test_long_logs_lose_their_middle(check, monkeypatch):
    monkeypatch.setattr(gpu_runner, "LARGEST_LOG", 400)
    check.run([shell("long", "echo start; seq 1000; echo end")])
    with tarfile.open(check.out / "gpu_check.tar.gz") as archive:
        text = archive.extractfile("gpu_check/long.log").read().decode()
    assert len(text) < 500 and "start" in text and "left out" in text and text.endswith("end\n")


def test_the_deadline_skips_steps_and_stops_the_running_one(tmp_path):
    check = Check(tmp_path / "out", tmp_path / "work", deadline=gpu_runner.RESERVE + 1)
    steps = [
        shell("big", "true", needs=30),
        shell("slow", "sleep 30", needs=0.1),
        shell("late", "true", needs=0.5),
    ]
    assert check.run(steps) == 1
    assert statuses(check) == {"big": "skipped", "slow": "timed out", "late": "skipped"}
    assert "left, it needs 30" in check.results[0].lines[0]


def test_steps_of_a_group_run_at_the_same_time(check):
    # Each step waits until all have started.
    started = f"$(ls {check.work} | grep -c '^[a-d]$')"
    wait = f"touch {check.work}/$0; while [ {started} -lt 4 ]; do sleep 0.05; done"
    options = {"needs": 1, "group": "all", "native": False}
    check.run([Step(name, ["sh", "-c", wait, name], 20, **options) for name in "abcd"])
    assert statuses(check) == dict.fromkeys("abcd", "ok")


def test_steps_that_cannot_run_are_skipped(check):
    steps = [
        shell("build", "echo 'x.cu(3): error: no such header'; seq 6; echo stopped; exit 1"),
        shell("needs kernels", "true", native=True),
        shell("does not", 'echo "| $WSSS_FAST_BACKEND"'),
        shell("tool", "true", tool="no-such-tool"),
        shell("after", "true", after=("needs kernels",)),
        shell("device", "echo Device not supported; exit 1", unsupported="Device not supported"),
        Step("absent", ["/no/such/program"], 5, needs=1, native=False),
    ]
    check.run(steps)
    expected = ["failed", "skipped", "ok", "skipped", "skipped", "skipped", "failed"]
    assert list(statuses(check).values()) == expected
    lines = [r.lines for r in check.results]
    assert lines[0] == ["x.cu(3): error: no such header", *"23456", "stopped"]
    assert lines[1] == ["the build failed"] and lines[2] == ["reference"]
    assert lines[3] == ["no-such-tool is not installed"]
    assert lines[4] == ["needs kernels did not succeed"]


def test_results_of_pytest(check):
    (check.logs / "tests.xml").write_text(
        '<testsuites><testsuite><testcase classname="tests.test_a" name="t[cuda]"/>'
        '<testcase classname="tests.test_a" name="u">'
        '<failure message="assert 1 &lt; 0&#10;more"/></testcase>'
        '<testcase classname="tests.test_b" name="v"><skipped/></testcase>'
        "</testsuite></testsuites>"
    )
    lines, figures = gpu_results.pytest_results(check, shell("tests", ""), "")
    assert lines == ["1 passed, 1 failed, 1 skipped", "FAILED test_a::u: assert 1 < 0"]
    assert figures == {"passed": 1, "failed": {"tests.test_a::u": "assert 1 < 0"}, "skipped": 1}
    log = "[gw0] [ 5%] PASSED tests/test_a.py::t \n[gw1] [ 9%] FAILED tests/test_a.py::u[cuda] \n"
    lines, _ = gpu_results.pytest_results(check, shell("killed", ""), log)
    assert lines == ["no report; 1 passed, 1 failed so far", "tests/test_a.py::u[cuda]"]


def test_results_of_sanitizers(check):
    log = (
        "========= COMPUTE-SANITIZER\n========= Invalid __global__ write of size 4 bytes\n"
        "=========     at kernel+0x10\n"
        "| 156 cases of 10 ops, 0 wrong, 3.0 s\n========= ERROR SUMMARY: 1 error\n"
    )
    lines, figures = gpu_results.sanitizer_results(check, shell("memcheck", ""), log)
    assert lines == [
        "ERROR SUMMARY: 1 error",
        "Invalid __global__ write of size 4 bytes",
        "156 cases of 10 ops, 0 wrong, 3.0 s",
    ]
    assert figures["reports"] == 1


BLUR = "void wsss::(anonymous namespace)::blur<4>(int const*, float*)"
NCU = "\n".join(
    [
        "==PROF== Connected to process 12",
        "some output",
        '"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"',
        f'"0","{BLUR}","GPU Speed Of Light Throughput","Duration","ns","2,000"',
        f'"0","{BLUR}","GPU Speed Of Light Throughput","DRAM Throughput","%","50"',
        f'"0","{BLUR}","Launch Statistics","Registers Per Thread","","40"',
        f'"1","{BLUR}","GPU Speed Of Light Throughput","Duration","ns","6000"',
        f'"1","{BLUR}","GPU Speed Of Light Throughput","DRAM Throughput","%","70"',
        '"2","cub::Sort(int)","GPU Speed Of Light Throughput","Duration","ns","1000"',
        "==PROF== Disconnected",
        "",
    ]
)


def test_results_of_ncu(check):
    lines, table = gpu_results.kernel_results(check, shell("ncu", ""), NCU)
    assert [(row["us"], row["launches"]) for row in table] == [(8.0, 2), (1.0, 1)]
    assert table[0]["dram"] == 65.0 and table[0]["registers"] == 40
    assert lines[0] == "3 launches, 9 us" and "88.9%" in lines[1]
    assert lines[1].endswith("blur") and lines[2].endswith("Sort")
    failed = gpu_results.kernel_results(check, shell("ncu", ""), "==ERROR== nothing\n")
    assert failed == (["==ERROR== nothing"], None)


def test_the_hottest_kernel_of_each_call(check):
    _, table = gpu_results.kernel_results(check, shell("ncu", ""), NCU)
    results = {"ncu_crf": {"figures": table}, "ncu_none": {"figures": None}, "crf": {"figures": 1}}
    heads, line = gpu_results.hottest(results)
    assert line.split() == ["crf", "89%", "8", "65", "nan", "nan", "nan", "40", "blur"]
    assert heads.split()[-1] == "kernel"
    assert gpu_results.hottest({}) == ["no call was profiled"]


def test_results_of_a_pipeline(check):
    run = check.work / "runs/demo"
    (run / "cam/maps").mkdir(parents=True)
    (run / "cam/done.json").write_text(
        json.dumps({"notes": {"seconds": 2.0, "samples_per_second": 50.0}})
    )
    (run / "cam/maps/done.json").write_text(json.dumps({"notes": {"seconds": 4.0}}))
    for name in "ab":
        (run / f"cam/maps/{name}.npz").touch()
    (run / "metrics.json").write_text(
        json.dumps({"stages": [{"stage": "cam", "miou": 0.5, "iou": {"cat": 1.0}}]})
    )
    log = "train cam: 8/8 in 2.0 s (4.0 img/s)\nfailed: a loss became infinite\n"
    lines, figures = gpu_results.pipeline_results(check, shell("demo", ""), log)
    assert lines[0] == "2 stages, 6.0 s in all"
    assert "50.0 images/s" in lines[1] and "0.5 images/s" in lines[2]
    assert lines[3:] == [
        "mIoU: cam 50.0",
        "other loops: train cam 2.0 s",
        "failed: a loss became infinite",
    ]
    assert figures["scores"] == {"cam": {"miou": 0.5}}
    assert (check.logs / "runs/demo/metrics.json").exists()


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_plan_has_existing_scripts_and_valid_options(check, device):
    sections = gpu_plan.plan(check, device, sys.executable, 8)
    steps = gpu_check.selected(sections, None)
    assert len({s.name for s in steps}) == len(steps) >= 12
    known = {s.name for s in steps}
    for step in steps:
        assert set(step.after) <= known
        for word in step.command:
            assert Path(word).exists() or not word.endswith(".py"), word
        if "wsss_fast" in step.command:
            argv = step.command[step.command.index("wsss_fast") + 1 :]
            name = cli._find(argv)
            rest = argv[len(name.split()) :]
            assert isinstance(parse(cli.COMMANDS[name], rest), dict), step.name
    assert sum(s.needs for s in steps) < gpu_check.DEADLINE


def test_steps_are_selected_by_name_and_by_section(check):
    sections = gpu_plan.plan(check, "cuda", sys.executable, 8)
    chosen = gpu_check.selected(sections, ["preparation", "stages", "crf"])
    expected = [*sections["preparation"], *sections["stages"]]
    assert {s.name for s in chosen} == {*(s.name for s in expected), "crf"}
    (alone,) = gpu_check.selected(sections, ["stages_bf16"])
    assert alone.after == ()
    with pytest.raises(SystemExit, match="unknown steps: typo"):
        gpu_check.selected(sections, ["typo"])


def test_stage_rates_measures_every_stage_and_goes_on_after_failures(monkeypatch, tmp_path, capsys):
    path = tmp_path / "rates.json"
    argv = f"stage_rates.py --device cpu --quick --json {path} cam/maps seeds masks"
    monkeypatch.setattr(sys, "argv", argv.split())
    assert stage_rates.main() == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row["stage"] for row in rows] == ["cam/maps", "seeds", "masks"]
    assert all(row["images"] == 4 and row["rate"] > 0 for row in rows)
    # The seeds' maps are missing.
    monkeypatch.setattr(sys, "argv", [*argv.split()[:-3], "seeds", "CRF of a folder"])
    capsys.readouterr()
    assert stage_rates.main() == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[-2].startswith("| seeds             FAILED InputError: maps: ")
    assert shown[-1].startswith("| CRF of a folder")
    assert [row.get("failed") for row in json.loads(path.read_text())["rows"]] == [True, None]


def test_train_rates_measures_updates_and_the_loader(monkeypatch, tmp_path, capsys):
    path = tmp_path / "rates.json"
    argv = f"train_rates.py --device cpu --quick --modes fp32 --workers 0 --json {path}"
    monkeypatch.setattr(sys, "argv", argv.split())
    assert train_rates.main() == 0
    rows = json.loads(path.read_text())["rows"]
    names = ["cam fp32", "amn fp32", "seg fp32", "eps fp32", "loader, 0 workers"]
    assert [row["row"] for row in rows] == names
    assert all(row["rate"] > 0 for row in rows)
    # A broken loss and a missing folder.
    monkeypatch.setattr(sys, "argv", [*argv.split(), "--data", str(tmp_path / "none")])
    monkeypatch.setattr(train_rates, "LOW", float("nan"))
    capsys.readouterr()
    assert train_rates.main() == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "| cam fp32           FAILED AssertionError: WRONG: the loss is nan"
    assert shown[-1].startswith("| loader, 0 workers  FAILED InputError: ")
    monkeypatch.setattr(sys, "argv", [*argv.split(), "--seconds", "0"])
    assert train_rates.main() == 0
    assert all(row["problem"] == "no time left" for row in json.loads(path.read_text())["rows"])


def test_synthetic_voc_can_be_loaded_and_is_deterministic(tmp_path):
    for name in ("a", "b"):
        synthetic_voc.make(tmp_path / name, train=3, val=1, size=(36, 48))
    images = data.load(tmp_path / "a")
    assert len(images) == 3 and len(images.classes) == 20
    assert len(data.load(tmp_path / "a", split="val")) == 1

    def files(root):
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_the_command(tmp_path):
    """Runs one step of the shell script on a CPU."""
    environment = {
        **os.environ,
        "OUT": str(tmp_path / "out"),
        "PYTHON": sys.executable,
        "GPU_CHECK_SECONDS": "200",
    }
    done = subprocess.run(
        ["bash", ROOT / "benchmarks/gpu_check.sh", "--device", "cpu", "--only", "data_voc"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "data_voc: ok" in done.stdout and (tmp_path / "out/gpu_check.tar.gz").stat().st_size > 0
