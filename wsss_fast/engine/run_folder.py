"""The run folder: atomic files, finished stages, config.json, metrics.json, and the meaning of device/seed/precision."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from wsss_fast.engine import distributed
from wsss_fast.engine.files import write_json
from wsss_fast.engine.progress import say
from wsss_fast.engine.serialize import jsonable
from wsss_fast.errors import InputError


def versions() -> dict[str, str]:
    """Versions that a result depends on, and the git revision of the working folder where there is one."""
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


def write_config(out: Path, command: str, arguments: dict[str, Any]) -> None:
    """Leave `out/config.json`: the command, every argument, versions, number of processes and time."""
    if not distributed.is_main_process():
        return
    write_json(
        out / "config.json",
        {
            "command": command,
            "arguments": arguments,
            "versions": versions(),
            "processes": distributed.world_size(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        },
    )


def record(out: Path, stage: str, values: dict[str, Any]) -> None:
    """Put the record of `stage` into `out/metrics.json`, replacing an earlier one and keeping the stages' order."""
    path = out / "metrics.json"
    records = read_records(out)
    records[stage] = {**records.get(stage, {}), **jsonable(values)}
    write_json(path, {"stages": [{"stage": name, **values} for name, values in records.items()]})


def read_records(out: Path) -> dict[str, dict[str, Any]]:
    """The records of `out/metrics.json` by stage name; empty if there are none."""
    path = out / "metrics.json"
    if not path.exists():
        return {}
    try:
        return {
            r["stage"]: {k: v for k, v in r.items() if k != "stage"}
            for r in json.loads(path.read_text())["stages"]
        }
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a metrics file of this package ({error}); remove it or use another folder"
        ) from None


def stage(
    out: Path, name: str, arguments: dict[str, Any], work: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Do `work` once: skip it if `out/<name>/done.json` exists, and refuse if that was made with other arguments.

    Args:
        out: run folder.
        name: stage, and the sub-folder that holds its artefacts.
        arguments: everything the result depends on.
        work: does the stage, returns what to note in done.json.

    Returns:
        The notes, with `seconds`; read back from done.json if the stage was finished before.

    Raises:
        InputError: the stage was finished or begun with other arguments, or one of them is a callable without a name.
    """
    folder, arguments = out / name, jsonable(arguments)
    notes = distributed.run_on_main(lambda: _begin(folder, name, arguments))
    if notes is not None:
        return notes
    start = time.monotonic()
    try:
        notes = jsonable(work())
        distributed.all_gather_objects(None)  # all are here, so all that was to be written is
    except BaseException:
        if distributed.is_main_process() and not _has_results(
            folder
        ):  # nothing to go on with, so leave nothing
            (folder / "begun.json").unlink()
            for empty in (
                folder,
                *folder.parents[: len(Path(name).parts)],
            ):  # up to `out`, those that are empty
                with contextlib.suppress(OSError):
                    empty.rmdir()
        raise
    notes["seconds"] = round(time.monotonic() - start, 2)

    def finish() -> dict[str, Any]:
        write_json(folder / "done.json", {"arguments": arguments, "notes": notes})
        (folder / "begun.json").unlink()
        return notes

    return distributed.run_on_main(finish)


def _begin(folder: Path, name: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The notes of a stage that is finished; None for one that is to be done, whose marker is written."""
    begun, done = folder / "begun.json", folder / "done.json"
    if begun.exists() and _has_results(folder):
        _same_arguments(begun, arguments)
    if done.exists():
        _same_arguments(done, arguments)
        notes = json.loads(done.read_text())["notes"]
        say(f"{name}: already in {folder}, skipped")
        return notes
    for half_written in folder.glob(".*.tmp*"):  # of a run that was killed in the middle of a file
        half_written.unlink()
    write_json(begun, {"arguments": arguments})
    return None


def _has_results(folder: Path) -> bool:
    """Whether a stage left more in its folder than its marker and half-written files."""
    return folder.is_dir() and any(
        p.name != "begun.json" and not p.name.startswith(".") for p in folder.iterdir()
    )


def provenance(folder: Path) -> str:
    """What an artefact folder was made from: a hash of its stage's arguments, or its path if no stage made it.

    A stage names this among its own arguments, so that it is not taken for finished when what it read was made anew.
    """
    try:
        arguments = json.loads((folder / "done.json").read_text())["arguments"]
    except (OSError, ValueError, KeyError, TypeError):
        return str(folder.resolve())
    return hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()[:16]


def _same_arguments(marker: Path, arguments: dict[str, Any]) -> None:
    try:
        earlier = json.loads(marker.read_text())["arguments"]
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{marker}: cannot be read; remove the folder {marker.parent} to redo this stage"
        ) from None
    earlier, now = _flat(earlier), _flat(arguments)
    changed = [
        f"{k} was {earlier.get(k)!r}, now {now.get(k)!r}"
        for k in sorted({*earlier, *now})
        if earlier.get(k) != now.get(k)
    ]
    if changed:
        raise InputError(
            f"{marker.parent}: made with other arguments ({'; '.join(changed)}); "
            "use another --out, or remove that folder to redo the stage"
        )


def _flat(arguments: Any, prefix: str = "") -> dict[str, Any]:
    """Nested arguments by dotted name, so that one changed number of a recipe is named alone."""
    if not isinstance(arguments, dict) or not arguments:
        return {prefix: arguments}
    return {
        k: v
        for name, value in arguments.items()
        for k, v in _flat(value, f"{prefix}.{name}" if prefix else name).items()
    }
