"""The commands of the benchmarks: found by folder, with all options; exit codes and messages."""

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
import tyro
from bench_runs import SIZE

from wsss_fast import bench, cli, ops
from wsss_fast.bench import (
    aamr_loss,
    bilateral_filter,
    dense_crf,
    dense_energy_loss,
    image_views,
    inference,
    label_conditioned,
    merge_maps,
    pixel_adaptive_refine,
    pixel_bce,
    pixel_cross_entropy,
    random_walk,
    saliency_loss,
)
from wsss_fast.bench.commands import COMMANDS
from wsss_fast.bench.options import RunOptions

FOLDER = Path(bench.__file__).parent


def parse(function, argv):
    """Call the function of a command as a command line does: dataclasses without a prefix."""
    return tyro.cli(function, args=argv, config=(tyro.conf.OmitArgPrefixes,))


def test_benchmarks_are_found_by_folder():
    found = {p.stem for p in FOLDER.glob("*.py") if "\ndef suite(" in p.read_text()}
    assert set(bench.summaries()) == found and len(found) >= 8
    commands = {c.name for c in COMMANDS}
    assert commands == {
        *("bench", "bench all", "bench pipeline"),
        *(f"bench {name}" for name in found),
    }
    for function in (bench.run_all, *map(bench.command, found)):
        assert get_type_hints(function).keys() >= inspect.signature(function).parameters.keys()
        assert "Args:" in inspect.getdoc(function)


def test_names_and_summaries_need_no_torch():
    program = f"""
import sys, types
package = types.ModuleType("wsss_fast")  # the package itself may import torch
package.__path__ = [{str(FOLDER.parent)!r}]
sys.modules["wsss_fast"] = package
from wsss_fast import bench
print(*bench.summaries())
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(bench.summaries())


def test_options_become_flags(tmp_path, capsys):
    argv = "--size 40 56 --rows 2 --repeats 1 --quick --no-memory --threads 1 --device cpu"
    report = parse(bench.command("dense_crf"), [*argv.split(), "--out", str(tmp_path)])
    assert [row.key for row in report.rows] == ["2"] and len(report.rows[0].times["ours"]) == 1
    assert report.suite.options["size"] == (40, 56) and not report.rows[0].bytes
    assert report.json == tmp_path / "dense_crf.json" and report.json.is_file()
    with pytest.raises(SystemExit):
        parse(bench.command("label_conditioned"), ["--dtype", "int8"])
    assert "invalid choice" in capsys.readouterr().err


def test_help_explains_options_rows_and_columns(capsys):
    with pytest.raises(SystemExit):
        parse(bench.command("dense_crf"), ["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "4of21" in text and "height and width of the photos, in pixels" in text
    assert "peak memory of one call in addition" in text and "hard: label maps" in text
    assert "--no-memory" in text and "wrong results are not timed" in text


def test_all_runs_all(tmp_path, monkeypatch, tiny_rows):
    monkeypatch.setattr(dense_crf, "ROWS", {"2": dense_crf.ROWS["2"]})
    quick = {
        dense_crf: ("2",),
        label_conditioned: ("logits",),
        pixel_cross_entropy: ("seg41",),
        pixel_bce: ("bce41",),
    }
    others = (
        saliency_loss,
        aamr_loss,
        bilateral_filter,
        dense_energy_loss,
        image_views,
        merge_maps,
        pixel_adaptive_refine,
        random_walk,
        inference,
    )
    for module in (*quick, *others):
        suite = (
            module.suite(dense_crf.Options(size=SIZE)) if module is dense_crf else module.suite()
        )
        suite = dataclasses.replace(
            suite,
            quick=quick.get(module, suite.quick),
            make=lambda key, which, tiny=suite.tiny: tiny(key),
        )
        monkeypatch.setattr(module, "suite", lambda *_, suite=suite: suite)
    options = RunOptions(repeats=1, quick=True, threads=1, device="cpu")
    reports = list(bench.run_all(tmp_path, run=options))
    assert [report.suite.name for report in reports] == list(bench.summaries())
    assert not any(report.wrong() for report in reports)
    for name in bench.summaries():
        assert (tmp_path / f"{name}.json").is_file() and (tmp_path / f"{name}.png").is_file()


# ---- the command line


def test_wrong_results_fail_the_command(capfd, tmp_path, slightly_wrong):
    argv = "--size 40 56 --rows 2 --repeats 1 --quick --no-memory --threads 1 --device cpu"
    code = cli.run(["bench", "dense_crf", "--out", str(tmp_path), *argv.split()])
    out, err = capfd.readouterr()
    assert code == 1 and "WRONG" in out and "dense_crf.png" in out
    assert "1 rows were wrong, first dense_crf, 2 labels" in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("dense_crf2", "no command 'bench dense_crf2'; did you mean bench dense_crf"),
        ("nothing", "did you mean bench or bench all or bench"),
        ("dense_crf --rows 7", "unknown row '7', must be one of 2, 3"),
        ("dense_crf --quik", "Perhaps you meant: --quick"),
        ("label_conditioned --dtype int8", "invalid choice 'int8'"),
        ("all --threads -1", "threads=-1"),
        ("all --rows 2", "Unrecognized options: --rows"),
    ],
)
def test_wrong_commands(capfd, argv, message):
    assert cli.run(["bench", *argv.split()]) == 2
    out, err = capfd.readouterr()
    assert message in err and not out and len(err.strip().splitlines()) == 1


def test_bench_without_a_name_lists_all(capfd):
    assert cli.run(["bench"]) == 0
    out = capfd.readouterr().out
    assert all(f"  {name} " in out for name in bench.summaries()) and "bench all" in out


def test_an_interrupted_benchmark_says_which_results_are_kept(capfd, tmp_path, monkeypatch):
    def interrupted(image, unary, **terms):
        raise KeyboardInterrupt

    monkeypatch.setattr(ops, "dense_crf", interrupted)
    argv = "--size 24 32 --rows 2 --quick"
    assert cli.run(["bench", "dense_crf", *argv.split(), "--out", str(tmp_path)]) == 130
    assert "finished rows are in the JSON file" in capfd.readouterr().err
