"""Repeating stages of a finished run, missing files, and what is never removed."""

import json
import os
import re

import pytest

from wsss_fast import InputError, cli
from wsss_fast.engine.redo import repeated
from wsss_fast.engine.run_folder import config_of, provenance, stage

STAGES = ("maps", "maps/seeds", "net", "masks")
NAMES = {suffix: [f"{id}{suffix}" for id in "abc"] for suffix in (".npz", ".png")}


class Pipeline:
    """Four stages: maps -> seeds -> a training -> masks; each writes what it was made from."""

    def __init__(self, out):
        self.out, self.did, self.stop_in = out, [], None

    def __call__(self, redo=None, first=None, **numbers):
        self.did = []
        with repeated(self.out, "toy run", STAGES, redo, first):
            maps = self.files("maps", {"scale": numbers.get("scale", 1)}, ".npz")
            given = {
                "maps": provenance(maps, NAMES[".npz"]),
                "threshold": numbers.get("threshold", 0.3),
            }
            seeds = self.files("maps/seeds", given, ".png")
            net = self.training(
                "net", {"seeds": provenance(seeds, NAMES[".png"]), "lr": numbers.get("lr", 0.1)}
            )
            self.files("masks", {"weights": provenance(net, ["weights.pth"])}, ".png")
        return self.did

    def files(self, name, arguments, suffix):
        folder, names = self.out / name, NAMES[suffix]

        def work():
            for file in names:
                if not (folder / file).exists():
                    self.did.append(f"{name}/{file}")
                    if self.stop_in == self.did[-1]:
                        raise KeyboardInterrupt
                    (folder / file).write_text(f"{file} {json.dumps(arguments)}")
            return {}

        stage(self.out, name, arguments, work, files=names)
        return folder

    def training(self, name, arguments):
        def work():
            self.did.append(name)
            if self.stop_in == name:
                (self.out / name / "checkpoint-000000001.pth").write_text("1")
                raise KeyboardInterrupt
            (self.out / name / "weights.pth").write_text(json.dumps(arguments))
            for path in (self.out / name).glob("checkpoint-*"):
                path.unlink()
            return {}

        stage(self.out, name, arguments, work, files=["weights.pth"], remake=False)
        return self.out / name


@pytest.fixture
def pipeline(tmp_path):
    """A finished run, with files of the user's in it."""
    made = Pipeline(tmp_path / "run")
    made()
    for name in STAGES:
        (made.out / name / "mine.png").write_text("mine")
    (made.out / "notes").mkdir()
    return made


def stages_of(did):
    return list(dict.fromkeys(re.sub(r"/[abc]\..*", "", name) for name in did))


def everything(out):
    return {
        str(p.relative_to(out)): p.read_text()
        for p in sorted(out.rglob("*"))
        if p.is_file() and p.name not in ("done.json", "metrics.json")
    }


def test_finished_pipeline_does_nothing(pipeline):
    assert pipeline() == []


def test_changed_number_names_it_and_both_ways_on(pipeline):
    message = (
        r"seeds: finished or started with other arguments \(threshold was 0\.3, now 0\.5\); use "
        r"another --out, or repeat it and what depends on it with `toy run --redo maps/seeds`, or "
        r"it and all later stages with `--from maps/seeds`$"
    )
    before = everything(pipeline.out)
    with pytest.raises(InputError, match=message):
        pipeline(threshold=0.5)
    assert everything(pipeline.out) == before


@pytest.mark.parametrize("option", ["redo", "first"])
def test_repeated_stage_and_what_depends_on_it_are_made_again(pipeline, tmp_path, option):
    assert stages_of(pipeline(threshold=0.5, **{option: "maps/seeds"})) == list(STAGES[1:])
    fresh = Pipeline(tmp_path / "fresh")
    fresh(threshold=0.5)
    mine = {f"{name}/mine.png": "mine" for name in STAGES}
    assert everything(pipeline.out) == {**everything(fresh.out), **mine}
    assert pipeline(threshold=0.5) == []


def test_repeating_without_a_change_repeats_what_depends_only_if_it_changed(pipeline):
    assert stages_of(pipeline(redo="maps")) == ["maps"]
    assert stages_of(pipeline(first="net")) == ["net", "masks"]


def test_later_stage_with_another_number_of_its_own_is_not_repeated_silently(pipeline):
    with pytest.raises(InputError, match=r"net: finished .*lr was 0\.1, now 0\.2; seeds changed"):
        pipeline(redo="maps/seeds", threshold=0.5, lr=0.2)
    # what was repeated until then stays, and the call that is meant resumes from there
    assert stages_of(pipeline(first="net", threshold=0.5, lr=0.2)) == ["net", "masks"]


@pytest.mark.parametrize("option", ["redo", "first"])
def test_nothing_is_removed_if_an_earlier_stage_is_refused(pipeline, option):
    before = everything(pipeline.out)
    with pytest.raises(InputError, match=r"run/maps: finished .*scale was 1, now 2"):
        pipeline(scale=2, **{option: "net"})
    assert everything(pipeline.out) == before and pipeline() == []


def test_stage_that_is_not_reached_is_said(pipeline, capfd):
    with repeated(pipeline.out, "toy run", STAGES, "net", None):
        pass
    assert "net is not repeated, since this call does not reach it" in capfd.readouterr().err
    assert pipeline() == []


@pytest.mark.parametrize("stop", ["maps/seeds/b.png", "net", "masks/a.png"])
def test_interrupted_repetition_goes_on_when_it_is_repeated(pipeline, capfd, stop):
    pipeline.stop_in = stop
    with pytest.raises(KeyboardInterrupt):
        pipeline(threshold=0.5, first="maps/seeds")
    done, pipeline.stop_in = set(pipeline.did[:-1]), None
    assert not done & set(pipeline(threshold=0.5, first="maps/seeds"))
    assert "resumes the repetition of maps/seeds, which was interrupted" in capfd.readouterr().err
    assert stages_of(pipeline(threshold=0.5, first="maps/seeds")) == list(STAGES[1:])  # anew


def test_interrupted_repetition_goes_on_without_the_option(pipeline):
    pipeline.stop_in = "net"
    with pytest.raises(KeyboardInterrupt):
        pipeline(threshold=0.5, redo="maps/seeds")
    pipeline.stop_in = None
    assert stages_of(pipeline(threshold=0.5)) == ["net", "masks"]
    assert not (pipeline.out / "redo.json").exists()


def test_unknown_stage_and_both_options_raise(pipeline):
    before = everything(pipeline.out)
    with pytest.raises(InputError, match="redo: toy run has no stage 'seeds'; its stages are maps"):
        pipeline(redo="seeds")
    with pytest.raises(InputError, match="from: toy run has no stage ''"):
        pipeline(first="")
    with pytest.raises(InputError, match="give redo or from, not both"):
        pipeline(redo="net", first="net")
    assert everything(pipeline.out) == before


def test_linked_folder_and_names_in_a_marker_that_lead_out_are_kept(pipeline, tmp_path):
    outside = tmp_path / "outside"
    (pipeline.out / "masks").rename(outside)
    (pipeline.out / "masks").symlink_to(outside)
    before = everything(outside)
    with pytest.raises(InputError, match="masks: is a link to .*outside of the run folder"):
        pipeline(redo="masks")
    assert everything(outside) == before
    marker = pipeline.out / "net/done.json"
    (tmp_path / "precious").write_text("mine")
    names = ["../../precious", str(tmp_path / "precious"), "weights.pth"]
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "files": names}))
    pipeline(redo="net")
    assert (tmp_path / "precious").read_text() == "mine"


def test_missing_and_empty_files_are_made_again(pipeline, capfd):
    (pipeline.out / "maps/seeds/b.png").unlink()
    (pipeline.out / "maps/a.npz").write_text("")
    kept = os.stat(pipeline.out / "maps/b.npz").st_mtime_ns
    capfd.readouterr()
    assert pipeline() == ["maps/a.npz", "maps/seeds/b.png"]
    err = capfd.readouterr().err
    assert "maps: 1 of 3 files of the finished stage are missing or empty and are made" in err
    assert os.stat(pipeline.out / "maps/b.npz").st_mtime_ns == kept
    assert not list(pipeline.out.rglob("begun.json")) and pipeline() == []


@pytest.mark.parametrize("lost", ["missing", "empty"])
def test_lost_weights_are_named_with_the_cure(pipeline, lost):
    path = pipeline.out / "net/weights.pth"
    path.unlink()
    if lost == "empty":
        path.write_text("")
    with pytest.raises(InputError, match=r"net/weights\.pth: is missing or empty.*--redo net`"):
        pipeline()
    assert stages_of(pipeline(redo="net")) == ["net"]


def test_file_that_cannot_be_read_is_named_with_the_cure(pipeline):
    def error(name):
        return f"{pipeline.out / name}: cannot be read"

    for name, cure in (
        ("maps/a.npz", "; remove this file, and the same command makes it again"),
        ("net/weights.pth", "; repeat it and what depends on it with `toy run --redo net`, or .*"),
        ("maps/mine.png", ""),
        ("../elsewhere.png", ""),
    ):
        with (
            pytest.raises(InputError, match=f"^{re.escape(error(name))}{cure}$"),
            repeated(pipeline.out, "toy run", STAGES, None, None),
        ):
            raise InputError(error(name))


def test_changed_data_repeat_every_stage(pipeline):
    def call(tags, first=None):
        with repeated(pipeline.out, "toy run", STAGES, None, first):
            stage(pipeline.out, "maps", {"data": {"tags": tags}}, dict)

    (pipeline.out / "maps/done.json").unlink()
    call("0" * 16)
    with pytest.raises(
        InputError,
        match=r"\(data\.tags changed\); use another --out, or repeat it and all later stages with "
        r"`toy run --from maps`$",
    ):
        call("1" * 16)
    call("1" * 16, first="maps")


def test_edited_file_is_noticed_by_the_next_stage(pipeline):
    (pipeline.out / "maps/seeds/b.png").write_text("by hand")
    with pytest.raises(InputError, match=r"net: finished .*\(seeds changed\)"):
        pipeline()
    assert stages_of(pipeline(first="net")) == ["net", "masks"]


def test_files_without_a_marker_are_not_taken_for_results(tmp_path):
    (tmp_path / "run/maps").mkdir(parents=True)
    (tmp_path / "run/maps/a.npz").write_text("of another tool")
    with pytest.raises(InputError, match=r"maps: has files, first a\.npz, but no done\.json"):
        Pipeline(tmp_path / "run")()
    assert (tmp_path / "run/maps/a.npz").read_text() == "of another tool"


def test_config_is_that_of_the_last_call_that_did_something(tmp_path):
    out = tmp_path / "run"
    pipeline = Pipeline(out)

    def call(**numbers):
        with config_of(out, "toy run", numbers):
            pipeline(**numbers)

    with pytest.raises(InputError), config_of(out, "toy run", {}):
        raise InputError("before any stage")
    assert not (out / "config.json").exists()
    call(threshold=0.3)
    with pytest.raises(InputError, match="threshold was"):
        call(threshold=0.5)
    assert json.loads((out / "config.json").read_text())["arguments"] == {"threshold": 0.3}
    call(threshold=0.5, redo="maps/seeds")
    assert json.loads((out / "config.json").read_text())["arguments"]["threshold"] == 0.5


def test_single_stage_is_repeated_from_the_command_line(shapes_root, tmp_path, capfd):
    argv = ["saliency", "--data", str(shapes_root), "--out", str(tmp_path)]
    assert cli.run(argv) == 0
    maps = sorted(tmp_path.glob("saliency/*.png"))
    before = [p.read_bytes() for p in maps]
    mine = tmp_path / "saliency/mine.png"
    for path in (maps[0], mine):
        path.write_bytes(b"by hand")
    assert cli.run(argv) == 0 and maps[0].read_bytes() == b"by hand"
    assert cli.run([*argv, "--redo"]) == 0
    assert [p.read_bytes() for p in maps] == before and mine.read_bytes() == b"by hand"
    assert "saliency: removed its results" in capfd.readouterr().err
    for wrong in (["--out", ""], ["--out="], ["--out", str(mine)], ["--name", "../x"]):
        assert cli.run([*argv, *wrong]) == 2
        last = capfd.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("error: ") and ("out: " in last or "name: " in last)
    assert not (tmp_path / "x").exists()
