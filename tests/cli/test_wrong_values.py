"""Wrong values end in one line and exit code 2 before anything is written."""

import pytest
from layouts import make_folder

from wsss_fast import cli

TRAIN = "cam train --out OUT --backbone small "
RUN = "amn run --out OUT --backbone small --pipeline.cam.batch-size 2 "
BATCHES = "--pipeline.amn.batch-size 2 --pipeline.refine.irn.batch-size 2 "
EPS = "eps run --out OUT --backbone small "


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("wrong") / "own")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (TRAIN + "--seed -1", "seed and workers must be >= 0, got seed=-1"),
        (TRAIN + "--seed 99999999999999999999", "seed must be <= 9223372036854775807"),
        (TRAIN + "--seed nan", "--seed: got 'nan', must be a whole number"),
        (TRAIN + "--workers 1.5", "--workers: got '1.5', must be a whole number"),
        (TRAIN + "--workers 99999", "workers <= 1024, got seed=0, workers=99999"),
        (TRAIN + "--device cpu:7", "device: got 'cpu:7', must be auto, cpu, cuda or cuda:N"),
        (TRAIN + "--device cuda:x", "device: got 'cuda:x', must be auto, cpu, cuda or cuda:N"),
        (TRAIN + "--precision FP32", "must be one of auto, fp32, bf16"),
        (TRAIN + "--recipe.lr -1", "--recipe.lr: got -1.0, must be a finite number >= 0"),
        (TRAIN + "--recipe.lr nan", "--recipe.lr: got nan"),
        (TRAIN + "--recipe.lr 1e999", "--recipe.lr: got inf"),
        (TRAIN + "--recipe.lr x", "--recipe.lr: got 'x', must be a number"),
        (TRAIN + "--recipe.epochs 0", "--recipe.epochs: got 0, must be a finite number >= 1"),
        (TRAIN + "--recipe.batch-size 99", "4 images are fewer than one batch of 99"),
        (TRAIN + "--recipe.augment.crop 9999999", "crop: got 9999999, must be in 1..16,384"),
        (TRAIN + "--recipe.augment.scale 1 inf", "must be > 0 and < 64"),
        (TRAIN + "--recipe.scales", "must be one or more numbers > 0 and < 64"),
        (TRAIN + "--recipe.optimizer.weight-decay -1", "--recipe.optimizer.weight-decay: got -1"),
        (TRAIN + "--recipe.schedule.warmup 2", "--recipe.schedule.warmup: got 2.0"),
        (TRAIN + "--name=", "--name: is empty"),
        (TRAIN + "--weights=", "--weights: is empty"),
        (TRAIN + "--split=", "--split: is empty"),
        (RUN + "--preset VOC", "invalid choice 'VOC' for argument '--preset'"),
        (RUN + "--preset amn-voc", "preset 'amn-voc' is for backbone 'resnet50', got 'small'"),
        (RUN + "--until maks", "Expected one of"),
        (RUN + "--pipeline.fg-threshold nan", "--pipeline.fg-threshold: got nan, must be in 0..1"),
        (RUN + "--pipeline.fg-threshold 0.1", "bg_threshold 0.12 must not be above fg_threshold"),
        (RUN + "--pipeline.refine.fg-threshold 0", "--pipeline.refine: bg_threshold 0.3 must not"),
        (RUN + "--pipeline.amn.epochs 0", "--pipeline.amn.epochs: got 0"),
        (RUN + "--pipeline.amn.condition-at layer9", "one of layer4, layer3, layer2, layer1"),
        (RUN + "--pipeline.amn.batch-size 9", "train amn: 4 images are fewer than one batch of 9"),
        (RUN + "--pipeline.amn.batch-size 2", "train irn: 4 images are fewer than one batch of 16"),
        (RUN + BATCHES, "train seg: 4 images are fewer than one batch of 16"),
        (RUN + "--pipeline.refine.irn.radius 40", "radius: got 40, but a crop of 128 pixels has"),
        (RUN + "--pipeline.crf.bilateral 0 1 1", "must be in turn a finite number > 0"),
        (RUN + "--pipeline.crf.gt-prob 1", "--pipeline.crf.gt-prob: got 1.0, must be > 0 and < 1"),
        (RUN + "--seg-weights nope.pth", "seg_weights: nope.pth: no such weights file"),
        (RUN + "--seg-weights ROOT/labels.csv", "labels.csv"),
        (EPS + "--pipeline.eps.strategy naiv", "one of adaptive, naive, predefined"),
        (EPS + "--pipeline.eps.tau 2", "--pipeline.eps.tau: got 2.0, must be in 0..1"),
        (EPS + "--pipeline.eps.crf.alpha 0", "--pipeline.eps.crf.alpha: got 0.0"),
        (EPS + "--pipeline.eps.background-classes 9", "background_classes are labels in 1..3"),
        (EPS + "--pipeline.pairs cup", "not a target and another class"),
        ("ccr run --out OUT --backbone small --irn-weights nope", "irn_weights: nope: no such"),
        ("irn infer --out OUT --maps x --weights x --recipe.walk-radius 99", "must be in 1..32"),
        ("cam train", "wsss-fast cam train needs --out; see wsss-fast cam train --help"),
    ],
)
def test_wrong_value_of_an_option(root, tmp_path, capfd, line, message):
    out = tmp_path / "out"
    words = line.replace("OUT", str(out)).replace("ROOT", str(root)).split()
    code = cli.run([*words, "--data", str(root)])
    printed, err = capfd.readouterr()
    assert code == 2 and message in err, err
    assert len(err.splitlines()) == 1 and not printed and not out.exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("FILE", "out: FILE is not a directory; use another --out"),
        ("FILE/x/y", "out: FILE is not a directory; use another --out"),
        ("/dev/full", "out: /dev/full is not a directory; use another --out"),
        ("", "--out: is empty; give a value, or leave the option out"),
    ],
)
@pytest.mark.parametrize("command", ["cam train", "amn run", "saliency", "eval --predictions x"])
def test_output_folder_that_is_none(root, capfd, command, out, message):
    file = root / "labels.csv"
    words = [*command.split(), "--data", str(root), "--out", out.replace("FILE", str(file))]
    assert cli.run(words) == 2
    assert capfd.readouterr().err == f"error: {message.replace('FILE', str(file))}\n"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("WSSS_FAST_BACKEND", "Native", "is 'Native', must be auto or native or reference"),
        ("WSSS_FAST_BACKEND", "", "is '', must be auto"),
        ("WSSS_FAST_BACKND", "native", "no such variable; did you mean WSSS_FAST_BACKEND"),
        ("WSSS_FAST_CACHE", "/dev/null", "/dev/null is not a folder"),
        ("WSSS_FAST_DATA", "/dev/null/x", "/dev/null is not a folder"),
        ("RANK", "one", "is 'one', must be a number"),
    ],
)
def test_environment_variable_without_meaning(capfd, monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    assert cli.run(["info"]) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"error: {name}: ") and message in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("EVAL", "no command 'EVAL'; did you mean eval"),
        ("amm run", "no command 'amm run'; did you mean amn run"),
        ("cam infr --data x", "no command 'cam infr'; did you mean cam infer"),
        ("convert", "did you mean convert from-pickles or convert to-pickles"),
        ("--versoin", "no option '--versoin' before a command; did you mean --version"),
        ("--data x amn run", "a command comes first"),
        ("xyzzy", "no command 'xyzzy'; see wsss-fast --help"),
    ],
)
def test_mistyped_command(capfd, words, message):
    assert cli.run(words.split()) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize("word", ["--version", "-V", "version"])
def test_version(capfd, word):
    assert cli.run([word]) == 0
    assert capfd.readouterr().out.startswith("wsss-fast 0.")
