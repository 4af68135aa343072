"""What a stage leaves beside its artefacts: begun.json and done.json, with all it depends on."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsss_fast.engine import distributed
from wsss_fast.engine.content import contents_of
from wsss_fast.engine.files import read_json, write_json
from wsss_fast.engine.run_log import log_files
from wsss_fast.errors import InputError

FORMAT = 3  # of done.json and config.json; raised when an older version's files cannot be read
WEIGHTS_FILE = "weights.pth"  # of a training
MODEL_FILE = "model.safetensors"  # the same weights, with what they are of
_ARTEFACTS = (".npz", ".png")
# Where the data was and how its list was called; a moved data set is the same.
_INFORMATION = {"data.root", "data.split"}
_HASH = re.compile("[0-9a-f]{12,64}")


@dataclasses.dataclass(frozen=True)
class Marker:
    """A stage of a run folder, and what it depends on.

    Attributes:
        out: run folder.
        name: of the stage, and of its sub-folder.
        arguments: as JSON.
        files: names of its artefacts in the sub-folder.
    """

    out: Path
    name: str
    arguments: dict[str, Any]
    files: list[str]

    @property
    def folder(self) -> Path:
        """The sub-folder."""
        return self.out / self.name

    def write(self, file: str, notes: dict[str, Any] | None = None) -> None:
        """Write begun.json, or done.json with notes."""
        more = {} if notes is None else {"notes": notes}
        content = {"format": FORMAT, "arguments": self.arguments, "files": self.files}
        write_json(self.folder / file, {**content, **more})

    @staticmethod
    def read(path: Path) -> dict[str, Any]:
        """Content of begun.json or done.json.

        Raises:
            InputError: it cannot be read, or was written by another version.
        """
        folder = path.parent
        try:
            found = read_json(path)
            version = found.get("format", 1)
            whole = version != FORMAT or isinstance(found["arguments"], dict)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise InputError(f"{path}: cannot be read; remove the folder {folder} to repeat it")
        if version != FORMAT:
            raise InputError(
                f"{folder}: written by another version of wsss-fast (run-folder format {version}, "
                f"this version has {FORMAT}); use another --out, or remove that folder to repeat it"
            )
        return found

    def changes(self, path: Path) -> list[tuple[str, Any, Any]]:
        """What differs from begun.json or done.json: dotted name, earlier value, present value."""
        found = differences(self.read(path)["arguments"], self.arguments)
        return [change for change in found if change[0] not in _INFORMATION]

    def missing(self) -> list[str]:
        """Artefacts that are missing or empty."""
        return sorted(set(self.files) - {p.name for p in self._present() if p.stat().st_size})

    def empty(self) -> list[Path]:
        """Artefacts without content, as a power cut leaves them."""
        return [p for p in self._present() if not p.stat().st_size]

    def check_origin(self) -> None:
        """Raise InputError for artefacts without a marker: nobody knows what they were made from.

        Otherwise they would count as what an interrupted run has finished.
        """
        if foreign := sorted(p.name for p in self._present()):
            raise InputError(
                f"{self.folder}: has files, first {foreign[0]}, but no done.json or begun.json to "
                "tell what they were made from; use another --out or --name, or remove them"
            )

    def _present(self) -> list[Path]:
        wanted = set(self.files)
        if not self.folder.is_dir():
            return []
        return [p for p in self.folder.iterdir() if p.name in wanted]

    def has_results(self) -> bool:
        """Whether the sub-folder holds more than its marker, a training's log and partial files."""
        if not self.folder.is_dir():
            return False
        others = {self.folder / "begun.json", *log_files(self.folder)}
        return any(p not in others and not p.name.startswith(".") for p in self.folder.iterdir())

    def remove_empty(self) -> None:
        """Remove a stage without results, and the folders above it that are empty, up to `out`."""
        with contextlib.suppress(OSError):
            (self.folder / "begun.json").unlink()
        for empty in (self.folder, *self.folder.parents[: len(Path(self.name).parts)]):
            with contextlib.suppress(OSError):
                empty.rmdir()


def differences(before: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """What differs between nested arguments: dotted name, earlier value, present value."""
    earlier, present = flat(before), flat(now)
    return [
        (name, earlier.get(name), present.get(name))
        for name in sorted({*earlier, *present})
        if earlier.get(name) != present.get(name) or (name in earlier) != (name in present)
    ]


def describe(changes: Sequence[tuple[str, Any, Any]]) -> str:
    """Changed arguments in words: the values of numbers, the names of files and lists."""
    texts = []
    # A mapping that has become None, or None a mapping, is described by its entries.
    for name, before, now in [one for one in changes if one[1] != one[2]] or changes:
        shown = f"{name} was {before!r}, now {now!r}"
        texts.append(f"{name} changed" if is_content(before, now) or len(shown) > 200 else shown)
    return "; ".join(texts)


def is_content(*values: Any) -> bool:
    """Whether these are hashes of the content of files."""
    return all(isinstance(value, str) and _HASH.fullmatch(value) for value in values)


def flat(arguments: Any, prefix: str = "") -> dict[str, Any]:
    """Nested arguments by dotted name, so that an error names the one number that changed."""
    if not isinstance(arguments, dict) or not arguments:
        return {prefix: arguments}
    return {
        k: v
        for name, value in arguments.items()
        for k, v in flat(value, f"{prefix}.{name}" if prefix else name).items()
    }


def provenance(folder: Path, names: Sequence[str] | None = None) -> str:
    """What identifies the content of a folder of maps or label maps. Collective.

    A stage lists this among its arguments, so that it is repeated when its inputs changed. Copies
    of a folder have the same identity, whatever their times.

    Args:
        folder: folder of artefacts, of a stage or of another tool.
        names: files that are used; default: every .npz and .png.

    Returns:
        A hash of names, sizes and contents.
    """
    return distributed.run_on_main(lambda: _provenance(folder, names))


def _provenance(folder: Path, names: Sequence[str] | None) -> str:
    if names is None:
        present = folder.iterdir() if folder.is_dir() else ()
        names = [p.name for p in present if p.suffix in _ARTEFACTS]
    ordered = sorted(names)
    digest = hashlib.sha256()
    for name, content in zip(ordered, contents_of(folder / n for n in ordered), strict=True):
        digest.update(f"{name}\0".encode(errors="surrogateescape") + content)
    return digest.hexdigest()[:16]
