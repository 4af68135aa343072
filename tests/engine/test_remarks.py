"""Remarks are counted, and printed once at the end of the outermost block."""

import pytest

from wsss_fast.engine import remarks
from wsss_fast.errors import InputError


def test_one_line_per_text_at_the_end(capfd):
    with remarks.collected():
        with remarks.collected():
            for name in ("a.png", "b.png", "b.png"):
                remarks.add("constant saliency map", name)
            remarks.add("images scored", "c", unit="image", of=7)
        assert capfd.readouterr().err == ""
    assert capfd.readouterr().err.splitlines() == [
        "remark: constant saliency map: 2 files, first a.png",
        "remark: images scored: 1 of 7 images: c",
    ]
    assert remarks.lines() == []


def test_outside_of_a_block_it_is_printed_at_once(capfd):
    remarks.add("constant saliency map", "a.png")
    assert capfd.readouterr().err == "remark: constant saliency map: 1 file: a.png\n"


def test_an_error_does_not_hide_remarks(capfd):
    with pytest.raises(InputError), remarks.collected():
        remarks.add("constant saliency map", "a.png")
        raise InputError("b.png: no such file")
    assert "a.png" in capfd.readouterr().err
