"""SIGTERM, Ctrl-C, a closed terminal: a run stops between two updates, never in the middle of one.

Python runs a signal's handler between two bytecodes of the main thread, which may compute one
update for minutes. A second thread therefore reads the signals' numbers and says at once what
happens.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType, TracebackType
from typing import Any, NoReturn

from wsss_fast.engine import distributed

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 1.0  # seconds after which a stop that takes longer is announced
_GRACE = 1.0  # seconds that a second signal leaves for removing temporary files
_ECHO = 1.0  # seconds within which torchrun repeats the terminal's Ctrl-C to its processes


class Stopped(KeyboardInterrupt):
    """A signal requested the process to stop; `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class _State:
    installed = False
    deferred = 0  # nested `defer_signals` blocks
    pending: int | None = None
    stopping = False  # `Stopped` was raised
    ended = False  # the command's last line is printed
    first = 0.0  # time of the first signal


def install() -> None:
    """Let a signal raise `Stopped` in the main thread, and print at once what it does.

    A second signal does not wait for the update to end, a third one for nothing. The command line
    calls this; a library call does not.
    """
    sys.excepthook, sys.unraisablehook = _print_uncaught, _exit_if_unraisable
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # The signals of a forked process are not this one's.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_announce, args=(reader,), daemon=True).start()
    _State.installed = True
    for number in _SIGNALS:
        # nohup ignores SIGHUP.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handle)


def exit_on_signal() -> None:
    """Let the next signal end the process without a word: the command's last line is printed."""
    _State.stopping = _State.ended = True


def _handle(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _is_echo(now, _State.first):
        return
    _State.first = now
    if _State.deferred and _State.pending is None:
        _State.pending = number
        return
    if _State.installed and _State.stopping:
        _exit_now(number)
    # A second signal stops at once: whoever sends it does not want to wait.
    _State.stopping = True
    raise Stopped(number)


def _is_echo(now: float, first: float) -> bool:
    """Whether a signal repeats the one at time `first` (0: none)."""
    return bool(first) and distributed.world_size() > 1 and now - first < _ECHO


def _announce(reader: int) -> None:
    """Say what each signal does; exit if the main thread does not. In a thread of its own."""
    seen, announced, first, number = 0, False, 0.0, int(signal.SIGTERM)
    while True:
        patience = _GRACE if seen > 1 else _PATIENCE if seen == 1 and not announced else None
        if not select.select([reader], [], [], patience)[0]:
            if seen > 1:
                _exit_now(number)
            announced = True
            if not _State.ended:
                _write("stopping; again stops now")
            continue
        for received in os.read(reader, 64):
            now = time.monotonic()
            if received not in _SIGNALS or _is_echo(now, first):
                continue
            seen, first, number = seen + 1, now, received
            if seen == 1 and _State.deferred:
                announced = True
                _write("stopping after this update; again stops now")
            if seen > 2:
                _exit_now(number)


def _write(message: str) -> None:
    """Print a line on stderr without Python's buffers, whose locks the main thread may hold."""
    if distributed.is_main_process():
        clear = "\r\x1b[2K\x1b[?25h" if os.isatty(2) else ""  # the progress bar; show the cursor
        with contextlib.suppress(OSError):  # the terminal is closed
            os.write(2, f"{clear}{message}\n".encode())


def _exit_now(number: int) -> NoReturn:
    """End the process as `kill -9` would, which every file that is being written survives."""
    if not _State.ended:
        _write(f"stopped by {signal.Signals(number).name}, at once")
    os._exit(128 + number)


def _print_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if isinstance(error, KeyboardInterrupt):
        _write(str(error) or "interrupted")
    else:
        sys.__excepthook__(kind, error, trace)


def _exit_if_unraisable(args: Any) -> None:
    """A signal during a finalizer, for instance: Python would print the error and go on."""
    if isinstance(args.exc_value, Stopped):
        _exit_now(args.exc_value.number)
    sys.__unraisablehook__(args)


def ignore_first_sigterm() -> None:
    """Ignore the first SIGTERM, and every Ctrl-C, in a helper process of a training.

    Batch systems and terminals send signals to all processes of a job. If loader processes died of
    them, the training could not finish its current update.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


@contextlib.contextmanager
def block_signals_while_starting() -> Iterator[None]:
    """Around the start of processes that call `ignore_first_sigterm`: protects them until they do.

    A spawned process imports for seconds before that, and the fork server never gets there; both
    inherit a blocked signal as blocked. Without `install` the training itself would not survive a
    signal, so nothing is blocked.
    """
    if not _State.installed:
        yield
        return
    if multiprocessing.get_start_method() != "fork":
        # Otherwise the first process starts it, which unblocks the signals blocked here.
        resource_tracker.ensure_running()
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def stop_requested() -> bool:
    """Whether `defer_signals` holds a signal back."""
    return _State.pending is not None


def raise_stopped() -> None:
    """Raise the deferred signal as `Stopped`; SIGTERM if another process of the run got it."""
    number, _State.pending = _State.pending or signal.SIGTERM, None
    _State.stopping = True
    raise Stopped(number)


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """Defer signals until the block has ended; then `Stopped` is raised."""
    _State.deferred += 1
    try:
        yield
    finally:
        _State.deferred -= 1
    if not _State.deferred and _State.pending is not None:
        raise_stopped()
