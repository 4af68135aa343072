"""SIGTERM and Ctrl-C: a run is stopped between two updates, never in the middle of one."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The process was asked to end; `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class _State:
    installed = False
    shields = 0
    pending: int | None = None


def install() -> None:
    """Let SIGTERM and SIGINT raise `Stopped` in the main thread; the command line does this, a library call does not."""
    for number in _SIGNALS:
        signal.signal(number, _handle)
    _State.installed = True


def _handle(number: int, frame: FrameType | None) -> None:
    if _State.shields and _State.pending is None:  # who asks twice does not want to wait
        _State.pending = number
    else:
        raise Stopped(number)


def ignore_first_sigterm() -> None:
    """Ignore the first SIGTERM, and every Ctrl-C, in a process that works for the training's own.

    Batch systems and terminals send them to all processes of a job. If the helpers died of it, the training could not finish
    its update.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


@contextlib.contextmanager
def block_signals_while_starting() -> Iterator[None]:
    """Around the start of processes that call `ignore_first_sigterm`: until they have, SIGTERM and Ctrl-C do nothing to them.

    A spawned process imports for seconds before that, and the fork server never gets there: a blocked signal is inherited as
    such. Without `install` the training itself would not survive a signal, so nothing is blocked.
    """
    if not _State.installed:
        yield
        return
    if multiprocessing.get_start_method() != "fork":
        resource_tracker.ensure_running()  # the first process would start it, which unblocks what is blocked here
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def stop_requested() -> bool:
    """Whether a signal is held back by `defer_signals`."""
    return _State.pending is not None


def stop() -> None:
    """Raise what is held back, or, where another process of the run was asked to stop, a `Stopped` of its own."""
    number, _State.pending = _State.pending or signal.SIGTERM, None
    raise Stopped(number)


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """Hold a signal back until the block has ended; `Stopped` is raised then."""
    _State.shields += 1
    try:
        yield
    finally:
        _State.shields -= 1
    if not _State.shields and _State.pending is not None:
        number, _State.pending = _State.pending, None
        raise Stopped(number)
