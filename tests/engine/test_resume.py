"""Pipelines killed in the middle of any stage: repeated, they end with the same artefacts."""

import shutil

import pytest
from brief import amn_pipeline, eps_pipeline

from wsss_fast import amn, data, eps

RUNS = {"amn": (amn.run, amn_pipeline), "eps": (eps.run, eps_pipeline)}


@pytest.fixture(scope="module", params=RUNS)
def finished(request, shapes, tmp_path_factory):
    """A run folder, and the function that made it."""
    run, pipeline = RUNS[request.param]
    out = tmp_path_factory.mktemp("resume") / request.param

    def run_in(out):
        run(
            shapes,
            out,
            backbone="small",
            pipeline=pipeline(),
            val=data.load(shapes.root, split="val"),
            precision="fp32",
        )

    run_in(out)
    return out, run_in


def artefacts(out):
    return {
        str(p.relative_to(out)): p.read_bytes()
        for p in sorted(out.rglob("*"))
        if p.suffix in (".npz", ".png", ".pth")
    }


def test_stage_without_the_second_half_of_its_files_is_completed(finished, tmp_path):
    """As after SIGKILL, for each stage in turn."""
    out, run_in = finished
    whole = artefacts(out)
    for marker in sorted(out.rglob("done.json")):
        name = marker.parent.relative_to(out)
        copy = tmp_path / str(name).replace("/", "-")
        shutil.copytree(out, copy)
        (copy / name / "done.json").rename(copy / name / "begun.json")
        files = sorted(p for p in (copy / name).iterdir() if p.suffix in (".npz", ".png", ".pth"))
        kept = {p: p.stat().st_mtime_ns for p in files[: len(files) // 2]}
        for path in files[len(files) // 2 :]:
            path.unlink()
        (copy / name / f".{files[-1].stem}.123.tmp{files[-1].suffix}").write_bytes(b"half a file")
        run_in(copy)
        assert artefacts(copy) == whole, name
        assert not list(copy.rglob("*.tmp*")) and not list(copy.rglob("begun.json"))
        if len(files) > 4 and files[0].suffix == ".png" and "predictions" not in str(name):
            assert kept == {p: p.stat().st_mtime_ns for p in kept}, f"{name}: computed again"
        shutil.rmtree(copy)
