"""Photos and maps of any tool, a file each: pairs of equal names, refined one after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from wsss_fast.engine import distributed, stream
from wsss_fast.engine.progress import Bar, say
from wsss_fast.errors import InputError, RunError

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_SHOWN = 3  # unmatched files that are named


class Files(NamedTuple):
    """A photo, its map, and the file to write."""

    photo: Path
    map: Path
    target: Path


class Refiner(Protocol):
    """Steps of the refinement of one map; each may raise InputError."""

    @property
    def name(self) -> str:
        """Of the progress bar."""

    @property
    def device(self) -> torch.device:
        """That it computes on."""

    def is_finished(self, target: Path) -> bool:
        """Whether an earlier call has written the map, so that it is skipped."""

    def load(self, files: Files) -> Any:
        """Read photo and map; runs in threads."""

    def compute(self, files: Files, given: Any) -> Any:
        """Refine what was read; see `stream.Steps`."""

    def write(self, files: Files, results: Any) -> None:
        """Write the refined map, last of all the target, which marks it as finished."""

    def size(self, files: Files) -> int:
        """Number of bytes of what is read and of the results."""


@dataclasses.dataclass(frozen=True)
class Refined:
    """What `refine_all` did.

    Attributes:
        count: number of maps that were to be refined, of all processes.
        problems: why maps could not be refined, each with its file.
        seconds: of this process' device, summed over its maps.
        own: number of maps of this process.
    """

    count: int
    problems: tuple[str, ...]
    seconds: float
    own: int

    def check(self, out: Path) -> None:
        """Raise RunError if a map could not be refined."""
        if self.problems:
            raise RunError(
                f"{len(self.problems)} of {self.count} maps could not be refined (the others are "
                f"in {out}); first: {self.problems[0]}"
            )


def refine_all(files: Sequence[Files], refiner: Refiner) -> Refined:
    """Refine every map that is not finished; one that cannot be used does not end the others.

    Collective: each process refines its shard.
    """
    own = distributed.shard(files)
    todo = [one for one in own if not refiner.is_finished(one.target)]
    problems: list[str] = []
    with Bar(refiner.name, len(todo)) as bar:

        def done(error: InputError | None) -> None:
            if error is not None:
                problems.append(str(error))
                say(f"{refiner.name}: {error}", every=True)
            bar.advance()

        times = stream.Times(refiner.device)
        stream.run(todo, _continuing(refiner, times, done), times)
    every = distributed.all_gather_objects(problems)
    problems = [problem for part in every for problem in part]
    count = sum(distributed.all_gather_objects(len(todo)))
    return Refined(count, tuple(problems), times.device, len(todo))


def _continuing(
    refiner: Refiner, times: stream.Times, done: Callable[[InputError | None], None]
) -> Any:
    """The steps of a refiner, in which an InputError is a result."""

    def load(files: Files) -> Any:
        try:
            return refiner.load(files)
        except InputError as error:
            return error

    def compute(files: Files, given: Any) -> Any:
        try:
            with times.computing():
                return given if isinstance(given, InputError) else refiner.compute(files, given)
        except InputError as error:
            return error

    def write(files: Files, results: Any) -> InputError | None:
        if isinstance(results, InputError):
            return results
        refiner.write(files, results)
        return None

    return stream.Steps(load, compute, write, lambda _, error: done(error), refiner.size)


def files_by_stem(folder: Path, extensions: tuple[str, ...] = _IMAGES) -> dict[str, Path]:
    """Files of a folder by name without extension, hidden ones left out; default: photos.

    Raises:
        InputError: two of them differ only in the extension.
    """
    by_stem: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in extensions or path.name.startswith("."):
            continue
        if path.stem in by_stem:
            raise InputError(
                f"{path} and {by_stem[path.stem].name}: differ only in the extension; keep one"
            )
        by_stem[path.stem] = path
    return by_stem


def match(
    photos: Mapping[str, Path], maps: Mapping[str, Path], where: str
) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """Pairs (photo, map) of equal stems, sorted, and the files without a matching one.

    Args:
        photos: by stem.
        maps: by stem.
        where: both folders and what they hold, for the message.

    Raises:
        InputError: they have no name in common.
    """
    common = sorted(photos.keys() & maps.keys())
    if not common:
        raise InputError(f"{where} have no name in common")
    unmatched = [
        path for by_stem in (photos, maps) for stem, path in by_stem.items() if stem not in common
    ]
    return [(photos[stem], maps[stem]) for stem in common], unmatched


def say_unmatched(name: str, unmatched: Sequence[Path]) -> None:
    """Print the first files without a matching one, and their number."""
    if not unmatched:
        return
    shown = ", ".join(map(str, unmatched[:_SHOWN]))
    more = f" and {len(unmatched) - _SHOWN} more" if len(unmatched) > _SHOWN else ""
    say(f"{name}: {len(unmatched)} without a matching file: {shown}{more}")


def check_targets(out: Path, targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise InputError if a file to write is one of the files that are read."""
    written = {target.resolve() for target in targets}
    for given in inputs:
        if given.resolve() in written:
            raise InputError(f"{out}: would replace its own input {given}; choose another name")


def check_folder(out: Path, inputs: Iterable[Path]) -> None:
    """Raise InputError for a file, and for a folder that is one of those that are read."""
    if out.is_file():
        raise InputError(f"{out}: is a file, but the maps of a folder are written to a folder")
    if out.resolve() in {folder.resolve() for folder in inputs}:
        raise InputError(
            f"{out}: would mix the refined maps with their inputs; choose another folder"
        )
