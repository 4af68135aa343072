"""The entry of `wsss-fast` and `python -m wsss_fast`: signals first, then the command line."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn


def main() -> None:
    """Run the command line, where a signal prints one line, also while Python imports torch."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit)
    from wsss_fast import cli

    cli.main()


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    """End the process: nothing has begun yet."""
    os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


if __name__ == "__main__":
    main()
