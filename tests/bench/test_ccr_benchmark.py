"""The benchmark of CCR's maps: its classifier, its rows, its table over seeds."""

import numpy as np
import pytest
import torch

from benchmarks import ccr as benchmark
from benchmarks import ccr_maps
from wsss_fast import cam, nets, threshold_curve
from wsss_fast.data import read_labels
from wsss_fast.evaluation.metrics import evaluate
from wsss_fast.stages.masks import make


@pytest.fixture(scope="module")
def maps(shapes, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    (run / "cam").mkdir()
    nets.save_weights(
        nets.cam_resnet50(len(shapes.classes), backbone="small"), run / "cam/weights.pth"
    )
    assert ccr_maps.classifier(shapes, run, 0) == run / "cam/weights.pth"
    return ccr_maps.folders(shapes, run, tmp_path_factory.mktemp("maps"), ccr_maps.MAIN_VARIANTS)


def test_only_a_missing_classifier_is_trained(shapes, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        cam, "train", lambda *_, **options: calls.append(("train", options["seed"]))
    )
    monkeypatch.setattr(cam, "infer", lambda *_, **options: calls.append("infer"))
    ccr_maps.classifier(shapes, tmp_path, 5)
    (tmp_path / "cam").mkdir()
    (tmp_path / "cam/weights.pth").write_bytes(b"")
    ccr_maps.classifier(shapes, tmp_path, 5)
    assert calls == [("train", 5), "infer", "infer"]


def test_rows_of_maps(shapes, maps, tmp_path):
    rows = ccr_maps.map_rows(shapes, maps, 7, crf=True)
    assert [row["maps"] for row in rows] == ["CAM", *ccr_maps.MAIN_VARIANTS] == list(maps)
    for row, folder in zip(rows, maps.values(), strict=True):
        curve = threshold_curve(folder, shapes)
        assert (row["seed"], row["mIoU"], row["at"]) == (7, 100 * curve.metrics.miou, curve.best)
        assert row["gain"] == row["mIoU"] - rows[0]["mIoU"]
        out = tmp_path / row["maps"]
        masks = make(shapes, folder, out, threshold=row["at"], crf=None).folder
        objects = predicted = hits = 0
        for id in shapes.ids:
            truth, labels = shapes.mask(id), read_labels(masks / f"{id}.png")
            known = truth < 255
            objects += int(((truth > 0) & known).sum())
            predicted += int(((labels > 0) & known).sum())
            hits += int(((labels == truth) & (truth > 0) & known).sum())
        assert row["mIoU"] == pytest.approx(100 * evaluate(masks, shapes).miou)
        assert row["recall"] == pytest.approx(100 * hits / objects)
        assert row["precision"] == pytest.approx(100 * hits / max(predicted, 1))
        tried = ccr_maps.crf_thresholds(row["at"])
        assert row["at + CRF"] in tried and list(row["curve + CRF"]) == [str(t) for t in tried]
        assert min(tried) <= row["at"] <= max(tried) and min(tried) >= 0 and max(tried) <= 1
        low = threshold_curve(folder, shapes, thresholds=(0.4,)).metrics.confusion
        assert row["recall at 0.4"] == pytest.approx(100 * np.diag(low)[1:].sum() / low[1:].sum())
        assert row["mIoU + CRF"] == 100 * max(row["curve + CRF"].values())
    without_crf = ccr_maps.map_rows(shapes, {"CAM": maps["CAM"]}, 7, crf=False)
    assert "mIoU + CRF" not in without_crf[0]


def test_kinds_of_images(shapes, maps):
    rows = {row["images"]: row for row in ccr_maps.kind_rows(shapes, maps, 7)}
    count = {kind: row["count"] for kind, row in rows.items()}
    kinds = ("one class", "two classes", "three and more")
    assert sum(count.get(kind, 0) for kind in kinds) == len(shapes)
    halves = count["one class, larger half"] + count["one class, smaller half"]
    assert halves == count["one class"]
    alone = shapes.only([i for i in shapes.ids if shapes.tags_of(i).sum() == 1])
    assert rows["one class"]["CAM"] == 100 * threshold_curve(maps["CAM"], alone).metrics.miou
    mask = np.array([[0, 0, 255, 255], [1, 1, 1, 2]])
    assert ccr_maps._share(mask) == 4 / 8 / 2


def test_the_table_over_seeds():
    rows = [
        {
            "seed": s,
            "maps": "CCR",
            "mIoU": 50.0 + s,
            "at": 0.5 + 0.1 * s,
            "gain": s - 1.0,
            "curve": {},
        }
        for s in range(3)
    ]
    found = benchmark.over_seeds(rows, "maps")
    assert found == [
        {
            "maps": "CCR",
            "mIoU": "51.0 ± 1.0",
            "at": "0.60 ± 0.10",
            "gain": "+0.0 (-1.0, +0.0, +1.0)",
        }
    ]
    assert benchmark._table(found).splitlines()[0] == "| maps | mIoU | at | gain |"
