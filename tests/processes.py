"""Helpers of tests that start commands: how these start processes of their own, and which of them are left."""

import os
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def environment(method, folder):
    """Of a command whose loader processes start by `method`: "fork", "spawn" or "forkserver"; `folder` gets a file for it."""
    (folder / "sitecustomize.py").write_text(f"import multiprocessing\nmultiprocessing.set_start_method({method!r})\n")
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
