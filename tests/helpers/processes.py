"""Helpers of tests that start commands: how these start processes of their own, which are left, and waiting for what they do.

Waiting is for conditions and for work done, since seconds mean little on a busy machine.
"""

import os
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]


def environment(method, folder):
    """Of a command whose loader processes start by `method`: "fork", "spawn" or "forkserver"; `folder` gets a file for it."""
    (folder / "sitecustomize.py").write_text(
        f"import multiprocessing\nmultiprocessing.set_start_method({method!r})\n"
    )
    path = [str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def running(group):
    """Processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def left(group, seconds=15.0):
    """Processes of a group that are there after so many seconds at the latest."""
    deadline = time.monotonic() + seconds
    while running(group) and time.monotonic() < deadline:
        time.sleep(0.1)
    return running(group)


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
