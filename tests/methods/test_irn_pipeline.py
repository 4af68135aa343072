"""The IRN pipeline from end to end on a small data set, and its published row."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from brief import irn_pipeline

from wsss_fast import InputError, amn, cam, evaluate, irn
from wsss_fast.data import read_labels
from wsss_fast.engine.run_folder import read_records
from wsss_fast.irn.pipeline import STAGES
from wsss_fast.presets import differences
from wsss_fast.readers.instances import load_instances


def run(shapes, out, **options):
    options = {"backbone": "small", "pipeline": irn_pipeline(), "precision": "fp32"} | options
    return irn.run(shapes, out, **options)


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory):
    return run(shapes, tmp_path_factory.mktemp("runs") / "run")


def test_run_writes_all_artefacts(finished, shapes):
    out = finished.out
    assert finished.masks == out / "irn/masks"
    for name in STAGES:
        assert (out / name / "done.json").is_file(), name
    for id in shapes.ids:
        tags = set(np.flatnonzero(shapes.tags_of(id)) + 1)
        assert set(np.unique(read_labels(finished.masks / f"{id}.png"))) <= {0, *tags}
        found = load_instances(out / "irn/instances", id, len(shapes.classes), shapes.size(id))
        assert set(found.labels) <= tags
    assert not list(out.rglob("*.tmp*")) and not list(out.rglob("begun.json"))
    config = json.loads((out / "config.json").read_text())
    assert config["command"] == "irn run"
    assert config["arguments"]["pipeline"]["irn"]["power"] == 1.0


def test_run_records_every_stage(finished, shapes):
    records = read_records(finished.out)
    assert list(records) == ["cam", "seeds", "irn", "masks", "irn/instances"]
    assert records["masks"]["miou"] == evaluate(finished.masks, shapes).miou
    assert records["cam"]["fixed_threshold"] == irn.PIPELINES["small"].cam_threshold
    assert records["irn/instances"]["seconds"] > 0
    page = finished.report.read_text()
    assert page.count("<img ") == 7 * 18 and "objects</th>" in page


def test_second_run_skips_finished_stages_and_repeats_one(finished, shapes, tmp_path, capfd):
    out = shutil.copytree(finished.out, tmp_path / "run", copy_function=shutil.copyfile)
    capfd.readouterr()
    numbers = irn_pipeline()
    options = dataclasses.replace(numbers.instances, min_area=1.0)
    changed = dataclasses.replace(numbers, instances=options)
    with pytest.raises(InputError, match=r"min_area was 0\.01, now 1.*--redo irn/instances`"):
        run(shapes, out, pipeline=changed)
    assert capfd.readouterr().err.count("skipped") == len(STAGES) - 1
    again = run(shapes, out, pipeline=changed, redo="irn/instances")
    assert capfd.readouterr().err.count("skipped") == len(STAGES) - 1
    assert again.metrics.miou == finished.metrics.miou
    for id in shapes.ids:
        found = load_instances(out / "irn/instances", id, len(shapes.classes), shapes.size(id))
        assert not found.scores.any()


def test_a_run_that_ends_with_the_masks(finished, shapes, tmp_path):
    out = tmp_path / "run"
    for name in ("cam", "seeds", "irn"):
        shutil.copytree(finished.out / name, out / name)
    shutil.rmtree(out / "irn/instances")
    result = run(shapes, out, until="masks")
    assert not (out / "irn/instances").exists()
    assert list(read_records(out)) == ["cam", "seeds", "irn", "masks"]
    assert result.report.read_text().count("<img ") == 6 * 18


def test_bad_input_raises_before_anything_is_written(shapes, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(InputError, match="preset is 'voc'; must be one of irn-voc, shapes"):
        irn.run(shapes, out, preset="voc")
    with pytest.raises(InputError, match="'irn-voc' is for backbone 'resnet50', got 'small'"):
        irn.run(shapes, out, preset="irn-voc", backbone="small")
    with pytest.raises(InputError, match="no such weights file"):
        run(shapes, out, weights=tmp_path / "nowhere.pth")
    wrong = dataclasses.replace(irn_pipeline(), bg_threshold=0.5)
    with pytest.raises(InputError, match="pipeline: bg_threshold 0.5 must not be above fg_thres"):
        run(shapes, out, pipeline=wrong)
    assert not out.exists()


def test_the_row_has_the_published_numbers():
    """run_sample.py, step/train_irn.py and step/make_ins_seg_labels.py of jiwoon-ahn/irn."""
    preset = irn.PRESETS["irn-voc"]
    numbers, row = preset.numbers, preset.row
    assert preset.backbone == "resnet50" and numbers.cam == cam.RECIPES["resnet50"]
    classifier, recipe = numbers.cam, numbers.irn
    assert (classifier.epochs, classifier.batch_size, classifier.lr) == (5, 16, 0.1)
    assert (classifier.head_lr_scale, classifier.augment.crop) == (10, 512)
    assert classifier.scales == (1.0, 0.5, 1.5, 2.0)
    assert (numbers.cam_threshold, numbers.fg_threshold, numbers.bg_threshold) == (0.15, 0.30, 0.05)
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (3, 32, 0.1)
    assert (recipe.displacement_lr_scale, recipe.radius, recipe.augment.crop) == (10, 10, 512)
    assert recipe.optimizer.weight_decay == classifier.optimizer.weight_decay == 1e-4
    assert (recipe.power, recipe.beta, recipe.steps, recipe.walk_radius) == (1, 10, 2**8, 5)
    assert (recipe.threshold, recipe.pad) == (0.25, 512)
    assert dataclasses.asdict(numbers.instances) == {
        "steps": 300,
        "centre": 2.5,
        "threshold": 0.25,
        "min_area": 0.01,
    }
    assert (row.layout, row.split, row.score_on) == ("voc", "trainaug", "train")
    assert (row.truth, row.val_split) == ("SegmentationClass", None)
    published = {(one.record, one.value): one.sure for one in row.published}
    assert published == {
        ("cam", 48.3): True,
        ("masks", 66.5): True,
        ("irn/instances", 37.7): True,
        ("seg on val", 63.5): False,
        ("seg on test", 64.8): False,
    }


def test_amn_uses_irn_with_an_exponent():
    used = amn.PRESETS["amn-voc"].numbers.refine.irn
    (found,) = differences(irn.PRESETS["irn-voc"].numbers.irn, used)
    assert found == ("power", 1.0, 1.3)
