"""Every stage of a run that was killed between two files goes on, and ends with the bytes of an uninterrupted run."""

import shutil

import pytest
from test_amn import quick as amn_pipeline
from test_eps_pipeline import quick as eps_pipeline

from wsss_fast import amn, data, eps

SEEDS = ("amn", "eps")


@pytest.fixture(scope="module", params=SEEDS)
def finished(request, shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("resume") / request.param
    run, pipeline = {
        "amn": (amn.run, amn_pipeline(amn.PIPELINES["small"])),
        "eps": (eps.run, eps_pipeline()),
    }[request.param]

    def again(out):
        return run(
            shapes,
            out,
            backbone="small",
            pipeline=pipeline,
            val=data.load(shapes.root, split="val"),
            precision="fp32",
        )

    again(out)
    return out, again


def artefacts(out):
    return {
        str(p.relative_to(out)): p.read_bytes()
        for p in sorted(out.rglob("*"))
        if p.suffix in (".npz", ".png", ".pth")
    }


def test_a_stage_that_lost_its_second_half_is_completed(finished, tmp_path):
    """As after SIGKILL in the middle of each stage in turn: done.json is not there, half of its files are."""
    out, again = finished
    whole = artefacts(out)
    for marker in sorted(out.rglob("done.json")):
        name = marker.parent.relative_to(out)
        cut = tmp_path / str(name).replace("/", "-")
        shutil.copytree(out, cut)
        (cut / name / "done.json").rename(cut / name / "begun.json")
        files = sorted(p for p in (cut / name).iterdir() if p.suffix in (".npz", ".png", ".pth"))
        kept = {p: p.stat().st_mtime_ns for p in files[: len(files) // 2]}
        for path in files[len(files) // 2 :]:
            path.unlink()
        (cut / name / f".{files[-1].stem}.123.tmp{files[-1].suffix}").write_bytes(b"half a file")
        again(cut)
        assert artefacts(cut) == whole, name
        assert not list(cut.rglob("*.tmp*")) and not list(cut.rglob("begun.json"))
        if len(files) > 4 and files[0].suffix == ".png" and "predictions" not in str(name):
            assert kept == {p: p.stat().st_mtime_ns for p in kept}, (
                f"{name}: what was there was made again"
            )
        shutil.rmtree(cut)
