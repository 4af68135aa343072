"""The run folder: finished stages, config.json, metrics.json."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from wsss_fast.engine import distributed, redo
from wsss_fast.engine.files import atomic_write, read_json, write_json
from wsss_fast.engine.marker import FORMAT, MODEL_FILE, WEIGHTS_FILE, Marker, provenance
from wsss_fast.engine.progress import say
from wsss_fast.engine.run_lock import check_out, exclusive
from wsss_fast.engine.serialize import exact, jsonable
from wsss_fast.errors import InputError

__all__ = [
    "FORMAT",
    "amend",
    "check_name",
    "check_out",
    "config_of",
    "provenance",
    "read_protocol",
    "read_records",
    "record",
    "record_protocol",
    "read_notes",
    "stage",
    "versions",
    "write_config",
]


# Files of a run folder and of a stage, which no folder may be called like.
_OWN_FILES = (
    *("config.json", "metrics.json", "report.html", "broken.json", "redo.json"),
    *("begun.json", "done.json", WEIGHTS_FILE, MODEL_FILE, "log.csv"),
)
_LONGEST_NAME = 255  # bytes


class _Begun:
    count = 0  # stages that this process has worked on


def versions() -> dict[str, str]:
    """Versions that a result depends on, and the package's git revision where it is a checkout."""
    try:
        revision = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        revision = ""
    try:
        own = metadata.version("wsss-fast")
    except metadata.PackageNotFoundError:
        own = "not installed"
    return {
        "wsss_fast": own,
        "git": revision,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


@contextlib.contextmanager
def config_of(
    out: Path, command: str, arguments: dict[str, Any], protocol: dict[str, Any] | None = None
) -> Iterator[None]:
    """Around a pipeline: `write_config`, taken back if the block is refused before it does a stage.

    So config.json never has the arguments of a call that changed nothing.

    Args:
        out: run folder.
        command: as in `write_config`.
        arguments: as in `write_config`.
        protocol: what metrics.json says of the run, which is treated in the same way.
    """
    path = out / "config.json"
    before = path.read_bytes() if path.is_file() else None
    protocol_before, begun = read_protocol(out), _Begun.count
    write_config(out, command, arguments)
    if protocol is not None:
        record_protocol(out, protocol)
    try:
        yield
    except InputError:
        if _Begun.count == begun:
            record_protocol(out, protocol_before)
            if distributed.is_main_process():
                _put_back(path, before)
        raise


def _put_back(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
    else:
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)


def write_config(out: Path, command: str, arguments: dict[str, Any]) -> None:
    """Write `out/config.json`: command, arguments, versions, number of processes and time.

    `--config` of the same command reads it back (`config_file.read_config`).

    Args:
        out: run folder.
        command: the words typed after `wsss-fast`.
        arguments: by the names of the command's options.
    """
    if not distributed.is_main_process():
        return
    write_json(
        out / "config.json",
        {
            "format": FORMAT,
            "command": command,
            "arguments": arguments,
            "versions": versions(),
            "processes": distributed.world_size(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        },
    )


def record(out: Path, stage: str, values: dict[str, Any]) -> None:
    """Put the record of `stage` into `out/metrics.json`; the stages keep their order."""
    records, protocol = _read_metrics(out)
    records[stage] = {**records.get(stage, {}), **jsonable(values)}
    _write_metrics(out, records, protocol)


def record_protocol(out: Path, protocol: dict[str, Any] | None) -> None:
    """Put the protocol of a run into `out/metrics.json`; None removes it."""
    if distributed.is_main_process():
        _write_metrics(out, read_records(out), protocol)


def read_records(out: Path) -> dict[str, dict[str, Any]]:
    """The records of `out/metrics.json` by stage name; empty if there is no such file."""
    return _read_metrics(out)[0]


def read_protocol(out: Path) -> dict[str, Any] | None:
    """The protocol in `out/metrics.json`, as JSON; None if there is none."""
    return _read_metrics(out)[1]


def _write_metrics(
    out: Path, records: dict[str, dict[str, Any]], protocol: dict[str, Any] | None
) -> None:
    stages = [{"stage": name, **values} for name, values in records.items()]
    known = {} if protocol is None else {"protocol": protocol}
    if known or stages:
        write_json(out / "metrics.json", {**known, "stages": stages})
    else:
        (out / "metrics.json").unlink(missing_ok=True)


def _read_metrics(out: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any] | None]:
    """The records by stage name, and the protocol."""
    path = out / "metrics.json"
    if not path.exists():
        return {}, None
    try:
        found = read_json(path)
        records = {
            r["stage"]: {k: v for k, v in r.items() if k != "stage"} for r in found["stages"]
        }
        return records, found.get("protocol")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not a metrics file of this package ({error}); "
            "remove it or use another run folder"
        ) from None


def stage(
    out: Path,
    name: str,
    arguments: dict[str, Any],
    work: Callable[[], dict[str, Any]],
    *,
    files: Sequence[str] = (),
    remake: bool = True,
) -> dict[str, Any]:
    """Run `work` once: a finished stage with the same arguments is skipped. Collective.

    Files of a finished stage that are missing or empty are made again: `work` makes only what is
    not there.

    Args:
        out: run folder.
        name: of the stage, and of the sub-folder that holds its artefacts.
        arguments: everything the result depends on; the content of files as `provenance`.
        work: does the stage; returns notes for done.json.
        files: names of the artefacts in the sub-folder.
        remake: whether `work` can make single files again.

    Returns:
        The notes, with `seconds`; read back from done.json if the stage was already finished.

    Raises:
        InputError: the stage was started or finished with other arguments or by an earlier
            version, another process works on the run folder, the sub-folder has files of other
            origin, files are missing that cannot be made again, or `name` leads out of the run
            folder.
    """
    check_name(out, name)
    with exclusive(out):
        return _stage(Marker(out, name, exact(arguments), sorted(files)), work, remake)


def check_name(out: Path, name: str) -> None:
    """Raise InputError unless `name` is that of a folder below the run folder."""
    parts = name.split("/")
    if (
        not name.isprintable()
        or "\\" in name
        or any(p in ("", *_OWN_FILES) or p.startswith(".") for p in parts)
        or any(len(os.fsencode(p)) > _LONGEST_NAME for p in parts)
    ):
        raise InputError(
            f"name: {name!r} must be that of a folder below the run folder, such as cam or cam/maps"
        )
    for path in (out / name, *(out / name).parents[: len(parts) - 1]):
        if path.exists() and not path.is_dir():
            raise InputError(f"name: {path} is not a directory; use another --name")


def _stage(marker: Marker, work: Callable[[], dict[str, Any]], remake: bool) -> dict[str, Any]:
    notes = distributed.run_on_main(lambda: _start(marker, remake))
    if notes is not None:
        return notes
    start = time.monotonic()
    _Begun.count += 1
    try:
        notes = jsonable(work())
        distributed.all_gather_objects(None)  # every process has written its files
    except BaseException:
        if distributed.is_main_process() and not marker.has_results():
            marker.remove_empty()
        raise
    notes["seconds"] = round(time.monotonic() - start, 2)

    def finish() -> dict[str, Any]:
        marker.write("done.json", notes)
        (marker.folder / "begun.json").unlink()
        return notes

    return distributed.run_on_main(finish)


def _start(marker: Marker, remake: bool) -> dict[str, Any] | None:
    """The notes of a finished stage; None after marking one that has to be done."""
    name, folder = marker.name, marker.folder
    redo.remove_if_repeated(marker)
    begun, done = folder / "begun.json", folder / "done.json"
    if begun.exists() and marker.has_results():
        redo.check_or_remove(marker, begun)
    if done.exists():
        redo.check_or_remove(marker, done)
    if done.exists():
        missing = marker.missing()
        if not missing:
            say(f"{name}: already finished in {folder}, skipped")
            return marker.read(done)["notes"]
        if not remake:
            raise InputError(
                f"{folder / missing[0]}: is missing or empty, but its stage is finished; put it "
                f"back, or {redo.cure(name, folder)}"
            )
        say(
            f"{name}: {len(missing)} of {len(marker.files)} files of the finished stage are "
            f"missing or empty and are made again, first {folder / missing[0]}"
        )
    elif not begun.exists():
        marker.check_origin()
    for partial in folder.glob(".*.tmp*"):  # of a run that was killed while writing a file
        partial.unlink()
    for empty in marker.empty():
        empty.unlink()
    marker.write("begun.json")
    return None


def read_notes(out: Path, name: str) -> dict[str, Any]:
    """The notes of a finished stage."""
    return Marker.read(out / name / "done.json")["notes"]


def amend(out: Path, name: str, notes: dict[str, Any]) -> None:
    """Add to the notes of a finished stage. Collective."""

    def add() -> None:
        path = out / name / "done.json"
        found = json.loads(path.read_text())
        write_json(path, {**found, "notes": {**found["notes"], **notes}})

    with exclusive(out):
        distributed.run_on_main(add)
