"""Where generated data is kept between runs."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from wsss_fast.data.shapes.make import OBJECTS, VERSION, add_objects, make_shapes
from wsss_fast.engine.progress import say
from wsss_fast.errors import InputError

BUILT_IN = {"shapes": "standard", "shapes-sparse": "sparse", "shapes-uneven": "uneven"}
"""Name of a built-in benchmark, without its seed -> preset of `make_shapes`."""


def is_built_in(name: str | Path) -> bool:
    """Whether this is the name of a built-in benchmark, and not of an existing file or folder."""
    return isinstance(name, str) and name.split(":")[0] in BUILT_IN and not Path(name).exists()


def shapes_folder(name: str) -> Path:
    """The cached Shapes benchmark of a name, generated at the first call.

    Names: `shapes` (seed 0), `shapes:SEED`, and with the other presets of `make_shapes`:
    `shapes-sparse`, `shapes-sparse:SEED`, `shapes-uneven`, `shapes-uneven:SEED`. The cache is in
    `$WSSS_FAST_DATA`, else in `$XDG_CACHE_HOME/wsss_fast`, else in `~/.cache/wsss_fast`.

    Raises:
        InputError: the seed is not a whole number, or the cache has no directory.
    """
    kind, _, seed = name.partition(":")
    if seed and not seed.isdigit():
        raise InputError(
            f"data: got {name!r}; the benchmark's name is {kind!r} or '{kind}:SEED' "
            "with a whole number"
        )
    base = os.environ.get("WSSS_FAST_DATA") or _user_cache() / "wsss_fast"
    folder = Path(base) / f"{kind}-v{VERSION}-{int(seed or 0)}"
    if not (folder / "shapes.json").exists():
        say(
            f"generating the Shapes benchmark ({BUILT_IN[kind]}, seed {int(seed or 0)}) in {folder}"
        )
        try:
            make_shapes(folder, seed=int(seed or 0), preset=BUILT_IN[kind])
        except (InputError, OSError):
            # Another process may have generated the same pictures meanwhile.
            if not (folder / "shapes.json").exists():
                raise
    if not (folder / OBJECTS).exists():
        say(f"adding {OBJECTS} to the Shapes benchmark in {folder}")
        # The folder may be read-only, or another process may have added it meanwhile.
        with contextlib.suppress(OSError):
            add_objects(folder)
    return folder


def _user_cache() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise InputError(
            "data: there is no home directory for the benchmark; set WSSS_FAST_DATA to a folder"
        ) from None
