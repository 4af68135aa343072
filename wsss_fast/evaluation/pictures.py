"""Pictures of reports: photos, labels and maps in colour, grids of them."""

from __future__ import annotations

import base64
import colorsys
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from wsss_fast.data.dataset import Dataset
from wsss_fast.data.transforms import resize_image
from wsss_fast.engine.files import atomic_write
from wsss_fast.maps import load_maps
from wsss_fast.readers.label_maps import read_labels

Panel = Callable[[str], np.ndarray]  # id -> uint8 RGB [H, W, 3]

# Pixels; the pictures of a wider row are smaller. With the names of the images beside them, a row
# fits into a window of 1200.
_PICTURE_HEIGHT, _GRID_WIDTH = 144, 960


def colours() -> np.ndarray:
    """Colour of each label in pictures, uint8 [256, 3]; background is black, 255 light gray.

    Hues are a golden ratio apart, so that successive labels differ for any number of classes. Files
    keep VOC's palette, whose first colours are too dark over a photo.
    """
    hues = [
        colorsys.hsv_to_rgb(
            (0.02 + 0.618034 * i) % 1, 0.65 + 0.25 * (i % 2), 1.0 - 0.2 * (i % 3 == 2)
        )
        for i in range(254)
    ]
    return (np.array([(0, 0, 0), *hues, (0.82, 0.82, 0.82)]) * 255).round().astype(np.uint8)


def photo(data: Dataset) -> Panel:
    """The image itself."""
    return data.image


def truth(data: Dataset) -> Panel:
    """The true mask over the image, or an empty picture without one."""

    def draw(id: str) -> np.ndarray:
        if id not in data.masks:
            return np.full_like(data.image(id), 245)
        return over(data.image(id), data.mask(id))

    return draw


def truth_column(data: Dataset) -> dict[str, Panel]:
    """The column of the true masks, if there are any."""
    return {"truth": truth(data)} if data.masks else {}


def labels(data: Dataset, folder: Path) -> Panel:
    """The label map in `folder` over the image; 255 is light gray."""
    return lambda id: over(data.image(id), read_labels(folder / f"{id}.png", len(data.classes)))


def salient(data: Dataset) -> Panel:
    """The saliency map at the size of its photo, white where something is salient."""
    return lambda id: resize_image(data.saliency_levels(id), *data.size(id))


def heat(data: Dataset, folder: Path) -> Panel:
    """Class maps over the image: the colour of a pixel's best class, as strong as its score."""

    def draw(id: str) -> np.ndarray:
        image = data.image(id).astype(float)
        maps = load_maps(folder, id).foreground()
        if not len(maps.keys):
            return (image * 0.35).astype(np.uint8)
        scores = maps.at_size(*image.shape[:2])
        strength = np.clip(scores.max(axis=0), 0, 1)[..., None]
        best = colours()[maps.keys[scores.argmax(axis=0)]]
        return (image * 0.35 * (1 - strength) + best * strength).astype(np.uint8)

    return draw


def over(image: np.ndarray, label_map: np.ndarray) -> np.ndarray:
    """Labels [H, W] in colour over a dimmed image [H, W, 3]."""
    colour = colours()[label_map].astype(float)
    weight = np.where(label_map > 0, 0.8, 0.0)[..., None]
    return (image * 0.35 * (1 - weight) + colour * weight).astype(np.uint8)


def overlay(image: np.ndarray, label_map: np.ndarray) -> np.ndarray:
    """Labels [H, W] as half-transparent colours over an image [H, W, 3]; background is the image.

    Returns:
        uint8 [H, W, 3].
    """
    blended = (image.astype(np.uint16) + colours()[label_map] + 1) // 2
    return np.where(label_map[..., None] > 0, blended, image).astype(np.uint8)


def pick(data: Dataset, count: int) -> list[str]:
    """Up to `count` ids, evenly spread over the images with a mask (all images if none has one)."""
    ids = [i for i in data.ids if i in data.masks] or list(data.ids)
    places = np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int)
    return [ids[p] for p in places]


def sheet(
    panels: Mapping[str, Panel], ids: Sequence[str], path: Path, height: int = 160, gap: int = 4
) -> None:
    """Write the grid as one PNG without text, for a README: a row per id, a column per panel."""
    grid = [[_resized(panel(id), height) for panel in panels.values()] for id in ids]
    widths = [max(row[c].width for row in grid) for c in range(len(panels))]
    canvas = Image.new(
        "RGB", (sum(widths) + gap * (len(widths) - 1), len(grid) * (height + gap) - gap), "white"
    )
    for r, row in enumerate(grid):
        for c, picture in enumerate(row):
            canvas.paste(picture, (sum(widths[:c]) + gap * c, r * (height + gap)))
    with atomic_write(path) as temporary:
        canvas.save(temporary, optimize=True)


def legend(names: Sequence[tuple[int, str]]) -> str:
    """HTML that names the colours of labels."""
    palette = colours()
    spans = [
        f"<span><i style='background:rgb({','.join(map(str, palette[label]))})'></i>"
        f"{html.escape(name)}</span>"
        for label, name in names
    ]
    return f"<p class=key>{''.join(spans)}</p>"


def picture_grid(panels: Mapping[str, Panel], captions: Mapping[str, str]) -> str:
    """HTML of a table of pictures: a row per id, with its caption, and a column per panel."""
    head = "<th></th>" + "".join(f"<th>{html.escape(name)}</th>" for name in panels)
    lines, widest = [], _GRID_WIDTH // len(panels)
    for id, caption in captions.items():
        cells = "".join(
            f"<td>{_inline(panel(id), f'{name} of {id}', widest)}</td>"
            for name, panel in panels.items()
        )
        lines.append(f"<tr><td>{html.escape(id)}<br>{html.escape(caption)}</td>{cells}</tr>")
    return f"<div class=wide><table class=grid><tr>{head}</tr>{''.join(lines)}</table></div>"


def _resized(picture: np.ndarray, height: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(picture))
    return image.resize(
        (max(1, round(image.width * height / image.height)), height), Image.Resampling.LANCZOS
    )


def _inline(picture: np.ndarray, alt: str, widest: int) -> str:
    height, width = picture.shape[:2]
    image = _resized(picture, max(1, min(_PICTURE_HEIGHT, height * widest // width)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    alt = html.escape(alt, quote=True)
    return f"<img width={image.width} height={image.height} alt='{alt}' src='{source}'>"
