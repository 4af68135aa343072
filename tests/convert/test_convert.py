"""Class maps from and to pickled files: which are read, and what is refused in them."""

import collections
import io
import os
import re

import numpy as np
import pytest
import torch

from wsss_fast import InputError, RunError, convert
from wsss_fast.maps import ClassMaps, load_maps, save_maps


def stored(path, content):
    np.save(path, content, allow_pickle=True)


def maps(generator, keys=(3, 7)):
    scores = (
        generator.random((len(keys), 5, 6), dtype=np.float32),
        generator.random((len(keys), 17, 22), dtype=np.float32),
    )
    return np.array(keys), *(s.astype(np.float16).astype(np.float32) for s in scores)


@pytest.mark.parametrize("tensors", [False, True])
def test_round_trip(tmp_path, tensors):
    """IRN's code stores keys and cam as tensors, others as arrays."""
    keys, strided, high_res = maps(np.random.default_rng(0))
    public = tmp_path / "public"
    public.mkdir()
    wrap = torch.from_numpy if tensors else np.asarray
    stored(public / "a.npy", {"keys": wrap(keys - 1), "cam": wrap(strided), "high_res": high_res})
    stored(
        public / "none.npy",
        {"keys": wrap(keys[:0]), "cam": wrap(strided[:0]), "high_res": high_res[:0]},
    )
    convert.maps_from_pickles(public, tmp_path / "ours")
    ours = load_maps(tmp_path / "ours", "a")
    np.testing.assert_array_equal(ours.keys, keys)
    np.testing.assert_array_equal(ours.strided, strided)
    np.testing.assert_array_equal(ours.high_res, high_res)
    assert len(load_maps(tmp_path / "ours", "none").keys) == 0

    convert.maps_to_pickles(tmp_path / "ours", tmp_path / "back")
    back = np.load(tmp_path / "back/a.npy", allow_pickle=True).item()  # as IRN's code reads it
    np.testing.assert_array_equal(back["keys"], keys - 1)
    np.testing.assert_array_equal(back["cam"], strided)
    np.testing.assert_array_equal(back["high_res"], high_res)


def test_a_background_row_is_left_out(tmp_path):
    _, strided, _ = maps(np.random.default_rng(1), keys=(0, 2))
    save_maps(tmp_path / "ours", "a", ClassMaps(np.array([0, 2]), strided))
    convert.maps_to_pickles(tmp_path / "ours", tmp_path / "public")
    back = np.load(tmp_path / "public/a.npy", allow_pickle=True).item()
    assert back["keys"].tolist() == [1] and back["cam"].shape == (1, 5, 6)
    assert "high_res" not in back


class Malicious:
    """Unpickled without restrictions, it would run a command."""

    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"keys": np.array([1]), "cam": Malicious()}, r"refers to \w+.system; only arrays"),
        (Malicious(), "refers to"),
        ({"keys": np.array([1])}, "has no maps"),
        (
            {"keys": np.array([1, 2]), "cam": np.zeros((1, 4, 4))},
            r"keys and cam are \[\[2\], \[1, 4, 4\]\]; expected whole",
        ),
        ({"keys": np.array([300]), "cam": np.zeros((1, 4, 4))}, "expected whole numbers"),
        ({"keys": np.array([1]), "cam": np.full((1, 4, 4), np.nan)}, "finite"),
        ({"keys": np.array([1]), "cam": "text"}, "cam is not an array of numbers"),
        ({"cat": np.zeros((4, 4))}, "has no maps; expected .*; has cat"),
        ({-1: np.zeros((4, 4))}, "expected whole numbers"),
        ({True: np.zeros((4, 4))}, "has no maps; .* has True"),
        (
            {"keys": np.array([1]), "cam": np.zeros((3, 4, 4))},
            r"keys and cam are \[\[1\], \[3, 4, 4\]\]; expected whole numbers",
        ),
        ({1: np.zeros((0, 4))}, "which have no pixel"),
        ({"msc_seg": np.zeros((2, 3, 4, 4))}, r"must be \[1, C \+ 1, H, W\]"),
        ({"msc_seg": np.full((1, 3, 4, 4), np.inf)}, "NaN, infinite"),
        ({"msc_seg": np.zeros((1, 300, 4, 4))}, "2 to 255 labels"),
    ],
)
def test_rejected_content(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "public").mkdir()
    np.save(tmp_path / "public/a.npy", np.array(content, dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=f"a.npy: .*{message}"):
        convert.maps_from_pickles(tmp_path / "public", tmp_path / "ours")
    assert not (tmp_path / "exploded").exists() and not (tmp_path / "ours").exists()


def test_damaged_and_missing_files(tmp_path):
    public = tmp_path / "public"
    public.mkdir()
    stored(public / "a.npy", {"keys": np.array([1]), "cam": np.zeros((1, 4, 4), np.float32)})
    whole = (public / "a.npy").read_bytes()
    for content in (whole[:-40], whole[:90], b"", b"not an array"):
        (public / "a.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npy: "):
            convert.maps_from_pickles(public, tmp_path / "ours")
    np.save(public / "a.npy", np.zeros(3))
    with pytest.raises(InputError, match="is an array float64"):
        convert.maps_from_pickles(public, tmp_path / "ours")
    with pytest.raises(InputError, match=r"has no \.npy files; there is no such folder"):
        convert.maps_from_pickles(tmp_path / "nowhere", tmp_path / "ours")
    with pytest.raises(InputError, match=r"has no \.npy files; it is a file"):
        convert.maps_from_pickles(public / "a.npy", tmp_path / "ours")
    with pytest.raises(InputError, match=r"did you mean from-pickles\?"):
        convert.maps_to_pickles(public, tmp_path / "ours")
    with pytest.raises(InputError, match=r"a\.npy is not a directory; name another"):
        convert.maps_from_pickles(public, public / "a.npy")
    with pytest.raises(InputError, match="has no maps"):
        convert.maps_to_pickles(tmp_path / "nowhere", tmp_path / "back")


class OnGpu:
    """Pickles as a tensor of a CUDA device, as IRN's code stores them on a machine with a GPU."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        storage = Stored(self.tensor.untyped_storage())
        size, stride = tuple(self.tensor.shape), self.tensor.stride()
        arguments = (storage, 0, size, stride, False, collections.OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


class Stored:
    def __init__(self, storage):
        self.storage = torch.storage.TypedStorage(
            wrap_storage=storage, dtype=torch.float32, _internal=True
        )

    def __reduce__(self):
        content = io.BytesIO()
        torch.save(self.storage, content, _use_new_zipfile_serialization=False)
        names = [b"X" + bytes([len(n), 0, 0, 0]) + n for n in (b"cpu", b"cuda:0")]
        assert content.getvalue().count(names[0]) == 1
        return torch.storage._load_from_bytes, (content.getvalue().replace(*names),)


def test_tensors_of_every_kind(tmp_path):
    """Of another device, with a gradient, parameters, bfloat16, Fortran order, NumPy's scalars."""
    keys, strided, high_res = maps(np.random.default_rng(2))
    public = tmp_path / "public"
    public.mkdir()
    cam = torch.from_numpy(strided)
    kinds = {
        "gpu": OnGpu(cam),
        "gradient": cam.clone().requires_grad_(),
        "parameter": torch.nn.Parameter(cam),
        "double": cam.double(),
        "half": cam.half(),
        "order": np.asfortranarray(strided),
        "slices": torch.from_numpy(strided.transpose(0, 2, 1).copy()).transpose(1, 2),
    }
    for name, value in kinds.items():
        more = {"keys": torch.from_numpy(keys - 1), "cam": value, "high_res": high_res}
        stored(public / f"{name}.npy", more | {"name": "a", "score": np.float64(0.5), "n": [1]})
    convert.maps_from_pickles(public, tmp_path / "ours")
    for name in kinds:
        np.testing.assert_array_equal(load_maps(tmp_path / "ours", name).strided, strided)
    stored(public / "bfloat16.npy", {"keys": list(keys - 1), "cam": cam.bfloat16()})
    convert.maps_from_pickles(public, tmp_path / "ours")
    np.testing.assert_allclose(load_maps(tmp_path / "ours", "bfloat16").strided, strided, atol=4e-3)


def test_files_of_either_numpy(tmp_path):
    """NumPy 2 renamed its modules; pickles name them."""
    public = tmp_path / "public"
    public.mkdir()
    keys, strided, _ = maps(np.random.default_rng(3))
    stored(public / "a.npy", {"keys": keys - 1, "cam": strided})
    content = (public / "a.npy").read_bytes()
    old, new = b"numpy.core.multiarray", b"numpy._core.multiarray"
    for name, have, want in (("old", new, old), ("new", old, new)):
        changed = content
        if have in content:  # protocol 3 and 4 store the length of a name before it
            changed = changed.replace(
                b"\x8c" + bytes([len(have)]) + have, b"\x8c" + bytes([len(want)]) + want
            ).replace(b"c" + have, b"c" + want)
            assert have not in changed
        # Frames of protocol 4 have a length, which a reader of whole files may ignore.
        (public / f"{name}.npy").write_bytes(drop_frame(changed))
    convert.maps_from_pickles(public, tmp_path / "ours")
    for name in ("old", "new"):
        np.testing.assert_array_equal(load_maps(tmp_path / "ours", name).strided, strided)


def drop_frame(content):
    """Without the frame's opcode and length, which are optional."""
    at = content.find(b"\x80\x04\x95")
    return content if at < 0 else content[: at + 2] + content[at + 11 :]


ODD = {
    "keys alone": ({"keys": [1]}, "has no maps; expected .*, has keys"),
    "numbers": (
        {3: np.zeros((4, 4)), 5: np.zeros((4, 5))},
        r"maps are \{3: \[4, 4\], 5: \[4, 5\]\}; expected maps \[H, W\] of one size",
    ),
    "plain logits": (np.full((3, 4, 4), -2.0), "name the folder of the photos with --images"),
    "scores": (np.full((3, 4, 4), 0.7), "neither logits, .* nor probabilities"),
    "flat": (np.zeros(3), r"is an array float64 \[3\]; expected a pickled"),
    "NaN": ({"keys": np.array([1]), "cam": np.full((1, 4, 4), np.nan)}, "and finite"),
    "levels": ({"keys": np.array([1]), "cam": np.full((1, 4, 4), 255)}, "must be within 0..1"),
    "label 255": ({"keys": np.array([254]), "cam": np.zeros((1, 4, 4))}, "whole numbers"),
    "repeated key": ({"keys": np.array([1, 1]), "cam": np.zeros((2, 4, 4))}, "each once"),
    "sparse": (
        {"keys": np.array([1]), "cam": Malicious()},
        r"refers to \w+.system; only arrays",
    ),
    "meta": (
        {"keys": np.array([1]), "cam": torch.zeros(1, 4, 4, dtype=torch.complex64)},
        "cam is not an array of numbers, but complex64",
    ),
    "text": (np.array("a dictionary"), "something other than arrays of numbers: the array is <U12"),
    "several": (np.array([{}, {}], dtype=object), r"is an array object \[2\]"),
    "empty": (b"", "it is empty"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "zip": (b"PK\x03\x04", "cannot be read as class maps: truncated or damaged"),
}


def test_odd_files_are_named_and_the_rest_is_converted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    public = tmp_path / "public"
    public.mkdir()
    keys, strided, _ = maps(np.random.default_rng(4))
    good = {"keys": keys - 1, "cam": strided}
    for name in ("a", "z"):
        stored(public / f"{name}.npy", good)
    (public / "._a.npy").write_bytes(b"of macOS")
    for name, (content, _) in ODD.items():
        if isinstance(content, bytes):
            (public / f"{name}.npy").write_bytes(content)
        else:
            stored(public / f"{name}.npy", content)
    count = len(ODD)
    with pytest.raises(RunError, match=f"^convert: {count} of {count + 2} files were left out"):
        convert.maps_from_pickles(public, tmp_path / "ours")
    assert sorted(p.name for p in (tmp_path / "ours").iterdir()) == ["a.npz", "z.npz"]
    lines = {line.split(".npy:")[0].rpartition("/")[2]: line for line in
             capsys.readouterr().err.splitlines() if line.startswith("left out: ")}  # fmt: skip
    assert set(lines) == set(ODD)
    for name, (_, message) in ODD.items():
        assert re.search(message, lines[name]), lines[name]
    assert not (tmp_path / "exploded").exists()
    for name in ("a", "z"):
        (public / f"{name}.npy").unlink()
    with pytest.raises(InputError, match=f"none of {count} files can be used"):
        convert.maps_from_pickles(public, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_odd_maps_are_named_and_the_rest_is_converted(tmp_path, capsys):
    _, strided, _ = maps(np.random.default_rng(5))
    for name in "abc":
        save_maps(tmp_path / "ours", name, ClassMaps(np.array([1, 2]), strided))
    (tmp_path / "ours/b.npz").write_bytes((tmp_path / "ours/b.npz").read_bytes()[:200])
    with pytest.raises(RunError, match="^convert: 1 of 3 files were left out; the others are in"):
        convert.maps_to_pickles(tmp_path / "ours", tmp_path / "public")
    assert sorted(p.name for p in (tmp_path / "public").iterdir()) == ["a.npy", "c.npy"]
    assert "left out: " in (err := capsys.readouterr().err) and "b.npz: cannot be read" in err


def test_exit_codes(tmp_path, capsys):
    from wsss_fast.cli import run

    public = tmp_path / "public"
    public.mkdir()
    _, strided, _ = maps(np.random.default_rng(6))
    stored(public / "a.npy", {"keys": np.array([0, 1]), "cam": strided})
    command = ["convert", "from-pickles", str(public), str(tmp_path / "ours")]
    assert run(command) == 0
    stored(public / "odd.npy", {"keys": [1]})
    assert run(command) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "convert: 1 file of the form irn (keys with a row each, as of IRN)"
    assert "odd.npy: has no maps" in err[1] and err[3].startswith("failed: convert: 1 of 2 files")
    (public / "a.npy").unlink()
    assert run(command) == 2
