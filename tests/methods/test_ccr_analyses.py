"""CCR's analyses on a small data set."""

import dataclasses
import re

import pytest
from brief import brief

from wsss_fast import InputError, ccr, data, seg
from wsss_fast.engine.run_folder import read_records
from wsss_fast.maps import load_maps


@pytest.fixture
def options(shapes, classifier_weights):
    small = ccr.PIPELINES["small"]
    erasing = dataclasses.replace(small.ccr.erasing, scales=(1.0, 0.5), rounds=2)
    pipeline = dataclasses.replace(
        small,
        ccr=dataclasses.replace(small.ccr, erasing=erasing),
        refine=dataclasses.replace(small.refine, kind="crf"),
        seg=ccr.Refinement(seg=brief(seg.RECIPES["small"], 64, updates=2)),
    )
    return {
        "weights": classifier_weights,
        "backbone": "small",
        "pipeline": pipeline,
        "val": data.load(shapes.root, split="val"),
        "precision": "fp32",
    }


def test_analyses_compute_score_and_show_each_variant(shapes, options, tmp_path):
    result = ccr.analyse(shapes, tmp_path, **options)
    assert list(result.miou) == [
        "cam",
        "ccr",
        "after-1",
        "masking-joint",
        "unit-image",
        "seg-none",
        "seg-everywhere",
        "seg-aamr",
    ]
    records = {**read_records(tmp_path), **read_records(result.out)}
    assert all(records[name]["miou"] == value for name, value in result.miou.items())
    one_round, all_rounds = (
        load_maps(tmp_path / folder, shapes.ids[0]).high_res
        for folder in ("analyses/after-1/maps", "ccr/maps")
    )
    assert (all_rounds >= one_round - 1e-3).all()
    assert result.report == tmp_path / "analyses/report.html"
    page = result.report.read_text()
    titles = (
        "CAM",
        "1 round",
        "CCR, 2 rounds",
        "all classes masked together",
        "maps divided by their maximum in the image",
        "everywhere",
        "aamr",
    )
    assert all(f"<td>{title}</td>" in page for title in titles)
    first_three = [page.index(f"<td>{title}</td>") for title in titles[:3]]
    assert first_three == sorted(first_three)
    rows = [row for row in page.split("<tr>") if "<img" in row]
    widths = [sum(map(int, re.findall(r"<img width=(\d+)", row))) for row in rows]
    assert len(widths) == 12 and max(widths) <= 1040  # no column is out of sight
    before = {
        p: p.stat().st_mtime_ns
        for p in result.out.rglob("*")
        if p.suffix in (".npz", ".pth", ".png")
    }
    assert ccr.analyse(shapes, tmp_path, **options).miou == result.miou
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_unknown_parts_raise_before_anything_is_written(shapes, tmp_path):
    with pytest.raises(InputError, match="parts holds 'colour'"):
        ccr.analyse(shapes, tmp_path / "run", parts=("colour",), backbone="small")
    assert not (tmp_path / "run").exists()
