"""Class maps from and to the pickled `.npy` files of public code, a folder at a time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from wsss_fast.convert.folders import Photos, coco_number, convert_all, files_of, why_empty
from wsss_fast.convert.reading import Form, read_public_maps
from wsss_fast.convert.writing import Wanted, WrittenForm, public_content, write_pickle
from wsss_fast.data.class_names import MAX_CLASSES
from wsss_fast.engine.progress import say
from wsss_fast.errors import InputError
from wsss_fast.maps import load_maps, save_maps

_FORMS: dict[Form, str] = {
    "irn": "keys with a row each, as of IRN",
    "amn": "the background's row first, or no map at all, as of AMN",
    "clip-es": "keys and attn_highres, as of CLIP-ES",
    "toco": "keys and high_res, as of ToCo",
    "int-keys": "maps by class number from 0, as of MCTformer, EPS and PSA",
    "crf": "CRF marginals by label, as of EPS and PSA",
    "logits": "logits of all labels, as of segmentation networks",
    "probabilities": "probabilities of all labels",
}


def maps_from_pickles(
    source: str | Path,
    out: str | Path,
    *,
    form: Literal["auto"] | Form = "auto",
    images: str | Path | None = None,
) -> Path:
    """Convert `<source>/<id>.npy` of public code to this package's maps.

    What a file may hold, with class numbers from 0:

    - irn: {"keys": [K], "cam": [K, h, w] at stride 4, "high_res": [K, H, W]} of IRN, ReCAM, AdvCAM;
    - amn: the same with K + 1 maps, the background's first, or "keys" alone, for no class;
    - clip-es, toco: {"keys": [K], "attn_highres" or "high_res": [K, H, W]};
    - int-keys: {class: [H, W]} of MCTformer, EPS, PSA;
    - crf: {0: background, class + 1: [H, W]}, CRF marginals of EPS and PSA, which sum to 1;
    - logits: {"msc_seg": [1, C + 1, H, W]} of ToCo, or a plain array [C + 1, h, w], as
      deeplab-pytorch has it, which needs `images`; their softmax is taken;
    - probabilities: a plain array [C + 1, H, W].

    Only arrays and tensors are unpickled. The forms that were found are printed. A file that
    cannot be converted is named and left out.

    Args:
        source: folder of the public files.
        out: folder to write `<id>.npz` to, in the format of `cam.infer` and `amn.infer`.
        form: what the files hold; auto recognises it for each file.
        images: folder of the photos, of which the maps must have the size. Maps that are named by
            the number of a photo of COCO 2014, as in AMN's code, get its name.

    Raises:
        InputError: no such folder or no `.npy` in it, or no file can be converted.
        RunError: some files were left out: they are damaged, contain something else, or refer to
            code.
    """
    source, out = Path(source), Path(out)
    files = files_of(source, ".npy")
    if not files:
        hint = ""
        if files_of(source, ".npz"):
            hint = "; it has maps: did you mean to-pickles?"
        elif files_of(source, ".png"):
            hint = "; it has PNGs: did you mean from-pngs?"
        raise InputError(f"convert: {source} has no .npy files{hint or why_empty(source)}")
    photos = Photos(images)
    found: Counter[Form] = Counter()
    written: set[str] = set()

    def convert(path: Path) -> None:
        wanted = None if form == "auto" else form
        id = photos.id_of(path.stem)
        size = photos.size(id)
        public = read_public_maps(path, form=wanted, size=size)
        if size is not None and len(public.maps.keys):
            public.maps.at_size(*size)  # raises for another size
        if id in written:
            raise InputError(f"{path}: is a second file of {id}")
        save_maps(out, id, public.maps)
        written.add(id)
        found[public.form] += 1

    try:
        convert_all(files, convert, out)
    finally:
        for name, count in found.most_common():
            files_of_it = f"{count} file{'s' if count > 1 else ''}"
            say(f"convert: {files_of_it} of the form {name} ({_FORMS[name]})")
    return out


def maps_to_pickles(
    source: str | Path,
    out: str | Path,
    *,
    form: WrittenForm = "irn",
    images: str | Path | None = None,
    background: float | None = None,
    num_classes: int | None = None,
    coco_numbers: bool = False,
) -> Path:
    """Convert this package's maps to `<out>/<id>.npy`, pickled as public code expects them.

    The forms are those of `maps_from_pickles`. Only amn, crf and logits have the background: the
    readers of the others have a threshold for it, and so have those of amn, which drop its row. A
    file that cannot be converted is named and left out.

    Args:
        source: folder of `<id>.npz`.
        out: folder to write to.
        form: which public code reads the files.
        images: folder of the photos, for maps without scores at the photos' size.
        background: constant score of the background, for the forms amn, crf and logits. None: the
            maps' own scores of it; where there are none, amn gets what the classes leave of 1, and
            crf and logits are an error.
        num_classes: number of classes without background, for the form logits.
        coco_numbers: name files by the number of COCO's photo, 000000000009.npy, as AMN's code.

    Raises:
        InputError: no such folder or no maps in it, an argument is missing or wrong, or no file can
            be converted.
        RunError: some files were left out: they are damaged.
    """
    source, out = Path(source), Path(out)
    files = files_of(source, ".npz")
    if not files:
        hint = "; it has .npy files: did you mean from-pickles?" if files_of(source, ".npy") else ""
        raise InputError(f"convert: {source} has no maps (.npz){hint or why_empty(source)}")
    if background is not None and not 0 <= background <= 1:
        raise InputError(f"convert: background is {background:g}, must be within 0..1")
    if form == "logits" and (num_classes is None or not 1 <= num_classes <= MAX_CLASSES):
        given = "" if num_classes is None else f", not {num_classes}"
        raise InputError(
            f"convert: the form logits needs the number of classes{given}; give --num-classes, "
            f"1..{MAX_CLASSES}, such as 20 for VOC"
        )
    photos = Photos(images)

    def convert(path: Path) -> None:
        maps = load_maps(source, path.stem)
        wanted = Wanted(photos.size(path.stem), background, num_classes)
        number = coco_number(path.stem) if coco_numbers else None
        name = path.stem if number is None else f"{number:012}"
        write_pickle(out / f"{name}.npy", public_content(maps, form, wanted))

    convert_all(files, convert, out)
    return out
