"""Helpers of tests that start commands: environments, processes that remain, and waiting.

Waiting is for conditions and for CPU time, since wall-clock seconds mean little on a busy machine.
"""

import os
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]


def environment(method, folder):
    """Environment of a command whose loader processes start by a method.

    Args:
        method: "fork", "spawn" or "forkserver".
        folder: folder that gets a sitecustomize.py.
    """
    (folder / "sitecustomize.py").write_text(
        f"import multiprocessing\nmultiprocessing.set_start_method({method!r})\n"
    )
    path = [str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def running(group):
    """Ids of the running processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def remaining(group, seconds=15.0):
    """Ids of the processes of a group that still run after up to `seconds`."""
    deadline = time.monotonic() + seconds
    while running(group) and time.monotonic() < deadline:
        time.sleep(0.1)
    return running(group)


def wait_until(condition, process, timeout=120):
    """Wait until `condition()` holds; the process must not exit before."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_updates(process, folder, pid=None, seconds=1.0):
    """Wait until a training has made some updates.

    Args:
        process: process of the command.
        folder: folder of the stage.
        pid: function that returns the id of the process that trains, if that is not `process`.
        seconds: CPU time after the training has begun.
    """
    wait_until((folder / "begun.json").exists, process)
    trains = psutil.Process(process.pid if pid is None else pid())
    before = trains.cpu_times()
    wait_until(lambda: sum(trains.cpu_times()[:2]) - sum(before[:2]) > seconds, process)
