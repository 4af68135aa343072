"""The command line: help, exit codes, one-line errors, and each command on a small data set."""

import subprocess
import sys

import numpy as np
import pytest

from wsss_fast import cli
from wsss_fast.cli.catalog import COMMANDS
from wsss_fast.data import write_labels
from wsss_fast.maps import ClassMaps, save_maps


@pytest.fixture
def run(capfd):
    """A function from a command line, and more words, to exit code, stdout and stderr."""

    def run_command(line, *words):
        code = cli.run([*line.split(), *map(str, words)])
        output = capfd.readouterr()
        return code, output.out, output.err

    return run_command


def is_one_line(text):
    return len(text.strip().splitlines()) == 1


# Help


def test_overview_lists_every_command(run):
    code, out, _ = run("--help")
    assert code == 0
    for name, command in COMMANDS.items():
        assert name in out and command.summary() in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(run, name):
    code, out, err = run(name, "--help")
    assert code == 0 and "usage" in out, err
    assert COMMANDS[name].summary() in " ".join(out.split())


def test_help_shows_the_numbers_of_the_backbone(run):
    _, published, _ = run("amn run --help")
    _, small, _ = run("amn run --backbone small --help")
    for option in ("--data", "--split", "--ids", "--pipeline.amn.head-lr"):
        assert option in published
    assert "--saliency" not in published  # AMN reads no saliency maps
    assert "default: 5e-06" in published and "default: 5e-06" not in small


def test_help_shows_the_numbers_of_the_usual_backbone(run):
    _, published, _ = run("seg train --help")
    _, small, _ = run("seg train --backbone small --help")
    assert "default: 20000" in published and "default: 0.00025" in published
    assert "default: 20000" not in small
    _, irn, _ = run("irn train --help")
    assert "--recipe.displacement-lr-scale" in irn and "default: 512" in irn


# Errors


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dmeo", "no command 'dmeo'; did you mean demo"),
        ("amn", "did you mean amn run or amn train"),
        ("amn run --data x", "--out"),
        ("amn run --dta x --out y", "--dta"),
        ("demo --sed 3", "error: Unrecognized options: --sed, 3 Perhaps you meant: --seed"),
        ("cam train --data x --out y --seed many", "many"),
        ("amn run --data /nowhere --out y", "/nowhere is not a directory"),
        ("seeds --data /nowhere --maps x --out y", "/nowhere is not a directory"),
        ("amn run --data shapes:x --out y", "shapes:SEED"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, line, message):
    code, out, err = run(line)
    assert code == 2 and message in err and is_one_line(err) and not out


def test_failed_run_is_exit_code_1(run, shapes_root, tmp_path):
    code, _, err = run(
        f"cam train --data {shapes_root} --out {tmp_path} --backbone small "
        "--recipe.lr 1e30 --recipe.epochs 3 --recipe.batch-size 8"
    )
    assert code == 1 and "the loss became" in err
    assert not (tmp_path / "cam/weights.pth").exists()


def test_unexpected_error_is_one_line_and_exit_code_1(run, monkeypatch):
    def broken():
        raise MemoryError("none left")

    monkeypatch.setattr("wsss_fast.cli.functions.info", broken)
    code, _, err = run("info")
    assert code == 1 and err.startswith("failed: MemoryError: none left") and is_one_line(err)
    monkeypatch.setenv("WSSS_FAST_TRACEBACK", "1")
    with pytest.raises(MemoryError):
        run("info")


def test_package_runs_as_a_module():
    command = [sys.executable, "-m", "wsss_fast", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no command 'nonsense'" in done.stderr


# Commands


def test_commands_from_the_classifier_to_amn_maps(run, shapes_root, tmp_path):
    common = f"--data {shapes_root} --out {tmp_path}"
    small = f"{common} --backbone small --recipe.batch-size 8"
    weights = f"--weights {tmp_path / 'cam/weights.pth'}"
    for line in (
        f"cam train {small} --recipe.epochs 1 --val-split val",
        f"cam infer {small} {weights}",
        f"seeds {common} --maps {tmp_path / 'cam/maps'} --fg-threshold 0.4 --bg-threshold 0.1",
        f"amn train {small} --recipe.epochs 1 --seeds {tmp_path / 'seeds'} {weights}",
        f"amn infer {small} --seeds {tmp_path / 'seeds'} --weights {tmp_path / 'amn/weights.pth'}",
    ):
        code, _, err = run(line)
        assert code == 0, err
    assert len(list((tmp_path / "amn/maps").glob("*.npz"))) == 24
    code, _, err = run(f"eval --data {shapes_root} --predictions {tmp_path / 'masks'}")
    assert code == 2 and "has no PNG for 24 of 24 ids" in err


def test_commands_from_saliency_maps_to_eps_masks(run, shapes_root, tmp_path):
    common = f"--data {shapes_root} --out {tmp_path}"
    small = f"{common} --backbone small --recipe.batch-size 8"
    for line in (
        f"saliency {common}",
        f"cam train {small} --recipe.epochs 1",
        f"cam infer {small} --weights {tmp_path / 'cam/weights.pth'}",
        f"eps train {small} --saliency {tmp_path / 'saliency'} --maps {tmp_path / 'cam/maps'} "
        "--recipe.updates 2 --recipe.strategy naive",
        f"eps infer {small} --weights {tmp_path / 'eps/weights.pth'} --crf",
    ):
        code, _, err = run(line)
        assert code == 0, err
    code, out, _ = run(f"eval --data {shapes_root} --predictions {tmp_path / 'eps/crf-masks'}")
    assert code == 0 and "mIoU" in out and "over 24 images" in out
    code, _, err = run(f"eps train {small} --saliency {tmp_path / 'nowhere'}")
    assert code == 2 and "nowhere is not a directory" in err and is_one_line(err)
    code, _, err = run(f"eps train {small} --saliency {tmp_path / 'cam/maps'}")
    assert code == 2 and "saliency: no map for 24 of 24 ids" in err and is_one_line(err)


def test_commands_from_class_maps_to_predictions(run, shapes, tmp_path):
    """IRN and the segmentation network, scored on validation images."""
    for id in shapes.ids:
        mask = shapes.mask(id)
        write_labels(tmp_path / "seeds" / f"{id}.png", mask)
        keys = np.flatnonzero(shapes.tags_of(id)) + 1
        scores = np.stack([mask[::4, ::4] == k for k in keys]).astype(np.float32)
        save_maps(tmp_path / "maps", id, ClassMaps(keys, scores))
    common = f"--data {shapes.root} --out {tmp_path} --backbone small"
    train = "--recipe.batch-size 8"
    predictions, irn_weights = tmp_path / "seg/predictions", tmp_path / "irn/weights.pth"
    for line in (
        f"irn train {common} {train} --seeds {tmp_path / 'seeds'} --recipe.epochs 1",
        f"irn infer {common} --maps {tmp_path / 'maps'} --weights {irn_weights} "
        "--recipe.threshold 0.3 --recipe.steps 16",
        f"seg train {common} {train} --masks {tmp_path / 'irn/masks'} --recipe.updates 2",
        f"seg infer {common} --split val --weights {tmp_path / 'seg/weights.pth'} "
        "--probabilities --no-crf",
    ):
        code, _, err = run(line)
        assert code == 0, err
    assert len(list((tmp_path / "irn/masks").glob("*.png"))) == 24
    code, out, _ = run(f"eval --data {shapes.root} --split val --predictions {predictions}")
    assert code == 0 and "mIoU" in out and "over 8 images" in out
    probabilities = min(predictions.glob("*.npy"))
    photo = shapes.root / "JPEGImages" / f"{probabilities.stem}.jpg"
    code, _, err = run(f"crf {photo} {probabilities} -o {tmp_path / 'refined.png'}")
    assert code == 0, err
    code, _, err = run(f"seg infer {common} --weights {irn_weights} --name other")
    assert code == 2 and "irn/weights.pth: is an IRN, but" in err and is_one_line(err)


def test_shapes_and_info(run, tmp_path):
    root = tmp_path / "shapes"
    code, out, _ = run(f"shapes --out {root} --train 3 --val 1 --size 48")
    assert code == 0 and str(root) in out.replace("\n", "")
    assert (root / "JPEGImages/train_00002.jpg").exists()
    code, _, err = run(f"shapes --out {root} --train 3")
    assert code == 2 and "exists already" in err
    code, out, _ = run("info")
    assert code == 0 and "backend" in out and "torch" in out


def test_eval_prints_a_table(run, shapes_root, shapes, tmp_path):
    for id in shapes.ids:
        mask = shapes.mask(id)
        write_labels(tmp_path / f"{id}.png", np.where(mask == 255, 0, mask))
    code, out, _ = run(f"eval --data {shapes_root} --predictions {tmp_path}")
    assert code == 0 and "mIoU 100.00 % over 24 images" in out and shapes.classes[0] in out
