"""The benchmarks measure what they say and print no time for a wrong answer."""

import pytest
import torch

from benchmarks import label_conditioned
from wsss_fast import ops

TINY = {
    "logits": label_conditioned.Row((2, 8, 9, 9), 3),
    "train": label_conditioned.Row((2, 8, 9, 9), 3, dilations=(1, 2), backward=True),
    "unscaled": label_conditioned.Row((2, 8, 9, 9), 3, dilations=(1,), kernel=1, scaled=False, backward=True),
    "activation": label_conditioned.Row((2, 8, 9, 9), 3, size=(20, 20)),
}


@pytest.fixture(autouse=True)
def tiny_rows(monkeypatch):
    monkeypatch.setattr(label_conditioned, "ROWS", TINY)
    monkeypatch.setattr(label_conditioned, "ROTATED_BYTES", 10_000)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_label_conditioned(dtype, capsys, tmp_path):
    label_conditioned.main(["--quick", "--no-memory", "--repeats", "1", "--dtype", dtype, "--json", str(tmp_path / "out")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-4:]] == list(TINY)
    assert all("x" in line.split()[-3] for line in lines[-4:])
    assert (tmp_path / "out").read_text().startswith("{")


@pytest.mark.parametrize("name", ["label_conditioned_logits", "label_conditioned_activation"])
def test_a_wrong_answer_prints_no_time(name, monkeypatch, capsys):
    right = getattr(ops, name)
    monkeypatch.setattr(ops, name, lambda *args, **options: 1.001 * right(*args, **options))
    row = "logits" if name.endswith("logits") else "activation"
    label_conditioned.main(["--quick", "--no-memory", "--rows", row])
    line = capsys.readouterr().out.splitlines()[-1].split()
    assert line[0] == row and "WRONG" in line and line[1:7] == ["-"] * 6


def test_memory_of_a_call():
    """Eager makes an array of scaled features, 134 MB here, and drops it."""
    row = label_conditioned.Row((1, 8, 9, 9), 3)
    quiet = label_conditioned.extra_memory(row, "ours", torch.device("cpu"), torch.float32)
    large = label_conditioned.Row((64, 512, 32, 32), 3, dilations=(1,), kernel=1)
    eager = label_conditioned.extra_memory(large, "eager", torch.device("cpu"), torch.float32)
    scaled_features = 64 * 512 * 32 * 32 * 4
    assert quiet < 8e6 and 0.8 * scaled_features < eager < 3 * scaled_features
