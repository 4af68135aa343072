"""Repeating stages of a finished run: --redo and --from, and what to do when an input changed."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from wsss_fast.engine import distributed
from wsss_fast.engine.files import read_json, write_json
from wsss_fast.engine.marker import MODEL_FILE, WEIGHTS_FILE, Marker, describe, is_content
from wsss_fast.engine.progress import say
from wsss_fast.engine.run_log import log_files
from wsss_fast.errors import InputError

_REQUEST = "redo.json"  # in the run folder while stages are repeated


@dataclasses.dataclass
class _Request:
    """Stages of a run folder that the user asked to repeat, and none of which is removed yet."""

    out: Path
    asked: dict[str, str | None]
    names: Sequence[str]


class _State:
    command = ""  # of the pipeline that runs, and the names of its stages
    stages: tuple[str, ...] = ()
    request: _Request | None = None
    every = False  # whether stages that are finished are repeated


@contextlib.contextmanager
def repeated(
    out: Path, command: str, stages: Sequence[str], redo: str | None, first: str | None
) -> Iterator[None]:
    """Around a pipeline: the results of the stages that are to be repeated are removed. Collective.

    They are removed when the first of them is reached, so that nothing is lost if an earlier stage
    is refused. Only files that the stages wrote are removed. If the pipeline is interrupted after
    that, the same call continues without removing again.

    Args:
        out: run folder.
        command: name of the pipeline's command.
        stages: names of its stages, in order.
        redo: stage to repeat; stages whose inputs change by that are repeated too.
        first: repeat this stage and all later ones.

    Raises:
        InputError: there is no such stage, or both are given.
    """
    for option, name in (("redo", redo), ("from", first)):
        if name is not None and name not in stages:
            raise InputError(
                f"{option}: {command} has no stage {name!r}; its stages are {', '.join(stages)}"
            )
    if redo is not None and first is not None:
        raise InputError("give redo or from, not both")
    names: Sequence[str] = [] if redo is None else [redo]
    if first is not None:
        names = stages[list(stages).index(first) :]
    before = _State.command, _State.stages, _State.request
    _State.command, _State.stages = command, tuple(stages)
    _State.request = _Request(out, {"redo": redo, "from": first}, names) if names else None
    try:
        yield
        if _State.request is not None:
            say(f"{out}: {names[0]} is not repeated, since this call does not reach it")
    except InputError as error:
        raise InputError(f"{error}{_cure_of_file(out, str(error))}") from None
    finally:
        _State.command, _State.stages, _State.request = before
    distributed.run_on_main(lambda: (out / _REQUEST).unlink(missing_ok=True))


@contextlib.contextmanager
def every_stage_repeated(on: bool) -> Iterator[None]:
    """Around a command with a single stage: repeats it if it is finished.

    An interrupted one is resumed, unless its arguments changed.
    """
    before, _State.every = _State.every, on
    try:
        yield
    finally:
        _State.every = before


def remove_if_repeated(marker: Marker) -> None:
    """Remove the results of a stage that the user asked to repeat."""
    request = _State.request
    if request is not None and marker.out == request.out and marker.name in request.names:
        _State.request = None
        _remove_requested(request.out, request.asked, request.names)
    if _State.every and (marker.folder / "done.json").is_file():
        _remove(marker.out, marker.name)
        say(f"{marker.name}: removed its results, which are made again")


def _remove_requested(out: Path, asked: dict[str, str | None], names: Sequence[str]) -> None:
    path = out / _REQUEST
    with contextlib.suppress(OSError, ValueError):
        if read_json(path) == asked:
            say(f"{out}: resumes the repetition of {names[0]}, which was interrupted")
            return
    removed = [name for name in names if _remove(out, name)]
    if removed:
        say(f"{out}: removed the results of {', '.join(removed)}, which are made again")
        write_json(path, asked)


def _remove(out: Path, name: str) -> bool:
    """Remove what a stage wrote; whether there was anything."""
    folder = out / name
    markers = [p for p in (folder / "begun.json", folder / "done.json") if p.is_file()]
    if not markers:
        return False
    if not folder.resolve().is_relative_to(out.resolve()):
        raise InputError(
            f"{folder}: is a link to {folder.resolve()}, outside of the run folder; remove its "
            "files yourself to repeat the stage"
        )
    written = {name for marker in markers for name in Marker.read(marker)["files"]}
    others = [*folder.glob("checkpoint-*.pth"), *folder.glob(".*.tmp*"), *log_files(folder)]
    if WEIGHTS_FILE in written:
        others += folder.glob(MODEL_FILE)
    for path in others:
        path.unlink()
    for file in sorted(written):
        if Path(file).name == file:  # of this folder, whatever the marker says
            (folder / file).unlink(missing_ok=True)
    for marker in markers:  # last: files without a marker would be of unknown origin
        marker.unlink()
    return True


def check_or_remove(marker: Marker, path: Path) -> None:
    """Check that a stage was begun or finished with the same arguments.

    If a stage before it was repeated, and what changed is what that stage wrote, its results are
    removed.

    Raises:
        InputError: other arguments; with those that changed, and how to go on.
    """
    changes = marker.changes(path)
    if not changes:
        return
    of_data = any(name.startswith("data") for name, _, _ in changes)
    follows = not of_data and (marker.out / _REQUEST).is_file()
    follows = follows and all(is_content(before, now) for _, before, now in changes)
    if follows or _State.every:
        names = ", ".join(name for name, _, _ in changes)
        say(f"{marker.name}: repeated, since its {names} changed")
        _remove(marker.out, marker.name)
        return
    raise InputError(
        f"{marker.folder}: finished or started with other arguments ({describe(changes)}); "
        f"use another --out, or {cure(marker.name, marker.folder, of_data=of_data)}"
    )


def cure(name: str, folder: Path, *, of_data: bool = False) -> str:
    """How to repeat a stage, in words; every stage depends on the data."""
    if name in _State.stages and of_data:
        return f"repeat it and all later stages with `{_State.command} --from {name}`"
    if name in _State.stages:
        return (
            f"repeat it and what depends on it with `{_State.command} --redo {name}`, or it and "
            f"all later stages with `--from {name}`"
        )
    return (
        f"remove its files in {folder} to repeat the stage, or add --redo to the command of a "
        "single stage"
    )


def _cure_of_file(out: Path, error: str) -> str:
    """How to replace a file of a finished stage that cannot be read; empty for other errors."""
    path = Path(error.partition(": ")[0])
    try:
        name = path.parent.relative_to(out).as_posix()
        made_here = path.name in Marker.read(path.parent / "done.json")["files"]
    except (ValueError, OSError, InputError):
        return ""
    if not made_here or "--redo" in error:
        return ""
    if path.suffix == ".pth":
        return f"; {cure(name, path.parent)}"
    return "; remove this file, and the same command makes it again"
