"""`--config`: arguments from a run's config.json, or from YAML or JSON; what is wrong is named."""

import dataclasses
import json
from pathlib import Path

import pytest

from wsss_fast import InputError, amn, cam, cli, eps
from wsss_fast.cli.arguments import parse
from wsss_fast.cli.catalog import COMMANDS
from wsss_fast.engine.optimizers import Adam, AdamW, Sgd
from wsss_fast.engine.schedules import Constant, OneCycle, Poly

# A run of one training, of its maps and of its masks.
RUN = (
    "eps run --backbone small --until masks --precision fp32 --pipeline.baseline False "
    "--pipeline.eps.updates 2 --pipeline.eps.batch-size 8 --pipeline.eps.augment.crop 64 "
    "--pipeline.eps.optimizer.weight-decay 0.02 --pipeline.crf False"
)


def run(capfd, *words):
    """Exit code and stderr of a command."""
    code = cli.run([str(word) for word in words])
    return code, capfd.readouterr().err


def artefacts(out):
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.suffix in (".npz", ".png", ".pth")
    }


@pytest.fixture(scope="module")
def finished(shapes_root, tmp_path_factory):
    """Run folder of `RUN`."""
    out = tmp_path_factory.mktemp("config") / "run"
    assert cli.run([*RUN.split(), "--data", str(shapes_root), "--out", str(out)]) == 0
    return out


@pytest.fixture
def parsed(tmp_path):
    """A function from a command and the text of a configuration file to the arguments."""

    def parse_text(command, text, *argv, suffix="yaml"):
        path = tmp_path / f"config.{suffix}"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return parse(COMMANDS[command], ["--config", str(path), *argv])

    return parse_text


# config.json of a run


def test_config_of_a_run_skips_all_finished_stages(finished, capfd):
    before = artefacts(finished)
    code, err = run(capfd, "eps", "run", "--config", finished / "config.json")
    assert code == 0, err
    stages = {path.parent for path in finished.rglob("done.json")}
    assert err.count("skipped") == len(stages) == 3
    assert artefacts(finished) == before


def test_config_of_a_run_makes_the_same_run_elsewhere(finished, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)  # paths in config.json do not depend on the current directory
    code, err = run(capfd, "eps", "run", "--config", finished / "config.json", "--out", "again")
    assert code == 0, err
    again = tmp_path / "again"
    assert artefacts(again) == artefacts(finished)
    first, second = (json.loads((out / "config.json").read_text()) for out in (finished, again))
    assert first["arguments"].pop("out") == str(finished)
    assert second["arguments"].pop("out") == str(again)
    assert first["arguments"] == second["arguments"]


def test_options_override_the_file(finished, tmp_path, capfd):
    code, err = run(
        capfd,
        *("eps", "run", "--config", finished / "config.json", "--out", tmp_path),
        *("--seed", "1", "--pipeline.eps.updates", "1"),
    )
    assert code == 0, err
    arguments = json.loads((tmp_path / "config.json").read_text())["arguments"]
    assert arguments["seed"] == 1 and arguments["pipeline"]["eps"]["updates"] == 1
    assert arguments["pipeline"]["eps"]["optimizer"]["weight_decay"] == 0.02


def test_config_of_a_run_with_another_seed_raises_for_its_folder(finished, capfd):
    code, err = run(capfd, "eps", "run", "--config", finished / "config.json", "--seed", "1")
    assert code == 2 and "seed was 0, now 1" in err


@pytest.mark.parametrize("option", [("--preset", "voc"), ("--backbone", "resnet38")])
def test_presets_and_backbones_do_not_replace_the_numbers_of_a_file(finished, option, capfd):
    code, err = run(capfd, "eps", "run", "--config", finished / "config.json", *option)
    assert code == 2 and f"{option[0]}: the file given by --config already sets pipeline" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["amn run", "eps train", "seeds"])
def test_config_of_another_command_raises(finished, command, capfd):
    code, err = run(capfd, *command.split(), "--config", finished / "config.json")
    assert code == 2 and f"holds arguments of `eps run`, not of `{command}`" in err
    assert len(err.strip().splitlines()) == 1


def test_config_of_the_version_before_raises_with_what_to_do(finished, tmp_path, capfd):
    """It had no format, and a dot in the name of the command."""
    config = json.loads((finished / "config.json").read_text())
    del config["format"]
    for command in ("eps run", "eps.run"):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**config, "command": command}))
        code, err = run(capfd, "eps", "run", "--config", path)
        assert code == 2 and "written by another version of wsss-fast (format 1" in err, err
        assert "repeat the command with its options instead" in err
        assert len(err.strip().splitlines()) == 1


# Partial files


def test_yaml_with_some_numbers(parsed):
    arguments = parsed(
        "amn run",
        """
        data: shapes
        out: runs/a
        preset: shapes
        seed: 3
        pipeline:
          fg_threshold: 0.35
          amn: {lr: 2e-4, scales: [1, 0.5], condition_at: null}
          cam: {augment: {long_side: [40, 56]}}
          refine: {kind: crf}
        """,
    )
    small, numbers = amn.PIPELINES["small"], arguments["pipeline"]
    assert (arguments["data"], arguments["out"]) == ("shapes", Path("runs/a"))
    assert (arguments["preset"], arguments["seed"]) == ("shapes", 3)
    recipe = dataclasses.replace(small.amn, lr=2e-4, scales=(1.0, 0.5), condition_at=None)
    assert numbers.amn == recipe and isinstance(numbers.amn.scales[0], float)
    assert numbers.fg_threshold == 0.35 and numbers.bg_threshold == small.bg_threshold
    assert numbers.cam.augment == dataclasses.replace(small.cam.augment, long_side=(40, 56))
    assert numbers.refine == dataclasses.replace(small.refine, kind="crf")
    assert numbers.seg == small.seg


def test_json_with_some_numbers_and_another_backbone(parsed):
    text = '{"data": "x", "out": "y", "backbone": "small", "recipe": {"lr": 1e-3, "epochs": 2}}'
    arguments = parsed("cam train", text, suffix="json")
    expected = dataclasses.replace(cam.RECIPES["small"], lr=1e-3, epochs=2)
    assert arguments["recipe"] == expected and arguments["backbone"] == "small"


def test_backbone_of_the_command_line_gives_the_other_numbers(parsed):
    arguments = parsed("cam train", "{data: x, out: y}", "--backbone", "small")
    assert arguments["recipe"] == cam.RECIPES["small"]


@pytest.mark.parametrize(
    ("text", "number"),
    [("2e-4", 2e-4), ("2.0e-4", 2e-4), (".5", 0.5), ("1", 1.0), ("+1e1", 10.0)],
)
def test_numbers_are_read_however_they_are_written(parsed, text, number):
    """YAML 1.1 reads 2e-4 as text."""
    arguments = parsed("cam train", f"{{data: x, out: y, recipe: {{lr: {text}}}}}")
    assert arguments["recipe"].lr == number and isinstance(arguments["recipe"].lr, float)


@pytest.mark.parametrize(
    ("ids", "suffix"),
    [
        ("ids: [2007000032, 000012, 2007_000032, 1e3, '7', true_1]", "yaml"),
        ('{"ids": [2007000032, "000012", "2007_000032", 1e3, "7", "true_1"]}', "json"),
    ],
)
def test_ids_that_look_like_numbers_stay_text(parsed, ids, suffix):
    text = ids if suffix == "yaml" else ids.replace("{", '{"data": "x", "out": "y", ')
    argv = ["--data", "x", "--out", "y"] if suffix == "yaml" else []
    arguments = parsed("cam train", text, *argv, suffix=suffix)
    assert arguments["ids"] == ("2007000032", "000012", "2007_000032", "1e3", "7", "true_1")


def test_ids_of_a_file_select_the_images(shapes, tmp_path, capfd):
    ids = shapes.ids[3:11]
    config = tmp_path / "config.yaml"
    config.write_text(
        f"data: {shapes.root}\nout: {tmp_path / 'run'}\nids: [{', '.join(ids)}]\n"
        "backbone: small\nrecipe: {epochs: 1, batch_size: 8, augment: {crop: 32}}\n"
    )
    code, err = run(capfd, "cam", "train", "--config", config)
    assert code == 0, err
    done = json.loads((tmp_path / "run/cam/done.json").read_text())
    assert done["arguments"]["data"]["images"] == 8


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("{class: Constant}", Constant()),
        ("{class: OneCycle, warmup: 0.1}", OneCycle(warmup=0.1)),
        ("{class: wsss_fast.engine.schedules.Poly, stairs: 5}", Poly(stairs=5)),
        ("{power: 0.5}", dataclasses.replace(cam.RECIPES["resnet38"].schedule, power=0.5)),
    ],
)
def test_schedules_are_chosen_by_class(parsed, schedule, expected):
    text = f"{{data: x, out: y, backbone: resnet38, recipe: {{schedule: {schedule}}}}}"
    assert parsed("cam train", text)["recipe"].schedule == expected


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("{class: Sgd, momentum: 0.9}", Sgd(momentum=0.9)),
        ("{class: wsss_fast.engine.optimizers.Adam, weight_decay: 1e-4}", Adam(1e-4)),
        ("{weight_decay: 0.5}", AdamW(0.5)),
    ],
)
def test_optimizers_are_chosen_by_class(parsed, optimizer, expected):
    text = f"{{data: x, out: y, backbone: small, recipe: {{optimizer: {optimizer}}}}}"
    assert parsed("cam train", text)["recipe"].optimizer == expected


def test_options_override_fields_of_a_chosen_schedule(parsed):
    text = "{data: x, out: y, recipe: {schedule: {class: OneCycle, warmup: 0.1}}}"
    arguments = parsed("cam train", text, "--recipe.schedule.end", "0.5")
    assert arguments["recipe"].schedule == OneCycle(warmup=0.1, end=0.5)


def test_functions_are_named_in_full(parsed):
    name = "wsss_fast.data.transforms.subtract_mean"
    arguments = parsed(
        "cam train", f"{{data: x, out: y, recipe: {{augment: {{to_input: {name}}}}}}}"
    )
    assert arguments["recipe"].augment.to_input.__name__ == "subtract_mean"


# What is wrong is named

WRONG = [
    # unknown keys
    ("epochs: 5", "unknown key 'epochs'; known: data, split"),
    ("fg_threshold: 0.3", "unknown key 'fg_threshold'"),  # of another command
    ("road: {}", "unknown key 'road'"),  # of an earlier version
    ("presett: voc", "unknown key 'presett'; did you mean preset"),
    ("config: x", "unknown key 'config'"),
    ("pipeline: {epz: {}}", "pipeline: unknown key 'epz'; did you mean eps"),
    ("pipeline: {eps: {learning_rate: 1}}", "pipeline.eps: unknown key 'learning_rate'"),
    ("pipeline: {eps: {head-lr-scale: 1}}", "'head-lr-scale'; did you mean head_lr_scale"),
    # values of another type
    ('pipeline: {eps: {tau: "0.1"}}', "pipeline.eps.tau: is the text '0.1', must be a number"),
    ("seed: '3'", "seed: is the text '3', must be a whole number"),
    ("seed: 1.5", "seed: is 1.5, must be a whole number"),
    ("seed: 1_000", "seed: is 1_000, must be a whole number"),
    ("seed: true", "seed: is True, must be a whole number"),
    ("seed: [1]", "seed: is ['1'], must be a whole number"),
    ("pipeline: {eps: {tau: .inf}}", "pipeline.eps.tau: is .inf, must be a number"),
    ("pipeline: {eps: {tau: nan}}", "pipeline.eps.tau: is nan, must be a number"),
    ("pipeline: {eps: {tau: null}}", "pipeline.eps.tau: is None, must be a number"),
    ("pipeline: {crf: 1}", "pipeline.crf: is 1, must be true or false"),
    ("pipeline: {crf: yes}", "pipeline.crf: is yes, must be true or false"),
    ("pipeline: {eps: 3}", "pipeline.eps: is 3, must be a mapping of updates, batch_size"),
    ("pipeline: {eps: {scales: 1}}", "pipeline.eps.scales: is 1, must be a list"),
    ("pipeline: {eps: {scales: [a]}}", "pipeline.eps.scales[0]: is a, must be a number"),
    ("pipeline: {eps: {crf: {gaussian: [1]}}}", "crf.gaussian: has 1 values, must have 2"),
    ("until: everything", "until: is everything, must be masks or seg"),
    ("weights: [a]", "weights: is ['a'], must be text"),
    # classes and functions
    (
        "pipeline: {eps: {schedule: {class: Cosine}}}",
        "pipeline.eps.schedule.class: is 'Cosine', must be one of Poly, OneCycle, Constant",
    ),
    ("pipeline: {class: Poly}", "pipeline.class: is 'Poly', must be Pipeline"),
    ("pipeline: {eps: {augment: {class: Poly}}}", "augment.class: is 'Poly', must be Augment"),
    (
        "pipeline: {eps: {schedule: {class: Constant, power: 1}}}",
        "pipeline.eps.schedule: unknown key 'power'",
    ),
    (
        "pipeline: {eps: {augment: {to_input: os.getcwd}}}",
        "to_input: is 'os.getcwd', must be the full name of a function of wsss_fast",
    ),
    # values out of range
    ("pipeline: {eps: {augment: {crop: 0}}}", "pipeline.eps.augment: augment: crop must be >= 1"),
    # structure
    ("seed: 1\nout: x\nseed: 2", "key 'seed' is listed more than once"),
    ("pipeline: {crf: true, crf: false}", "key 'crf' is listed more than once"),
    ("a: &x 1\nb: *x", "YAML aliases (*name) are not supported"),
    ("seed: [1", "line 1: not valid YAML"),
    ("seed: 1\n\tout: x", "not valid YAML"),
    ("--- {seed: 1}\n--- {seed: 2}", "not valid YAML"),
    ("- seed\n- out", "must hold a mapping of arguments"),
    ("3", "must hold a mapping of arguments"),
    ("", "must hold a mapping of arguments"),
    ("# nothing but a comment", "must hold a mapping of arguments"),
    ("command: amn run\nseed: 1", "holds arguments of `amn run`, not of `eps run`"),
    ("format: 3\narguments: 3", "arguments must be a mapping"),
    (b"seed: \xff", "cannot be read (not UTF-8 text)"),
    ("[" * 5000, "nested too deeply"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[str(text)[:40] for text, _ in WRONG])
def test_wrong_yaml_raises_in_one_line_with_the_file_and_the_key(parsed, text, message):
    with pytest.raises(InputError) as caught:
        parsed("eps run", text)
    error = str(caught.value)
    assert message in error and "config.yaml" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"seed": "3"}', "seed: is the text '3', must be a whole number"),
        ('{"seed": 1.5}', "seed: is 1.5, must be a whole number"),
        ('{"seed": NaN}', "seed: is NaN, must be a whole number"),
        ('{"pipeline": {"eps": {"tau": Infinity}}}', "tau: is Infinity, must be a number"),
        ('{"seed": 1, "seed": 2}', "key 'seed' is listed more than once"),
        ('{"seed": 1,}', "line 1: not valid JSON"),
        ("", "line 1: not valid JSON"),
        ("[]", "must hold a mapping of arguments"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
    ids=range(9),
)
def test_wrong_json_raises_in_one_line_with_the_file_and_the_key(parsed, text, message):
    with pytest.raises(InputError) as caught:
        parsed("eps run", text, suffix="json")
    error = str(caught.value)
    assert message in error and "config.json" in error and len(error.splitlines()) == 1


def test_missing_files_and_directories_are_named(tmp_path, capfd):
    for path, reason in (
        (tmp_path / "no.json", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        code, err = run(capfd, "eps", "run", "--config", path)
        assert code == 2 and f"{path}: cannot be read ({reason})" in err
        assert len(err.strip().splitlines()) == 1


def test_missing_and_unknown_options_are_named_as_without_a_file(parsed):
    with pytest.raises(InputError, match="--out") as caught:
        parsed("eps run", "data: x")
    assert "Warning" not in str(caught.value)
    with pytest.raises(InputError, match="^Unrecognized options: --sed, 3") as caught:
        parsed("eps run", "{data: x, out: y, weights: z}", "--sed", "3")
    assert "Warning" not in str(caught.value)


def test_option_with_an_equals_sign(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("{data: x, out: y, seed: 4}")
    assert parse(COMMANDS["cam train"], [f"--config={path}"])["seed"] == 4


def test_ids_of_the_command_line_override_a_list(parsed):
    arguments = parsed("cam train", "{data: x, out: y, ids: [a, b]}", "--ids", "ids.txt")
    assert arguments["ids"] == Path("ids.txt")


def test_files_without_values_leave_the_defaults(parsed):
    arguments = parsed("eps run", "{data: x, out: y, pipeline: {}}")
    assert arguments["pipeline"] == eps.PIPELINES["resnet38"]
