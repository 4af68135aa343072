"""SIGTERM and Ctrl-C: a run stops between two updates, never in the middle of one."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal requested the process to stop; `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class _State:
    installed = False
    deferred = 0  # nested `defer_signals` blocks
    pending: int | None = None


def install() -> None:
    """Let SIGTERM and SIGINT raise `Stopped` in the main thread.

    The command line does this; a library call does not.
    """
    for number in _SIGNALS:
        signal.signal(number, _handle)
    _State.installed = True


def _handle(number: int, frame: FrameType | None) -> None:
    # A second signal stops at once: whoever sends it does not want to wait.
    if _State.deferred and _State.pending is None:
        _State.pending = number
    else:
        raise Stopped(number)


def ignore_first_sigterm() -> None:
    """Ignore the first SIGTERM, and every Ctrl-C, in a helper process of a training.

    Batch systems and terminals send signals to all processes of a job. If loader processes died of
    them, the training could not finish its current update.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
