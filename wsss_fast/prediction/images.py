"""Masks of new images by a trained network, in one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsss_fast import data
from wsss_fast.data.class_names import class_list, read_classes
from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import remarks
from wsss_fast.engine.runtime import with_torch_defaults
from wsss_fast.errors import InputError
from wsss_fast.nets.model_file import read_info
from wsss_fast.prediction.arrays import Prediction, check_photo, predict_images, predict_photos
from wsss_fast.prediction.files import PredictedFolder, write_masks
from wsss_fast.prediction.model import Model
from wsss_fast.prediction.opening import ModelOptions, open_model
from wsss_fast.prediction.tags import tagged, tags_of_names

Names = Sequence[str] | Sequence[Sequence[str]]
Files = str | Path | Sequence[str | Path] | Dataset


@with_torch_defaults
@remarks.collected()
def predict(
    images: np.ndarray | Sequence[np.ndarray] | Files,
    weights: str | Path | Model,
    out: str | Path | None = None,
    *,
    tags: str | Path | Names | None = None,
    cam_weights: str | Path | None = None,
    model: ModelOptions = ModelOptions(),
    threshold: float | None = None,
    crf: bool = True,
    probabilities: bool = False,
    overlay: bool = False,
    device: str = "auto",
    precision: str = "auto",
) -> Prediction | list[Prediction] | PredictedFolder:
    """Predict the masks of new images by a trained network.

    A segmentation network needs no tags; its masks are those of `seg infer`. A CAM classifier, an
    AMN and EPS' network need the tags of the images: the class maps of their classes become masks
    by the background score and the dense CRF of their recipe. An AMN also uses seeds, which
    `cam_weights` make; without them, each pixel counts as unsure.

    With `out`, masks are written as `<id>.png`, with `classes.json`; what is finished is skipped,
    and images that cannot be predicted are reported after all others are done. Collective.

    Args:
        images: an array, uint8 RGB [H, W, 3], or a list of them; an image file, a list of files, a
            folder of images, or a data set. Of files, EXIF rotation is applied, alpha is dropped,
            and gray, palette and CMYK become RGB.
        weights: file of a trained network, such as a training's model.safetensors or weights.pth;
            or what `open_model` returned, which has its own `cam_weights`, `model`, `threshold`,
            `crf`, `device` and `precision`.
        out: folder for the masks of files; None returns them.
        tags: file of the images' tags, see `data.load`; for arrays and a list of files also a list
            of class names for each image, for a single one its class names.
        cam_weights: file of the trained classifier, whose maps give an AMN its seeds.
        model: what the weights file does not say of itself: network, backbone, preset, classes.
        threshold: score of the background, 0..1, in comparison with class maps; default: that of
            the recipe.
        crf: whether a dense CRF refines the masks.
        probabilities: whether probabilities are wanted, too: float32 [C+1, H, W] with the
            background first; with `out`, float16 in `probabilities/<id>.npy`, a folder that
            `wsss-fast crf` reads. Class maps have none without the CRF.
        overlay: whether to write the photos with coloured masks, too: `overlays/<id>.jpg`.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Returns:
        Without `out`, a `Prediction` for a single image, array or file, and a list of them
        otherwise; with `out`, what was written.

    Raises:
        InputError: an argument or file cannot be used; without `out`, also an image.
        RunError: some images of files could not be predicted; the others are written.

    Example:
        >>> photo = np.zeros((64, 96, 3), np.uint8)
        >>> predict(photo, "runs/amn/seg/model.safetensors").labels.shape     # doctest: +SKIP
        (64, 96)
    """
    if out is None and overlay:
        raise InputError("overlay: is written to a folder; give out, too")
    if out is not None and Path(out).suffix.lower() in (".png", ".jpg", ".npy"):
        raise InputError(f"out: {out} is named like a file; give a folder for the masks")
    photos = _photos(images)
    if photos is not None and out is not None:
        raise InputError("out: is for files; arrays have no names, and their masks are returned")
    opened = weights
    if not isinstance(opened, Model):
        opened = open_model(
            opened,
            cam_weights=cam_weights,
            model=_with_classes(model, opened, images),
            threshold=threshold,
            crf=crf,
            device=device,
            precision=precision,
        )
    if probabilities and not opened.gives_probabilities:
        raise InputError(
            f"probabilities: the maps of the {opened.network} are none without the CRF; leave it on"
        )
    if tags is not None and not opened.needs_tags:
        raise InputError(f"tags: the {opened.network} needs none; leave them out")
    if photos is not None:
        is_one = isinstance(images, np.ndarray)
        rows = _tag_rows(tags, is_one, len(photos), opened)
        found = list(predict_photos(photos, opened, rows, probabilities))
        return found[0] if is_one else found
    source = _tagged(_opened(images, strict=out is None), tags, images, opened)
    if out is not None:
        return write_masks(source, opened, out, probabilities=probabilities, overlay=overlay)
    found = predict_images(source, opened, probabilities)
    return found[0] if isinstance(images, (str, Path)) and not Path(images).is_dir() else found


def _photos(images: Any) -> list[np.ndarray] | None:
    """The arrays that are given, checked; None for files.

    Raises:
        InputError: nothing is given, or something that is neither photo nor file.
    """
    if isinstance(images, (str, Path, Dataset)):
        return None
    if isinstance(images, np.ndarray):
        return [check_photo(images)]
    if not isinstance(images, Sequence):
        check_photo(images)  # raises
    if not len(images):
        raise InputError("images: the list is empty")
    if all(isinstance(one, (str, Path)) for one in images):
        return None
    return [check_photo(one, f"images[{n}]") for n, one in enumerate(images)]


def _with_classes(options: ModelOptions, weights: str | Path, images: Any) -> ModelOptions:
    """The options; weights that name no classes have those of the data set."""
    if options.classes or read_info(weights) is not None:
        return options
    classes: tuple[str, ...] = ()
    if isinstance(images, Dataset):
        classes = images.classes
    elif isinstance(images, (str, Path)) and Path(images).is_dir():
        listed = class_list(Path(images))
        classes = () if listed is None else read_classes(listed)
    return dataclasses.replace(options, classes=classes)


def _opened(images: Any, *, strict: bool) -> Dataset:
    if isinstance(images, Dataset):
        return images
    return data.load_images(images, strict=strict)


def _tagged(source: Dataset, tags: Any, images: Any, model: Model) -> Dataset:
    """The images with tags, if the model needs them."""
    if tags is None or isinstance(tags, (str, Path)):
        return tagged(source, None if tags is None else Path(tags), model)
    if isinstance(images, Dataset) or (isinstance(images, (str, Path)) and Path(images).is_dir()):
        raise InputError("tags: of a folder or a data set are given as a file")
    if source.broken:
        raise InputError(next(iter(source.broken.values())))
    rows = _tag_rows(tags, isinstance(images, (str, Path)), len(source), model)
    if rows is None:
        return source
    return dataclasses.replace(source, classes=model.classes, tags=rows, tagged=True)


def _tag_rows(tags: Any, is_one: bool, count: int, model: Model) -> np.ndarray | None:
    """Multi-hot tags, uint8 [N, C], of class names; None for a model that needs none."""
    if not model.needs_tags:
        return None
    if tags is None or isinstance(tags, (str, Path)):
        raise InputError(
            f"tags: the {model.network} needs the class names of each image, as in "
            f"{[model.classes[0]] if is_one else [[model.classes[0]], []]}"
        )
    names = [tags] if is_one else list(tags)
    if len(names) != count:
        raise InputError(f"tags: are of {len(names)} images, but there are {count}")
    return tags_of_names(names, model.classes)
