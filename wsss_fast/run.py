"""The run folder: atomic files, finished stages, config.json, metrics.json, and the meaning of device/seed/precision."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from wsss_fast import ranks
from wsss_fast.errors import InputError
from wsss_fast.progress import say

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it becomes `path` only if the block ends without an error.

    A file that exists under its final name is therefore complete. The suffix is kept, since writers look at it.

    Raises:
        OSError: the disk is full, say; always with `path` as its file name, which writers leave out.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # where it could not be made, it cannot be removed
            temporary.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; `jsonable` says what is understood."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(jsonable(value), indent=2) + "\n")


def jsonable(value: Any, name: str = "") -> Any:
    """`value` with dataclasses as dicts, paths as strings, numpy as lists, NaN as None, and callables by what they compute.

    A function becomes its qualified name, a callable dataclass its class and fields, a `functools.partial` its function and
    arguments: two results that two callables may differ in must not get one fingerprint.

    Args:
        value: what to convert.
        name: of the value, for errors.

    Raises:
        InputError: a callable that nothing tells from another one: a lambda, a function inside a function, an object with
            a state of its own.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = jsonable({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, name)
        return {"class": _qualified_name(type(value), name), **fields} if callable(value) else fields
    if isinstance(value, dict):
        return {str(k): jsonable(v, f"{name}.{k}" if name else str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v, f"{name}[{n}]") for n, v in enumerate(value)]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist(), name)
    if isinstance(value, np.generic):
        return jsonable(value.item(), name)
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, functools.partial):
        return {"partial": jsonable(value.func, name), "args": jsonable(value.args, name),
                "keywords": jsonable(value.keywords, name)}
    if callable(value):
        return _qualified_name(value, name)
    return value


def _qualified_name(value: Any, name: str) -> str:
    """Where a function or class is found again: `module.qualname`. Raises InputError where nothing or another one is there."""
    module, path = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    found: Any = sys.modules.get(module) if isinstance(module, str) else None
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is not value:
        raise InputError(f"{name or 'callable'}: {value!r} cannot be told from another one, so a stage made with it would be "
                         "taken for finished when it has changed; use a function at the top level of a module, "
                         "functools.partial of one, or a frozen dataclass with __call__")
    return f"{module}.{path}"


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Where and how a stage computes.

    Attributes:
        device: torch device.
        seed: seed of initialisation, shuffling and augmentation.
        workers: loader processes; 0 loads in the training process.
        dtype: float32, or bfloat16 for autocast.
    """

    device: torch.device
    seed: int
    workers: int
    dtype: torch.dtype

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)


def runtime(device: str, seed: int, workers: int, precision: str, *, prefer_bf16: bool) -> Runtime:
    """Check the four arguments every command shares and resolve their "auto".

    `precision="auto"` is fp32, but bf16 where the recipe allows it (`prefer_bf16`) and the hardware computes it.

    Raises:
        InputError: an unknown or unavailable device, a negative seed or worker count, an unknown precision; workers for a
            script that its own loader processes run once more.
    """
    if device != "auto" and device.split(":")[0] not in DEVICES:
        raise InputError(f"device: got {device!r}, must be auto, cpu, cuda or cuda:N")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device: got {device!r}, but torch {torch.__version__} sees no CUDA device here")
    if precision not in PRECISIONS:
        raise InputError(f"precision: got {precision!r}, must be one of {', '.join(PRECISIONS)}")
    if seed < 0 or workers < 0:
        raise InputError(f"seed and workers must be >= 0, got seed={seed}, workers={workers}")
    if workers and getattr(multiprocessing.current_process(), "_inheriting", False):  # before it touches the run folder
        raise InputError("workers: a process that was started for them runs the script again, as it must where Python does not "
                         'fork; put the calls of the script under `if __name__ == "__main__":`')
    name = ranks.device(device)
    bf16 = precision == "bf16" or (precision == "auto" and prefer_bf16 and _computes_bf16(name))
    return Runtime(torch.device(name), seed, workers, torch.bfloat16 if bf16 else torch.float32)


def _computes_bf16(device: str) -> bool:
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def set_seed(seed: int) -> None:
    """Seed torch's global generators (weight initialisation and dropout); samples draw from their own generators."""
    torch.manual_seed(seed)


def versions() -> dict[str, str]:
    """Versions that a result depends on, and the git revision of the working folder where there is one."""
    try:
        revision = subprocess.run(["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
                                  check=False, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        revision = ""
    try:
        own = metadata.version("wsss-fast")
    except metadata.PackageNotFoundError:
        own = "not installed"
    return {"wsss_fast": own, "git": revision, "torch": torch.__version__, "numpy": np.__version__,
            "pillow": PIL.__version__, "python": platform.python_version(), "platform": platform.platform()}


def write_config(out: Path, command: str, arguments: dict[str, Any]) -> None:
    """Leave `out/config.json`: the command, every argument, versions, number of processes and time."""
    if not ranks.is_main():
        return
    write_json(out / "config.json", {"command": command, "arguments": arguments, "versions": versions(),
                                     "processes": ranks.count(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")})


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
        return {r["stage"]: {k: v for k, v in r.items() if k != "stage"} for r in json.loads(path.read_text())["stages"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a metrics file of this package ({error}); remove it or use another folder") from None


def stage(out: Path, name: str, arguments: dict[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
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
    notes = ranks.by_main(lambda: _begin(folder, name, arguments))
    if notes is not None:
        return notes
    start = time.monotonic()
    try:
        notes = jsonable(work())
        ranks.gathered(None)  # all are here, so all that was to be written is
    except BaseException:
        if ranks.is_main() and not _has_results(folder):  # nothing to go on with, so leave nothing
            (folder / "begun.json").unlink()
            for empty in (folder, *folder.parents[:len(Path(name).parts)]):  # up to `out`, those that are empty
                with contextlib.suppress(OSError):
                    empty.rmdir()
        raise
    notes["seconds"] = round(time.monotonic() - start, 2)

    def finish() -> dict[str, Any]:
        write_json(folder / "done.json", {"arguments": arguments, "notes": notes})
        (folder / "begun.json").unlink()
        return notes

    return ranks.by_main(finish)


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
    return folder.is_dir() and any(p.name != "begun.json" and not p.name.startswith(".") for p in folder.iterdir())


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
        raise InputError(f"{marker}: cannot be read; remove the folder {marker.parent} to redo this stage") from None
    earlier, now = _flat(earlier), _flat(arguments)
    changed = [f"{k} was {earlier.get(k)!r}, now {now.get(k)!r}"
               for k in sorted({*earlier, *now}) if earlier.get(k) != now.get(k)]
    if changed:
        raise InputError(f"{marker.parent}: made with other arguments ({'; '.join(changed)}); "
                         "use another --out, or remove that folder to redo the stage")


def _flat(arguments: Any, prefix: str = "") -> dict[str, Any]:
    """Nested arguments by dotted name, so that one changed number of a recipe is named alone."""
    if not isinstance(arguments, dict) or not arguments:
        return {prefix: arguments}
    return {k: v for name, value in arguments.items() for k, v in _flat(value, f"{prefix}.{name}" if prefix else name).items()}
