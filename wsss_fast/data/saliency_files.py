"""Which file of a folder is the saliency map of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from wsss_fast.data.listing import PngNames, find_pngs, saliency_folder

_POOLNET = "_sal_fuse"  # which PoolNet's public code appends to the name of a photo


def _named_like_images(id: str, folder: Path) -> Sequence[str]:
    return [f"{id}.png"]


def _itself(folder: Path) -> Sequence[Path]:
    return [folder]


def find_saliencies(
    root: Path,
    saliency: Path | None,
    ids: Iterable[str],
    places: Callable[[Path], Sequence[Path]] = _itself,
    names: PngNames = _named_like_images,
) -> dict[str, Path]:
    """The saliency map of each id that has one: `<id>.png`, or `<id>_sal_fuse.png` of PoolNet.

    Args:
        root: folder of the data set.
        saliency: the folder of the maps, which must exist; None for `root/saliency`.
        ids: the images.
        places: function from that folder to those that are searched.
        names: function to the names of an image's PNG, the best first.

    Raises:
        InputError: no such folder.
    """

    def with_suffixes(id: str, folder: Path) -> Sequence[str]:
        plain = names(id, folder)
        return [*plain, *(f"{name[:-4]}{_POOLNET}.png" for name in plain)]

    return find_pngs(places(saliency_folder(root, saliency)), ids, with_suffixes)
