"""The manifest beside a library: what it is, where it runs, and the hash of its bytes."""

import hashlib
import json
from pathlib import Path

from .plan import Plan
from .sources import Unavailable


def write_manifest(plan: Plan, library: Path, **more: str) -> Path:
    """Write the manifest next to the library: build information, size and hash of the file.

    The loader only loads a library that matches its manifest.

    Args:
        plan: how the library was built.
        library: the path of the library.
        more: further entries of the manifest.

    Returns:
        The path of the manifest.
    """
    data = library.read_bytes()
    manifest = (
        plan.describe()
        | {"runs_on": plan.runs_on}
        | more
        | {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    )
    path = library.with_suffix(".json")
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return path


def read_manifest(library: Path) -> dict:
    """Read the manifest of a library and compare the file with it.

    Loading a damaged library would crash the process. Neither size nor time would tell: after a
    power cut, blocks may be zero in a file of the right size.

    Raises:
        Unavailable: a file is missing or damaged.
    """
    path = library.with_suffix(".json")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        size, expected = int(manifest["size"]), manifest["sha256"]
        data = library.read_bytes()
    except FileNotFoundError as error:
        raise Unavailable(f"{error.filename} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise Unavailable(f"{path} cannot be read: {error}") from None
    if len(data) != size:
        raise Unavailable(f"{library} is damaged: it has {len(data)} of {size} bytes")
    if hashlib.sha256(data).hexdigest() != expected:
        raise Unavailable(f"{library} is damaged: its checksum is not the one in its manifest")
    return manifest
