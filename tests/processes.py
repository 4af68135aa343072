"""Waiting for what a child process does: for conditions and for work done, since seconds mean little on a busy machine."""

import time

import psutil


def wait_until(condition, process, timeout=120):
    """Until `condition()` holds; the process must be running all the while."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_updates(process, folder, pid=None, seconds=1.0):
    """Until a training in the stage `folder` has begun and has then computed for `seconds`: some updates, of many.

    `pid` is the process that trains, where it is not `process`; a function, since it is known only once it runs.
    """
    wait_until((folder / "begun.json").exists, process)
    trains = psutil.Process(process.pid if pid is None else pid())
    before = trains.cpu_times()
    wait_until(lambda: sum(trains.cpu_times()[:2]) - sum(before[:2]) > seconds, process)
