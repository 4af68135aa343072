"""The EPS pipeline from end to end on a small data set."""

import dataclasses
import json

import numpy as np
import pytest
from brief import eps_pipeline
from layouts import make_voc

from wsss_fast import InputError, data, eps, evaluate
from wsss_fast.data import read_labels, write_labels
from wsss_fast.engine.run_folder import read_records
from wsss_fast.eps.pipeline import with_known_pairs


def run(shapes, out, **options):
    return eps.run(
        shapes,
        out,
        backbone="small",
        **{"pipeline": eps_pipeline(), "precision": "fp32", **options},
    )


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory):
    val = data.load(shapes.root, split="val")
    return run(shapes, tmp_path_factory.mktemp("eps") / "run", val=val)


def test_run_writes_all_artefacts(finished, shapes):
    out, val = finished.out, data.load(shapes.root, split="val")
    for folder, suffix in (
        ("cam/maps", "npz"),
        ("cam/crf-masks", "png"),
        ("eps/maps", "npz"),
        ("eps/crf-masks", "png"),
    ):
        assert {p.stem for p in (out / folder).glob(f"*.{suffix}")} == set(shapes.ids), folder
    assert {p.stem for p in finished.predictions.glob("*.png")} == set(val.ids)
    assert not list(out.rglob("*.tmp*")) and not list(out.rglob("begun.json"))
    page = finished.report.read_text()
    assert "EPS map" in page and "train/rails confused" in page
    config = json.loads((out / "config.json").read_text())
    assert config["arguments"]["pipeline"]["eps"]["tau"] == 0.4


def test_run_records_every_stage(finished, shapes):
    records, val = read_records(finished.out), data.load(shapes.root, split="val")
    assert list(records) == ["cam", "cam masks", "eps", "masks", "seg on val"]
    pairs = {"train/rails", "boat/water"}
    assert set(records["eps"]["confusion_ratios"]) == pairs
    assert set(records["masks"]["confusion_ratios"]) == pairs
    miou = evaluate(finished.masks, shapes).miou
    assert miou == finished.metrics.miou == records["masks"]["miou"]
    assert evaluate(finished.predictions, val).miou == finished.seg_metrics.miou


def test_masks_have_tagged_classes_only(finished, shapes):
    for id in shapes.ids:
        mask = read_labels(finished.masks / f"{id}.png")
        assert mask.shape == shapes.size(id)
        assert set(np.unique(mask)) <= {0, *(np.flatnonzero(shapes.tags_of(id)) + 1)}


def test_second_run_skips_all_stages_and_another_seed_raises(finished, shapes):
    before = {
        p: p.stat().st_mtime_ns
        for p in finished.out.rglob("*")
        if p.suffix in (".npz", ".png", ".pth")
    }
    again = run(shapes, finished.out, val=data.load(shapes.root, split="val"))
    assert again.metrics.miou == finished.metrics.miou
    assert before == {p: p.stat().st_mtime_ns for p in before}
    with pytest.raises(InputError, match=r"seed was 0, now 1\)"):
        run(shapes, finished.out, seed=1)


def test_run_without_baseline_and_segmentation(shapes, tmp_path):
    pipeline = eps_pipeline(baseline=False, crf=False, pairs=())
    result = run(shapes, tmp_path, pipeline=pipeline, until="masks")
    assert result.predictions is None and not (tmp_path / "cam").exists()
    assert result.masks == tmp_path / "eps/masks"
    assert list(read_records(tmp_path)) == ["eps", "masks"]


def test_inverted_saliency_is_reported(shapes, tmp_path, capfd):
    for id in shapes.ids:
        inverted = np.rint(255 * (1 - shapes.saliency(id)))
        write_labels(tmp_path / "inverted" / f"{id}.png", inverted, palette=b"")
    dark = data.load(shapes.root, saliency=tmp_path / "inverted")
    run(dark, tmp_path / "run", until="masks")
    assert "these maps look inverted" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"preset": "voc", "backbone": "small"},
            "preset 'eps-voc' is for backbone 'resnet38', got 'small'",
        ),
        ({"preset": "pascal"}, "preset is 'pascal'; must be one of eps-voc, eps-coco, shapes"),
        ({"backbone": "resnet50"}, "must be one of resnet38, small"),
        (
            {"backbone": "small", "pipeline": eps_pipeline(pairs=("train/lava",))},
            "'lava' in 'train/lava' is neither a class",
        ),
        ({"backbone": "small", "weights": "nowhere.pth"}, "nowhere.pth: no such weights file"),
    ],
)
def test_bad_input_raises_before_anything_is_written(shapes, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        eps.run(shapes, tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_missing_saliency_raises_before_the_classifier_is_trained(shapes, tmp_path):
    files = {i: f for i, f in shapes.saliencies.items() if i != shapes.ids[3]}
    some = dataclasses.replace(shapes, saliencies=files)
    with pytest.raises(InputError, match=f"no map for 1 of 24 ids, first '{shapes.ids[3]}'"):
        run(some, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pairs_of_the_shapes_benchmark_are_dropped_for_other_data(shapes, tmp_path):
    """Also if the pipeline is an equal copy, as the command line makes it."""
    voc, small = data.load(make_voc(tmp_path / "voc")), eps.PIPELINES["small"]
    copy = dataclasses.replace(small)
    assert with_known_pairs(shapes, copy).pairs == small.pairs
    assert with_known_pairs(voc, copy) == dataclasses.replace(small, pairs=())
    with pytest.raises(InputError, match="'rails' in 'train/rails' is neither a class"):
        with_known_pairs(voc, dataclasses.replace(small, pairs=("train/rails",)))


def test_presets_have_the_published_numbers():
    voc, coco = eps.PRESETS["eps-voc"].numbers, eps.PRESETS["eps-coco"].numbers
    assert (voc.eps.updates, voc.eps.lam, voc.eps.threshold, voc.crf) == (20_000, 0.5, 0.20, False)
    assert (coco.eps.updates, coco.eps.lam, coco.eps.augment.crop) == (256_500, 0.9, 321)
    assert coco.cam.updates == 256_500
