"""EPS' analyses on a small data set."""

import numpy as np
import pytest
from brief import eps_pipeline

from wsss_fast import InputError, data, eps
from wsss_fast.engine.run_folder import read_records
from wsss_fast.stages import saliency


def test_analyses_train_score_and_show_each_variant(shapes, tmp_path):
    options = {
        "backbone": "small",
        "pipeline": eps_pipeline(),
        "parts": ("strategies", "lam", "saliency"),
        "lams": (0.5, 0.9),
        "background_classes": (1,),
        "val": data.load(shapes.root, split="val"),
        "precision": "fp32",
    }
    result = eps.analyse(shapes, tmp_path, **options)
    names = [
        "cam",
        "eps",
        "naive",
        "predefined",
        "lam-0.9",
        "saliency-degraded",
        "saliency-classical",
    ]
    assert list(result.miou) == names and result.out == tmp_path / "analyses"
    own, added = read_records(tmp_path), read_records(result.out)
    assert next(iter(own)) == "cam" and "naive" not in own
    records = {**own, **added}
    for name in names:
        assert records[name]["miou"] == result.miou[name]
        assert set(records[name]["trimap"]) == {"1", "2", "4", "8", "16"}
    assert result.report == tmp_path / "analyses/report.html"
    page = result.report.read_text()
    assert "mIoU over lam" in page and "mIoU over tau" not in page
    assert all(f"<td>{name}</td>" in page for name in names)
    before = {p: p.stat().st_mtime_ns for p in result.out.rglob("*.pth")}
    assert len(before) == 5 and eps.analyse(shapes, tmp_path, **options).miou == result.miou
    assert before == {p: p.stat().st_mtime_ns for p in before}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parts": ("colour",)}, "parts holds 'colour'"),
        ({"lams": (1.5,)}, r"lams must be in 0..1, got \(1.5,\)"),
    ],
)
def test_bad_input_raises_before_anything_is_written(shapes, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        eps.analyse(shapes, tmp_path / "run", backbone="small", **arguments)
    assert not (tmp_path / "run").exists()


def test_degraded_saliency_is_partly_black_and_blurred(shapes, tmp_path):
    result = saliency.degrade(shapes, tmp_path, missed=0.5)
    degraded = data.load(shapes.root, saliency=result.folder)
    black = [i for i in shapes.ids if degraded.saliency(i).max() == 0]
    assert 0 < len(black) < len(shapes)
    for id in set(shapes.ids) - set(black):
        given, blurred = shapes.saliency(id), degraded.saliency(id)
        steepest = abs(np.diff(given, axis=0)).max()
        assert abs(np.diff(blurred, axis=0)).max() < steepest or given.max() == 0
    with pytest.raises(InputError, match="missed in 0..1, got 0.04 and 2"):
        saliency.degrade(shapes, tmp_path / "other", missed=2)
