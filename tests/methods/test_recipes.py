"""Every recipe and pipeline as data: hashable, picklable, written to a file and read back."""

import dataclasses
import json
import pickle

import pytest
import yaml

from wsss_fast import amn, cam, ccr, eps, irn, seg
from wsss_fast.cli.catalog import COMMANDS
from wsss_fast.engine.config_file import read_config
from wsss_fast.engine.serialize import from_config, jsonable
from wsss_fast.presets import Preset

TABLES = {
    f"{method.__name__.rpartition('.')[2]}.{table}": getattr(method, table)
    for method, tables in (
        (amn, ("RECIPES", "PIPELINES", "PRESETS")),
        (cam, ("RECIPES",)),
        (ccr, ("RECIPES", "REFINEMENTS", "PIPELINES", "PRESETS")),
        (eps, ("RECIPES", "PIPELINES", "PRESETS")),
        (irn, ("RECIPES", "OWN_RECIPES", "INSTANCE_RECIPES", "PIPELINES", "PRESETS")),
        (seg, ("RECIPES", "PRESETS")),
    )
    for table in tables
}
VALUES = {f"{table}[{key}]": v for table, values in TABLES.items() for key, v in values.items()}
VALUES["eps.COCO"] = eps.COCO
VALUES = {name: v.numbers if isinstance(v, Preset) else v for name, v in VALUES.items()}

every_value = pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)


def test_every_table_of_a_command_is_covered():
    for command in COMMANDS.values():
        for attribute in (command.defaults, command.presets):
            if attribute is not None:
                assert any(command.table(attribute) is table for table in TABLES.values())


@pytest.mark.parametrize("suffix", ["json", "yaml"])
@every_value
def test_written_values_are_read_back(value, suffix, tmp_path):
    path, plain = tmp_path / f"config.{suffix}", {"recipe": jsonable(value)}
    path.write_text(json.dumps(plain) if suffix == "json" else yaml.safe_dump(plain))
    config, kind = read_config(path, "any command")["recipe"], type(value)
    assert from_config(config, kind, "recipe") == value
    # The file has every field, so no default shows.
    for default in VALUES.values():
        if type(default) is kind:
            assert from_config(config, kind, "recipe", default) == value


@every_value
def test_values_are_hashable_and_picklable(value):
    copy = pickle.loads(pickle.dumps(value))
    assert copy == value and hash(copy) == hash(value) and jsonable(copy) == jsonable(value)


@every_value
def test_a_changed_number_changes_the_written_value(value):
    for field in dataclasses.fields(value):
        given = getattr(value, field.name)
        if isinstance(given, float):
            changed = dataclasses.replace(value, **{field.name: given * 0.5 + 0.001})
            assert jsonable(changed) != jsonable(value)
