"""Write the odd files of tests/data/wild, as strangers' tools write them.

python tools/wild_files.py [FOLDER]

The expected result of each file, reviewed by hand, is in tests/data/wild/expected.csv.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin

FOLDER = Path(__file__).resolve().parents[1] / "tests/data/wild"
LABELS = np.array(
    [[0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0], [3, 3, 3, 3, 3, 3]], np.uint8
)
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]  # the first of VOC's colours
PHOTO = np.full((12, 16, 3), 60, np.uint8)
PHOTO[4:10, 4:12] = (200, 80, 40)
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
WEB_PAGE = b"<!DOCTYPE html>\n<html><head><title>Quota exceeded</title></head></html>\n"


_WHOLE = ((0, 1, 0, 1),)
# First row, row step, first column, column step of the seven passes of an interlaced PNG.
_ADAM7 = (
    (0, 8, 0, 8),
    (0, 8, 4, 8),
    (4, 8, 0, 4),
    (0, 4, 2, 4),
    (2, 4, 0, 2),
    (0, 2, 1, 2),
    (1, 2, 0, 1),
)


def png(
    pixels: np.ndarray,
    bits: int,
    kind: int,
    extra: list[tuple[bytes, bytes]],
    interlaced: bool = False,
) -> bytes:
    """A PNG of `pixels` [H, W], with any bit depth and colour type, as Pillow cannot write."""
    height, width = pixels.shape
    rows = []
    for top, down, left, right in _ADAM7 if interlaced else _WHOLE:
        for row in pixels[top::down, left::right]:
            if row.size:
                packed = "".join(format(int(value), f"0{bits}b") for value in row)
                packed += "0" * (-len(packed) % 8)
                rows.append(b"\0" + int(packed, 2).to_bytes(len(packed) // 8, "big"))
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photos() -> dict[str, bytes]:
    photo = Image.fromarray(PHOTO)
    jpeg = encoded(photo, "JPEG", quality=90)
    progressive = encoded(photo, "JPEG", quality=90, progressive=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    mirrored = Image.Exif()
    mirrored[0x0112] = 2
    gray = photo.convert("L")
    cut_out = photo.convert("RGBA")
    cut_out.putalpha(Image.fromarray((PHOTO[..., 0] > 100).astype(np.uint8) * 255))
    thumbnail = Image.Exif()
    thumbnail[0x010E] = "a comment with the bytes \xff\xd9 inside"
    return {
        "plain.jpg": jpeg,
        "bytes-behind-the-end.jpg": jpeg + bytes(63),
        "video-behind-the-end.jpg": jpeg + b"\0\0\0\x18ftypmp42" + bytes(4000),
        "cut-in-the-middle.jpg": jpeg[: len(jpeg) * 3 // 4],
        "cut-by-two-bytes.jpg": jpeg[:-2],
        "progressive.jpg": progressive,
        "progressive-cut.jpg": progressive[: len(progressive) * 3 // 4],
        "turned.jpg": encoded(photo, "JPEG", quality=90, exif=exif),
        "mirrored.png": encoded(photo, "PNG", exif=mirrored),
        "end-marker-in-exif.jpg": encoded(photo, "JPEG", quality=90, exif=thumbnail),
        "two-pictures.jpg": encoded(
            photo, "MPO", quality=90, save_all=True, append_images=[Image.fromarray(255 - PHOTO)]
        ),
        "gray.jpg": encoded(gray, "JPEG", quality=90),
        "print-colours.jpg": encoded(photo.convert("CMYK"), "JPEG", quality=90),
        "alpha.png": encoded(cut_out, "PNG"),
        "gray-alpha.png": encoded(cut_out.convert("LA"), "PNG"),
        "palette.png": encoded(photo.quantize(4), "PNG"),
        "palette-transparent.png": encoded(photo.quantize(4), "PNG", transparency=0),
        "16-bit-gray.png": encoded(Image.fromarray(np.array(gray).astype(np.uint16) * 257), "PNG"),
        "bytes-behind-the-end.png": encoded(photo, "PNG") + bytes(63),
        "cut.png": encoded(photo, "PNG")[:-20],
        "frames.gif": encoded(
            photo, "GIF", save_all=True, append_images=[Image.fromarray(255 - PHOTO)]
        ),
        "pages.tif": encoded(
            photo,
            "TIFF",
            compression="tiff_lzw",
            save_all=True,
            append_images=[Image.fromarray(255 - PHOTO)],
        ),
        "lossless.webp": encoded(photo, "WEBP", lossless=True),
        "a-png.jpg": encoded(photo, "PNG"),
        "one-row.png": encoded(Image.fromarray(PHOTO[5:6]), "PNG"),
        "one-pixel.png": encoded(Image.fromarray(PHOTO[5:6, 5:6]), "PNG"),
        "empty.jpg": b"",
        "web-page.jpg": WEB_PAGE,
        "lfs-pointer.jpg": LFS_POINTER,
        "high-efficiency.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
    }


def label_maps() -> dict[str, bytes]:
    plain = Image.fromarray(LABELS)
    indexed = Image.fromarray(LABELS).convert("P")
    indexed.putpalette(PALETTE)
    colours = np.array(PALETTE, np.uint8).reshape(-1, 3)[LABELS]
    palette = (b"PLTE", bytes(PALETTE))
    exif = Image.Exif()
    exif[0x0112] = 6
    with_alpha = np.dstack([LABELS, np.full_like(LABELS, 255)])
    return {
        **{f"gray-{b}-bit.png": png(LABELS, b, 0, []) for b in (2, 4, 8)},
        "gray-1-bit.png": png(LABELS.clip(0, 1), 1, 0, []),
        **{f"palette-{b}-bit.png": png(LABELS, b, 3, [palette]) for b in (2, 4, 8)},
        "palette-1-bit.png": png(LABELS.clip(0, 1), 1, 3, [palette]),
        "16-bit.png": png(LABELS, 16, 0, []),
        "16-bit-with-300.png": png(LABELS * np.uint16(100), 16, 0, []),
        "gray-4-bit-transparent.png": png(LABELS, 4, 0, [(b"tRNS", b"\0\0")]),
        "gray-2-bit-with-gamma.png": png(LABELS, 2, 0, [(b"gAMA", struct.pack(">I", 45455))]),
        "palette-transparent.png": png(LABELS, 8, 3, [palette, (b"tRNS", b"\0")]),
        "palette-of-grays.png": png(LABELS, 8, 3, [(b"PLTE", bytes(range(0, 120, 10)) * 1)]),
        "rgb-of-labels.png": encoded(Image.fromarray(np.repeat(LABELS[..., None], 3, 2)), "PNG"),
        "rgb-of-colours.png": encoded(Image.fromarray(colours), "PNG"),
        "gray-and-alpha.png": encoded(Image.fromarray(with_alpha, "LA"), "PNG"),
        "lossy.jpg": encoded(plain, "JPEG"),
        "lossy.webp": encoded(plain.convert("RGB"), "WEBP", quality=50),
        "jpeg-named.png": encoded(plain, "JPEG"),
        "turned.png": encoded(indexed, "PNG", exif=exif),
        "labels.gif": encoded(indexed, "GIF"),
        "labels.bmp": encoded(plain, "BMP"),
        "labels.tif": encoded(plain, "TIFF"),
        "float.tif": encoded(Image.fromarray(LABELS.astype(np.float32)), "TIFF"),
        "interlaced.png": png(LABELS, 8, 0, [], interlaced=True),
        "interlaced-4-bit.png": png(LABELS, 4, 3, [palette], interlaced=True),
        "zero-and-255.png": encoded(Image.fromarray((LABELS == 1).astype(np.uint8) * 255), "PNG"),
        "black-and-white-1-bit.png": encoded(Image.fromarray(LABELS == 1), "PNG"),
        "all-255.png": encoded(Image.fromarray(np.full_like(LABELS, 255)), "PNG"),
        "all-0.png": encoded(Image.fromarray(np.zeros_like(LABELS)), "PNG"),
        "one-label-and-255.png": encoded(
            Image.fromarray(np.where(LABELS == 1, 2, 255).astype(np.uint8)), "PNG"
        ),
        "unknown-label.png": encoded(Image.fromarray(LABELS * 20), "PNG"),
        "text-of-the-name.png": encoded(
            plain, "PNG", pnginfo=_text_chunk("Software", "a labelling tool")
        ),
        "empty.png": b"",
        "web-page.png": WEB_PAGE,
    }


def _text_chunk(key: str, value: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text(key, value)
    return info


def saliency_maps() -> dict[str, bytes]:
    box = (PHOTO[..., 0] > 100).astype(np.uint8)  # [12, 16] of 0 and 1
    cut_out = Image.fromarray(np.dstack([PHOTO, box * 255]), "RGBA")
    opaque = Image.fromarray(np.dstack([box * 255] * 3 + [np.full_like(box, 255)]), "RGBA")
    inverse_palette = (b"PLTE", bytes([255, 255, 255, 0, 0, 0]))
    return {
        "plain.png": encoded(Image.fromarray(box * 255), "PNG"),
        "soft.png": encoded(Image.fromarray(box * 200 + 20), "PNG"),
        "cut-out.png": encoded(cut_out, "PNG"),
        "opaque.png": encoded(opaque, "PNG"),
        "gray-and-alpha.png": encoded(
            Image.fromarray(np.dstack([box * 255, np.full_like(box, 255)]), "LA"), "PNG"
        ),
        "16-bit.png": png(box * np.uint16(65535), 16, 0, []),
        "16-bit-with-255.png": png(box * np.uint16(255), 16, 0, []),
        "1-bit.png": png(box, 1, 0, []),
        "palette-white-first.png": png(box, 1, 3, [inverse_palette]),
        "voc-colours.png": png(box, 8, 3, [(b"PLTE", bytes([0, 0, 0, 128, 0, 0]))]),
        "constant.png": encoded(Image.fromarray(np.full_like(box, 128)), "PNG"),
        "zero-and-one.png": encoded(Image.fromarray(box), "PNG"),
        "never-bright.png": encoded(Image.fromarray(box * 30), "PNG"),
        "float.tif": encoded(Image.fromarray(box.astype(np.float32)), "TIFF"),
        "jpeg.png": encoded(Image.fromarray(box * 255), "JPEG", quality=95),
        "empty.png": b"",
    }


def id_lists() -> dict[str, bytes]:
    return {
        "plain.txt": b"a\nb\n",
        "windows.txt": b"\xef\xbb\xbfa\r\nb\r\n",
        "utf-16.txt": "a\nb\n".encode("utf-16"),
        "paths.txt": b"/JPEGImages/a.jpg /SegmentationClass/a.png\n/JPEGImages/b.jpg\n",
        "extensions.txt": b"a.jpg\nb.JPG\n",
        "header.csv": b"id\na\nb\n",
        "table.csv": b"id,label\na,cat\nb,dog\n",
        "main-list.txt": b"a -1\nb  1\n",
        "space.txt": b"IMG 1\nIMG 2\n",
        "quotes.txt": b'"a"\n"b"\n',
        "comment.txt": b"# the training images\na\nb\n",
        "twice.txt": b"a\nb\na\n",
        "tabs.txt": b"a\t\nb\t\n",
        "empty.txt": b"\n\n",
        "zeros.txt": b"a\0b\n",
        "latin-1.txt": "caf\xe9\n".encode("latin-1"),
        "up.txt": b"../a\n",
        "list.json": b'["a", "b"]\n',
    }


def class_lists() -> dict[str, bytes]:
    return {
        "plain.txt": b"cat\ndog\n",
        "background-first.txt": b"background\ncat\ndog\n",
        "labelme.txt": b"__ignore__\n_background_\ncat\ndog\n",
        "background-last.txt": b"cat\ndog\nbackground\n",
        "upper-and-lower-case.txt": b"Cat\ncat\n",
        "accents.txt": "caf\u00e9\ncafe\u0301\n".encode(),
        "spaces.txt": "cat \n\u00a0dog\n\n".encode(),
        "twice.txt": b"cat\ndog\ncat\n",
        "numbered.txt": b"0 cat\n1 dog\n",
        "indexed.txt": b"0: background\n1: cat\n2: dog\n",
        "one-line.txt": b"cat,dog\n",
        "windows.txt": b"\xef\xbb\xbfcat\r\ndog\r\n",
        "utf-16.txt": "cat\ndog\n".encode("utf-16"),
        "names.yaml": b"names: [cat, dog]\n",
    }


def tag_tables() -> dict[str, bytes]:
    """labels.csv of a folder with the photos a.jpg, b.jpg."""
    return {
        "plain.csv": b"file,class\na.jpg,cat;dog\nb.jpg,dog\n",
        "no-header.csv": b"a.jpg,cat;dog\nb.jpg,dog\n",
        "other-header.csv": b"image,category\na.jpg,cat;dog\nb.jpg,dog\n",
        "semicolons.csv": b"file;class\na.jpg;cat\nb.jpg;dog\n",
        "tabs.csv": b"file\tclass\na.jpg\tcat\nb.jpg\tdog\n",
        "line-per-tag.csv": b"file,class\na.jpg,cat\na.jpg,dog\nb.jpg,dog\n",
        "three-columns.csv": b"file,class,width\na.jpg,cat,20\nb.jpg,dog,30\n",
        "column-per-class.csv": b"file,cat,dog\na.jpg,1,1\nb.jpg,0,1\n",
        "upper-and-lower-case.csv": b"file,class\na.jpg,Cat\nb.jpg,cat\n",
        "background.csv": b"file,class\na.jpg,cat;background\nb.jpg,dog\n",
        "only-background.csv": b"file,class\na.jpg,cat;dog\nb.jpg,background\n",
        "no-tags.csv": b"file,class\na.jpg,cat;dog\nb.jpg,\n",
        "numbers.csv": b"file,class\na.jpg,10;2\nb.jpg,2\n",
        "other-case.csv": b"file,class\nA.JPG,cat;dog\nb.jpg,dog\n",
        "no-extension.csv": b"file,class\na,cat;dog\nb,dog\n",
        "spreadsheet.csv": b"sep=;\r\nfile;class\r\na.jpg;cat\r\nb.jpg;dog\r\n",
        "windows.csv": b"\xef\xbb\xbffile,class\r\na.jpg,cat;dog\r\nb.jpg,dog\r\n",
        "quoted.csv": b'"file","class"\n"a.jpg","cat;dog"\n"b.jpg","dog"\n',
        "commas-in-quotes.csv": b'file,class\na.jpg,"cat,dog"\nb.jpg,dog\n',
        "absolute.csv": b"file,class\n/etc/passwd,cat\n",
        "open-quote.csv": b'file,class\na.jpg,"cat\nb.jpg,dog\n',
    }


def instances() -> dict[str, bytes]:
    """COCO's instances JSON of a folder with the photos a.jpg and b.jpg in train2014."""

    def write(categories: list[dict], annotations: list[dict], **changed: Any) -> bytes:
        images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        return json.dumps({**content, **changed}).encode()

    def tag(*pairs: tuple[int, int]) -> list[dict]:
        return [{"id": n, "image_id": i, "category_id": c} for n, (i, c) in enumerate(pairs)]

    both = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {
        "plain.json": write(both, tag((1, 1), (1, 2), (2, 2))),
        "background-is-0.json": write(
            [{"id": 0, "name": "background"}, *both], tag((1, 1), (1, 2), (2, 2))
        ),
        "supercategory-is-0.json": write(
            [{"id": 0, "name": "animals", "supercategory": "none"}]
            + [{**c, "supercategory": "animals"} for c in both],
            tag((1, 1), (1, 2), (2, 2)),
        ),
        "from-0.json": write(
            [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}], tag((1, 0), (1, 1), (2, 1))
        ),
        "upper-and-lower-case.json": write(
            [{"id": 1, "name": "Cat"}, {"id": 2, "name": "cat"}], tag((1, 1), (2, 2))
        ),
        "text-ids.json": write(both, [{"id": 1, "image_id": "1", "category_id": 1}]),
        "text-image-ids.json": write(
            both,
            [{"image_id": "x", "category_id": 2}],
            images=[{"id": "x", "file_name": "a.jpg"}],
        ),
        "another-machine.json": write(
            both, tag((1, 1)), images=[{"id": 1, "file_name": "data\\upload\\a.jpg"}]
        ),
        "absolute-path.json": write(
            both, tag((1, 1)), images=[{"id": 1, "file_name": "/home/me/a.jpg"}]
        ),
        "unknown-category.json": write(both, tag((1, 3))),
        "other-extension.json": write(both, tag((1, 1)), images=[{"id": 1, "file_name": "a.PNG"}]),
        "sub-folder.json": write(
            both, tag((1, 1)), images=[{"id": 1, "file_name": "train2014/a.jpg"}]
        ),
        "no-categories.json": write([], tag((1, 1))),
        "captions.json": json.dumps(
            {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"caption": "a cat"}]}
        ).encode(),
        "cut.json": write(both, tag((1, 1)))[:-20],
    }


def class_maps() -> dict[str, bytes]:
    scores = np.zeros((2, 3, 4), np.float16)
    scores[0, :, :2] = 0.5
    scores[1, 1:, 2:] = 1
    keys = np.array([1, 3], np.int16)

    def write(**arrays: Any) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    wrong = {name: scores.copy() for name in ("nan", "inf")}
    wrong["nan"][0, 0, 0] = np.nan
    wrong["inf"][1, 2, 3] = np.inf
    return {
        "plain.npz": write(keys=keys, strided=scores),
        "float64.npz": write(keys=keys.astype(np.int64), strided=scores.astype(np.float64)),
        "fortran-order.npz": write(keys=keys, strided=np.asfortranarray(scores)),
        "not-a-number.npz": write(keys=keys, strided=wrong["nan"]),
        "infinite.npz": write(keys=keys, strided=wrong["inf"]),
        "percent.npz": write(keys=keys, strided=scores * 100),
        "negative.npz": write(keys=keys, strided=scores - 2),
        "fractional-keys.npz": write(keys=keys + 0.5, strided=scores),
        "negative-key.npz": write(keys=np.array([-1, 3]), strided=scores),
        "key-twice.npz": write(keys=np.array([3, 3]), strided=scores),
        "descending-keys.npz": write(keys=keys[::-1].copy(), strided=scores),
        "large-key.npz": write(keys=np.array([1, 300]), strided=scores),
        "other-names.npz": write(labels=keys, cam=scores),
        "too-few-keys.npz": write(keys=keys[:1], strided=scores),
        "channels-last.npz": write(keys=keys, strided=scores.transpose(1, 2, 0).copy()),
        "no-rows.npz": write(keys=keys[:0], strided=scores[:0]),
        "objects.npz": write(keys=keys, strided=scores.astype(object)),
        "texts.npz": write(keys=np.array(["cat", "dog"]), strided=scores),
        "complex.npz": write(keys=keys, strided=scores.astype(np.complex64)),
        "cut.npz": write(keys=keys, strided=scores)[:-30],
        "array.npz": _npy(scores),
        "empty.npz": b"",
    }


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def probabilities() -> dict[str, bytes]:
    """For a photo of 12x16 pixels."""
    box = (PHOTO[..., 0] > 100).astype(np.float32) * 0.8 + 0.1
    p = np.stack([1 - box, box])  # [2, 12, 16]
    wrong = p.copy()
    wrong[0, 0, 0] = np.nan
    return {
        "plain.npy": _npy(p),
        "float16.npy": _npy(p.astype(np.float16)),
        "float64.npy": _npy(p.astype(np.float64)),
        "fortran-order.npy": _npy(np.asfortranarray(p)),
        "logits.npy": _npy(np.log(p)),
        "large-logits.npy": _npy(p * 20),
        "not-a-number.npy": _npy(wrong),
        "infinite.npy": _npy(np.where(p > 0.5, np.inf, p)),
        "channels-last.npy": _npy(p.transpose(1, 2, 0).copy()),
        "one-channel.npy": _npy(p[1:]),
        "no-channel-axis.npy": _npy(p[1]),
        "uniform.npy": _npy(np.full_like(p, 0.5)),
        "all-zero.npy": _npy(np.zeros_like(p)),
        "levels.npy": _npy((p * 255).astype(np.uint8)),
        "scores.npy": _npy(p * np.float32(0.2)),
        "batch.npy": _npy(p[None]),
        "other-size.npy": _npy(p[:, :6, :8].copy()),
        "objects.npy": _npy(p.astype(object)),
        "cut.npy": _npy(p)[:-30],
        "text.npy": b"0.1 0.9\n",
    }


def _saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


class Unknown:
    """A class that a reader of weights must not load."""

    def __reduce__(self) -> Any:
        return print, ("this must never be printed",)


def weights() -> dict[str, bytes]:
    """The state dict {"w": [1, 2], "b": [3]} and what strangers make of it."""
    state = {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0])}

    def prefixed(prefix: str) -> dict[str, torch.Tensor]:
        return {prefix + name: value for name, value in state.items()}

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "not weights")
    legacy = io.BytesIO()
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    return {
        "plain.pth": _saved(state),
        "old-format.pth": legacy.getvalue(),
        "data-parallel.pth": _saved(prefixed("module.")),
        "compiled.pth": _saved(prefixed("_orig_mod.")),
        "compiled-data-parallel.pth": _saved(prefixed("_orig_mod.module.")),
        "under-model.pth": _saved({"model": state, "epoch": 3}),
        "under-state-dict.pth": _saved({"state_dict": prefixed("module."), "epoch": 3}),
        "under-model-state-dict.pth": _saved({"model": {"state_dict": state}}),
        "two-candidates.pth": _saved({"generator": state, "discriminator": state}),
        "gradients.pth": _saved({k: v.clone().requires_grad_() for k, v in state.items()}),
        "half.pth": _saved({k: v.half() for k, v in state.items()}),
        "not-a-number.pth": _saved({**state, "w": torch.tensor([1.0, float("nan")])}),
        "infinite.pth": _saved({**state, "w": torch.tensor([1.0, float("inf")])}),
        "complex.pth": _saved({**state, "w": torch.tensor([1.0 + 2.0j])}),
        "sparse.pth": _saved({**state, "w": torch.tensor([0.0, 1.0]).to_sparse()}),
        "no-data.pth": _saved({**state, "w": torch.empty(2, device="meta")}),
        "numbers-as-keys.pth": _saved({0: state["w"], 1: state["b"]}),
        "optimizer.pth": _saved({"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]}),
        "tensor.pth": _saved(state["w"]),
        "list.pth": _saved([state["w"]]),
        "nothing.pth": _saved({}),
        "class.pth": pickle.dumps({"w": Unknown()}, protocol=2),
        "web-page.pth": WEB_PAGE,
        "lfs-pointer.pth": LFS_POINTER,
        "picture.pth": encoded(Image.fromarray(PHOTO), "PNG"),
        "archive.pth": archive.getvalue(),
        "cut.pth": _saved(state)[:-40],
        "empty.pth": b"",
    }


def public_maps() -> dict[str, bytes]:
    """Maps as public code pickles them; IRN's: keys, cam [K, h, w] and high_res [K, H, W]."""
    cam = torch.zeros(2, 3, 4)
    cam[0, :, :2], cam[1, 1:, 2:] = 0.5, 1
    full = cam.repeat_interleave(4, 1).repeat_interleave(4, 2).numpy()
    plain = {"keys": np.array([0, 2]), "cam": cam, "high_res": full}

    def write(value: Any) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, value)
        return buffer.getvalue()

    return {
        "plain.npy": write(plain),
        "no-keys.npy": write({"keys": []}),
        "amn.npy": write({"keys": np.array([2]), "cam": cam}),  # background first
        "clip-es.npy": write({"keys": np.array([2, 0]), "attn_highres": full.astype(np.float16)}),
        "int-keys.npy": write({2: full[1], 0: full[0]}),
        "logits.npy": write({"msc_seg": 9 * full[None] - 4}),
        "requires-gradient.npy": write({**plain, "cam": cam.clone().requires_grad_()}),
        "not-a-number.npy": write({**plain, "cam": cam / 0}),
        "code.npy": write({**plain, "cam": Unknown()}),
        "array.npy": write(cam.numpy()),
        "cut.npy": write(plain)[:-30],
        "empty.npy": b"",
    }


KINDS: dict[str, Callable[[], dict[str, bytes]]] = {
    "photos": photos,
    "label_maps": label_maps,
    "saliency": saliency_maps,
    "ids": id_lists,
    "classes": class_lists,
    "tags": tag_tables,
    "coco": instances,
    "maps": class_maps,
    "probabilities": probabilities,
    "weights": weights,
    "public_maps": public_maps,
}


def main(folder: Path = FOLDER) -> None:
    """Write every file below `folder`."""
    for kind, files in KINDS.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name, content in files().items():
            (folder / kind / name).write_bytes(content)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
