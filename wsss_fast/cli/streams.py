"""Standard streams as a shell passes them: closed, a pipe without a reader, a full disk."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Callable


def prepare() -> None:
    """Make both outputs writable, whatever a class name holds and whatever the shell has closed."""
    for descriptor in range(3):
        # Otherwise the next file that is opened would get the number, and what C prints.
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            continue
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # it was closed
            setattr(sys, name, open(descriptor, "w", closefd=False))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a class name must not end a run.
            stream.reconfigure(errors="backslashreplace")


def guarded(work: Callable[[], int]) -> int:
    """The exit code of `work`, whose output may have no reader, or no space left.

    Returns:
        As a shell expects: 141 without a reader (`| head`), 128 + its number for a signal just
        before or after the command; 1 after a line for another error of the output.
    """
    try:
        code = work()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as error:
        return 128 + getattr(error, "number", signal.SIGINT)
    except OSError as error:
        code = 128 + signal.SIGPIPE
        if error.errno != errno.EPIPE:
            code = 1
            with contextlib.suppress(OSError):
                print(f"failed: stdout: {error.strerror}", file=sys.stderr)
    # Python would flush the rest once more while it exits.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
