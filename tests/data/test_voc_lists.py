"""VOC12's lists: trainaug from a file or derived, test without tags, what is scored, with what."""

import numpy as np
import pytest
import torch
from layouts import VOC_LABELS, VOC_MORE, VOC_TEST, make_voc

from wsss_fast import InputError, cli, data, nets
from wsss_fast.engine import remarks
from wsss_fast.evaluation import evaluate

TRAIN, VAL = tuple(VOC_LABELS["train"]), tuple(VOC_LABELS["val"])
ALL = (*TRAIN, *VOC_MORE)


@pytest.fixture
def voc(tmp_path):
    return make_voc(tmp_path / "VOC2012", more=True, test=True)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    return make_voc(tmp_path_factory.mktemp("voc") / "VOC2012", more=True, test=True)


def write_list(root, name, ids):
    path = root / "ImageSets" / f"{name}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(ids))
    return path


def load(root, **options):
    with remarks.collected():
        loaded = data.load(root, **options)
        return loaded, remarks.lines()


def test_trainaug_is_derived(fixed):
    loaded, lines = load(fixed, split="trainaug")
    assert loaded.ids == ALL and loaded.split == "trainaug" and loaded.tagged
    (line,) = lines
    assert "the 8 images of train and 3 with a mask in SegmentationClassAug" in line
    assert "11 in all" in line


@pytest.mark.parametrize("name", ["Segmentation/trainaug", "SegmentationAug/train_aug"])
@pytest.mark.parametrize("split", ["trainaug", "train_aug"])
def test_trainaug_of_a_file(voc, name, split):
    write_list(voc, name, [f"/JPEGImages/{i}.jpg /SegmentationClassAug/{i}.png" for i in ALL])
    loaded, lines = load(voc, split=split)
    assert loaded.ids == ALL and not lines
    assert loaded.score_on == "train" and set(loaded.masks) == set(TRAIN)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ((*TRAIN[1:], *VOC_MORE), rf"trainaug\.txt: id '{TRAIN[0]}' of .*train\.txt is not in it"),
        ((*ALL, VAL[1]), rf"trainaug\.txt: id '{VAL[1]}' is in .*val\.txt too"),
        ((*ALL, "2008_000006"), r"trainaug\.txt: id '2008_000006' is in .*test\.txt too"),
    ],
)
def test_a_trainaug_that_is_another_list(voc, ids, message):
    write_list(voc, "Segmentation/trainaug", ids)
    with pytest.raises(InputError, match=message):
        data.load(voc, split="trainaug")


def test_trainaug_that_cannot_be_derived(tmp_path):
    root = make_voc(tmp_path / "VOC2012")
    with pytest.raises(InputError, match=r"no such id list, nor .*SegmentationClassAug/ would be"):
        data.load(root, split="trainaug")
    (root / "ImageSets/Segmentation/val.txt").unlink()
    (root / "SegmentationClassAug").mkdir()
    with pytest.raises(InputError, match=r"val\.txt would be needed; --split train uses"):
        data.load(root, split="trainaug")


def test_another_number_of_images_is_remarked_on(voc, monkeypatch):
    counts = {"train": len(TRAIN), "trainaug": 12}
    monkeypatch.setattr("wsss_fast.data.voc_lists.VOC_COUNTS", counts)
    assert any("trainaug has 11 images, the published list 12" in x for x in load_lines(voc))
    monkeypatch.setitem(counts, "trainaug", 11)
    assert not any("the published list" in line for line in load_lines(voc))


def load_lines(root):
    return load(root, split="trainaug")[1]


def test_what_is_scored(fixed, tmp_path):
    trainaug = load(fixed, split="trainaug")[0]
    assert trainaug.score_on == "train" and tuple(trainaug.masks) == TRAIN
    listed = tmp_path / "my.txt"
    for ids, expected in {
        ALL: TRAIN,  # more than train, so it is scored as trainaug
        TRAIN: TRAIN,
        (*TRAIN[1:], *VOC_MORE): (*TRAIN[1:], *VOC_MORE),
        (*TRAIN, *VAL): (*TRAIN, *VAL),  # as VOC's list trainval
    }.items():
        listed.write_text("\n".join(ids))
        assert tuple(data.load(fixed, ids=listed).masks) == expected
    assert tuple(data.load(fixed, ids=list(ALL)).masks) == ALL  # chosen one by one
    assert tuple(load(fixed, split="trainaug", score_on="all")[0].masks) == ALL
    assert data.load(fixed, ids=[*TRAIN[:2], VAL[0]], score_on="val").scored == {VAL[0]}
    with pytest.raises(InputError, match="no image of split 'val' .* is on list 'train'"):
        data.load(fixed, split="val", score_on="train")
    with pytest.raises(InputError, match=r"minival\.txt: no such id list"):
        data.load(fixed, score_on="minival")


def predict(loaded, folder, label=0):
    for id in loaded.ids:
        data.write_labels(folder / f"{id}.png", np.full(loaded.size(id), label, np.uint8))
    return folder


def test_scores_are_over_the_images_of_the_scoring_list(fixed, tmp_path):
    loaded = load(fixed, split="trainaug")[0]
    folder = predict(loaded, tmp_path / "predictions", 3)
    with remarks.collected():
        metrics = evaluate(folder, loaded)
        assert not any("have no true mask" in line for line in remarks.lines())
    assert metrics.counted() == "8 of 11 images"
    everything = load(fixed, split="trainaug", score_on="all")[0]
    assert evaluate(folder, everything).counted() == "11 images"
    few = load(fixed, split="trainaug")[0]
    del few.masks[TRAIN[0]]
    with remarks.collected():
        assert len(few.with_masks()) == 7
        (line,) = remarks.lines()
    assert f"not scored: 1 of 8 images: {TRAIN[0]}" in line
    part = loaded.only([*TRAIN[:2], *VOC_MORE])
    assert part.scored == set(TRAIN[:2]) and evaluate(folder, part).counted() == "2 of 5 images"


def test_the_folder_of_true_masks(voc):
    (voc / "SegmentationClassAug" / f"{TRAIN[0]}.png").unlink()
    with remarks.collected():
        usual = data.load(voc)
        assert remarks.lines()
        remarks.forget()
        plain = data.load(voc, truth="SegmentationClass")
        augmented = data.load(voc, truth=voc / "SegmentationClassAug")
        assert not remarks.lines()
    assert usual.truth == "SegmentationClassAug, SegmentationClass"
    assert plain.truth == "SegmentationClass" and len(plain.masks) == 8
    assert augmented.truth == "SegmentationClassAug" and len(augmented.masks) == 7
    has = "has SegmentationClassAug and SegmentationClass"
    with pytest.raises(InputError, match=f"truth: no folder masks, neither in .*; .* {has}"):
        data.load(voc, truth="masks")


def test_a_folder_of_true_masks_elsewhere(voc, tmp_path, monkeypatch):
    (voc / "SegmentationClass").rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    loaded = data.load(voc, truth="elsewhere")
    assert len(loaded.masks) == 8 and loaded.truth == "elsewhere"
    assert loaded.source["truth"] == str(tmp_path / "elsewhere")
    again = data.load(loaded.source.pop("data"), **loaded.source)
    assert again.fingerprint(masks=True) == loaded.fingerprint(masks=True)


def test_a_score_knows_truth_and_list(voc):
    def fingerprint(**options):
        return load(voc, split="trainaug", **options)[0].fingerprint(masks=True)

    usual = fingerprint()
    assert fingerprint(score_on="train") == usual != fingerprint(score_on="all")
    data.write_labels(voc / "SegmentationClass" / f"{TRAIN[0]}.png", np.zeros((60, 80), np.uint8))
    assert fingerprint() == usual != fingerprint(truth="SegmentationClass")


def test_images_without_tags(fixed, tmp_path, capfd):
    loaded = data.load(fixed, split="test")
    assert loaded.ids == tuple(VOC_TEST) and not loaded.tagged and not loaded.masks
    assert not loaded.tags.any()
    with pytest.raises(InputError, match="split 'test' have no tags.*seg infer"):
        loaded.tags_of(loaded.ids[0])
    out = tmp_path / "run"
    for line in ("amn run --backbone small", "saliency"):
        words = f"{line} --data {fixed} --split test --out {out}"
        code = cli.run(words.split())
        output = capfd.readouterr()
        if line == "saliency":  # needs no tags
            assert code == 0 and len(list((out / "saliency").glob("*.png"))) == 2
        else:
            assert code == 2 and output.err.count("\n") == 1 and "have no tags" in output.err
            assert not (out / "config.json").exists()
    with pytest.raises(InputError, match="no id of split 'test' has a mask"):
        evaluate(tmp_path, loaded)


def test_images_without_tags_can_be_predicted(fixed, tmp_path):
    net = nets.deeplabv2_resnet101(20, backbone="small")
    torch.save(net.state_dict(), tmp_path / "net.pth")
    line = f"seg infer --backbone small --weights {tmp_path / 'net.pth'} --no-crf"
    code = cli.run([*line.split(), *f"--data {fixed} --split test --out {tmp_path}".split()])
    assert code == 0
    for id in VOC_TEST:
        path = tmp_path / "seg/predictions" / f"{id}.png"
        assert data.read_labels(path, 20).shape == data.load(fixed, split="test").size(id)


def test_annotated_images_of_a_list_named_test(voc):
    write_list(voc, "Segmentation/test", TRAIN[:2])
    assert data.load(voc, split="test").tagged
    (voc / "Annotations" / f"{TRAIN[0]}.xml").unlink()
    assert not data.load(voc, split="test").tagged


def test_lists_in_the_folder_of_augmented_lists(voc):
    pairs = "".join(f"/JPEGImages/{id}.jpg /SegmentationClassAug/{id}.png\n" for id in TRAIN[:3])
    write_list(voc, "SegmentationAug/some", [pairs])
    assert data.load(voc, split="some").ids == tuple(TRAIN[:3])
    write_list(voc, "Segmentation/some", TRAIN[:2])
    assert data.load(voc, split="some").ids == tuple(TRAIN[:2])
    with pytest.raises(InputError, match="no such id list; .* has the splits: .*some, test, train"):
        data.load(voc, split="other")


def test_masks_of_images_without_tags_are_scored(voc, tmp_path):
    for id in VOC_TEST:
        size = data.load(voc, split="test").size(id)
        data.write_labels(voc / "SegmentationClass" / f"{id}.png", np.full(size, 7, np.uint8))
    loaded = data.load(voc, split="test")
    metrics = evaluate(predict(loaded, tmp_path / "predictions", 7), loaded)
    assert metrics.miou == 1 and metrics.images == 2
