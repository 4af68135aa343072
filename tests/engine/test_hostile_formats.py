"""Files and names that would stop, flood or mislead the readers and writers of other formats."""

import json
import os
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wsss_fast import InputError, RunError, cli, convert, data, export, nets
from wsss_fast.data import write_labels
from wsss_fast.data.text import unprintable
from wsss_fast.engine.files import read_json
from wsss_fast.maps import load_maps
from wsss_fast.nets.model_file import model_info, save_model
from wsss_fast.readers import arrays, photos, state_dicts, unpickling

MASK = np.zeros((5, 6), np.uint8)
MASK[1:3, 1:4] = 1


def error_of(function, *arguments, **options):
    """The one line of an InputError."""
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# ---- pipes and devices ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (photos.check_image, "a.jpg"),
        (photos.read_image, "a.png"),
        (lambda path: arrays.load_array(path), "a.npy"),
        (lambda path: arrays.load_arrays(path, ["keys"]), "a.npz"),
        (lambda path: unpickling.unpickle(path, "maps"), "a.npy"),
        (state_dicts.read, "a.pth"),
    ],
)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_pipes_and_devices_are_refused_at_once(tmp_path, read, name, make):
    make(tmp_path / name)
    assert str(tmp_path / name) in error_of(read, tmp_path / name)
    assert not unpickling.is_pickled(tmp_path / name)


def test_a_pipe_among_masks_and_photos_is_named(tmp_path, capfd):
    write_labels(tmp_path / "masks/a.png", MASK)
    os.mkfifo(tmp_path / "masks/b.png")
    with pytest.raises(RunError, match="1 of 2 masks were left out"):
        export.to_coco(tmp_path / "masks", tmp_path / "a.json", classes=["cat"])
    assert (
        "b.png: cannot be read as a label map (it is a pipe or a device" in capfd.readouterr().err
    )


# ---- sizes ---------------------------------------------------------------------------------------


def test_archives_that_unpack_to_gigabytes(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("keys.npy", b"")
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02") + 24
    content[at : at + 4] = struct.pack("<I", 3 << 30)
    path.write_bytes(content)
    assert "unpacks to 3.0 GiB" in error_of(arrays.load_arrays, path, ["keys"])
    np.savez_compressed(path, keys=np.zeros(1 << 20, np.uint8))
    assert arrays.load_arrays(path, ["keys"])["keys"].size == 1 << 20


def test_tensors_that_repeat_a_value_to_gigabytes(tmp_path):
    for name, size in (("a", (2, 3)), ("b", (1, 200_000, 200_000))):
        content = {"keys": torch.tensor([0]), "high_res": torch.ones(1).expand(*size)}
        np.save(tmp_path / f"{name}.npy", content, allow_pickle=True)
    assert unpickling.unpickle(tmp_path / "a.npy", "maps")["high_res"].sum() == 6
    message = error_of(unpickling.unpickle, tmp_path / "b.npy", "maps")
    assert "a tensor [1, 200000, 200000] of 1 values" in message


def test_pickles_that_ask_for_a_table_of_gigabytes(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, {"a": 1}, allow_pickle=True)
    content = path.read_bytes()
    path.write_bytes(content[:128] + b"\x80\x02]r\xff\xff\xff\x7f.")
    assert "place 2147483647 in the memo" in error_of(unpickling.unpickle, path, "maps")


def test_long_lines_of_class_numbers(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\n")
    write_labels(tmp_path / "a.png", MASK)
    (tmp_path / "t.txt").write_text("a" + " 0" * 100_000)
    message = error_of(data.load, tmp_path, tags=tmp_path / "t.txt")
    assert "t.txt, line 1: has 100000 numbers of classes" in message


def test_messages_with_texts_of_megabytes_are_cut(tmp_path, capfd):
    (tmp_path / "classes.txt").write_text("cat\n")
    write_labels(tmp_path / "a.png", MASK)
    (tmp_path / "t.txt").write_text("x" * 1_000_000 + " 0\n")
    words = ["--tags", tmp_path / "t.txt", "--weights", tmp_path / "a.png", "--out", tmp_path / "o"]
    assert cli.run(["cam", "infer", "--data", str(tmp_path), *map(str, words)]) == 2
    assert len(capfd.readouterr().err) < 10_000


@pytest.mark.parametrize("count", [0, 255, 10**9])
def test_numbers_of_labels_that_no_byte_holds(tmp_path, count):
    np.savez(tmp_path / "a.npz", keys=np.zeros(0, np.int16), strided=np.zeros((0, 1, 1), "f4"))
    message = error_of(
        convert.maps_to_pickles, tmp_path, tmp_path / "out", form="logits", num_classes=count
    )
    assert f"not {count}; give --num-classes, 1..254" in message and not (tmp_path / "out").exists()


# ---- model files ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model file, its tensors and metadata."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(nets.deeplab(1, backbone="small"), path, model_info("seg", ("a",), backbone="small"))
    return path, state_dicts.read(path), state_dicts.read_metadata(path)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("network", "x" * 10**6, "network: got 'xxx"),
        ("version", "x" * 10**6, None),
        ("classes", json.dumps([f"c{n}" for n in range(100_000)]), "are 100000, but labels end at"),
        ("classes", "[" * 10**5, "not JSON"),
        (
            "options",
            json.dumps({"backbone": "small", "head": "os.system"}),
            "head: got 'os.system'",
        ),
        ("options", json.dumps({"backbone": "x" * 10**6}), "backbone: got 'xxx"),
    ],
)
def test_metadata_of_model_files(model, tmp_path, key, text, message):
    _, state, metadata = model
    path = tmp_path / "m.safetensors"
    save_file(state, path, {**metadata, key: text})
    if message is None:
        assert nets.load_model(path)[1].classes == ("a",)
        return
    found = error_of(nets.load_model, path)
    assert found.startswith(f"{path}: ") and message in found


@pytest.mark.parametrize("part", ["..", "", "a\nb", "a\0b", "x" * 5000, "a.JSON", "../a.pth", 1])
def test_parts_that_an_index_cannot_name(tmp_path, part):
    torch.save({"w": torch.zeros(1)}, tmp_path / "a.pth")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "a.pth", "v": part}}))
    message = error_of(state_dicts.read, tmp_path)
    assert "v is in" in message and "not a name of a weights file" in message
    assert len(message) < 1000


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "", "{"])
def test_records_that_are_no_json(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"nested too deeply|line 1"):
        read_json(tmp_path / "a.json")


# ---- export --------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", [" a", "a ", "#a", "\u2028a"])
def test_names_that_lists_of_cvat_would_lose_are_left_out(tmp_path, id, capfd):
    for name in (id, "b"):
        write_labels(tmp_path / f"masks/{name}.png", MASK)
    with pytest.raises(RunError, match="1 of 2 masks were left out"):
        export.to_cvat(tmp_path / "masks", tmp_path / "a.zip", classes=["cat"])
    assert "CVAT's list of images cannot hold" in capfd.readouterr().err
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.read("ImageSets/Segmentation/default.txt") == b"b\n"
        assert "SegmentationClass/b.png" in archive.namelist() and len(archive.namelist()) == 4


def test_names_of_several_lines_are_refused_in_one(tmp_path):
    write_labels(tmp_path / "masks/a\nb.png", MASK)
    message = error_of(export.to_coco, tmp_path / "masks", tmp_path / "a.json", classes=["cat"])
    assert "'a\\nb' cannot be an id" in message and not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("name", ["a\uffff", "\ufffe", "a\x01"])
def test_class_names_that_xml_forbids(tmp_path, name):
    write_labels(tmp_path / "masks/a.png", MASK)
    assert unprintable(name) and not unprintable("\U0001f600 a\u200b")
    message = error_of(
        export.to_labelstudio, tmp_path / "masks", tmp_path / "a.json", classes=[name]
    )
    assert "cannot be printed" in message
    assert [p.name for p in tmp_path.iterdir()] == ["masks"]


def test_yolo_does_not_replace_other_photos(tmp_path):
    masks, out = tmp_path / "masks", tmp_path / "out"
    write_labels(masks / "a.png", MASK)
    for folder in (tmp_path / "small", out / "images"):
        write_labels(folder / "a.png", MASK + (folder.name == "images"))
    before = (out / "images/a.png").read_bytes()
    options = {"classes": ["cat"], "images": tmp_path / "small"}
    assert "is there, but not as in" in error_of(export.to_yolo, masks, out, **options)
    assert (out / "images/a.png").read_bytes() == before and not (out / "labels").exists()
    export.to_yolo(masks, out, copy_images=False, **options)
    for _ in range(2):  # the second call finds its own photo
        export.to_yolo(masks, tmp_path / "new", **options)
    assert (tmp_path / "new/images/a.png").read_bytes() == (tmp_path / "small/a.png").read_bytes()


def test_refine_takes_public_maps_of_no_class(tmp_path):
    write_labels(tmp_path / "photos/a.png", MASK)
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/a.npy", {"keys": np.zeros(0, int)}, allow_pickle=True)
    words = [tmp_path / "photos", tmp_path / "maps", "-o", tmp_path / "out", "--labels"]
    assert cli.run(["refine", *map(str, words), "--background", "0.3"]) == 0
    assert not len(load_maps(tmp_path / "out", "a").keys)
    assert not data.read_labels(tmp_path / "out/labels/a.png").any()
