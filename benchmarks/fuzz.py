"""Fuzzing: file readers with damaged files, operators with random shapes and values.

Each case must end within seconds, with a result or with the error that is meant for the user: InputError of a reader,
ValueError of an operator. Cases run in child processes, so that a crash or a hang is counted and named, and the fuzzing
goes on behind it.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import random
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from wsss_fast import InputError, ops
from wsss_fast.data import coco, folder, listing, voc
from wsss_fast.data.images import check_image, read_image, read_labels, read_saliency, write_labels
from wsss_fast.engine.files import write_json
from wsss_fast.engine.run_folder import read_records
from wsss_fast.maps import ClassMaps, load_maps, save_maps
from wsss_fast.nets import cam_resnet50, load_weights, mxnet, save_weights

_CHUNK = 500  # cases a child process
_PATIENCE = 120.0  # seconds for a chunk

Reader = Callable[[Path], object]


def main(argv: list[str]) -> None:
    """The command line of `measure`."""
    tyro.cli(measure, args=argv, prog="python -m benchmarks fuzz")


def measure(
    out: Path = Path("bench-fuzz"),
    *,
    cases: int = 100_000,
    seed: int = 0,
    only: tuple[str, ...] = (),
) -> None:
    """Run the cases, print a line a target, leave `<out>/fuzz.json`; exit code 1 if anything was found.

    Args:
        out: folder of the result; what fails is kept there.
        cases: in all, shared among readers (nine tenths) and operators.
        seed: of everything.
        only: names of targets, instead of all.
    """
    targets = [name for name in (*READERS, *OPERATORS) if not only or name in only]
    readers = [n for n in targets if n in READERS]
    rows = {}
    for name in targets:
        among = len(readers) if name in READERS else len(targets) - len(readers)
        share = (0.9 if name in READERS else 0.1 if readers else 1.0) * cases / among
        rows[name] = run_target(name, max(1, round(share)), seed, out)
        print(f"{name}: {rows[name]}", flush=True)
    found = sum(len(row["found"]) for row in rows.values())
    total = sum(row["cases"] for row in rows.values())
    write_json(
        out / "fuzz.json",
        {"date": time.strftime("%Y-%m-%d"), "seed": seed, "cases": total, "targets": rows},
    )
    print(f"{total} cases, {found} found")
    if found:
        sys.exit(1)


def run_target(name: str, cases: int, seed: int, out: Path) -> dict[str, object]:
    """Cases of one target in child processes; what they ended with, and what should not have happened."""
    row: dict[str, object] = {"cases": 0, "fine": 0, "refused": 0, "found": []}
    start, first = time.monotonic(), 0
    while first < cases:
        last = min(first + _CHUNK, cases)
        ended, answer = _in_child(name, first, last, seed)
        for key in ("fine", "refused"):
            row[key] += answer[key]
        row["found"] += answer["found"]
        if ended != "done":
            row["found"].append({"case": answer["at"], "what": ended})
            last = answer["at"] + 1
        row["cases"] += last - first
        first = last
    row["seconds"] = round(time.monotonic() - start, 1)
    if row["found"]:
        write_json(out / f"{name}.json", row["found"])
    return row


def _in_child(name: str, first: int, last: int, seed: int) -> tuple[str, dict[str, object]]:
    with tempfile.TemporaryDirectory() as work:
        notes = Path(work) / "notes.json"
        process = multiprocessing.get_context("fork").Process(
            target=_cases, args=(name, first, last, seed, Path(work))
        )
        process.start()
        process.join(_PATIENCE)
        ended = (
            "done"
            if process.exitcode == 0
            else "hang"
            if process.exitcode is None
            else f"exit code {process.exitcode}"
        )
        if process.exitcode is None:
            process.kill()
            process.join()
        at = Path(work) / "at"
        answer = (
            json.loads(notes.read_text())
            if notes.exists()
            else {"fine": 0, "refused": 0, "found": []}
        )
        answer["at"] = int(at.read_text()) if at.exists() else first
        return ended, answer


def _cases(name: str, first: int, last: int, seed: int, work: Path) -> None:
    """In the child: cases [first, last); the one at hand is noted before it is tried."""
    faulthandler.enable()
    torch.set_num_threads(1)
    answer: dict[str, list | int] = {"fine": 0, "refused": 0, "found": []}
    inside = work / "inside"
    inside.mkdir()
    for case in range(first, last):
        (work / "at").write_text(str(case))
        rng = random.Random(f"{seed}/{name}/{case}")
        try:
            READERS[name](rng, inside) if name in READERS else OPERATORS[name](rng)
            answer["fine"] += 1
        except (InputError, ValueError) as error:
            if isinstance(error, InputError) or name in OPERATORS:
                answer["refused"] += 1
                if "\n" in str(error) and name in READERS:
                    answer["found"].append(
                        {"case": case, "what": f"more than a line: {error}"[:300]}
                    )
            else:
                answer["found"].append(
                    {"case": case, "what": traceback.format_exc(limit=-3)[-600:]}
                )
        except BaseException:
            answer["found"].append({"case": case, "what": traceback.format_exc(limit=-3)[-600:]})
        strangers = [p.name for p in work.iterdir() if p.name not in ("at", "inside", "notes.json")]
        if strangers:
            answer["found"].append({"case": case, "what": f"left {strangers} outside its folder"})
        if case % 50 == 49 or case == last - 1:
            (work / "notes.json").write_text(json.dumps(answer))


# ---- readers: a sound file, damaged -----------------------------------------------------------------------------------


def damaged(rng: random.Random, content: bytes) -> bytes:
    """A few random changes: flipped bits, bytes replaced, cut, doubled, numbers made huge, text spliced in."""
    data = bytearray(content)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4, 16))):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(7)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[place % len(data)] = rng.randrange(256)
        elif kind == 2:
            del data[place : place + rng.choice((1, 8, 64, len(data)))]
        elif kind == 3:
            data[place:place] = data[place : place + rng.choice((1, 16, 256))]
        elif kind == 4:
            data[place : place + 8] = struct.pack(
                rng.choice(("<Q", ">Q")), rng.choice((0, 1, 2**31 - 1, 2**63, 2**64 - 1))
            )
        elif kind == 5:
            data[place:place] = rng.choice(SPLICED)
        else:
            data[place:place] = rng.randbytes(rng.choice((1, 4, 32)))
    return bytes(data)


SPLICED = (
    b"../",
    b"\0",
    b"\n",
    b'"',
    b"'",
    b"<!DOCTYPE x [<!ENTITY a 'b'>]>&a;",
    b"&#0;",
    b"]]>",
    b"{",
    b"]",
    b"null",
    b"-1",
    b"1e999",
    b"99999999999999999999",
    b"NaN",
    b"\xff\xfe",
    "\u202e\u2028é".encode(),
    b";",
    b",",
    b"/etc/passwd",
    b"..\\",
)


def _file(
    sound: Callable[[Path], None], name: str, read: Reader
) -> Callable[[random.Random, Path], None]:
    """A target: damage what `sound` writes to a file, and read it."""
    kept: list[bytes] = []

    def case(rng: random.Random, work: Path) -> None:
        path = work / name
        if not kept:
            sound(path)
            kept.append(path.read_bytes())
        path.write_bytes(damaged(rng, kept[0]))
        read(path)

    return case


_XML = """<annotation><folder>VOC2012</folder><filename>a.jpg</filename><size><width>8</width><height>8</height></size>
<object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object><object><name>dog</name></object></annotation>"""
_COCO = {
    "images": [
        {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "height": 8, "width": 8},
        {"id": 25, "file_name": "COCO_train2014_000000000025.jpg", "height": 8, "width": 8},
    ],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 17, "bbox": [1, 1, 2, 2], "iscrowd": 0}
    ],
    "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
}


def _photo(kind: str, **options: object) -> Callable[[Path], None]:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
    return lambda path: Image.fromarray(pixels).save(path, kind, **options)


def _labels(path: Path) -> None:
    write_labels(path, np.random.default_rng(0).integers(0, 9, (24, 31)).astype(np.uint8))


def _params(path: Path) -> None:
    """Two dense arrays in MXNet's format."""
    parts = [struct.pack("<QQQ", 0x112, 0, 2)]
    for shape in ((2, 3), (4,)):
        values = np.arange(np.prod(shape), dtype="<f4")
        parts += [
            struct.pack("<IiI", 0xF993FAC9, 0, len(shape)),
            struct.pack(f"<{len(shape)}q", *shape),
            struct.pack("<iii", 1, 0, 0),
            values.tobytes(),
        ]
    parts += [
        struct.pack("<Q", 2),
        *(struct.pack("<Q", len(n)) + n for n in (b"arg:conv1a_weight", b"aux:bn_moving_mean")),
    ]
    path.write_bytes(b"".join(parts))
    mxnet.read_params(path)


def _weights(path: Path) -> None:
    save_weights(cam_resnet50(2, backbone="small"), path)


def _maps(path: Path) -> None:
    rng = np.random.default_rng(0)
    save_maps(
        path.parent,
        path.stem,
        ClassMaps(
            np.array([1, 3], np.int16),
            rng.random((2, 6, 8), np.float32),
            rng.random((2, 24, 31), np.float32),
        ),
    )


def _text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content)


def _csv(rng: random.Random, work: Path) -> None:
    root = work / "photos"
    root.mkdir(exist_ok=True)
    for name in ("a.jpg", "b c.jpg"):
        (root / name).touch()
    (root / "labels.csv").write_bytes(damaged(rng, b'file,class\na.jpg,cat;dog\n"b c.jpg",dog\n'))
    found = folder.load_folder(root, "train", None, None)
    outside = [p for p in found.images.values() if not p.resolve().is_relative_to(root.resolve())]
    if outside:
        raise AssertionError(f"{outside[0]} lies outside the folder")


def _coco(rng: random.Random, work: Path) -> None:
    root = work / "coco"
    (root / "train2014").mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    for image in _COCO["images"]:
        (root / "train2014" / image["file_name"]).touch()
    (root / "annotations/instances_train2014.json").write_bytes(
        damaged(rng, json.dumps(_COCO).encode())
    )
    found = coco.load_coco(root, "train", None, None)
    outside = [p for p in found.images.values() if not p.resolve().is_relative_to(root.resolve())]
    if outside:
        raise AssertionError(f"{outside[0]} lies outside the folder")


def _ids(path: Path) -> None:
    for id in listing.read_ids(path).ids:
        if Path("run").joinpath(f"{id}.png").parent != Path("run"):
            raise AssertionError(f"{id!r} leaves the run folder")


def _metrics(path: Path) -> None:
    read_records(path.parent)


def _records(path: Path) -> None:
    write_json(
        path,
        {"stages": [{"stage": "cam", "miou": 0.5, "curve": {"thresholds": [0.1], "miou": [0.5]}}]},
    )


READERS: dict[str, Callable[[random.Random, Path], None]] = {
    "voc annotation": _file(
        _text(_XML), "a.xml", lambda path: voc._read_tags(path, ("cat", "dog"))
    ),
    "coco instances": _coco,
    "labels.csv": _csv,
    "id list": _file(_text("2007_000032\n/JPEGImages/a.jpg /S/a.png\n\nx y\n"), "ids.txt", _ids),
    "jpeg": _file(_photo("JPEG"), "a.jpg", lambda path: (check_image(path), read_image(path))),
    "png": _file(_photo("PNG"), "a.png", lambda path: (check_image(path), read_image(path))),
    "palette png": _file(_labels, "a.png", lambda path: read_labels(path, 20)),
    "saliency": _file(_photo("PNG"), "a.png", read_saliency),
    "params": _file(_params, "a.params", mxnet.read_params),
    "weights": _file(
        _weights, "a.pth", lambda path: load_weights(cam_resnet50(2, backbone="small"), path)
    ),
    "maps": _file(_maps, "a.npz", lambda path: load_maps(path.parent, path.stem)),
    "metrics.json": _file(_records, "metrics.json", _metrics),
}


# ---- operators: random shapes, types and values ------------------------------------------------------------------------


def _size(rng: random.Random, most: int = 9) -> int:
    return rng.choice((0, 1, 1, 2, 3, 5, most))


def _tensor(
    rng: random.Random,
    *shape: int,
    low: float = -3.0,
    high: float = 3.0,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Mostly what an operator wants; sometimes of another type, with extreme or no numbers, or not contiguous."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    if rng.random() < 0.05:
        shape = shape[:-1] if rng.random() < 0.5 else (*shape, _size(rng))
    values = torch.rand(shape, generator=generator) * (high - low) + low
    if values.numel() and rng.random() < 0.1:
        values.view(-1)[rng.randrange(values.numel())] = rng.choice(
            (float("nan"), float("inf"), float("-inf"), 1e30)
        )
    if dtype is not None or rng.random() < 0.1:
        finite = values.nan_to_num(0, 0, 0).clamp(-1e4, 1e4)
        values = finite.to(dtype or rng.choice((torch.float64, torch.float16, torch.int64)))
    if values.dim() > 1 and rng.random() < 0.2:
        values = values.transpose(0, -1).contiguous().transpose(0, -1)
    return values


def _check(*tensors: torch.Tensor) -> None:
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor.sum().item()  # read every value: a wrong size would be seen here


def _dense_crf(rng: random.Random) -> None:
    b, labels, h, w = rng.choice((1, 2)), rng.choice((1, 2, 3, 21)), _size(rng, 17), _size(rng, 19)
    image = _tensor(
        rng,
        b,
        rng.choice((1, 3, 3, 4)),
        h,
        w,
        low=0,
        high=255,
        dtype=rng.choice((torch.uint8, None)),
    )
    _check(
        ops.dense_crf(
            image,
            _tensor(rng, b, labels, h, w),
            gaussian=rng.choice((None, (3.0, 3.0), (0.1, -1.0))),
            bilateral=rng.choice((None, (50.0, 5.0, 10.0), (1e-3, 5.0, 1.0))),
            iterations=rng.choice((0, 1, 3)),
        )
    )


def _permutohedral(rng: random.Random) -> None:
    n, d, c = _size(rng, 50), rng.choice((1, 2, 5, 9)), _size(rng)
    _check(ops.permutohedral_filter(_tensor(rng, n, d), _tensor(rng, n, c)))


def _head(rng: random.Random) -> None:
    b, c, k, h, w = (
        _size(rng, 2),
        rng.choice((1, 7, 32)),
        rng.choice((1, 2, 21)),
        _size(rng),
        _size(rng),
    )
    dilations = rng.choice(((1,), (1, 2), (6, 12, 18, 24), ()))
    given = (
        _tensor(rng, b, c, h, w),
        _tensor(rng, b, c),
        _tensor(rng, len(dilations), k, c, 3, 3),
        _tensor(rng, len(dilations), k),
    )
    _check(ops.label_conditioned_logits(*given, dilations))
    _check(
        ops.label_conditioned_activation(
            *given,
            dilations,
            size=rng.choice((None, (7, 11))),
            activation=rng.choice(("softmax", "sigmoid", "none")),
        )
    )


def _pixel(op: Callable[..., torch.Tensor]) -> Callable[[random.Random], None]:
    def case(rng: random.Random) -> None:
        b, k, h, w = _size(rng, 2), rng.choice((1, 2, 21)), _size(rng), _size(rng)
        labels = torch.from_numpy(
            np.random.default_rng(rng.randrange(2**31)).choice(
                [*range(k), 255] if rng.random() < 0.9 else [k, 300, -7],
                (b, _size(rng, 23), _size(rng, 23)),
            )
        )
        logits = _tensor(rng, b, k, h, w).requires_grad_(False)
        if logits.is_floating_point():
            logits.requires_grad_()
        loss = op(
            logits,
            labels.to(rng.choice((torch.int64, torch.uint8))),
            smoothing=rng.choice((0.0, 0.4, 1.5)),
            balance=rng.random() < 0.5,
            resize=rng.choice(("labels", "logits")),
        )
        _check(*torch.autograd.grad(loss, logits))

    return case


def _saliency(rng: random.Random) -> None:
    b, k, h, w = _size(rng, 2), rng.choice((1, 2, 21)), _size(rng), _size(rng)
    logits = _tensor(rng, b, k + 1, h, w).float().requires_grad_()
    loss = ops.saliency_loss(
        logits,
        _tensor(rng, b, 1, _size(rng, 20), _size(rng, 20), low=0, high=1),
        _tensor(rng, b, k) > 0,
        tau=rng.choice((0.4, -1.0)),
        lam=rng.choice((0.5, 2.0)),
        strategy=rng.choice(("adaptive", "naive", "none")),
    ).loss
    _check(*torch.autograd.grad(loss, logits))


def _aamr(rng: random.Random) -> None:
    b, k, h, w = _size(rng, 2), rng.choice((1, 2, 21)), _size(rng), _size(rng)
    logits = _tensor(rng, b, k + 1, h, w).float().requires_grad_()
    loss = ops.aamr_loss(
        logits,
        _tensor(rng, b, 1, _size(rng, 20), _size(rng, 20), low=0, high=1),
        _tensor(rng, b, k, _size(rng, 20), _size(rng, 20), low=0, high=1),
    )
    _check(*torch.autograd.grad(loss, logits))


def _walk(rng: random.Random) -> None:
    k, h, w = _size(rng), _size(rng, 20), _size(rng, 20)
    _check(
        ops.random_walk(
            _tensor(rng, k, h, w, low=0, high=1),
            _tensor(rng, h, w, low=0, high=1),
            radius=rng.choice((1, 2, 5, 0)),
            beta=rng.choice((1.0, 10.0, -1.0)),
            steps=rng.choice((0, 1, 8)),
        )
    )


OPERATORS: dict[str, Callable[[random.Random], None]] = {
    "dense_crf": _dense_crf,
    "permutohedral_filter": _permutohedral,
    "label_conditioned": _head,
    "pixel_cross_entropy": _pixel(ops.pixel_cross_entropy),
    "pixel_bce": _pixel(ops.pixel_bce),
    "saliency_loss": _saliency,
    "aamr_loss": _aamr,
    "random_walk": _walk,
}
