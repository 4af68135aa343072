"""The run folder: finished stages, config.json, metrics.json."""

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

FORMAT = 2  # of done.json and config.json; raised when an older version's files cannot be read


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
    path = out / "metrics.json"
    records = read_records(out)
    records[stage] = {**records.get(stage, {}), **jsonable(values)}
    write_json(path, {"stages": [{"stage": name, **values} for name, values in records.items()]})


def read_records(out: Path) -> dict[str, dict[str, Any]]:
    """The records of `out/metrics.json` by stage name; empty if there is no such file."""
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
            f"{path}: not a metrics file of this package ({error}); "
            "remove it or use another run folder"
        ) from None


def stage(
    out: Path, name: str, arguments: dict[str, Any], work: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Run `work` once: a finished stage with the same arguments is skipped. Collective.

    Args:
        out: run folder.
        name: of the stage, and of the sub-folder that holds its artefacts.
        arguments: everything the result depends on.
        work: does the stage; returns notes for done.json.

    Returns:
        The notes, with `seconds`; read back from done.json if the stage was already finished.

    Raises:
        InputError: the stage was started or finished with other arguments or by an earlier
            version, or an argument is a callable without a name.
    """
    folder, arguments = out / name, jsonable(arguments)
    notes = distributed.run_on_main(lambda: _start(folder, name, arguments))
    if notes is not None:
        return notes
    start = time.monotonic()
    try:
        notes = jsonable(work())
        distributed.all_gather_objects(None)  # every process has written its files
    except BaseException:
        if distributed.is_main_process() and not _has_results(folder):
            _remove_empty(folder, name)
        raise
    notes["seconds"] = round(time.monotonic() - start, 2)

    def finish() -> dict[str, Any]:
        write_json(folder / "done.json", {"format": FORMAT, "arguments": arguments, "notes": notes})
        (folder / "begun.json").unlink()
        return notes

    return distributed.run_on_main(finish)


def _start(folder: Path, name: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The notes of a finished stage; None after marking one that has to be done."""
    begun, done = folder / "begun.json", folder / "done.json"
    if begun.exists() and _has_results(folder):
        _check_marker(begun, arguments)
    if done.exists():
        _check_marker(done, arguments)
        notes = json.loads(done.read_text())["notes"]
        say(f"{name}: already finished in {folder}, skipped")
        return notes
    for partial in folder.glob(".*.tmp*"):  # of a run that was killed while writing a file
        partial.unlink()
    write_json(begun, {"format": FORMAT, "arguments": arguments})
    return None


def _has_results(folder: Path) -> bool:
    """Whether the folder of a stage holds more than its marker and partial files."""
    return folder.is_dir() and any(
        p.name != "begun.json" and not p.name.startswith(".") for p in folder.iterdir()
    )


def _remove_empty(folder: Path, name: str) -> None:
    """Remove a stage that left no results, and the folders above it that are empty, up to `out`."""
    (folder / "begun.json").unlink()
    for empty in (folder, *folder.parents[: len(Path(name).parts)]):
        with contextlib.suppress(OSError):
            empty.rmdir()


def provenance(folder: Path) -> str:
    """What identifies an artefact folder: a hash of its stage's arguments, else its path.

    A stage lists this among its own arguments, so that it is repeated when its inputs changed.
    """
    try:
        arguments = json.loads((folder / "done.json").read_text())["arguments"]
    except (OSError, ValueError, KeyError, TypeError):
        return str(folder.resolve())
    return hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()[:16]


def _check_marker(marker: Path, arguments: dict[str, Any]) -> None:
    """Raise InputError unless the marker was written by this format with the same arguments."""
    folder = marker.parent
    try:
        found = json.loads(marker.read_text())
        earlier, written = _flat(found["arguments"]), found.get("format", 1)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{marker}: cannot be read; remove the folder {folder} to redo this stage"
        ) from None
    if written != FORMAT:
        raise InputError(
            f"{folder}: written by another version of wsss-fast (run-folder format {written}, "
            f"this version has {FORMAT}); use another --out, or remove that folder to redo it"
        )
    now = _flat(arguments)
    changed = [
        f"{k} was {earlier.get(k)!r}, now {now.get(k)!r}"
        for k in sorted({*earlier, *now})
        if earlier.get(k) != now.get(k)
    ]
    if changed:
        raise InputError(
            f"{folder}: finished or started with other arguments ({'; '.join(changed)}); "
            "use another --out, or remove that folder to redo the stage"
        )


def _flat(arguments: Any, prefix: str = "") -> dict[str, Any]:
    """Nested arguments by dotted name, so that an error names the one number that changed."""
    if not isinstance(arguments, dict) or not arguments:
        return {prefix: arguments}
    return {
        k: v
        for name, value in arguments.items()
        for k, v in _flat(value, f"{prefix}.{name}" if prefix else name).items()
    }
