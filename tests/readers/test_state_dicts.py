"""State dicts from checkpoints: nests, wrappers, and files of other things."""

import argparse
import copy
import gzip
import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wsss_fast import InputError, nets
from wsss_fast.readers import first_bytes


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nets.cam_resnet50(2, backbone="small")


@pytest.fixture(scope="module")
def state(net):
    return net.state_dict()


def loaded(path):
    return nets.load_weights(nets.cam_resnet50(2, backbone="small"), path, complete=True)


def same(net, state):
    return all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


NESTS = {
    **{
        key: lambda s, key=key: {key: s, "epoch": 3}
        for key in ("state_dict", "model", "model_state_dict", "model_state", "net", "module", "w")
    },
    "deep": lambda s: {"checkpoint": {"model": s}},
    "options": lambda s: {
        "model": s,
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(0.3),
        "curve": np.arange(3),
    },
    "architecture": lambda s: {"model": "resnet50", "state": s},
    "optimizer": lambda s: {
        "meta": {"a": "b"},
        "state_dict": s,
        "optimizer": {"state": {0: {"x": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
    },
    "loss": lambda s: {"model": s, "criterion": {"weight": torch.ones(2)}},
    "auxiliary": lambda s: {"model": s, "discriminator": {"conv.weight": torch.ones(2)}},
    "DataParallel": lambda s: prefixed("module.", s),
    "compile": lambda s: prefixed("_orig_mod.", s),
    "compile in DDP": lambda s: prefixed("module._orig_mod.", s),
    "DDP in compile": lambda s: prefixed("_orig_mod.module.", s),
    "compiled part": lambda s: {
        k.replace("backbone.", "backbone._orig_mod."): v for k, v in s.items()
    },
    "FSDP": lambda s: prefixed("_fsdp_wrapped_module.", s),
    "Lightning": lambda s: {"state_dict": prefixed("model.", s), "callbacks": {"a": {"b": 1.0}}},
    "Lightning, compiled": lambda s: {"state_dict": prefixed("model._orig_mod.", s)},
    "Lightning with a loss": lambda s: {
        "state_dict": {**prefixed("net.", s), "criterion.weight": torch.ones(3)}
    },
    "parameters": lambda s: {k: nn.Parameter(v, requires_grad=False) for k, v in s.items()},
    "float64": lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("kind", NESTS)
def test_nests_and_wrappers(tmp_path, state, kind):
    torch.save(NESTS[kind](state), tmp_path / "w.pth")
    assert same(loaded(tmp_path / "w.pth"), state)


def test_other_formats(tmp_path, net, state):
    averaged = torch.optim.swa_utils.AveragedModel(net)
    torch.save(averaged.state_dict(), tmp_path / "averaged.pth")
    torch.save(state, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "w.safetensors")
    (tmp_path / "renamed.bin").write_bytes((tmp_path / "w.safetensors").read_bytes())
    for path in tmp_path.iterdir():
        assert same(loaded(path), state), path
    assert same(loaded({"model": state}), state)
    assert nets.fingerprint({"model": state}) == nets.fingerprint(state)


class Malicious:
    def __reduce__(self):
        return print, ("exploded",)


def with_head(state, value):
    return {**state, "head.weight": value}


def optimizer_state(net):
    net = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


CONTENTS = {
    "two networks": (
        lambda n, s: {"generator": s, "discriminator": s},
        r"holds 2 state dicts \(generator, discriminator\); save the one to use alone",
    ),
    "average": (lambda n, s: {"model": s, "ema": s}, r"holds 2 state dicts \(model, ema\)"),
    "named average": (lambda n, s: {"net": s, "net_ema": s}, r"2 state dicts \(net, net_ema\)"),
    "both names": (
        lambda n, s: {**s, **prefixed("module.", s)},
        "two tensors for backbone.conv1.weight, with and without",
    ),
    "optimizer": (lambda n, s: optimizer_state(n), "the state of an optimizer"),
    "integers": (lambda n, s: {0: torch.zeros(2)}, "its keys are of type int, as in 0"),
    "list": (lambda n, s: [1], "holds no state dict .* but a list"),
    "tensor": (lambda n, s: torch.zeros(1), "holds no state dict .* but a Tensor"),
    "nothing": (lambda n, s: {}, "holds no state dict .* it is empty"),
    "epoch among names": (lambda n, s: {**s, "epoch": 3}, "epoch is of type int"),
    "arrays": (
        lambda n, s: {k: v.numpy() for k, v in s.items()},
        "backbone.conv1.weight is of type ndarray",
    ),
    "network": (lambda n, s: n, "holds a wsss_fast.nets.heads.CamNet object, and only tensors"),
    "nested network": (lambda n, s: {"model": n}, "CamNet object, .* save net.state_dict"),
    "code": (lambda n, s: {"a": Malicious()}, "holds a .*print object, and only tensors"),
    "NaN": (
        lambda n, s: with_head(s, torch.full((2, 96, 1, 1), torch.nan)),
        "the tensor head.weight has 192 of 192 values that are NaN, infinite",
    ),
    "infinity": (
        lambda n, s: with_head(s, torch.full((2, 96, 1, 1), -torch.inf)),
        "head.weight has 192 of 192",
    ),
    "beyond float32": (
        lambda n, s: with_head(s, torch.full((2, 96, 1, 1), 1e300, dtype=torch.float64)),
        "beyond float32",
    ),
    "variance": (
        lambda n, s: {**s, "backbone.bn1.running_var": -torch.ones(32)},
        "backbone.bn1.running_var has variances below 0",
    ),
    "meta": (
        lambda n, s: with_head(s, torch.zeros(2, 96, 1, 1, device="meta")),
        "head.weight has no values",
    ),
    "sparse": (lambda n, s: with_head(s, s["head.weight"].to_sparse()), "head.weight is sparse"),
    "nested": (
        lambda n, s: with_head(s, torch.nested.nested_tensor([torch.zeros(3)])),
        "head.weight is a nested tensor",
    ),
    "complex": (
        lambda n, s: with_head(s, s["head.weight"].to(torch.complex64)),
        r"head.weight is complex \(complex64\)",
    ),
    "int8": (
        lambda n, s: with_head(s, torch.ones(2, 96, 1, 1, dtype=torch.int8)),
        "wrong type: head.weight is int8, needs floating point",
    ),
}


@pytest.mark.filterwarnings("ignore:.*nested tensors")
@pytest.mark.parametrize("kind", CONTENTS)
def test_content_that_is_refused(tmp_path, net, state, kind, capfd):
    make, message = CONTENTS[kind]
    torch.save(make(net, state), tmp_path / "w.pth")
    with pytest.raises(InputError, match=rf"w\.pth: .*{message}") as raised:
        loaded(tmp_path / "w.pth")
    assert "\n" not in str(raised.value) and "exploded" not in capfd.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_quantized_tensors_are_refused(tmp_path, state):
    quantized = torch.quantize_per_tensor(state["head.weight"], 0.1, 0, torch.qint8)
    torch.save(with_head(state, quantized), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"head.weight is quantized \(qint8\)"):
        loaded(tmp_path / "w.pth")


def archive(kind, content):
    file = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=file, mode="w") as packed:
            member = tarfile.TarInfo("w.pth")
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    elif kind == "npz":
        np.savez(file, a=np.zeros(3))
    else:
        with zipfile.ZipFile(file, "w") as packed:
            packed.writestr("w.pth", content)
    return file.getvalue()


def safetensors(content):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return len(header).to_bytes(8, "little") + header + content


FILES = {
    "LFS": (
        lambda g: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n",
        "it is a pointer of Git LFS, not the file itself; run `git lfs pull`",
    ),
    "page": (lambda g: b"\n<!DOCTYPE html><html>Sign in</html>", r"it is a web page \(HTML\)"),
    "page, UTF-8 mark": (lambda g: b"\xef\xbb\xbf<HTML lang=en>", r"it is a web page \(HTML\)"),
    "JSON": (lambda g: b'{"error": "not found"}', "it is JSON text"),
    "index": (lambda g: b'{"weight_map": {}}', "the index of weights that are split"),
    "XML": (lambda g: b'<?xml version="1.0"?><Error/>', "it is XML text"),
    "text": (lambda g: "Zugriff verweigert für 東".encode(), "it is text"),
    "empty": (lambda g: b"", r"it is empty \(0 bytes\)"),
    "zeros": (lambda g: bytes(len(g)), "it is nothing but zeros"),
    "gzip": (gzip.compress, "compressed by gzip; unpack it first"),
    "tar": (lambda g: archive("tar", g), "a tar archive; unpack it first"),
    "zip": (lambda g: archive("zip", g), "a zip archive of 1 files, first w.pth"),
    "npz": (lambda g: archive("npz", g), "arrays of NumPy"),
    "npy": (lambda g: b"\x93NUMPY\x01\x00", "an array of NumPy"),
    "PNG": (lambda g: b"\x89PNG\r\n\x1a\n" + bytes(9), "a PNG image"),
    "HDF5": (lambda g: b"\x89HDF\r\n\x1a\n" + bytes(9), "an HDF5 file"),
    "cut": (lambda g: g[: len(g) // 2], "truncated or damaged, the archive's end is missing"),
    "cut early": (lambda g: g[:10], "truncated or damaged"),
    "noise": (lambda g: bytes(range(7, 250)) * 5, "torch cannot read it as a checkpoint"),
    "pickle": (lambda g: pickle.dumps({"a": [1.5]}), "a pickle that torch.save did not write"),
    "safetensors, cut": (lambda g: safetensors(b"1234"), "truncated or damaged, not a safetensors"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_other_things(tmp_path, state, kind):
    make, message = FILES[kind]
    content = io.BytesIO()
    torch.save(state, content)
    (tmp_path / "w.pth").write_bytes(make(content.getvalue()))
    with pytest.raises(InputError, match=rf"w\.pth: .*{message}") as raised:
        loaded(tmp_path / "w.pth")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


def test_changed_bytes_are_noticed(tmp_path, state):
    """torch itself loads such a file: it does not compare the checksums."""
    path = tmp_path / "w.pth"
    torch.save(state, path)
    with zipfile.ZipFile(path) as file:
        largest = max(file.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    for change in (b"\x55", bytes(4096)):
        damaged = bytearray(content)
        start = largest.header_offset + 500
        damaged[start : start + len(change)] = change
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"w\.pth: damaged: the checksum of w/data/"):
            loaded(path)


def test_an_archive_that_seems_encrypted_is_damaged(tmp_path, state):
    """One bit of an entry's flags, in the list at the archive's end."""
    torch.save(state, tmp_path / "w.pth")
    content = bytearray((tmp_path / "w.pth").read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"w\.pth: damaged: the checksum of"):
        loaded(tmp_path / "w.pth")


def test_archives_without_checksums_are_read(tmp_path, state):
    computed = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(computed)
    assert same(loaded(tmp_path / "w.pth"), state)


def test_binary_files_are_not_described(tmp_path):
    for content in (b"PK\x03\x04", b"\x80\x02\x8a", bytes(8) + b"\x01", b"\x12\x01" + bytes(30)):
        (tmp_path / "a").write_bytes(content)
        assert first_bytes.describe(tmp_path / "a") is None
