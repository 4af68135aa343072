"""Running a command: arguments, result, one-line errors, exit code."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wsss_fast.cli import checks
from wsss_fast.cli.arguments import open_data, parse
from wsss_fast.cli.output import show
from wsss_fast.command import Command
from wsss_fast.data import Dataset
from wsss_fast.engine import distributed, remarks, signals
from wsss_fast.engine.files import write_json
from wsss_fast.engine.left_out import list_problems
from wsss_fast.engine.progress import OutputError, say
from wsss_fast.engine.redo import every_stage_repeated
from wsss_fast.engine.run_lock import check_out, exclusive
from wsss_fast.errors import InputError, RunError

_LONGEST = 4000  # characters of a message


def execute(command: Command, argv: Sequence[str]) -> int:
    """Run a command with its arguments; print its result or one line of error; the exit code."""
    if command.main_process_only and not distributed.is_main_process():
        return 0
    try:
        checks.check_words(argv)
        checks.check_environment()
        arguments = parse(command, argv)
        if isinstance(arguments, int):
            return arguments
        checks.check_arguments(arguments)
        redo = "name" in arguments and arguments.pop("redo")
        with remarks.collected(), _error_alone(), _locked(arguments), every_stage_repeated(redo):
            arguments = open_data(command, arguments)
            result = command.load()(**arguments)
            remarks.gather()
            if distributed.is_main_process():
                show(result)
        code = _report_broken(arguments)
        distributed.leave_group()
        return code
    except InputError as error:
        return fail(2, f"error: {error}", every=True)
    except RunError as error:
        return fail(1, f"failed: {error}", every=True)
    except KeyboardInterrupt as error:
        return _stopped(command, error)
    except OutputError:
        raise  # `streams.guarded` handles it
    except Exception as error:  # every command ends with one line; the variable shows the rest
        if os.environ.get("WSSS_FAST_TRACEBACK"):
            raise
        if isinstance(error, OSError) and error.filename is not None:
            # a full disk, a read-only folder
            return fail(
                1,
                f"failed: {_printable(error.filename)}: {error.strerror}; once this is fixed, the "
                "same command resumes where it stopped",
                every=True,
            )
        kind = type(error).__name__
        return fail(
            1, f"failed: {kind}: {error} (WSSS_FAST_TRACEBACK=1 shows the traceback)", every=True
        )


@contextlib.contextmanager
def _error_alone() -> Iterator[None]:
    """Bad input ends with its own line only."""
    try:
        yield
    except InputError:
        remarks.forget()
        raise


def _locked(arguments: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
    """The lock of the run folder, for commands with stages, before a long check of the images."""
    has_stages = "split" in arguments and ("name" in arguments or "pipeline" in arguments)
    return exclusive(check_out(arguments["out"])) if has_stages else contextlib.nullcontext()


def fail(code: int, message: str, *, every: bool = False) -> int:
    """Print a message as one line, in every process or in the main one; returns the exit code.

    A file may hold a text of megabytes where a message shows it: the line is cut.
    """
    line = " ".join(message.split())
    say(line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ...", every=every)
    return code


def _stopped(command: Command, error: KeyboardInterrupt) -> int:
    stopped, code = "interrupted", 130
    if isinstance(error, signals.Stopped):
        stopped, code = str(error), 128 + error.number
        signals.exit_on_signal()
    return fail(code, f"{stopped}; {command.if_stopped}")


def _report_broken(arguments: dict[str, Any]) -> int:
    """List the images and the true masks that were left out; the exit code.

    They are in `<out>/broken.json` and `<out>/broken_masks.json`.
    """
    data = [value for value in arguments.values() if isinstance(value, Dataset)]
    images = {id: why for one in data for id, why in one.broken.items()}
    masks = {id: why for one in data for id, why in one.broken_masks.items()}
    out = arguments.get("out")
    code = _report("broken images were left out", "broken.json", images, out)
    return _report("broken true masks were not scored", "broken_masks.json", masks, out) or code


def _report(text: str, file: str, broken: dict[str, str], out: Any) -> int:
    """List what was left out, write it into the file of `out`; the exit code."""
    if not broken:
        return 0
    if out is not None and distributed.is_main_process():
        write_json(Path(out) / file, broken)
    more = list_problems(list(broken.values()))
    listed = f"; all are in {Path(out) / file}" if out is not None else ""
    return fail(1, f"{len(broken)} {text}{more}{listed}")


def _printable(name: Any) -> str:
    """A file name with the bytes that are not text escaped."""
    if not isinstance(name, (str, bytes)):
        return str(name)
    return os.fsdecode(name).encode(errors="backslashreplace").decode()
