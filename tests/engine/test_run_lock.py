"""The lock of a run folder: who holds it, how it ends, what a second process says."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from powerless import powerless
from processes import ROOT, wait_until

from wsss_fast import InputError, amn, ccr, cli, eps
from wsss_fast.engine.run_folder import stage
from wsss_fast.engine.run_lock import LOCK_FILE, check_out, exclusive

# Holds the lock, with a forked child as loader processes are.
HOLDER = """
import os, sys, time
from pathlib import Path
from wsss_fast.engine.run_lock import exclusive
with exclusive(Path(sys.argv[1])):
    child = os.fork()
    if child:
        Path(sys.argv[2]).write_text(str(child))
    time.sleep(100)
"""


def test_nested_blocks_share_the_lock_and_leave_nothing(tmp_path):
    out = tmp_path / "a/b"
    with exclusive(out):
        with exclusive(out):
            stage(out, "cam", {}, dict)
        found = json.loads((out / LOCK_FILE).read_text())
        assert found["pid"] == os.getpid() and set(found) == {"pid", "host", "since", "command"}
    assert {p.name for p in out.iterdir()} == {"cam"}
    with exclusive(tmp_path / "c/d"):
        pass
    assert not (tmp_path / "c").exists()


def test_lock_ends_with_a_killed_process_though_its_child_lives(tmp_path, shapes_root, capfd):
    out, pid = tmp_path / "run", tmp_path / "child"
    command = [sys.executable, "-c", HOLDER, str(out), str(pid)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment) as process:
        wait_until(lambda: pid.exists() and pid.read_text(), process)
        line = (
            rf"process {process.pid} on \S+ works on this run folder since 20.*\(-c .*another --out"
        )
        with pytest.raises(InputError, match=line), exclusive(out):
            pass
        with pytest.raises(InputError, match=line):
            stage(out, "cam", {}, dict)
        for words in ("saliency", "amn run --preset shapes"):
            argv = [*words.split(), "--data", str(shapes_root), "--out", str(out)]
            assert cli.run(argv) == 2
            assert f"process {process.pid}" in capfd.readouterr().err
        process.kill()
        process.wait()
        child = int(pid.read_text())
        os.kill(child, 0)  # it lives
        stage(out, "cam", {}, dict)
        os.kill(child, signal.SIGKILL)
    assert {p.name for p in out.iterdir()} == {"cam"}


@pytest.mark.parametrize("analyse", [amn.analyse, eps.analyse, ccr.analyse])
def test_analyses_hold_the_lock_of_the_run(analyse, shapes, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(type(shapes), "with_masks", lambda self: seen.append(_locked(tmp_path)))
    with pytest.raises((InputError, KeyboardInterrupt)):
        analyse(shapes, tmp_path, preset="shapes", device="no such device")
    assert seen == [True] and not _locked(tmp_path)


def _locked(out):
    return (out / LOCK_FILE).exists()


def test_another_thread_is_refused(tmp_path):
    errors = []

    def enter():
        try:
            with exclusive(tmp_path):
                pass
        except InputError as error:
            errors.append(str(error))

    with exclusive(tmp_path):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert len(errors) == 1 and "another thread of this process" in errors[0]
    enter()
    assert len(errors) == 1


def test_file_of_a_killed_process_is_taken_over(tmp_path):
    for content in ("", "{", '{"pid": 1}'):
        (tmp_path / LOCK_FILE).write_text(content)
        with exclusive(tmp_path):
            assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
        assert not _locked(tmp_path)


def test_holder_that_cannot_be_read_is_still_refused(tmp_path):
    with (tmp_path / LOCK_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process works on this"), exclusive(tmp_path):
            pass


def test_file_system_without_locks_is_said(tmp_path, monkeypatch, capfd):
    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    stage(tmp_path, "cam", {}, dict)
    err = capfd.readouterr().err
    assert "cannot be locked (No locks available); make sure that no other process" in err


def test_finished_stage_of_a_read_only_folder_is_read(tmp_path):
    stage(tmp_path, "cam", {}, lambda: {"loss": 0.5})
    script = (
        "import sys; from pathlib import Path; from wsss_fast.engine.run_folder import stage; "
        "print(stage(Path(sys.argv[1]), 'cam', {}, dict)['loss'])"
    )
    folders = [tmp_path, tmp_path / "cam"]
    for folder in folders:
        folder.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=powerless,
        cwd=ROOT,
    )
    for folder in folders:
        folder.chmod(0o755)
    assert done.stdout.strip() == "0.5"
    assert "cannot be locked (Permission denied)" in done.stderr


def test_out_that_cannot_be_a_folder_raises(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "no")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    wrong = ["", tmp_path / "file", tmp_path / "file/run", "a" * 300, "a\0b"]
    wrong += [tmp_path / "loop", "/dev/full"]
    for out in wrong:
        with pytest.raises(InputError, match="^out: "):
            check_out(out)
    assert check_out(".") == Path(".")
    assert check_out(tmp_path / "nowhere") == tmp_path / "nowhere"
