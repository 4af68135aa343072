"""Weights in directories and in several parts, as in copies of Hugging Face repositories."""

import json
import struct
import sys
import types

import pytest
import torch
from safetensors.torch import save_file

from wsss_fast import InputError, nets
from wsss_fast.readers import state_dicts, weight_files

STATE = {f"backbone.layer.{i}.weight": torch.full((2, 3), float(i)) for i in range(5)}


def same(found):
    return found.keys() == STATE.keys() and all(torch.equal(found[k], STATE[k]) for k in STATE)


def write_parts(folder, suffix="safetensors", stem="model"):
    """Two parts and their index, as `save_pretrained` names them."""
    folder.mkdir(exist_ok=True)
    weight_map = {}
    for number, names in enumerate((list(STATE)[:3], list(STATE)[3:]), 1):
        file = f"{stem}-{number:05}-of-00002.{suffix}"
        part = {name: STATE[name] for name in names}
        save_file(part, folder / file) if suffix == "safetensors" else torch.save(
            part, folder / file
        )
        weight_map |= dict.fromkeys(names, file)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 120}, "weight_map": weight_map}))
    (folder / "config.json").write_text('{"model_type": "resnet"}')
    return index


@pytest.mark.parametrize(("suffix", "stem"), [("safetensors", "model"), ("bin", "pytorch_model")])
def test_parts_that_an_index_lists(tmp_path, suffix, stem):
    index = write_parts(tmp_path / "repository", suffix, stem)
    assert same(state_dicts.read(index)) and same(state_dicts.read(index.parent))
    assert [p.suffix for p in weight_files.files(index)] == [".json", f".{suffix}", f".{suffix}"]
    first = nets.fingerprint(index.parent)
    assert first == nets.fingerprint(index)
    part = index.parent / f"{stem}-00002-of-00002.{suffix}"
    changed = {name: STATE[name] + 1 for name in list(STATE)[3:]}
    save_file(changed, part) if suffix == "safetensors" else torch.save(changed, part)
    assert nets.fingerprint(index.parent) != first


def test_the_file_of_a_directory(tmp_path):
    """A repository with a config; both formats; this package's stage; a single file of any name."""
    for name in ("hub", "both", "stage", "single"):
        (tmp_path / name).mkdir()
    for name in ("hub/model.safetensors", "both/model.safetensors"):
        save_file(STATE, tmp_path / name, {"format": "pt"})
    for name in ("both/pytorch_model.bin", "stage/weights.pth", "single/best_miou.ckpt"):
        torch.save(STATE, tmp_path / name)
    torch.save({"optimizer": {}}, tmp_path / "stage/checkpoint.pt")
    (tmp_path / "hub/config.json").write_text("{}")
    (tmp_path / "single/.hidden.pth").write_bytes(b"")
    for name in ("hub", "both", "stage", "single"):
        assert same(state_dicts.read(tmp_path / name)), name
    assert weight_files.files(tmp_path / "both") == (tmp_path / "both/model.safetensors",)
    assert nets.fingerprint(tmp_path / "hub") == nets.fingerprint(
        tmp_path / "hub/model.safetensors"
    )


def test_directories_that_are_not_clear(tmp_path):
    with pytest.raises(InputError, match="it is a directory without a weights file$"):
        state_dicts.read(tmp_path)
    for name in ("a.pth", "b.pth"):
        torch.save(STATE, tmp_path / name)
    with pytest.raises(InputError, match=r"with 2 weights files; name one, such as .*a\.pth$"):
        state_dicts.read(tmp_path)
    with pytest.raises(InputError, match="seg_weights: .*a directory with 2 weights files"):
        nets.check_file("seg_weights", tmp_path)
    with pytest.raises(InputError, match="nowhere: no such weights file"):
        nets.fingerprint(tmp_path / "nowhere")


def indexed(change):
    """An index of parts in which something is wrong."""

    def write(folder):
        index = write_parts(folder)
        content = json.loads(index.read_text())
        change(folder, content)
        index.write_text(json.dumps(content))

    return write


def cut(folder, content):
    part = folder / "model-00002-of-00002.safetensors"
    part.write_bytes(part.read_bytes()[:-8])


def lfs(folder, content):
    part = folder / "model-00002-of-00002.safetensors"
    part.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def listed(name, file):
    return lambda folder, content: content["weight_map"].update({name: file})


BROKEN = {
    "missing part": (
        lambda folder, content: (folder / "model-00002-of-00002.safetensors").unlink(),
        "lists 2 files, of which 1 are missing, first model-00002-of-00002.safetensors",
    ),
    "cut part": (cut, "model-00002-of-00002.safetensors: truncated or damaged"),
    "pointer": (lfs, "model-00002-of-00002.safetensors: not a file of weights only: it is a point"),
    "other folder": (
        listed("x", "../secret.pth"),
        r"x is in '../secret\.pth', which is no",
    ),
    "absolute": (listed("x", "/etc/passwd"), "which is not a name"),
    "number": (listed("x", 3), "x is in 3, which is not a name"),
    "tensor": (listed("x", "model-00001-of-00002.safetensors"), "has no tensor x, which model"),
    "nothing": (lambda folder, content: content.pop("weight_map"), "JSON without a weight_map"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_parts_are_named(tmp_path, kind):
    change, message = BROKEN[kind]
    indexed(change)(tmp_path / "repository")
    with pytest.raises(InputError, match=message) as error:
        state_dicts.read(tmp_path / "repository")
    assert len(str(error.value).splitlines()) == 1 and "repository" in str(error.value)


def test_settings_instead_of_weights(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(InputError, match=r"config\.json: not a file of weights, but JSON"):
        state_dicts.read(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: cannot be read as JSON"):
        state_dicts.read(tmp_path / "config.json")


def test_one_tensor_of_safetensors_byte_by_byte(tmp_path):
    """72 bytes: the header's length, the header with two blanks, two numbers."""
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  '
    content = struct.pack("<Q", 56) + header + bytes.fromhex("0000803f00000040")
    assert len(content) == 72 and content[:8] == bytes.fromhex("3800000000000000")
    (tmp_path / "w.safetensors").write_bytes(content)
    assert state_dicts.read(tmp_path / "w.safetensors")["a"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("lightning_fabric.utilities.data", "AttributeDict"),
        ("pytorch_lightning.utilities.parsing", "AttributeDict"),
        ("mmengine.logging.history_buffer", "HistoryBuffer"),
    ],
)
def test_settings_of_libraries_that_are_not_installed(tmp_path, monkeypatch, module, name):
    """Lightning's hyper-parameters and OpenMMLab's log, as their own classes pickle them."""
    kind = type(name, (dict,) if name == "AttributeDict" else (), {"__module__": module})
    fake = types.ModuleType(module)
    setattr(fake, name, kind)
    value = kind(lr=0.1) if name == "AttributeDict" else kind()
    if name != "AttributeDict":
        value.max_length, value.loss = 10, torch.ones(2)
    with monkeypatch.context() as context:
        parents = module.split(".")[:-1]
        for depth in range(len(parents)):
            context.setitem(sys.modules, ".".join(parents[: depth + 1]), types.ModuleType("_"))
        context.setitem(sys.modules, module, fake)
        content = {"state_dict": STATE, "hyper_parameters": value, "log": {"loss": value}}
        torch.save(content, tmp_path / "w.ckpt")
    assert same(state_dicts.read(tmp_path / "w.ckpt"))
