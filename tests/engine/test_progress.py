"""Progress bars: silent for short work; a line with rate and remaining time for long work."""

import contextlib
import os
import subprocess
import sys

import pytest

from wsss_fast.engine import progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_short_work_prints_nothing(clock, capfd):
    for _ in progress.track(range(5), "quick"):
        clock[0] += 0.1
    assert capfd.readouterr().err == ""


def test_long_work_prints_a_line_from_time_to_time_and_at_the_end(clock, capfd):
    for _ in progress.track(range(10), "slow"):
        clock[0] += 10
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "slow: 4/10 in 40.0 s (10.0 s/img, 1 min 0 s left)"
    assert lines[-1] == "slow: 10/10 in 1 min 40 s (10.0 s/img)"


def test_failed_work_prints_no_last_line(clock, capfd):
    with pytest.raises(ValueError), progress.Bar("broken", 10) as bar:
        bar.advance()
        clock[0] += 20
        raise ValueError
    assert capfd.readouterr().err == ""


def test_note_is_kept_until_the_next(clock, capfd):
    with progress.Bar("train", 2, unit="step") as bar:
        clock[0] += 5
        bar.advance(note="loss 0.5")
        bar.advance()
    assert capfd.readouterr().err.strip() == "train: 2/2 in 5.0 s (2.5 s/step)  loss 0.5"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (86_399, "23 h 59 min"),
        (6_472_623, "74 d 21 h"),
    ],
)
def test_duration_has_the_units_in_which_one_would_say_it(seconds, text):
    assert progress.duration(seconds) == text


@pytest.mark.parametrize(
    ("items", "seconds", "text"),
    [(30, 10, "3.0 img/s"), (1, 1, "1.0 img/s"), (2, 25, "12.5 s/img"), (0, 5, ""), (5, 0, "")],
)
def test_rate_below_one_is_the_time_of_one(items, seconds, text):
    assert progress.rate(items, seconds, "img") == text


def test_remaining_time_of_a_resumed_bar_counts_its_own_items(clock, capfd):
    with progress.Bar("train", 100, done=60) as bar:
        clock[0] += 100
        bar.advance(10)
        assert bar._line(100) == "train: 70/100 in 1 min 40 s (10.0 s/img, 5 min 0 s left)"
        bar.advance(30)


def test_unwritable_stderr_does_not_end_the_work():
    """A log on a full disk; after its terminal was closed, a write fails in the same way."""
    code = "from wsss_fast.engine.progress import say; say('x'); say('y'); print('continues')"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, text=True, check=True
        )
    assert done.stdout == "continues\n"


def test_pipe_without_a_reader_raises():
    reader, writer = os.pipe()
    os.close(reader)
    pipe = os.fdopen(writer, "w")
    with pytest.raises(progress.OutputError):
        progress.OutputConsole(file=pipe).print("nobody reads this")
    with contextlib.suppress(OSError):
        pipe.close()
