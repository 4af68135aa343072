"""One process at a time works on a run folder; a lock that ends with its process, however it ends.

The library `filelock` does not serve here: loader processes that are forked would keep its lock
after the training was killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import inspect
import json
import os
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

from wsss_fast.engine import distributed
from wsss_fast.engine.files import read_json
from wsss_fast.engine.progress import say
from wsss_fast.errors import InputError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

P = ParamSpec("P")
R = TypeVar("R")

LOCK_FILE = ".lock"  # in a run folder while a process works on it


@dataclasses.dataclass
class _Held:
    """A lock of this process.

    Attributes:
        file: descriptor of the lock file; None where the file system has no locks.
        thread: the thread that holds it.
        created: folders that were made for the lock file, innermost first.
        depth: nested blocks.
    """

    file: int | None
    thread: int
    created: list[Path]
    depth: int = 1


class _State:
    guard = threading.Lock()
    held: dict[Path, _Held] = {}


@contextlib.contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Hold the lock of a run folder, which is made if it is missing; blocks may be nested.

    Of several processes of one run the main one holds it.

    Raises:
        InputError: another process or another thread holds it; with who, where and since when.
    """
    if not distributed.is_main_process():
        yield
        return
    folder = check_out(out).resolve()
    with _State.guard:
        held = _State.held.get(folder)
        if held is None:
            _State.held[folder] = _acquire(out, folder)
        elif held.thread == threading.get_ident():
            held.depth += 1
        else:
            raise InputError(
                f"{out}: another thread of this process works on this run folder; "
                "wait for it, or use another --out"
            )
    try:
        yield
    finally:
        with _State.guard:
            own = _State.held.get(folder)
            if own is not None:  # it is None in a process that was forked inside the block
                own.depth -= 1
                if not own.depth:
                    _release(folder, _State.held.pop(folder))


def check_out(out: str | Path) -> Path:
    """The path of a run folder.

    Raises:
        InputError: it is empty, or cannot be a folder.
    """
    if not str(out):
        raise InputError("out: is empty; name a folder ('.' is the current one)")
    try:
        folder = Path(out).resolve()
        first = next(p for p in (folder, *folder.parents) if p.is_symlink() or p.exists())
        is_folder = first.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a null byte
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"out: {str(out)!r} cannot be a folder ({why})") from None
    if not is_folder:
        raise InputError(f"out: {first} is not a directory; use another --out")
    return Path(out)


def with_exclusive_out(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator: the function holds the lock of the run folder in its argument `out`."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        out = signature.bind(*args, **kwargs).arguments["out"]
        with exclusive(check_out(out)):
            return function(*args, **kwargs)

    return locked


def _acquire(out: Path, folder: Path) -> _Held:
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    path = folder / LOCK_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _open_and_lock(path)
    except BlockingIOError:
        raise InputError(f"{out}: {_holder(path)}; wait for it, or use another --out") from None
    except OSError as error:
        if error.errno not in (
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOLCK,
            errno.EOPNOTSUPP,
            errno.ENOSYS,
            errno.EINVAL,
        ):
            raise
        # Reading a finished run needs no lock; whatever has to be written fails with its own line.
        say(
            f"{out}: cannot be locked ({error.strerror}); make sure that no other process works on "
            "this run folder"
        )
        return _Held(None, threading.get_ident(), [])
    text = json.dumps(
        {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "command": _command(),
        }
    )
    with contextlib.suppress(OSError):  # of a full disk; the lock holds without the text
        os.ftruncate(file, 0)
        os.pwrite(file, text.encode(errors="backslashreplace"), 0)
    return _Held(file, threading.get_ident(), missing)


def _command() -> str:
    """The words that started this process, shortened."""
    program = Path(sys.argv[0]).name.replace("__main__.py", "wsss-fast")
    return textwrap.shorten(" ".join([program, *sys.argv[1:]]), 80, placeholder=" ...")


def _open_and_lock(path: Path) -> int:
    """Descriptor of the locked file; BlockingIOError if another process holds the lock."""
    if fcntl is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process before may have removed the file between the two lines above.
            if path.exists() and os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        except OSError:
            os.close(file)
            raise
        os.close(file)


def _holder(path: Path) -> str:
    """Who holds the lock, in words."""
    for _ in range(10):
        try:
            found = read_json(path)
            return (
                f"process {found['pid']} on {found['host']} works on this run folder since "
                f"{found['since']} ({found['command']})"
            )
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(0.05)  # it writes the text after it has got the lock
    return "another process works on this run folder"


def _release(folder: Path, held: _Held) -> None:
    if held.file is None:
        return
    with contextlib.suppress(OSError):
        (folder / LOCK_FILE).unlink()
    os.close(held.file)
    for empty in held.created:
        with contextlib.suppress(OSError):  # it has the results
            empty.rmdir()


def _close_in_child() -> None:
    """A forked process shares the lock as long as it has the file open."""
    for held in _State.held.values():
        if held.file is not None:
            with contextlib.suppress(OSError):
                os.close(held.file)
    _State.held, _State.guard = {}, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
