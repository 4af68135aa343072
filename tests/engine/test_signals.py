"""Signals of a command: a word at once, a second one that does not wait, never a traceback."""

import os
import select
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from processes import ROOT

# A command whose update computes in C for minutes: Python's handlers have to wait for it.
LONG_UPDATE = """
    import hashlib, os, sys, threading
    from wsss_fast.cli import streams
    from wsss_fast.engine import signals

    def work():
        signals.install()
        with signals.defer_signals():
            # While the main thread computes: before, the handler would run at once.
            threading.Timer(0.3, print, ("began",), {"flush": True}).start()
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)
        return 0

    sys.exit(streams.guarded(work))
"""
SHORT_UPDATE = LONG_UPDATE.replace("2_000_000_000", "3_000_000")  # about two seconds


def start(*argv, **options):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
        **options,
    )


def begun(code):
    process = start("-c", textwrap.dedent(code))
    assert process.stdout.readline() == b"began\n"
    return process


def line(process, seconds=20):
    """The next line on stderr."""
    assert select.select([process.stderr], [], [], seconds)[0], "nothing was printed"
    return process.stderr.readline().decode()


def test_signal_during_a_long_update_is_announced_at_once_and_the_second_stops():
    process = begun(LONG_UPDATE)
    process.send_signal(signal.SIGINT)
    assert line(process) == "stopping after this update; again stops now\n"
    process.send_signal(signal.SIGINT)
    assert line(process) == "stopped by SIGINT, at once\n"
    assert process.wait(10) == 130 and not process.stderr.read()


def test_third_signal_waits_for_nothing():
    """The first one comes during an operation that is no update, and takes longer than usual."""
    process = begun(LONG_UPDATE.replace("with signals.defer_signals():", "if True:"))
    process.send_signal(signal.SIGTERM)
    assert line(process) == "stopping; again stops now\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.05)  # equal signals that are still pending are one
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    assert process.stderr.read() == b"stopped by SIGTERM, at once\n"


def test_closed_terminal_lets_the_update_end():
    process = begun(SHORT_UPDATE)
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 129 and not out
    assert err == b"stopping after this update; again stops now\n"


def test_nohup_keeps_ignoring_the_closed_terminal():
    ignored = SHORT_UPDATE.replace("import hashlib", "import signal, hashlib", 1).replace(
        "def work", "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n\n    def work"
    )
    process = begun(ignored)
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=20) == (b"", b"") and process.returncode == 0


@pytest.mark.parametrize(
    ("number", "imported"), [(signal.SIGINT, b" wsss_fast.command\n"), (signal.SIGTERM, b" torch.")]
)
def test_signal_while_a_command_starts_prints_one_line(number, imported):
    process = start("-X", "importtime", "-m", "wsss_fast", "cam", "train", "--data", "/nowhere")
    for text in iter(process.stderr.readline, b""):
        if imported in text:
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    own = [each for each in err.decode().splitlines() if not each.startswith("import time:")]
    assert process.returncode == 128 + number and own == [f"stopped by {number.name}"]
