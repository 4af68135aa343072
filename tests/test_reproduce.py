"""Published rows with several seeds: table, page, resuming, and what is missing."""

import dataclasses
import json

import pytest
from brief import brief, eps_pipeline
from layouts import make_voc

from wsss_fast import InputError, cli, eps, reproduce, seg
from wsss_fast.cli.output import show
from wsss_fast.engine.run_folder import read_protocol, read_records
from wsss_fast.presets import Preset, Published, Row, Start

START = Start("seg_weights", "DeepLab's ResNet-101", "a link in its README")
ROW = Row(
    layout="voc",
    split="trainaug",
    score_on="train",
    truth="SegmentationClassAug",
    val_split="val",
    published=(
        Published("masks", 69.22, "pseudo-masks, VOC train", "its README"),
        Published("seg on val", 70.9, "DeepLabV2, VOC <val>", "a list", sure=False),
        Published("seg on test", 70.8, "DeepLabV2, VOC test", "a list", sure=False),
    ),
    source="somebody/EPS, README",
    unsure=("Which alpha.",),
)
TINY = dataclasses.replace(eps_pipeline(), baseline=False, crf=False)
SEG = brief(seg.RECIPES["small"], 64, updates=2)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Rows with tiny networks, of a method and of a segmentation recipe."""
    monkeypatch.setitem(eps.PRESETS, "eps-tiny", Preset("small", TINY, ROW))
    starts = dataclasses.replace(ROW, starts=(START,), split="train")
    monkeypatch.setitem(eps.PRESETS, "eps-from", Preset("small", TINY, starts))
    monkeypatch.setitem(seg.PRESETS, "seg-tiny", Preset("small", SEG, ROW))


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return make_voc(tmp_path_factory.mktemp("voc") / "VOC2012")


def test_a_row_on_other_data_resumes_and_says_that_it_means_nothing(
    shapes_root, tmp_path, monkeypatch, capfd
):
    out, run = tmp_path / "out", eps.run

    def interrupted(*args, seed, **options):
        if seed == 1:
            raise KeyboardInterrupt
        return run(*args, seed=seed, **options)

    monkeypatch.setattr(eps, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduce.reproduce("eps-tiny", shapes_root, out, seeds=2, pipeline=TINY)
    partial = json.loads((out / "reproduce.json").read_text())
    assert (partial["seeds"], partial["wanted"]) == ([0], 2)
    before = (out / "seed-0/eps/weights.pth").stat().st_mtime_ns

    monkeypatch.setattr(eps, "run", run)
    changed = dataclasses.replace(TINY, seg=dataclasses.replace(TINY.seg, infer_batch=3))
    result = reproduce.reproduce("eps-tiny", shapes_root, out, seeds=2, pipeline=changed)
    assert (out / "seed-0/eps/weights.pth").stat().st_mtime_ns == before
    found = json.loads(result.file.read_text())
    assert found["seeds"] == [0, 1] and found["means_something"] is False
    masks, predictions, test = found["figures"]
    scores = [100 * read_records(out / f"seed-{n}")["masks"]["miou"] for n in (0, 1)]
    assert masks["ours"] == scores and masks["difference"] == sum(scores) / 2 - 69.22
    assert masks["half_range"] == abs(scores[0] - scores[1]) / 2
    assert len(predictions["ours"]) == 2 and test["ours"] == [] and test["mean"] is None
    assert [d["name"] for d in found["protocol"]["differences"]] == [
        "split",
        "truth",
        "seg.infer_batch",
    ]
    page = result.page.read_text()
    assert "the comparison means nothing" in page and "VOC12&#x27;s 1464" in page
    assert "VOC &lt;val&gt;" in page and "href='seed-1/report.html'" in page
    capfd.readouterr()
    show(result)
    printed = capfd.readouterr().out
    assert "eps-tiny on shapes, seeds 0, 1: the comparison means nothing" in printed
    assert "3 settings are not the row's" in printed and "not measured" in printed
    assert "Which alpha." in printed and "somebody/EPS, README" in printed


def test_segmentation_recipe_alone_from_the_command_line(voc, tmp_path, capfd):
    (tmp_path / "numbers.yaml").write_text("updates: 1\n")
    row = dataclasses.replace(
        ROW,
        split="train",
        truth="SegmentationClass",
        published=(
            Published("seg on val", 77.9, "on true masks", "its README"),
            Published("seg on val without CRF", 76.6, "on true masks", "its README"),
        ),
    )
    seg.PRESETS["seg-tiny"] = Preset("small", SEG, row)
    line = f"reproduce seg-tiny --data {voc} --out {tmp_path / 'out'} --seeds 1 --device cpu"
    assert cli.run([*line.split(), "--numbers", str(tmp_path / "numbers.yaml")]) == 0
    output = capfd.readouterr().out
    assert "seg on val without CRF" in output and "1 setting is not the row's" in output
    out = tmp_path / "out/seed-0"
    assert list(read_records(out)) == ["seg on val", "seg on val without CRF"]
    found = read_protocol(out)
    assert [d["name"] for d in found["differences"]] == ["updates"]
    assert found["masks"].endswith("SegmentationClass")
    figures = json.loads((tmp_path / "out/reproduce.json").read_text())["figures"]
    assert all(len(figure["ours"]) == 1 for figure in figures)


def test_what_is_missing_is_named_before_anything_is_written(voc, tmp_path):
    out = tmp_path / "out"

    def raises(match, row="eps-tiny", source=voc, **options):
        with pytest.raises(InputError, match=match):
            reproduce.reproduce(row, source, out, **options)
        assert not out.exists()

    raises("no row 'amn'; the rows are .*eps-tiny", row="amn")
    raises("seeds is 0", seeds=0)
    made = r"row eps-tiny is trained on VOC12's trainaug, scored on val \(somebody/EPS, README\)"
    raises(f"needs --data.*{made}", source=None)
    raises(f"nowhere is not a directory.*{made}", source=tmp_path / "nowhere")
    raises(f"trainaug.txt: no such id list.*{made}")
    raises("row eps-tiny has no --masks", masks=voc)
    start = r"row eps-from starts from DeepLab's ResNet-101 \(a link in its README\)"
    raises(f"needs --seg-weights; {start}", row="eps-from")
    raises(f"a.pth: no such weights file; {start}", row="eps-from", seg_weights=tmp_path / "a.pth")
    empty = tmp_path / "saliency"
    empty.mkdir()
    options = {"row": "eps-from", "until": "masks", "saliency": empty}
    raises(r"saliency.*row eps-from is trained on VOC12's train", **options)
    partly = make_voc(tmp_path / "VOC2012")
    next(partly.glob("SegmentationClass/2010*.png")).unlink()
    seg.PRESETS["seg-tiny"] = Preset("small", SEG, dataclasses.replace(ROW, split="train"))
    raises("masks: none are given, and only 7 of 8 images", row="seg-tiny", source=partly)
