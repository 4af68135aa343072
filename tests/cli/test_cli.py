"""The command line: help, exit codes, one-line errors, and the commands on a tiny benchmark."""

import subprocess
import sys

import numpy as np
import pytest

from wsss_fast import cli
from wsss_fast.data import write_labels
from wsss_fast.maps import ClassMaps, save_maps


def run(capfd, *argv):
    code = cli.run([str(a) for a in argv])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def test_overview_and_every_help(capfd):
    code, out, _ = run(capfd, "--help")
    assert code == 0
    for name in cli.COMMANDS:
        assert name in out
        code, text, err = run(capfd, *name.split(), "--help")
        assert code == 0 and "usage" in text, err


def test_help_shows_the_defaults_of_the_backbone(capfd):
    _, paper, _ = run(capfd, "amn", "run", "--help")
    _, small, _ = run(capfd, "amn", "run", "--backbone", "small", "--help")
    assert (
        "--data" in paper
        and "--split" in paper
        and "--ids" in paper
        and "--pipeline.amn.head-lr" in paper
    )
    assert "--saliency" not in paper  # AMN does not read any
    assert "default: 5e-06" in paper and "default: 5e-06" not in small


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["dmeo"], "no command 'dmeo'; did you mean demo"),
        (["amn"], "did you mean amn run or amn train"),
        (["amn", "run", "--data", "x"], "--out"),
        (["amn", "run", "--dta", "x", "--out", "y"], "--dta"),
        (["demo", "--sed", "3"], "error: Unrecognized options: --sed, 3 Perhaps you meant: --seed"),
        (["cam", "train", "--data", "x", "--out", "y", "--seed", "many"], "many"),
        (["amn", "run", "--data", "/nowhere", "--out", "y"], "/nowhere is not a directory"),
        (
            ["seeds", "--data", "/nowhere", "--maps", "x", "--out", "y"],
            "/nowhere is not a directory",
        ),
        (["amn", "run", "--data", "shapes:x", "--out", "y"], "shapes:SEED"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capfd, argv, said):
    code, out, err = run(capfd, *argv)
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1 and not out


def test_a_failed_run_is_exit_code_1(capfd, shapes_root, tmp_path):
    code, _, err = run(
        capfd,
        "cam",
        "train",
        "--data",
        shapes_root,
        "--out",
        tmp_path,
        "--backbone",
        "small",
        "--recipe.lr",
        "nan",
        "--recipe.epochs",
        "1",
        "--recipe.batch-size",
        "8",
    )
    assert code == 1 and "the loss became nan" in err
    assert not (tmp_path / "cam/weights.pth").exists()


def test_an_unexpected_error_is_one_line_too(capfd, monkeypatch):
    def broken():
        raise MemoryError("none left")

    monkeypatch.setattr("wsss_fast.cli.functions.info", broken)
    code, _, err = run(capfd, "info")
    assert (
        code == 1
        and err.startswith("failed: MemoryError: none left")
        and len(err.strip().splitlines()) == 1
    )
    monkeypatch.setenv("WSSS_FAST_TRACEBACK", "1")
    with pytest.raises(MemoryError):
        cli.run(["info"])


def test_stages_by_hand(capfd, shapes_root, tmp_path):
    common = ("--data", shapes_root, "--out", tmp_path)
    small = ("--backbone", "small", "--recipe.batch-size", "8")
    steps = [
        ("cam", "train", *common, *small, "--recipe.epochs", "1", "--val-split", "val"),
        ("cam", "infer", *common, *small, "--weights", tmp_path / "cam/weights.pth"),
        (
            "seeds",
            *common,
            "--maps",
            tmp_path / "cam/maps",
            "--fg-threshold",
            "0.4",
            "--bg-threshold",
            "0.1",
        ),
        (
            "amn",
            "train",
            *common,
            *small,
            "--recipe.epochs",
            "1",
            "--seeds",
            tmp_path / "seeds",
            "--weights",
            tmp_path / "cam/weights.pth",
        ),
        (
            "amn",
            "infer",
            *common,
            *small,
            "--seeds",
            tmp_path / "seeds",
            "--weights",
            tmp_path / "amn/weights.pth",
        ),
    ]
    for step in steps:
        code, _, err = run(capfd, *step)
        assert code == 0, err
    code, _, err = run(capfd, "eval", "--data", shapes_root, "--predictions", tmp_path / "masks")
    assert code == 2 and "has no PNG for 24 of 24 ids" in err
    assert len(list((tmp_path / "amn/maps").glob("*.npz"))) == 24


def test_eps_by_hand(capfd, shapes_root, tmp_path):
    """Saliency from colours, a classifier, EPS on both, masks behind the CRF, scored."""
    common = ("--data", shapes_root, "--out", tmp_path)
    small = ("--backbone", "small", "--recipe.batch-size", "8")
    steps = [
        ("saliency", *common),
        ("cam", "train", *common, *small, "--recipe.epochs", "1"),
        ("cam", "infer", *common, *small, "--weights", tmp_path / "cam/weights.pth"),
        (
            "eps",
            "train",
            *common,
            *small,
            "--recipe.updates",
            "2",
            "--saliency",
            tmp_path / "saliency",
            "--maps",
            tmp_path / "cam/maps",
            "--recipe.strategy",
            "naive",
        ),
        ("eps", "infer", *common, *small, "--weights", tmp_path / "eps/weights.pth", "--crf"),
    ]
    for step in steps:
        code, _, err = run(capfd, *step)
        assert code == 0, err
    code, out, _ = run(
        capfd, "eval", "--data", shapes_root, "--predictions", tmp_path / "eps/crf-masks"
    )
    assert code == 0 and "mIoU" in out and "over 24 images" in out
    code, _, err = run(capfd, "eps", "train", *common, *small, "--saliency", tmp_path / "nowhere")
    assert code == 2 and "nowhere is not a directory" in err and len(err.strip().splitlines()) == 1
    code, _, err = run(capfd, "eps", "train", *common, *small, "--saliency", tmp_path / "cam/maps")
    assert (
        code == 2
        and "saliency: no map for 24 of 24 ids" in err
        and len(err.strip().splitlines()) == 1
    )


def test_the_road_behind_the_maps(capfd, shapes, tmp_path):
    """IRN and the segmentation network from maps and seeds that are there, scored on images it has not seen."""
    for id in shapes.ids:
        mask = shapes.mask(id)
        write_labels(tmp_path / "seeds" / f"{id}.png", mask)
        keys = np.flatnonzero(shapes.tags_of(id)) + 1
        save_maps(
            tmp_path / "maps",
            id,
            ClassMaps(keys, np.stack([mask[::4, ::4] == k for k in keys]).astype(np.float32)),
        )
    common = ("--data", shapes.root, "--out", tmp_path, "--backbone", "small")
    steps = [
        (
            "irn",
            "train",
            *common,
            "--seeds",
            tmp_path / "seeds",
            "--recipe.epochs",
            "1",
            "--recipe.batch-size",
            "8",
        ),
        (
            "irn",
            "infer",
            *common,
            "--maps",
            tmp_path / "maps",
            "--weights",
            tmp_path / "irn/weights.pth",
            "--recipe.threshold",
            "0.3",
            "--recipe.steps",
            "16",
        ),
        (
            "seg",
            "train",
            *common,
            "--masks",
            tmp_path / "irn/masks",
            "--recipe.updates",
            "2",
            "--recipe.batch-size",
            "8",
        ),
        (
            "seg",
            "infer",
            *common,
            "--split",
            "val",
            "--weights",
            tmp_path / "seg/weights.pth",
            "--probabilities",
            "--no-crf",
        ),
    ]
    for step in steps:
        code, _, err = run(capfd, *step)
        assert code == 0, err
    code, out, _ = run(
        capfd,
        "eval",
        "--data",
        shapes.root,
        "--split",
        "val",
        "--predictions",
        tmp_path / "seg/predictions",
    )
    assert code == 0 and "mIoU" in out and "over 8 images" in out
    assert len(list((tmp_path / "irn/masks").glob("*.png"))) == 24
    first = sorted((tmp_path / "seg/predictions").glob("*.npy"))[0]
    code, _, err = run(
        capfd,
        "crf",
        shapes.root / "JPEGImages" / f"{first.stem}.jpg",
        first,
        "-o",
        tmp_path / "refined.png",
    )
    assert code == 0, err  # probabilities are what `crf` reads
    code, _, err = run(
        capfd, "seg", "infer", *common, "--weights", tmp_path / "irn/weights.pth", "--name", "other"
    )
    assert code == 2 and "do not fit DeepLabV2" in err and len(err.strip().splitlines()) == 1


def test_the_usual_backbone_of_a_command_gives_its_defaults(capfd):
    _, paper, _ = run(capfd, "seg", "train", "--help")
    _, small, _ = run(capfd, "seg", "train", "--backbone", "small", "--help")
    assert (
        "default: 20000" in paper and "default: 20000" not in small and "default: 0.00025" in paper
    )
    _, irn, _ = run(capfd, "irn", "train", "--help")
    assert "--recipe.displacement-lr-scale" in irn and "default: 512" in irn


def test_shapes_and_info(capfd, tmp_path):
    code, out, _ = run(
        capfd, "shapes", "--out", tmp_path / "s", "--train", "3", "--val", "1", "--size", "48"
    )
    assert (
        code == 0
        and (tmp_path / "s/JPEGImages/train_00002.jpg").exists()
        and str(tmp_path / "s") in out.replace("\n", "")
    )
    code, _, err = run(capfd, "shapes", "--out", tmp_path / "s", "--train", "3")
    assert code == 2 and "exists already" in err
    code, out, _ = run(capfd, "info")
    assert code == 0 and "backend" in out and "torch" in out


def test_eval_prints_a_table(capfd, shapes_root, shapes, tmp_path):
    for id in shapes.ids:
        mask = shapes.mask(id)
        write_labels(tmp_path / f"{id}.png", np.where(mask == 255, 0, mask))
    code, out, _ = run(capfd, "eval", "--data", shapes_root, "--predictions", tmp_path)
    assert code == 0 and "mIoU 100.00 % over 24 images" in out and shapes.classes[0] in out


def test_as_a_module():
    result = subprocess.run(
        [sys.executable, "-m", "wsss_fast", "nonsense"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2 and "no command 'nonsense'" in result.stderr
