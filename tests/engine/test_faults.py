"""What goes wrong around a run: loader processes that die, disks that are full, folders that are not, names that are odd."""

import dataclasses
import errno
import functools
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import make_coco, make_folder, make_voc
from powerless import powerless
from processes import environment, left, wait_for_updates
from torch import nn
from torch.utils.data import get_worker_info

from wsss_fast import InputError, RunError, cli, data, nets
from wsss_fast.data import write_labels
from wsss_fast.engine import signals
from wsss_fast.engine.checkpoint import Checkpoints
from wsss_fast.engine.files import atomic_write, write_json
from wsss_fast.engine.fit import Length
from wsss_fast.engine.run_folder import stage
from wsss_fast.engine.runtime import runtime, set_seed
from wsss_fast.engine.samples import Samples
from wsss_fast.engine.schedules import OneCycle
from wsss_fast.evaluation import report
from wsss_fast.maps import ClassMaps, save_maps
from wsss_fast.stages import training

ROOT = Path(__file__).resolve().parents[2]
LINUX = sys.platform.startswith("linux")


def run(capfd, *argv):
    """(exit code, the one line that was said last); nothing but lines of progress may come before it."""
    code = cli.run([str(a) for a in argv])
    said = capfd.readouterr().err.strip()
    assert "Traceback" not in said
    return code, said.splitlines()[-1] if said else ""


def tree(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


# Loader processes

DIED = "(is killed by signal: Killed|exited unexpectedly)"  # torch says the one or the other, whichever it notices first


@dataclasses.dataclass(frozen=True)
class Make:
    """Samples, and in a loader process before that of id 7 what `sabotage` does."""

    sabotage: Callable[[], None] | None = None

    def __call__(self, id, rng):
        if get_worker_info() is not None and id == "7" and self.sabotage is not None:
            self.sabotage()
        return {"x": torch.from_numpy(rng.standard_normal((3, 4, 4)).astype("float32"))}


def die(out):
    """As by SIGKILL, once there is a checkpoint."""
    if list(out.glob("toy/checkpoint-*")):
        os.kill(os.getpid(), signal.SIGKILL)


def fail(error):
    raise error


def train(out, monkeypatch, sabotage=None, workers=2):
    """30 updates of a net with dropout, a checkpoint behind each."""
    monkeypatch.setattr(
        training, "Checkpoints", lambda folder: Checkpoints(folder, every=0.0, share=float("inf"))
    )
    set_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    samples = Samples(tuple(map(str, range(12))), Make(sabotage), 0)
    training.train(
        net,
        lambda net, batch: net(batch["x"]).square().mean(),
        samples,
        out,
        "toy",
        optimizer=torch.optim.AdamW(net.parameters(), 0.01),
        schedule=OneCycle(),
        arguments={},
        length=Length(batch_size=4, updates=30),
        runtime=runtime("cpu", 0, workers, "fp32", prefer_bf16=False),
    )
    return (out / "toy/weights.pth").read_bytes()


def test_a_loader_process_that_is_killed_costs_the_updates_since_the_checkpoint(
    tmp_path, monkeypatch
):
    with pytest.raises(
        RunError, match=rf"^train toy: DataLoader worker .pid.*{DIED}.*the same command resumes"
    ) as caught:
        train(tmp_path / "run", monkeypatch, functools.partial(die, tmp_path / "run"))
    assert "\n" not in str(caught.value) and list(tmp_path.glob("run/toy/checkpoint-*.pth"))
    assert train(tmp_path / "run", monkeypatch) == train(tmp_path / "whole", monkeypatch, workers=0)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            InputError("/photos/7.jpg: cannot be read"),
            InputError,
            "^/photos/7.jpg: cannot be read$",
        ),
        (
            ZeroDivisionError("division by zero"),
            RunError,
            r"^train toy: a loader process failed \(ZeroDivisionError: division by zero\)$",
        ),
    ],
)
def test_what_a_loader_process_raises_is_one_line(tmp_path, monkeypatch, error, kind, said):
    with pytest.raises(kind, match=said):
        train(tmp_path, monkeypatch, functools.partial(fail, error))


def test_a_command_whose_loader_process_is_killed(shapes_root, tmp_path, capfd, monkeypatch):
    save = Checkpoints.save

    def killing(self, update, state):
        save(self, update, state)
        if update == 4:  # before its third epoch
            for process in multiprocessing.active_children():
                process.kill()

    command = [
        "cam",
        "train",
        "--data",
        shapes_root,
        "--out",
        tmp_path,
        "--backbone",
        "small",
        "--recipe.epochs",
        "3",
        "--recipe.batch-size",
        "12",
        "--recipe.augment.crop",
        "32",
        "--workers",
        "2",
        "--precision",
        "fp32",
    ]
    monkeypatch.setattr(Checkpoints, "save", killing)
    monkeypatch.setattr(
        training, "Checkpoints", lambda folder: Checkpoints(folder, every=0.0, share=float("inf"))
    )
    code, said = run(capfd, *command)
    assert (
        code == 1
        and said.startswith("failed: train cam: DataLoader worker")
        and re.search(DIED, said)
    )
    kept = {p.name for p in (tmp_path / "cam").iterdir()}
    assert (
        "begun.json" in kept
        and any(name.startswith("checkpoint-") for name in kept)
        and "weights.pth" not in kept
    )
    monkeypatch.setattr(Checkpoints, "save", save)
    code = cli.run([str(a) for a in command])
    assert (
        code == 0
        and "resumes after update" in capfd.readouterr().err
        and (tmp_path / "cam/weights.pth").is_file()
    )


@pytest.mark.parametrize(
    ("number", "method"),
    [(signal.SIGTERM, "fork"), (signal.SIGTERM, "forkserver"), (signal.SIGINT, "spawn")],
)
def test_a_signal_to_all_processes_of_a_job_keeps_the_training(
    shapes_root, tmp_path, number, method
):
    """As batch systems and terminals send it: the loader processes get it too, and must not die before the update is made."""
    argv = [
        "cam",
        "train",
        "--data",
        str(shapes_root),
        "--out",
        str(tmp_path / "run"),
        "--backbone",
        "small",
        "--workers",
        "2",
        "--recipe.epochs",
        "400",
        "--recipe.batch-size",
        "8",
        "--recipe.augment.crop",
        "32",
        "--precision",
        "fp32",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "wsss_fast", *argv],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        env=environment(method, tmp_path),
    )
    wait_for_updates(process, tmp_path / "run/cam")
    os.killpg(process.pid, number)
    said = process.communicate(timeout=60)[1]
    assert (
        process.returncode == 128 + number and "the same command resumes where it stopped" in said
    ), said
    assert len(list((tmp_path / "run/cam").glob("checkpoint-*.pth"))) == 1
    assert not left(process.pid)


# Disks and folders


def full(path):
    raise OSError(errno.ENOSPC, "No space left on device")


STAGES = {
    "training": [
        "cam",
        "train",
        "--recipe.epochs",
        "1",
        "--recipe.batch-size",
        "8",
        "--recipe.augment.crop",
        "32",
        "--backbone",
        "small",
    ],
    "maps": ["cam", "infer", "--weights", "{given}/cam.pth", "--backbone", "small"],
    "label PNGs": [
        "seeds",
        "--maps",
        "{given}/maps",
        "--fg-threshold",
        "0.4",
        "--bg-threshold",
        "0.1",
    ],
    "saliency PNGs": ["saliency"],
    "figures": ["eval", "--predictions", "{given}/labels"],
}


@pytest.fixture(scope="module")
def given(shapes, tmp_path_factory):
    """Inputs of every kind of stage."""
    folder = tmp_path_factory.mktemp("given")
    nets.save_weights(nets.cam_resnet50(len(shapes.classes), backbone="small"), folder / "cam.pth")
    for id in shapes.ids:
        mask = shapes.mask(id)
        write_labels(folder / "labels" / f"{id}.png", mask)
        keys = np.flatnonzero(shapes.tags_of(id)) + 1
        save_maps(
            folder / "maps",
            id,
            ClassMaps(keys, np.stack([mask[::4, ::4] == k for k in keys]).astype(np.float32)),
        )
    return folder


def command(kind, given, data_root, out):
    return [word.format(given=given) for word in STAGES[kind]] + [
        "--data",
        str(data_root),
        "--out",
        str(out),
    ]


@pytest.mark.parametrize("kind", STAGES)
def test_a_full_disk_ends_each_kind_of_stage_with_one_line(
    shapes_root, given, tmp_path, capfd, monkeypatch, kind
):
    """The disk takes seven files whole; in the middle of the next there is no room."""
    room, real = iter(range(7)), os.replace

    def replace(source, target):
        if next(room, None) is None:
            Path(source).write_bytes(b"half")
            full(target)
        return real(source, target)

    out = tmp_path / "run"
    argv = command(kind, given, shapes_root, out)
    if kind in ("training", "figures"):  # they write fewer
        room = iter(range(1))
    monkeypatch.setattr(os, "replace", replace)
    code, said = run(capfd, *argv)
    assert (
        code == 1
        and said.startswith(f"failed: {out}")
        and "No space left on device; once this is mended" in said
    )
    assert not [p for p in out.rglob("*") if ".tmp" in p.name] and not list(out.rglob("done.json"))
    monkeypatch.undo()
    before = tree(out)
    assert cli.run(argv) == 0, capfd.readouterr().err
    whole = tmp_path / "whole"
    assert cli.run(command(kind, given, shapes_root, whole)) == 0
    results = (".png", ".npz", ".pth")
    made, expected = tree(out), tree(whole)
    assert {k: v for k, v in made.items() if k.endswith(results)} == {
        k: v for k, v in expected.items() if k.endswith(results)
    }
    assert all(made[name] == content for name, content in before.items() if name.endswith(results))


@pytest.mark.parametrize("kind", STAGES)
def test_a_run_folder_that_is_a_file_is_named(shapes_root, given, tmp_path, capfd, kind):
    out = tmp_path / "run"
    out.write_text("mine")
    code, said = run(capfd, *command(kind, given, shapes_root, out))
    assert (
        code in (1, 2)
        and str(out) in said
        and re.search("irectory|File exists", said)
        and out.read_text() == "mine"
    )


@pytest.mark.skipif(not LINUX, reason="capabilities are Linux'")
def test_a_run_folder_that_is_read_only_is_named(shapes_root, given, tmp_path):
    """Commands of three kinds, one after the other in a process of their own, which alone loses its capabilities."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    out.chmod(0o555)
    commands = [
        command(kind, given, shapes_root, out) for kind in ("training", "label PNGs", "figures")
    ]
    script = "import json, sys; from wsss_fast import cli; print(*(cli.run(argv) for argv in json.loads(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=powerless,
        cwd=ROOT,
    )
    out.chmod(0o755)
    failures = [line for line in done.stderr.splitlines() if "failed" in line]
    assert done.stdout.split()[-3:] == ["1"] * 3 and len(failures) == 3, done.stderr
    assert all(
        line.startswith(f"failed: {out}") and "Permission denied" in line for line in failures
    ), done.stderr
    assert [p.name for p in out.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_labels(path.with_suffix(".png"), np.zeros((4, 4))),
        lambda path: save_maps(
            path.parent, path.name, ClassMaps(np.array([1]), np.zeros((1, 2, 2), np.float32))
        ),
        lambda path: write_json(path.with_suffix(".json"), {"a": 1}),
        lambda path: nets.save_weights(nn.Linear(2, 2), path.with_suffix(".pth")),
    ],
)
def test_a_disk_that_is_full_in_the_middle_of_a_file(tmp_path, write):
    """/dev/full takes nothing; the writer's own error names no file, ours does."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    target = tmp_path / "x"
    for suffix in (".png", ".npz", ".json", ".pth"):
        (tmp_path / f".x.{os.getpid()}.tmp{suffix}").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        write(target)
    assert str(caught.value.filename).startswith(str(target))
    assert all(p.is_symlink() for p in tmp_path.iterdir()) and len(list(tmp_path.iterdir())) == 3


# Signals and clocks


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_a_file_leaves_the_old_one(tmp_path, number):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(signals.Stopped), atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        signals._handle(number, None)
    assert (
        json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
        and len(list(tmp_path.iterdir())) == 1
    )


def test_a_clock_that_is_set_back_makes_no_negative_durations(shapes, tmp_path, monkeypatch, capfd):
    clock = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock) * 10**9)
    notes = stage(tmp_path, "cam", {}, dict)
    assert notes["seconds"] >= 0
    path = shapes.images[shapes.ids[0]]
    os.utime(path, (4e9, 4e9))  # the year 2096
    assert cli.run(["saliency", "--data", str(shapes.root), "--out", str(tmp_path)]) == 0, (
        capfd.readouterr().err
    )
    done = json.loads((tmp_path / "saliency/done.json").read_text())
    assert done["notes"]["seconds"] >= 0 and all(
        v >= 0 for k, v in done["notes"].items() if k.endswith("_per_second")
    )


# Names

WRONG_IDS = (
    "../../escaped",
    "..",
    ".",
    "/tmp/escaped",
    "a/../../b",
    "x\ny",
    "x\ry",
    "x\x1b[2Jy",
    "x\0y",
    "..\\y",
    ".hidden",
    "",
)


@pytest.mark.parametrize("id", WRONG_IDS)
def test_ids_that_would_leave_the_run_folder_or_break_a_line(tmp_path, id):
    voc, folder, coco = (
        make_voc(tmp_path / "voc"),
        make_folder(tmp_path / "mine"),
        make_coco(tmp_path / "coco"),
    )
    before = tree(tmp_path)
    for root in (voc, folder, coco):
        with pytest.raises(InputError) as caught:
            data.load(root, ids=[id])
        assert len(str(caught.value).splitlines()) == 1
    (voc / "ImageSets/Segmentation/odd.txt").write_bytes(f"{id}\n".encode())
    if id:  # an empty line is no id
        with pytest.raises(InputError):
            data.load(voc, split="odd")
    cell = id.replace('"', '""')
    (folder / "labels.csv").write_text(
        f'"{cell}.png",cup\n' if id not in ("..", ".") else f"photos/{id},cup\n", newline=""
    )
    with pytest.raises(InputError):
        data.load(folder)
    instances = coco / "annotations/instances_train2014.json"
    content = json.loads(instances.read_text())
    content["images"][0]["file_name"] = f"{id}.jpg"
    instances.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"instances_train2014\.json"):
        data.load(coco)
    assert {k for k in tree(tmp_path) if not k.endswith("odd.txt")} == set(before)


def test_half_a_character_in_a_json_is_refused(tmp_path):
    coco = make_coco(tmp_path / "coco")
    instances = coco / "annotations/instances_train2014.json"
    content = instances.read_text()
    for key, name in (("images", "file_name"), ("categories", "name")):
        changed = json.loads(content)
        changed[key][0][name] = "a\ud800.jpg"
        instances.write_text(json.dumps(changed))
        with pytest.raises(InputError, match=r"instances_train2014\.json"):
            data.load(coco)


def odd_set(tmp_path, shapes):
    """A folder with hostile, foreign and decorated names of images and classes."""
    root = tmp_path / "odd"
    root.mkdir()
    ids = ["<img src=x onerror=alert(1)>", "a'b\"c", "Zürich 東京", "[red]bold[", "$a_{b$"]
    classes = ["<script>alert(2)", "[/bold]", "$\\frac$", "猫", "a&b"]
    names = []
    for n, (id, source) in enumerate(zip(ids, shapes.ids, strict=False)):
        shutil.copy(shapes.images[source], root / f"{id}.jpg")
        write_labels(root / "masks" / f"{id}.png", np.full(shapes.size(source), n + 1))
        cell = f"{id}.jpg".replace('"', '""')
        names.append(f'"{cell}",{classes[n]}\n')
    (root / "labels.csv").write_text("file,class\n" + "".join(names), encoding="utf-8")
    (root / "classes.txt").write_text("".join(f"{c}\n" for c in classes), encoding="utf-8")
    return root, ids, classes


def test_the_report_escapes_what_it_shows(shapes, tmp_path, capfd):
    root, ids, classes = odd_set(tmp_path, shapes)
    odd = data.load(root)
    iou = dict.fromkeys(("background", *classes), 0.5)
    write_json(
        tmp_path / "metrics.json",
        {
            "stages": [
                {
                    "stage": "<b>cam",
                    "miou": 0.5,
                    "iou": iou,
                    "confusion_ratios": {"[/bold]/a&b": 1.0},
                }
            ]
        },
    )
    page = report.write(
        tmp_path, odd, {"<i>photo": report.photo(odd)}, title="<script>t", curves={}
    ).read_text("utf-8")
    body = page.partition("<body>")[2]
    for tag in ("<script", "<img src=x", "<b>cam", "<i>photo"):
        assert tag not in body
    assert (
        "&lt;script&gt;alert(2)" in body
        and "&lt;img src=x onerror=alert(1)&gt;" in body
        and "猫" in body
    )
    assert body.count("<img ") == len(ids) and "alt='&lt;i&gt;photo of a&#x27;b&quot;c'" in body
    cli.OUTPUT.print(report.text_table(tmp_path))  # square brackets are no markup
    assert "[/bold]/a&b" in capfd.readouterr().out


def test_class_names_of_any_kind_are_scored_and_drawn(shapes, tmp_path, capfd):
    root, ids, classes = odd_set(tmp_path, shapes)
    code = cli.run(
        [
            "eval",
            "--data",
            str(root),
            "--predictions",
            str(root / "masks"),
            "--out",
            str(tmp_path / "out"),
            "--pairs",
            f"{classes[2]}/{classes[4]}",
        ]
    )
    shown = capfd.readouterr()
    assert code == 0, shown.err
    assert (
        all(name in shown.out for name in classes) and (tmp_path / "out/evaluation.png").is_file()
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
    ],
)
def test_a_terminal_that_cannot_show_a_name_does_not_end_a_command(shapes, tmp_path, settings):
    root, _, _ = odd_set(tmp_path, shapes)
    ascii_ids = tmp_path / "ids.txt"
    ascii_ids.write_text("[red]bold[\n")  # a locale of bytes has no file of another name
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "wsss_fast",
            "eval",
            "--data",
            str(root),
            "--predictions",
            str(root / "masks"),
            "--ids",
            str(ascii_ids),
        ],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env=os.environ | settings,
    )
    assert done.returncode == 0, done.stderr
    assert b"mIoU" in done.stdout and (b"\\u732b" in done.stdout or "猫".encode() in done.stdout)


def test_files_whose_names_are_no_text(shapes, tmp_path, capfd):
    """`crf` takes what is in its folders, whatever bytes their names are."""
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / "photos").mkdir()
    shutil.copy(shapes.images[shapes.ids[0]], tmp_path / "photos" / f"{name}.jpg")
    write_labels(tmp_path / "labels" / f"{name}.png", shapes.mask(shapes.ids[0]))
    code = cli.run(
        [
            "crf",
            str(tmp_path / "photos"),
            str(tmp_path / "labels"),
            "-o",
            str(tmp_path / "out"),
            "--unsure",
            "255",
        ]
    )
    assert code == 0, capfd.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == [f"{name}.png"]


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "content",
    [
        lambda bad: bad,
        lambda bad: {"backbone.conv1.weight": bad},
        lambda bad: {"state_dict": {"x": torch.zeros(1)}, "epoch": bad},
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_weights_are_never_unpickled(shapes_root, tmp_path, capfd, content, old):
    torch.save(
        content(Malicious(tmp_path / "was-run")),
        tmp_path / "w.pth",
        _use_new_zipfile_serialization=not old,
    )
    code, said = run(
        capfd,
        "cam",
        "infer",
        "--data",
        shapes_root,
        "--out",
        tmp_path / "run",
        "--backbone",
        "small",
        "--weights",
        tmp_path / "w.pth",
    )
    assert code == 2 and "w.pth: not a file of weights only" in said
    assert not (tmp_path / "was-run").exists() and not (tmp_path / "run").exists()
