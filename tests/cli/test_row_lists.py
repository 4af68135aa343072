"""A preset's row gives the lists and the folder of masks where no option does."""

import dataclasses
import shutil

import numpy as np
import pytest
from layouts import VOC_LABELS, make_coco, make_voc

from wsss_fast import InputError, data
from wsss_fast.cli.arguments import open_data, parse
from wsss_fast.command import Command
from wsss_fast.presets import Preset, Row
from wsss_fast.runs import Compute, run_arguments

VOC = Row("voc", "trainaug", "train", "SegmentationClass", val_split="val")
COCO = Row("coco", "train-annotated", "train-annotated", "masks", val_split="val-annotated")
PRESETS = {
    "some-voc": Preset("small", None, VOC),
    "some-coco": Preset("small", None, COCO),
    "other": Preset("small", None),
}
COMMAND = Command("run", "test_row_lists:run", presets="PRESETS")
TRAIN = set(VOC_LABELS["train"])


def run(data: data.Source, *, preset: str | None = None, val: data.Source | None = None):
    """A pipeline that does nothing."""


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return make_voc(tmp_path_factory.mktemp("voc") / "VOC2012", more=True)


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp("coco") / "coco14")


def opened(root, words="--preset some-voc"):
    arguments = parse(COMMAND, ["--data", str(root), *words.split()])
    found = open_data(COMMAND, arguments)
    return found["data"], found.get("val")


def first_line(capfd):
    return capfd.readouterr().err.splitlines()[0]


def test_the_rows_lists(voc, coco, capfd):
    train, val = opened(voc)
    assert first_line(capfd) == ("some-voc: split trainaug, val-split val, truth SegmentationClass")
    assert len(train) == 11 and set(train.masks) == TRAIN and train.score_on == "train"
    assert train.truth == val.truth == "SegmentationClass" and val.split == "val"
    train, val = opened(coco, "--preset some-coco")
    assert first_line(capfd).endswith("train-annotated, val-split val-annotated, truth masks")
    assert len(train) == 7 and len(val) == 3 and train.score_on == "all"


def test_options_come_first(voc, tmp_path, capfd):
    words = "--preset some-voc --split val --val-split train --truth SegmentationClassAug"
    train, val = opened(voc, words)
    assert not capfd.readouterr().err
    assert (train.split, val.split, train.score_on) == ("val", "train", "all")
    assert train.truth == val.truth == "SegmentationClassAug"
    train, _ = opened(voc, "--preset some-voc --score-on all")
    assert len(train.masks) == 8 and train.score_on == "all"  # SegmentationClass has no more
    listed = tmp_path / "few.txt"
    listed.write_text("2007_000033")
    train, _ = opened(voc, f"--preset some-voc --ids {listed}")
    assert len(train) == len(train.masks) == 1
    assert "split trainaug" not in capfd.readouterr().err.splitlines()[-1]


def test_a_command_that_predicts_takes_the_rows_validation_list(voc):
    command = dataclasses.replace(COMMAND, predicts=True)
    found = open_data(command, parse(command, ["--data", str(voc), "--preset", "some-voc"]))["data"]
    assert (found.split, found.score_on, found.truth) == ("val", "all", "SegmentationClass")


@pytest.mark.parametrize("words", ["", "--preset other", "--preset some-coco"])
def test_without_a_row_of_this_layout_nothing_changes(voc, words, capfd):
    train, val = opened(voc, words)
    assert train.split == "train" and val is None and not capfd.readouterr().err


def test_own_classes_are_not_those_of_the_row(voc, shapes_root, tmp_path, capfd):
    assert opened(shapes_root)[0].split == "train"
    root = shutil.copytree(voc, tmp_path / "same")
    (root / "classes.txt").write_text("\n".join(data.VOC_CLASSES))
    assert opened(root)[0].split == "trainaug"
    assert data.default_split("shapes", VOC) == data.default_split(tmp_path / "none", VOC)


def test_what_only_measures_may_be_missing(voc, tmp_path, capfd):
    root = shutil.copytree(voc, tmp_path / "VOC2012")
    (root / "ImageSets/Segmentation/trainaug.txt").write_text("\n".join(opened(voc)[0].ids))
    (root / "ImageSets/Segmentation/val.txt").unlink()
    shutil.rmtree(root / "SegmentationClass")
    capfd.readouterr()
    train, val = opened(root)
    line = first_line(capfd)
    assert line == "some-voc: split trainaug, no list val here, no folder SegmentationClass here"
    assert val is None and train.truth == "SegmentationClassAug"


def test_the_training_list_may_not(tmp_path):
    root = make_voc(tmp_path / "VOC2012")
    with pytest.raises(InputError, match="SegmentationClassAug/ .*--split train uses the images"):
        opened(root)
    assert len(opened(root, "--preset some-voc --split train")[0]) == 8


def test_the_same_in_python(voc):
    train = data.opened_for(voc, VOC)
    assert len(train) == 11 and train.truth == "SegmentationClass"
    assert data.validation_for(None, voc, VOC).split == "val"
    assert data.validation_for(None, train, VOC) is None
    assert data.validation_for(train, voc, VOC) is data.opened_for(train, VOC) is train
    assert data.opened_for(voc, None).split == "train"
    assert data.validation_for(None, voc, None) is None


def test_config_of_a_run_opens_the_same(voc, tmp_path):
    compute = Compute("small", "cpu", 0, 0, "fp32")
    train, val = opened(voc, "--preset some-voc --score-on all")
    recorded = run_arguments(tmp_path, train, val, compute, {})
    names = ("data", "split", "truth", "score_on", "val_split")
    assert [recorded[n] for n in names] == [str(voc), "trainaug", "SegmentationClass", "all", "val"]
    other = data.load(voc, split="val", truth="SegmentationClassAug")
    assert run_arguments(tmp_path, train, other, compute, {})["val"] == other.source
    part = dataclasses.replace(train, source=None)
    assert run_arguments(tmp_path, part, part, compute, {})["data"] is None


@pytest.mark.parametrize("kind", ["array", "dictionary"])
def test_tags_of_the_validation_images(coco, tmp_path, kind):
    """A dictionary has the tags of both lists; the rows of an array are of the first one."""
    train, val = data.load(coco), data.load(coco, split="val")
    content = train.tags
    if kind == "dictionary":
        content = {id: part.tags_of(id) for part in (train, val) for id in part.ids}
    path = tmp_path / "tags.npy"
    np.save(path, content, allow_pickle=True)
    pair = opened(coco, f"--tags {path} --val-split val")
    assert [list(part.tags.sum(0)) for part in pair] == [list(p.tags.sum(0)) for p in (train, val)]
    assert [bool(part.source["tags"]) for part in pair] == [True, kind == "dictionary"]
    recorded = run_arguments(tmp_path, *pair, Compute("small", "cpu", 0, 0, "fp32"), {})
    assert (recorded["tags"], recorded["val_split"]) == (str(path), "val")


def test_commands_that_need_no_tags_open_a_folder_of_images(coco):
    command = dataclasses.replace(COMMAND, needs_tags=False)
    arguments = parse(command, ["--data", str(coco / "train2014")])
    assert not open_data(command, arguments)["data"].tagged
    with pytest.raises(InputError, match="is opened with --tags FILE or needs a labels.csv"):
        open_data(COMMAND, parse(COMMAND, ["--data", str(coco / "train2014")]))
