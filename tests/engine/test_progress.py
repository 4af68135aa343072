"""Progress bars: silent for short work; a line with rate and remaining time for long work."""

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
    assert lines[0] == "slow: 4/10 in 40.0 s (0.1 img/s, 60 s left)"
    assert lines[-1] == "slow: 10/10 in 100.0 s (0.1 img/s)"


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
    assert capfd.readouterr().err.strip() == "train: 2/2 in 5.0 s (0.4 step/s)  loss 0.5"
