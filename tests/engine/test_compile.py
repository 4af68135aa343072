"""`compile` of a recipe: the weights of an eager training up to rounding, errors in one line."""

import dataclasses

import pytest
import torch
from training_steps import TRAININGS, batch

from wsss_fast import InputError, RunError, cam
from wsss_fast.engine import fit
from wsss_fast.engine.optimizers import Sgd
from wsss_fast.engine.runtime import Runtime, resolve_runtime
from wsss_fast.engine.samples import Samples
from wsss_fast.engine.schedules import Constant

CPU = Runtime(torch.device("cpu"), 0, 0, torch.float32)
COMPILED = dataclasses.replace(CPU, compile=True)


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch, tmp_path):
    """Nothing that an earlier run has compiled."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def trained(network, step, samples, runtime):
    """The network and its loss after one update of two accumulated parts."""
    torch.manual_seed(0)
    net = network()
    history = fit.fit(
        net,
        step,
        Samples(tuple("abcd"), lambda id, rng: samples["abcd".index(id)], 0),
        optimizer=torch.optim.SGD(net.parameters(), 0.01),
        schedule=Constant(),
        length=fit.Length(batch_size=4, updates=1, accumulate=2),
        runtime=runtime,
        label="train",
    )
    return net, history.losses[0]


@pytest.mark.slow
def test_a_compiled_update_equals_an_eager_one():
    """The small AMN, which has dropout."""
    torch.manual_seed(1)
    tensors, (network, step, _) = batch("amn"), TRAININGS["amn"]
    samples = [{key: value[i] for key, value in tensors.items()} for i in range(4)]
    plain, loss = trained(network, step, samples, CPU)
    torch._dynamo.utils.counters.clear()
    net, found = trained(network, step, samples, COMPILED)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert found == pytest.approx(loss, rel=1e-4)
    torch.testing.assert_close(net.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-4)


@pytest.fixture
def train(shapes, tmp_path):
    """Function that trains the small classifier for one compiled update."""
    recipe = dataclasses.replace(
        cam.RECIPES["small"],
        updates=1,
        batch_size=2,
        optimizer=Sgd(),
        augment=dataclasses.replace(cam.RECIPES["small"].augment, crop=32),
        compile=True,
    )
    some = shapes.only(shapes.ids[:2])
    return lambda: cam.train(some, tmp_path / "run", backbone="small", recipe=recipe, device="cpu")


def test_an_error_of_the_compiler_is_one_line(monkeypatch, train):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("/no/such/compiler",))
    with pytest.raises(RunError, match=r"^train cam: torch\.compile failed \(.*compiler") as error:
        train()
    assert "\n" not in str(error.value) and "`compile` of the recipe" in str(error.value)


def test_a_torch_without_a_compiler_is_named(monkeypatch, train):
    def unsupported(*_, **__):
        raise RuntimeError("torch.compile is not supported on Python 3.99+\nmore")

    monkeypatch.setattr(torch, "compile", unsupported)
    message = r"compile: got True, but torch cannot compile here \(.* 3\.99\+\)$"
    with pytest.raises(InputError, match=message):
        train()


def test_it_is_off_by_default():
    assert not resolve_runtime("cpu", 0, 0, "fp32", prefer_bf16=False).compile
    assert not cam.Recipe().compile
