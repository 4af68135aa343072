"""What commands print on stdout, and what becomes of it without a reader or space."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT

from wsss_fast.cli import output
from wsss_fast.stages.seeds import SeedsResult
from wsss_fast.stages.training import TrainResult


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (
            TrainResult(Path("run/cam/weights.pth"), [0.75, 0.5, 0.25], 0.5),
            "weights: run/cam/weights.pth\n"
            "mean loss: 0.7500 in the first epoch, 0.2500 in the last of 3\nmean ap: 50.0 %\n",
        ),
        (
            TrainResult(Path("[red]x"), [0.75]),
            "weights: [red]x\nmean loss: 0.7500 in the first epoch\n",
        ),
        (
            TrainResult(Path("w.pth"), [0.5], parts={"supervised": [0.75], "energy": [-0.25]}),
            "weights: w.pth\nmean loss: 0.5000 in the first epoch\nmean supervised loss: 0.7500 in "
            "the first epoch\nmean energy loss: -0.2500 in the first epoch\n",
        ),
        (
            SeedsResult(Path("run/seeds"), 0.25, 0.5, 0.25),
            "folder: run/seeds\nforeground: 25.0 %\nbackground: 50.0 %\nignored: 25.0 %\n",
        ),
        (Path("run/maps"), "run/maps\n"),
        (None, ""),
    ],
)
def test_result_of_a_stage_is_text(capfd, result, text):
    output.show(result)
    assert capfd.readouterr().out == text


def shell(line):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "RUN": f"{sys.executable} -m wsss_fast"},
    )


def test_without_a_reader_a_command_ends_quietly():
    # The reader has exited before the command prints.
    done = shell("(sleep 0.5; $RUN --help; echo $? >&2) | true")
    assert done.stderr == "141\n"
    done = shell("(sleep 0.5; $RUN shapes --help; echo $? >&2) | true")
    assert done.stderr == "141\n"


def test_closed_and_full_outputs_are_no_tracebacks():
    done = shell("$RUN --version >&- 2>&-; echo $?; $RUN bogus >&- 2>&-; echo $?")
    assert done.stdout == "0\n2\n" and not done.stderr
    done = shell("$RUN --help > /dev/full; echo $?")
    assert done.stdout == "1\n" and done.stderr == "failed: stdout: No space left on device\n"
