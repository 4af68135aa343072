"""Where the time goes: read from done.json, shown in the report, recorded in metrics.json."""

import html
import json
import os
import re

import numpy as np
import pytest
from layouts import make_folder

from wsss_fast import data
from wsss_fast.data import write_labels
from wsss_fast.engine.marker import FORMAT
from wsss_fast.evaluation import report, run_scores, stage_times
from wsss_fast.evaluation.stage_times import StageTime

TIME = {
    "load": 1.5,
    "write": 0.5,
    "device": 6.0,
    "wait": 2.0,
    "wall": 8.0,
    "host": 2.25,
    "peak_memory": 512_000_000,
    "peak_device_memory": 2_000_000_000,
}


def finish(out, name, notes, files=(), second=0):
    """A finished stage; `second` orders the stages in time."""
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    done = {"format": FORMAT, "arguments": {}, "files": list(files), "notes": notes}
    (folder / "done.json").write_text(json.dumps(done))
    os.utime(folder / "done.json", (second, second))


@pytest.fixture
def run(tmp_path):
    out = tmp_path / "run"
    maps = [f"{n}.npz" for n in range(16)]
    finish(out, "seeds", {"seconds": 3.0}, second=3)  # of an earlier version
    finish(out, "cam/maps", {"seconds": 9.0, "images_per_second": 2.0, "time": TIME}, maps, 2)
    finish(out, "cam", {"seconds": 60.0, "samples_per_second": 40.0}, ["weights.pth"], 1)
    (out / "analyses").mkdir()
    (out / "analyses/metrics.json").write_text("{}")
    finish(out, "analyses/other", {"time": TIME}, maps)
    return out


def test_stages_are_listed_as_they_finished(run):
    training, maps = stage_times.of_run(run)
    assert training == StageTime("cam", rate=40.0, wall=60.0)
    assert maps == StageTime("cam/maps", 16, 2.0, 8.0, 2.25, 6.0, 2.0, 512_000_000, 2_000_000_000)
    assert maps.share(maps.device) == 0.75 and maps.per_image(maps.host) == 2.25 / 16 * 1e3
    assert training.share(training.device) is None and training.per_image(60.0) is None


def test_report_shows_the_table(run, tmp_path):
    own = data.load(make_folder(tmp_path / "kitchen"))
    page = report.write(run, own, {"image": report.photo(own)}, title="run", curves={}).read_text()
    section = page[page.index("Where the time goes") : page.index("<h2>Pictures")]
    lines = section.split("</table>")[0].split("</tr>")
    first, *body = [re.findall(r"<t[hd]>(.*?)</t[hd]>", line) for line in lines]
    assert first == list(stage_times.HEAD)
    assert body[0] == ["cam", "", "40.0", "60.0", "", "", "", "", ""]
    expected = ["cam/maps", "16", "2.00", "8.00", "2.25", "6.00", "2.00", "512 MB", "2,000 MB"]
    assert body[1] == expected
    assert html.escape(stage_times.EXPLANATION) in section


def test_nothing_is_shown_of_runs_without_times(tmp_path):
    own = data.load(make_folder(tmp_path / "kitchen"))
    finish(tmp_path / "old", "cam", {"seconds": 60.0, "samples_per_second": 40.0})
    finish(tmp_path / "old", "cam/maps", {"seconds": 60.0, "images_per_second": 4.0})
    panels = {"image": report.photo(own)}
    page = report.write(tmp_path / "old", own, panels, title="run", curves={}).read_text()
    assert "Where the time goes" not in page


def test_columns_without_an_entry_are_left_out():
    heads, (row,) = stage_times.rows([StageTime("masks", 1234, 250.0, host=12.345)])
    assert heads == ["stage", "images", "images/s", "CPU work (s)"]
    assert row == ["masks", "1,234", "250", "12.3"]


@pytest.mark.parametrize("time", [TIME, None])
def test_metrics_record_where_the_time_went(tmp_path, time):
    own = data.load(make_folder(tmp_path / "kitchen"))
    out = tmp_path / "run"
    for id in own.ids:
        write_labels(out / "masks" / f"{id}.png", np.zeros(own.size(id), np.uint8))
    notes = {"seconds": 9.0, "images_per_second": 2.0, **({"time": time} if time else {})}
    finish(out, "masks", notes)
    run_scores.masks(out, "masks", own, out / "masks")
    (record,) = json.loads((out / "metrics.json").read_text())["stages"]
    assert record["seconds"] == 9.0 and record["images_per_second"] == 2.0
    assert record.get("time") == time
