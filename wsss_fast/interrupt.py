"""SIGTERM and Ctrl-C: a run is stopped between two updates, never in the middle of one."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The process was asked to end; `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class _State:
    outlives = False
    shields = 0
    pending: int | None = None


def install() -> None:
    """Let SIGTERM and SIGINT raise `Stopped` in the main thread; the command line does this, a library call does not."""
    for number in _SIGNALS:
        signal.signal(number, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    if _State.shields and _State.pending is None:  # who asks twice does not want to wait
        _State.pending = number
    else:
        raise Stopped(number)


def outlive_one() -> None:
    """Let the first SIGTERM pass, in a process that serves the training's own.

    Batch systems send it to all processes of a job. Were the servants to die of it, the training could not finish its update.
    """
    if not _State.outlives:
        _State.outlives = True
        signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


def asked_to_stop() -> bool:
    """Whether a signal is held back by `shielded`."""
    return _State.pending is not None


def stop() -> None:
    """Raise what is held back, or, where another process of the run was asked to stop, a `Stopped` of its own."""
    number, _State.pending = _State.pending or signal.SIGTERM, None
    raise Stopped(number)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Hold a signal back until the block has ended; `Stopped` is raised then."""
    _State.shields += 1
    try:
        yield
    finally:
        _State.shields -= 1
    if not _State.shields and _State.pending is not None:
        number, _State.pending = _State.pending, None
        raise Stopped(number)
