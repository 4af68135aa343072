"""For tests that start commands: start methods of loader processes, remaining processes, waiting.

Tests wait for conditions and for CPU time used, since wall time means little on a busy machine.
"""

import os
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]


def environment(method, folder):
    """Environment of a command whose loader processes start by "fork", "spawn" or "forkserver".

    A file for this is written to `folder`.
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


def left(group, seconds=15.0):
    """Ids of the processes of a group that still run after at most `seconds`."""
    deadline = time.monotonic() + seconds
    while running(group) and time.monotonic() < deadline:
        time.sleep(0.1)
    return running(group)


def wait_until(condition, process, timeout=120):
    """Wait until `condition()` is true; the process must run meanwhile."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_updates(process, folder, pid=None, seconds=1.0):
    """Wait until the training of the stage `folder` has started and used `seconds` of CPU time.

    That is enough for some of many updates. `pid` is a function that returns the id of the process
    that trains, if it is not `process`; the id is known only when that process runs.
    """
    wait_until((folder / "begun.json").exists, process)
    trains = psutil.Process(process.pid if pid is None else pid())
    before = trains.cpu_times()
    wait_until(lambda: sum(trains.cpu_times()[:2]) - sum(before[:2]) > seconds, process)
