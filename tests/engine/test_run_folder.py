"""The run folder: atomic files, finished stages, records, and the shared arguments."""

import dataclasses
import functools
import json
import math
import multiprocessing
import operator

import numpy as np
import pytest
import torch

from wsss_fast import InputError, cam
from wsss_fast.engine.files import atomic_write, write_json
from wsss_fast.engine.optimizers import Adam, AdamW, Sgd
from wsss_fast.engine.run_folder import provenance, read_records, record, stage, write_config
from wsss_fast.engine.runtime import runtime
from wsss_fast.engine.schedules import Constant, OneCycle, Poly
from wsss_fast.engine.serialize import jsonable


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"x": 1} and list(tmp_path.iterdir()) == [path]


def test_jsonable():
    value = {
        "a": np.float32(0.5),
        "b": (np.arange(2), float("nan")),
        "c": jsonable,
        "d": torch.Size([2]),
    }
    assert jsonable(value) == {
        "a": 0.5,
        "b": [[0, 1], None],
        "c": "wsss_fast.engine.serialize.jsonable",
        "d": [2],
    }


@dataclasses.dataclass(frozen=True)
class Scaled:
    by: float

    def __call__(self, x):
        return self.by * x


@dataclasses.dataclass(frozen=True)
class Shifted:
    by: float

    def __call__(self, x):
        return self.by + x

    def method(self, x):
        return x


def schedules():
    """Callables that compute different factors, some from functions or fields that have the same name."""
    return [
        *(
            maker(*args, **numbers)
            for maker, args, numbers in (
                (Poly, (), {}),
                (Poly, (1.0,), {}),
                (Poly, (), {"warmup": 0.1}),
                (Poly, (), {"stairs": 2000}),
                (Poly, (), {"stairs": 5}),
                (OneCycle, (), {}),
                (OneCycle, (0.2,), {}),
                (Constant, (), {}),
                (Scaled, (2.0,), {}),
                (Scaled, (3.0,), {}),
                (Shifted, (2.0,), {}),
            )
        ),
        math.cos,
        math.sin,
        Sgd(),
        Sgd(momentum=0.9),
        Adam(0.01),
        AdamW(0.01),
        operator.truediv,
        *(
            functools.partial(f, *args, **options)
            for f, args, options in (
                (pow, (2,), {}),
                (pow, (3,), {}),
                (pow, (), {"exp": 2}),
                (math.pow, (2,), {}),
                (Scaled(2.0), (), {}),
                (Scaled(3.0), (), {}),
            )
        ),
    ]


def test_two_callables_have_two_fingerprints():
    found = [json.dumps(jsonable(schedule), sort_keys=True) for schedule in schedules()]
    assert len(set(found)) == len(found) == 24
    assert found == [
        json.dumps(jsonable(schedule), sort_keys=True) for schedule in schedules()
    ]  # made anew, they are equal
    assert jsonable(Poly(stairs=5)) == {
        "class": "wsss_fast.engine.schedules.Poly",
        "power": 0.9,
        "warmup": 0.0,
        "stairs": 5,
    }


@pytest.mark.parametrize(
    "unnamed",
    [
        lambda x: x,
        functools.wraps(math.cos)(lambda x: x),
        Shifted(1.0).method,
        torch.nn.Identity(),
        functools.partial(lambda x: x),
        dataclasses.make_dataclass("Local", (), namespace={"__call__": lambda self, x: x})(),
    ],
)
def test_a_callable_that_cannot_be_told_from_another_is_refused(tmp_path, unnamed):
    recipe = dataclasses.replace(cam.RECIPES["small"], schedule=unnamed)
    with pytest.raises(
        InputError, match=r"^recipe\.schedule: .* cannot be distinguished from another"
    ):
        stage(tmp_path, "cam", {"recipe": recipe}, dict)
    assert not list(tmp_path.iterdir())


def test_a_training_with_another_schedule_is_not_taken_for_finished(tmp_path):
    def again(schedule):
        return stage(
            tmp_path, "cam", {"recipe": dataclasses.replace(cam.Recipe(), schedule=schedule)}, dict
        )

    again(Poly())
    again(Poly(power=0.9))
    with pytest.raises(InputError, match=r"\(recipe\.schedule\.power was 0\.9, now 1\.0\)"):
        again(Poly(power=1.0))
    with pytest.raises(
        InputError,
        match=r"recipe\.schedule\.class was 'wsss_fast\.engine\.schedules\.Poly', now '.*Constant'",
    ):
        again(Constant())
    (tmp_path / "cam/done.json").write_text(
        json.dumps(  # by the version before, which wrote the same name for every schedule
            {"arguments": {"recipe": {"schedule": "poly.<locals>.factor"}}, "notes": {}}
        )
    )
    said = (
        r"cam: written by another version of wsss-fast \(run-folder format 1, this version has 2\)"
    )
    with pytest.raises(InputError, match=f"{said}; use another --out, or remove that folder"):
        again(Poly())


def test_a_finished_stage_is_skipped_and_a_changed_one_refused(tmp_path):
    calls = []

    def work():
        calls.append(1)
        return {"loss": 0.5}

    first = stage(tmp_path, "cam", {"lr": 0.1, "epochs": 5}, work)
    again = stage(tmp_path, "cam", {"lr": 0.1, "epochs": 5}, work)
    assert first == again and first["loss"] == 0.5 and len(calls) == 1
    with pytest.raises(
        InputError, match=r"cam: finished or started with other arguments \(lr was 0.1, now 0.2\)"
    ):
        stage(tmp_path, "cam", {"lr": 0.2, "epochs": 5}, work)


def test_an_interrupted_stage_goes_on_with_the_same_arguments_only(tmp_path):
    def breaks():
        (tmp_path / "cam/first.npz").write_bytes(b"a result")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path, "cam", {"lr": 0.1}, breaks)
    with pytest.raises(InputError, match="lr was 0.1, now 0.3"):
        stage(tmp_path, "cam", {"lr": 0.3}, dict)
    (tmp_path / "cam/.a.123.tmp.npz").write_bytes(b"half")
    assert "seconds" in stage(tmp_path, "cam", {"lr": 0.1}, dict)
    assert {p.name for p in (tmp_path / "cam").iterdir()} == {"done.json", "first.npz"}


def test_a_stage_that_failed_at_once_leaves_nothing_and_may_change_its_mind(tmp_path):
    def breaks():
        raise InputError("epochs")

    out = tmp_path / "run"
    with pytest.raises(InputError, match="epochs"):
        stage(out, "cam", {"epochs": 0}, breaks)
    assert not out.exists()
    (out / "cam").mkdir(parents=True)
    write_json(
        out / "cam/begun.json", {"arguments": {"epochs": 0}}
    )  # as a killed process leaves it
    stage(out, "cam", {"epochs": 1}, dict)
    assert (out / "cam/done.json").exists()


def test_provenance_follows_the_arguments(tmp_path):
    stage(tmp_path, "cam", {"lr": 0.1}, dict)
    stage(tmp_path, "cam2", {"lr": 0.2}, dict)
    stage(tmp_path / "elsewhere", "cam", {"lr": 0.1}, dict)
    assert (
        provenance(tmp_path / "cam")
        == provenance(tmp_path / "elsewhere/cam")
        != provenance(tmp_path / "cam2")
    )
    assert provenance(tmp_path / "no") == str((tmp_path / "no").resolve())


def test_records_keep_their_order_and_are_replaced(tmp_path):
    record(tmp_path, "cam", {"miou": 0.4})
    record(tmp_path, "amn", {"miou": 0.5})
    record(tmp_path, "cam", {"miou": 0.45})
    assert list(read_records(tmp_path).items()) == [("cam", {"miou": 0.45}), ("amn", {"miou": 0.5})]
    (tmp_path / "metrics.json").write_text("[]")
    with pytest.raises(InputError, match=r"metrics\.json: not a metrics file"):
        read_records(tmp_path)


def test_config_says_what_a_result_depends_on(tmp_path):
    write_config(tmp_path, "amn.run", {"seed": 3})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["arguments"] == {"seed": 3} and config["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    "wrong",
    [
        {"device": "tpu"},
        {"seed": -1},
        {"workers": -1},
        {"precision": "fp8"},
        pytest.param(
            {"device": "cuda"},
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU"),
        ),
    ],
)
def test_shared_arguments_are_checked(wrong):
    with pytest.raises(InputError):
        runtime(
            **{"device": "cpu", "seed": 0, "workers": 0, "precision": "auto", **wrong},
            prefer_bf16=False,
        )


def test_workers_for_a_script_without_a_guard_are_refused_in_the_process_that_runs_it_again(
    monkeypatch,
):
    monkeypatch.setattr(
        multiprocessing.current_process(), "_inheriting", True, raising=False
    )  # as multiprocessing notes it
    runtime("cpu", 0, 0, "auto", prefer_bf16=False)
    with pytest.raises(InputError, match='under `if __name__ == "__main__":`'):
        runtime("cpu", 0, 1, "auto", prefer_bf16=False)


def test_auto_precision_follows_the_recipe_and_the_hardware():
    assert runtime("cpu", 0, 0, "auto", prefer_bf16=False).dtype == torch.float32
    assert runtime("cpu", 0, 0, "fp32", prefer_bf16=True).dtype == torch.float32
    assert runtime("cpu", 0, 0, "bf16", prefer_bf16=False).dtype == torch.bfloat16
