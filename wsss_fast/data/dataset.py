"""A data set: ids, image-level tags, class names, and paths of the files."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from torch.utils.data import get_worker_info

from wsss_fast.data.true_masks import MaskChecks
from wsss_fast.engine import distributed, remarks
from wsss_fast.engine.content import contents_of, hash_of
from wsss_fast.engine.progress import say, track
from wsss_fast.errors import InputError
from wsss_fast.readers.label_maps import read_labels
from wsss_fast.readers.photos import LeastSize, check_image, image_size, read_image, reduction
from wsss_fast.readers.saliency_maps import read_saliency, saliency_of

Photo = Callable[[LeastSize], np.ndarray]  # decodes a photo once the least size is known

# Decoded images kept in memory, by all loader processes together: enough to decode a small set only
# once; a large one hardly gains.
_CACHE_BYTES = 256 << 20


@dataclasses.dataclass
class Dataset:
    """Tagged images, with masks where they exist; masks are for evaluation only.

    Attributes:
        name: name of the data set in reports.
        root: folder of the data set.
        split: name of the id list.
        classes: class names; class c has label c + 1 in label maps.
        ids: image ids, strings.
        tags: image-level labels without background, uint8 [N, C] of 0 and 1.
        images: image file of each id.
        masks: mask file of the ids that are scored and have one.
        saliencies: saliency file of the ids that have one.
        broken: by id, the reason why an image of the list was left out; see `without_broken`.
        source: arguments of `data.load` that open the data set again, or None.
        strict: whether a mask that cannot be used is an error; otherwise it is left out.
        broken_masks: by id, the reason why a mask was left out; see `check_masks`.
        unused_masks: why no file of the folder of masks is used, if that is so.
        mask_checks: what was found in masks; it and `broken_masks` are shared with the data sets
            made from this one.
        layout: "voc", "coco", "labels.csv", "images", or "" for a data set of other code.
        tagged: whether `tags` are known; VOC's test images have none.
        untagged: why they are not known, for the message.
        score_on: name of the id list whose images are scored; "all" for every image.
        scored: ids of that list; None for "all".
    """

    name: str
    root: Path
    split: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    tags: np.ndarray
    images: dict[str, Path]
    masks: dict[str, Path]
    saliencies: dict[str, Path]
    broken: dict[str, str] = dataclasses.field(default_factory=dict)
    source: dict[str, object] | None = None
    strict: bool = True
    broken_masks: dict[str, str] = dataclasses.field(default_factory=dict)
    unused_masks: str = ""
    mask_checks: MaskChecks = dataclasses.field(default_factory=MaskChecks, repr=False)
    layout: str = ""
    tagged: bool = True
    untagged: str = ""
    score_on: str = "all"
    scored: frozenset[str] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self):
        self._index = {name: i for i, name in enumerate(self.ids)}
        self._cache: dict[str, np.ndarray] = {}
        self._cached_bytes = 0
        self._sizes: dict[str, tuple[int, int]] = {}

    def __getstate__(self) -> dict[str, object]:
        """Without the decoded images: a loader process that unpickles this decodes its own."""
        return {**self.__dict__, "_cache": {}, "_cached_bytes": 0}

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}, {self.split!r}: {len(self)} images, "
            f"{len(self.classes)} classes, {len(self.masks)} masks, "
            f"{len(self.saliencies)} saliency maps)"
        )

    @property
    def truth(self) -> str:
        """Names of the folders of `masks`, below `root` where they are, most used first."""
        used = Counter(path.parent for path in self.masks.values())
        return ", ".join(
            str(p.relative_to(self.root) if p.is_relative_to(self.root) else p)
            for p, _ in used.most_common()
        )

    def check(self) -> Dataset:
        """Read the header and the end of every image, to find a broken file before any work.

        Raises:
            InputError: an image cannot be read; with its name.
        """
        for path in self.images.values():
            check_image(path)
        return self

    def without_broken(self) -> Dataset:
        """Decode every image, and leave out those that cannot be, with the reason in `broken`.

        Collective: each process decodes its shard of the images.

        Raises:
            InputError: no image is left.
        """

        def reason(id: str) -> str | None:
            try:
                check_image(self.images[id])  # decoders fill the missing end of a JPEG with gray
                read_image(self.images[id])
            except InputError as error:
                return str(error)
            return None

        own = distributed.shard(self.ids)
        # Threads suffice, since decoding releases the interpreter lock.
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as readers:
            checks = track(readers.map(reason, own), "check images", total=len(own))
            own_reasons = dict(zip(own, checks, strict=True))
        reasons = {
            id: why
            for part in distributed.all_gather_objects(own_reasons)
            for id, why in part.items()
            if why is not None
        }
        broken = {id: reasons[id] for id in self.ids if id in reasons}
        if len(broken) == len(self):
            first = next(iter(broken.values()))
            raise InputError(
                f"{self.root}: none of the {len(self)} images can be read; first: {first}"
            )
        if not broken:
            return self
        say(
            f"{len(broken)} of {len(self)} images cannot be read and are left out; "
            f"first: {next(iter(broken.values()))}"
        )
        readable = self.only([id for id in self.ids if id not in broken])
        return dataclasses.replace(readable, broken=broken, source=self.source)

    def check_masks(self) -> Dataset:
        """Read every mask, so that a wrong one is found before any work.

        If `strict` is false, masks that cannot be used are removed from `masks` and listed in
        `broken_masks`: masks only score. Remarks say how many do not fit the tags of their image.
        Masks that were checked before and did not change are not read again.

        Collective: each process reads its shard of the masks.

        Raises:
            InputError: a mask cannot be used, as `mask`; if `strict` is false, none can. Or all of
                them are without any class.
        """
        if not self.masks:
            if self.unused_masks:
                remarks.add(self.unused_masks, self.root, unit="folder")
            return self
        with remarks.collected():
            reasons = self.mask_checks.check(
                self.masks, self.mask, self.tags_of if self.tagged else None
            )
        if not reasons:
            return self
        first = next(iter(reasons.values()))
        if self.strict:
            raise InputError(first)
        if len(reasons) == len(self.masks):
            raise InputError(
                f"{self.root}: none of the {len(reasons)} true masks can be used; first: {first}"
            )
        if any(id not in self.broken_masks for id in reasons):
            say(
                f"{len(reasons)} of {len(self.masks)} true masks cannot be used and are not "
                f"scored; first: {first}"
            )
        self.broken_masks.update(reasons)
        self.masks = {id: path for id, path in self.masks.items() if id not in reasons}
        return self

    def only(self, ids: Sequence[str]) -> Dataset:
        """The same data set restricted to `ids`, in their order.

        Raises:
            InputError: an id that the data set does not have.
        """
        unknown = [i for i in ids if i not in self._index]
        if unknown:
            raise InputError(f"{self.root}: id {unknown[0]!r} is not in split {self.split!r}")
        return dataclasses.replace(
            self,
            source=None,
            ids=tuple(ids),
            scored=None if self.scored is None else self.scored.intersection(ids),
            tags=self.tags[[self._index[i] for i in ids]],
            images={i: self.images[i] for i in ids},
            masks={i: self.masks[i] for i in ids if i in self.masks},
            saliencies={i: self.saliencies[i] for i in ids if i in self.saliencies},
        )

    def score_only(self, name: str, ids: Collection[str]) -> Dataset:
        """The same data set; only the images of an id list are scored.

        Args:
            name: of the list.
            ids: the list, which may have ids that the data set does not have.

        Raises:
            InputError: no image of the data set is on the list.
        """
        scored = frozenset(ids).intersection(self.ids)
        if len(scored) == len(self):
            return self
        if not scored:
            raise InputError(
                f"score_on: no image of split {self.split!r} of {self.root} is on list {name!r}; "
                "'all' scores every image"
            )
        masks = {id: path for id, path in self.masks.items() if id in scored}
        return dataclasses.replace(self, masks=masks, score_on=name, scored=scored)

    def with_masks(self) -> Dataset:
        """The same data set restricted to the ids that have a mask, after `check_masks`.

        A remark counts the ids that should be scored and have none. Collective.

        Raises:
            InputError: there are none, or as `check_masks`.
        """
        if not self.masks:
            why = f": {self.unused_masks}" if self.unused_masks else ""
            raise InputError(
                f"{self.root}: no id of split {self.split!r} has a mask; nothing can be "
                f"evaluated{why}"
            )
        self.check_masks()
        ids = [i for i in self.ids if i in self.masks]
        if len(ids) == len(self):
            return self
        with remarks.collected():
            for id in self.ids:
                if id not in self.masks and (self.scored is None or id in self.scored):
                    text = "images have no true mask that can be used, and are not scored"
                    of = len(self) if self.scored is None else len(self.scored)
                    remarks.add(text, id, unit="image", of=of)
        return self.only(ids)

    def tags_of(self, id: str) -> np.ndarray:
        """Multi-hot tags of one image, uint8 [C].

        Raises:
            InputError: the images have no tags.
        """
        self.check_tagged()
        return self.tags[self._index[id]]

    def check_tagged(self) -> Dataset:
        """The data set itself, for what needs tags.

        Raises:
            InputError: the images have no tags.
        """
        if not self.tagged:
            why = f", since {self.untagged}" if self.untagged else ""
            raise InputError(
                f"{self.root}: the images of split {self.split!r} have no tags{why}; `predict` and "
                "`seg infer` need none"
            )
        return self

    def image(self, id: str, least: LeastSize | None = None) -> np.ndarray:
        """The photo, uint8 RGB [H, W, 3], read-only.

        Args:
            id: of the photo.
            least: as in `read_image`, called once; None for the whole photo.
        """
        cached = self._cache.get(id)
        if cached is not None:
            size = (cached.shape[0], cached.shape[1])
            wanted = size if least is None else least(size)
            if reduction(size, wanted) == 1:
                return cached
            return self._read(id, lambda _: wanted)[0]
        image, is_whole = self._read(id, least)
        worker = get_worker_info()  # the loader processes share the memory for decoded images
        most = _CACHE_BYTES // (1 if worker is None else worker.num_workers)
        if is_whole and self._cached_bytes + image.nbytes <= most:
            self._cache[id] = image
            self._cached_bytes += image.nbytes
        return image

    def _read(self, id: str, least: LeastSize | None) -> tuple[np.ndarray, bool]:
        """The decoded photo, and whether it was not decoded smaller."""
        sizes: list[tuple[int, int]] = []

        def note(size: tuple[int, int]) -> tuple[int, int]:
            sizes.append(size)
            return size if least is None else least(size)

        image = read_image(self.images[id], None if least is None else note)
        image.flags.writeable = False
        return image, not sizes or image.shape[:2] == sizes[0]

    def photo(self, id: str) -> Photo:
        """`image` of an id as a function, for an augmentation that decides on the size."""
        return functools.partial(self.image, id)

    def size(self, id: str) -> tuple[int, int]:
        """(H, W) of the photo, without decoding it."""
        if id not in self._sizes:  # read once: stages group images by size repeatedly
            self._sizes[id] = image_size(self.images[id])
        return self._sizes[id]

    def mask(self, id: str) -> np.ndarray:
        """The true label map, uint8 [H, W] of 0..C and 255.

        Raises:
            InputError: there is none, it has an impossible label, or its size is not the photo's.
        """
        if id not in self.masks:
            raise InputError(f"{self.root}: no mask for id {id!r}")
        mask = read_labels(self.masks[id], len(self.classes))
        if mask.shape != self.size(id):
            raise InputError(
                f"{self.masks[id]}: is {mask.shape}, "
                f"but its image {self.images[id]} is {self.size(id)}"
            )
        return mask

    def saliency_levels(self, id: str) -> np.ndarray:
        """The saliency map as stored in its file, uint8 [h, w, 3], of any size.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        if id not in self.saliencies:
            raise InputError(f"{self.root}: no saliency map for id {id!r}")
        return read_saliency(self.saliencies[id])

    def saliency(self, id: str) -> np.ndarray:
        """The saliency map, float32 [h, w] in 0..1: the mean over channels.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        return saliency_of(self.saliency_levels(id))

    def fingerprint(self, *, saliency: bool = False, masks: bool = False) -> dict[str, object]:
        """What a result depends on, by name; hashes are short texts.

        Photos, saliency maps and masks are identified by their content, so that a copy of the data
        set is the same.

        Args:
            saliency: include the saliency maps.
            masks: include the masks.
        """
        found: dict[str, object] = {
            "root": str(self.root.resolve()),
            "split": self.split,
            "images": len(self),
            "classes": list(self.classes),
            "ids": hash_of(self.ids),
            "tags": hash_of([self.tags.astype(np.uint8).tobytes().hex()]),
            "photos": self._hash_of_files(self.images),
        }
        if saliency:
            found["saliency"] = self._hash_of_files(self.saliencies)
        if masks:
            found["masks"] = self._hash_of_files(self.masks)
        return found

    def _hash_of_files(self, files: Mapping[str, Path]) -> str:
        """Hash of id and content of each file."""
        ids = [id for id in self.ids if id in files]
        contents = contents_of(files[id] for id in ids)
        return hash_of(
            part for id, content in zip(ids, contents, strict=True) for part in (id, content.hex())
        )
