"""`wsss-fast export`: its formats, and options that belong to one of them."""

import inspect
import json

import pytest

from wsss_fast import InputError, export
from wsss_fast.cli import run
from wsss_fast.export import command


def test_the_command_writes_what_the_function_writes(masks, tmp_path, capfd):
    out = tmp_path / "a.json"
    assert run(["export", str(masks), "--to", "coco", "-o", str(out), "--min-area", "2"]) == 0
    assert capfd.readouterr().out.strip() == str(out)
    export.to_coco(masks, tmp_path / "b.json", min_area=2)
    assert out.read_bytes() == (tmp_path / "b.json").read_bytes()
    assert run(["export", str(masks), "--to", "coco", "-o", str(out)]) == 0  # replaces it
    assert out.read_bytes() != (tmp_path / "b.json").read_bytes()


def test_a_broken_mask_gives_exit_code_1(masks, tmp_path, capfd):
    (masks / "one.png").write_bytes(b"\x89PNG")
    out = tmp_path / "tasks.json"
    assert run(["export", str(masks), "--to", "labelstudio", "-o", str(out)]) == 1
    text = capfd.readouterr().err
    assert "left out: " in text and "one.png" in text and "failed: export: 1 of 3 masks" in text
    assert len(json.loads(out.read_text())) == 2


def test_bad_input_gives_exit_code_2(masks, tmp_path, capfd, files_of):
    out = str(tmp_path / "x.json")
    for words, text in (
        ((str(tmp_path / "none"),), "no such folder"),
        ((str(masks), "--url", "https://a.b/"), "--url: is an option of labelstudio, not of coco"),
        ((str(masks), "--min-area", "0"), "min_area: is 0"),
        ((str(masks), "--classes", str(masks / "one.png")), "not a readable UTF-8 text"),
    ):
        assert run(["export", *words, "--to", "coco", "-o", out]) == 2
        assert text in capfd.readouterr().err
    assert files_of() == []


def test_every_option_belongs_to_a_format():
    own = set(inspect.signature(command.export).parameters) - {"to"}
    taken = [set(inspect.signature(one).parameters) for one in command._FORMATS.values()]
    assert own == set().union(*taken) - {"model_version", "competition"}  # in Python only
    for name, function in command._FORMATS.items():
        assert getattr(export, f"to_{name.replace('-', '_')}") is function


def test_an_option_of_several_other_formats_names_them(masks, tmp_path):
    with pytest.raises(InputError, match="--min-area: is an option of coco.*, not of voc-test"):
        command.export(masks, tmp_path / "x.tgz", to="voc-test", min_area=3)
