"""`predict` as a command: its images are files."""

from __future__ import annotations

from pathlib import Path

from wsss_fast.errors import InputError
from wsss_fast.prediction.files import PredictedFolder
from wsss_fast.prediction.images import predict
from wsss_fast.prediction.opening import ModelOptions


def predict_files(
    images: tuple[Path, ...],
    out: Path,
    *,
    weights: Path,
    tags: Path | None = None,
    cam_weights: Path | None = None,
    model: ModelOptions = ModelOptions(),
    threshold: float | None = None,
    crf: bool = True,
    probabilities: bool = False,
    overlay: bool = False,
    device: str = "auto",
    precision: str = "auto",
) -> PredictedFolder:
    """Predict the masks of new photos by a trained network: palette PNGs in a folder.

    A segmentation network needs no tags; its masks are those of `seg infer`. A CAM classifier, an
    AMN and EPS' network need the tags of the photos: the class maps of their classes become masks
    by the background score and the dense CRF of their recipe. An AMN also uses seeds, which
    `--cam-weights` make; without them, each pixel counts as unsure.

    A second call skips what is finished. Photos that cannot be predicted are named after all others
    are done. Collective.

    Args:
        images: folder of photos, a photo, or several. EXIF rotation is applied, alpha is dropped,
            and gray, palette and CMYK become RGB.
        out: folder to write to: masks `<id>.png`, `classes.json`, which names their labels, and
            the record `predict.json`.
        weights: file of a trained network, such as a training's model.safetensors or weights.pth.
        tags: file of the photos' tags, such as a csv with lines `file,class`.
        cam_weights: file of the trained classifier, whose maps give an AMN its seeds.
        model: what the weights file does not say of itself.
        threshold: score of the background, 0..1, in comparison with class maps; default: that of
            the recipe.
        crf: whether a dense CRF refines the masks.
        probabilities: whether to write probabilities, too: probabilities/<id>.npy, float16
            [C+1, H, W] with the background first; `wsss-fast crf` reads this folder. Class maps
            have none without the CRF.
        overlay: whether to write the photos with coloured masks, too: overlays/<id>.jpg.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16 (autocast), or auto.

    Raises:
        InputError: an argument or file cannot be used.
        RunError: some photos could not be predicted; the others are written.
    """
    if not images:
        raise InputError("images: name a folder of photos, or photos")
    single = len(images) == 1
    found = predict(
        images[0] if single else [*images],
        weights,
        out,
        tags=tags,
        cam_weights=cam_weights,
        model=model,
        threshold=threshold,
        crf=crf,
        probabilities=probabilities,
        overlay=overlay,
        device=device,
        precision=precision,
    )
    assert isinstance(found, PredictedFolder)
    return found
