"""Where generated data is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from wsss_fast.data.shapes import VERSION, make_shapes
from wsss_fast.errors import InputError
from wsss_fast.progress import say


def shapes_folder(name: str) -> Path:
    """The cached Shapes benchmark called `shapes` (seed 0) or `shapes:SEED`; made at the first call.

    Kept under `$WSSS_FAST_DATA`, else `$XDG_CACHE_HOME/wsss_fast`, else `~/.cache/wsss_fast`.
    """
    _, _, seed = name.partition(":")
    if seed and not seed.isdigit():
        raise InputError(f"data: got {name!r}; the benchmark is called 'shapes' or 'shapes:SEED' with a whole number")
    folder = Path(os.environ.get("WSSS_FAST_DATA") or _user_cache() / "wsss_fast") / f"shapes-v{VERSION}-{int(seed or 0)}"
    if not (folder / "shapes.json").exists():
        say(f"making the Shapes benchmark (seed {int(seed or 0)}) in {folder}")
        try:
            make_shapes(folder, seed=int(seed or 0))
        except (InputError, OSError):
            if not (folder / "shapes.json").exists():  # otherwise another process was first, with the same pictures
                raise
    return folder


def _user_cache() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise InputError("data: this user has no home to keep the benchmark in; set WSSS_FAST_DATA to a folder") from None
