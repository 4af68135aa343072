"""Which files hold weights: a file, a directory, or the parts that an index lists."""

from __future__ import annotations

import json
from pathlib import Path

from wsss_fast.errors import InputError

_LONGEST = 200  # characters of a file name
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".params")
# Usual names in a directory, the preferred one first: Hugging Face's, then this package's.
_IN_DIRECTORIES = ("model.safetensors", "pytorch_model.bin", "weights.pth")


def files(path: Path) -> tuple[Path, ...]:
    """The files that hold the weights at `path`.

    Args:
        path: a weights file, which is returned; the index of weights in several parts (`weight_map`
            in a JSON file); or a directory, such as a local copy of a Hugging Face repository, with
            such an index, with one of the usual names, or with a single weights file.

    Returns:
        A weights file, or the index and the files that it lists.

    Raises:
        InputError: there is none, or it is not clear which; one line with the file's name.
    """
    if path.is_dir():
        path = _file_of_directory(path)
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    if path.suffix.lower() != ".json":
        return (path,)
    parts = {path.parent / part for part in read_index(path).values()}
    missing = sorted(part.name for part in parts if not part.is_file())
    if missing:
        raise InputError(
            f"{path}: lists {len(parts)} files, of which {len(missing)} are missing, first "
            f"{missing[0]}; get the whole repository"
        )
    return (path, *sorted(parts))


def _file_of_directory(folder: Path) -> Path:
    present = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    names = {p.name for p in present}
    for name in _IN_DIRECTORIES:
        for candidate in (f"{name}.index.json", name):
            if candidate in names:
                return folder / candidate
    weights = [p for p in present if p.suffix.lower() in _SUFFIXES]
    if len(weights) == 1:
        return weights[0]
    held = "without a weights file"
    if weights:
        held = f"with {len(weights)} weights files; name one, such as {weights[0]}"
    raise InputError(f"{folder}: no such weights file: it is a directory {held}")


def read_index(path: Path) -> dict[str, str]:
    """The file of each tensor, next to the index, by the tensor's name."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({str(error)[:100]})") from None
    parts = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(parts, dict) or not parts:
        raise InputError(
            f"{path}: not a file of weights, but JSON without a weight_map, which lists their parts"
        )
    for name, part in parts.items():
        if not _is_part(part):
            raise InputError(
                f"{path}: weight_map: {name:.100} is in {part!r:.100}, which is not a name of a "
                "weights file in the same folder"
            )
    return parts


def _is_part(name: object) -> bool:
    """Whether a name in an index can be that of a weights file beside it."""
    if not isinstance(name, str) or not name or not name.isprintable() or len(name) > _LONGEST:
        return False
    return Path(name).name == name and name != ".." and Path(name).suffix.lower() != ".json"
