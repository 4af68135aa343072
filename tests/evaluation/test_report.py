"""The report: no empty columns, and as wide as a window of 1200 pixels at most."""

import io
import re

import numpy as np
import pytest
from layouts import make_folder
from rich.console import Console

from wsss_fast import data
from wsss_fast.engine.files import write_json
from wsss_fast.engine.run_folder import read_records
from wsss_fast.evaluation import report, run_scores

RECORDS = {
    "cam": {"seconds": 4500.0, "images_per_second": 0.032, "miou": 0.5, "best_threshold": 0.3},
    "masks": {"seconds": 12.34, "miou": 0.25},
}


@pytest.fixture
def own(tmp_path):
    return data.load(make_folder(tmp_path / "kitchen"))


def records(out, *left_out):
    stages = [
        {"stage": name, **{key: value for key, value in values.items() if key not in left_out}}
        for name, values in RECORDS.items()
    ]
    write_json(out / "metrics.json", {"stages": stages})
    return report.rows(out)


def test_times_and_rates_are_in_units_in_which_one_would_say_them(tmp_path):
    cam, masks = records(tmp_path)
    assert cam == {
        "stage": "cam",
        "mIoU at best": "50.0 @ 0.30",
        "time": "1 h 15 min",
        "speed": "31.2 s/img",
    }
    assert masks["time"] == "12.3 s" and masks["speed"] == ""


def test_without_true_masks_nothing_speaks_of_scores(tmp_path, own):
    rows = records(tmp_path, "miou", "best_threshold")
    assert [*rows[0]] == ["stage", "time", "speed"]
    own.masks.clear()
    panels = {"image": report.photo(own), **report.truth_column(own)}
    page = report.write(tmp_path, own, panels, title="run", curves={}).read_text()
    assert "mIoU" not in page and ">truth<" not in page
    assert "no true masks, so nothing is scored" in page
    shown = io.StringIO()
    Console(file=shown, width=80).print(report.text_table(tmp_path))
    assert "mIoU" not in shown.getvalue() and "31.2 s/img" in shown.getvalue()


def test_seeds_are_scored_with_and_without_their_unsure_pixels(tmp_path, own):
    few = own.score_only("few", ["a", "b"])
    for id in own.ids:
        data.write_labels(tmp_path / "seeds" / f"{id}.png", np.full(own.size(id), 255))
        if id in few.masks:  # objects are right, the rest is unsure
            seed = few.mask(id)
            seed[seed == 0] = 255
            data.write_labels(tmp_path / "seeds" / f"{id}.png", seed)
    run_scores.seeds(tmp_path, "seeds", few, tmp_path / "seeds")
    (row,) = report.rows(tmp_path)
    assert row["mIoU at best"] == "100.0" and row["also"].endswith(
        " % labelled, 100.0 with 255 as background"
    )
    record = read_records(tmp_path)["seeds"]
    assert (record["images"], record["of_images"]) == (2, 4)


def test_row_of_pictures_fits_into_1200_pixels(tmp_path, own):
    """Names take 8rem of .75rem text; a cell's padding is .15rem on each side."""
    wide = np.zeros((100, 900, 3), np.uint8)
    for count in (3, 6, 8):
        panels = {f"column {n}": lambda id: wide for n in range(count)}
        page = report.write(tmp_path, own, panels, title="run", curves={}).read_text()
        row = page[page.index("<table class=grid>") :].split("</tr>")[1]
        widths = [int(width) for width in re.findall(r"<img width=(\d+)", row)]
        assert len(widths) == count
        assert sum(widths) + 8 * 16 + (count + 1) * 0.3 * 16 <= 1200 - 2 * 16
    assert page.count("<div class=wide><table") >= 1 and "overflow-x:auto" in page
