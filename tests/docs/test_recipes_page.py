"""The page of the published rows: every row of every method, with its numbers and sources."""

import importlib

import pytest
from pages import ROOT

from wsss_fast import amn, ccr, eps, irn, seg


@pytest.fixture
def recipes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs/_ext"))
    return importlib.import_module("recipes")


def test_every_row_is_shown(recipes):
    page = recipes.page()
    sections = dict(part.split("\n", 1) for part in page.split("\n### ")[1:])
    for method in (amn, ccr, eps, irn, seg):
        for name, preset in method.PRESETS.items():
            first = next(n for n, one in method.PRESETS.items() if one is preset)
            assert (name in sections) == (preset.row is not None and name == first), name
            if name not in sections:
                continue
            for start in preset.row.starts:
                assert recipes.prose(start.what) in sections[name]
            for one in preset.row.published:
                assert f"| {one.value:g} |" in sections[name]
            assert all(recipes.prose(text) in sections[name] for text in preset.row.unsure)
    assert "`updates=30000`" in sections["advcam"] and "`balance='image'`" in sections["advcam"]
    assert "| `schedule` | Poly: `power=0.9`, `warmup=0.0`, `every=10` |" in sections["advcam"]
    assert "| `optimizer` | Sgd: `weight_decay=0.0`" in sections["resnet38-mctformer"]
    assert "| `seg` | [advcam](#advcam) |" in sections["amn-voc"]


def test_numbers_that_are_off_are_left_out(recipes):
    found = dict(recipes.parts(seg.Recipe()))
    assert "energy" not in found and "hsv" not in found["augment"] and "compile" not in found[""]
    assert "`hsv=10`" in dict(recipes.parts(seg.PRESETS["resnet38-seam"].numbers))["augment"]
