"""Masks of the images of a data set as files: a folder that a second call completes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from wsss_fast.data.dataset import Dataset
from wsss_fast.data.label_folder import write_label_names
from wsss_fast.engine import distributed, remarks, stream
from wsss_fast.engine.content import contents_of, hash_of
from wsss_fast.engine.files import atomic_write, read_json, write_json
from wsss_fast.engine.left_out import list_problems
from wsss_fast.engine.marker import describe, differences
from wsss_fast.engine.progress import Bar
from wsss_fast.engine.run_lock import check_out, exclusive
from wsss_fast.engine.serialize import jsonable
from wsss_fast.errors import InputError, RunError
from wsss_fast.evaluation.pictures import overlay
from wsss_fast.prediction.model import Batch, Model
from wsss_fast.readers.label_maps import write_labels
from wsss_fast.stages.activate import unfinished_batches

RECORD, PROBABILITIES, OVERLAYS = "predict.json", "probabilities", "overlays"
_JPEG_QUALITY = 92


@dataclasses.dataclass(frozen=True)
class PredictedFolder:
    """Masks that `predict` wrote.

    Attributes:
        out: folder of the masks, `<id>.png`; `classes.json` in it names the labels.
        classes: names of the classes; class c has label c + 1.
        written: number of images that this call predicted.
        skipped: number of images that an earlier call had predicted.
        probabilities: folder of the probabilities, `<id>.npy`, or None.
        overlays: folder of the photos with coloured masks, `<id>.jpg`, or None.
    """

    out: Path
    classes: tuple[str, ...]
    written: int
    skipped: int
    probabilities: Path | None = None
    overlays: Path | None = None

    def __str__(self) -> str:
        present = f", {self.skipped} already present" if self.skipped else ""
        lines = [f"masks: {self.out} ({self.written} written{present})"]
        more = {"probabilities": self.probabilities, "overlays": self.overlays}
        return "\n".join([*lines, *(f"{what}: {path}" for what, path in more.items() if path)])


@dataclasses.dataclass(frozen=True)
class _Folder:
    """What `write_masks` writes and where."""

    data: Dataset
    model: Model
    out: Path
    probabilities: bool
    overlay: bool

    def files(self, id: str) -> list[Path]:
        """The files of an image; the mask is last: an image that has one is finished."""
        found = [self.out / PROBABILITIES / f"{id}.npy"] if self.probabilities else []
        found += [self.out / OVERLAYS / f"{id}.jpg"] if self.overlay else []
        return [*found, self.out / f"{id}.png"]

    def is_finished(self, id: str) -> bool:
        return all(path.exists() for path in self.files(id))

    def begin(self) -> None:
        """Write the record; remove what was made of photos or tags that have changed.

        Raises:
            InputError: the folder has masks of another model, or of unknown origin.
        """
        path, arguments = self.out / RECORD, jsonable(self.model.arguments)
        before = _read_record(path) if path.exists() else {}
        changed = differences(before["arguments"], arguments) if before else ()
        if changed:
            raise InputError(
                f"{self.out}: was predicted with other arguments: {describe(changed)}; choose "
                "another folder, or remove this one"
            )
        known, now = before.get("photos", {}), self._identities()
        for id, identity in now.items():
            present = [p for p in self._every_file(id) if p.exists()]
            if present and id not in known:
                raise InputError(
                    f"{present[0]}: is there already, but not from this command, by {RECORD}; "
                    "choose another folder, or remove it"
                )
            if known.get(id) != identity:
                for outdated in present:
                    outdated.unlink()
        write_json(path, {"arguments": arguments, "photos": {**known, **now}})
        classes = self.model.classes
        if classes == tuple(map(str, range(1, len(classes) + 1))):
            text = "the weights name no classes: classes.json has numbers; --classes names them"
            remarks.add(text, self.out, unit="folder")
        named = dataclasses.replace(self.data, classes=classes)
        write_label_names(self.out, named)

    def _every_file(self, id: str) -> list[Path]:
        return dataclasses.replace(self, probabilities=True, overlay=True).files(id)

    def _identities(self) -> dict[str, str]:
        """What the mask of each image depends on, as a short text."""
        contents = contents_of(self.data.images.values())
        tags = self.data.tags if self.model.needs_tags else np.zeros((len(self.data), 0), np.uint8)
        return {
            id: hash_of([content.hex(), own.tobytes().hex()])
            for id, content, own in zip(self.data.images, contents, tags, strict=True)
        }

    def load(self, ids: list[str]) -> tuple[Batch | None, dict[str, str]]:
        """The batch of the photos that can be read, and why the others cannot."""
        photos, failed = {}, {}
        for id in ids:
            try:
                photos[id] = self.data.image(id)
            except InputError as error:
                failed[id] = str(error)
        if not photos:
            return None, failed
        tags = None
        if self.model.needs_tags:
            tags = np.stack([self.data.tags_of(id) for id in photos])
        return self.model.load(np.stack([*photos.values()]), tags), failed

    def write(self, id: str, labels: np.ndarray, scores: np.ndarray | None) -> None:
        """Write the files of an image; the mask last, since it marks the image as finished."""
        if scores is not None:
            with atomic_write(self.out / PROBABILITIES / f"{id}.npy") as temporary:
                np.save(temporary, scores)
        if self.overlay:
            picture = Image.fromarray(overlay(self.data.image(id), labels))
            with atomic_write(self.out / OVERLAYS / f"{id}.jpg") as temporary:
                picture.save(temporary, quality=_JPEG_QUALITY)
        write_labels(self.out / f"{id}.png", labels)

    def run(self) -> tuple[int, int, dict[str, str]]:
        """Predict what is not finished; numbers of images to do and finished, and failures."""
        where = self.model.runtime.device
        times, problems = stream.Times(where), dict[str, str]()
        batches, own = unfinished_batches(self.data, self.model.batch_size, where, self.is_finished)
        todo = sum(map(len, batches))

        def compute(ids: list[str], loaded: tuple[Batch | None, dict[str, str]]) -> tuple[Any, ...]:
            batch, failed = loaded
            if batch is None:
                return failed, None
            found = self.model.compute(batch, self.probabilities, times)
            scores = None if found.probabilities is None else found.probabilities.half()
            return failed, (found.labels, found.finite, scores)

        def write(ids: list[str], results: tuple[Any, ...]) -> dict[str, str]:
            failed, found = results
            read = [id for id in ids if id not in failed]
            for n, id in enumerate(read):
                labels, finite, scores = found
                if not finite[n]:
                    failed[id] = (
                        f"{self.data.images[id]}: its scores are NaN or infinite; check the "
                        "weights, or use --precision fp32"
                    )
                    continue
                self.write(id, labels[n].numpy(), None if scores is None else scores[n].numpy())
            return failed

        def size(ids: list[str]) -> int:
            height, width = self.data.size(ids[0])
            channels = 3 + 12 + 1 + 2 * self.probabilities * (1 + len(self.model.classes))
            return len(ids) * height * width * channels

        with Bar("predict", own, done=own - todo) as bar, torch.inference_mode():

            def done(ids: list[str], failed: dict[str, str]) -> None:
                problems.update(failed)
                bar.advance(len(ids))

            stream.run(batches, stream.Steps(self.load, compute, write, done, size), times)
        return todo, own - todo, problems


def write_masks(
    data: Dataset, model: Model, out: str | Path, *, probabilities: bool, overlay: bool
) -> PredictedFolder:
    """Predict the images of a data set; writes masks, `classes.json` and the record `predict.json`.

    What is finished is skipped, unless the photo or its tags have changed. An image that cannot be
    predicted is named, the others are predicted. Collective.

    Args:
        data: the images, with tags if the model needs them.
        model: the network.
        out: folder to write to.
        probabilities, overlay: as for `predict`.

    Raises:
        InputError: `out` cannot be used, or has masks of another model.
        RunError: some images could not be predicted; the others are.
    """
    folder = _Folder(data, model, check_out(out), probabilities, overlay)
    if folder.out.resolve() in {path.parent.resolve() for path in data.images.values()}:
        raise InputError(f"{out}: is the folder of the photos; choose another one for the masks")
    with exclusive(folder.out):
        distributed.run_on_main(folder.begin)
        todo, finished, problems = folder.run()
    every = distributed.all_gather_objects((todo, finished, problems))
    problems = {**data.broken, **{id: why for part in every for id, why in part[2].items()}}
    failed = sum(len(part[2]) for part in every)
    if problems:
        list_problems(list(problems.values())[1:])  # the first is in the error
        count = len(data) + len(data.broken)
        raise RunError(
            f"{len(problems)} of {count} images could not be predicted (the masks of the others "
            f"are in {out}); first: {next(iter(problems.values()))}"
        )
    written, skipped = (sum(counts) for counts in zip(*(part[:2] for part in every), strict=True))
    return PredictedFolder(
        folder.out,
        model.classes,
        written - failed,
        skipped,
        folder.out / PROBABILITIES if probabilities else None,
        folder.out / OVERLAYS if overlay else None,
    )


def _read_record(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
        if isinstance(found["arguments"], dict) and isinstance(found["photos"], dict):
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path}: cannot be read; remove its folder, or choose another one")
