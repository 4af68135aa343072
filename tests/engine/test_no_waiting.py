"""The host does not wait for the device in a training step.

With CUDA, torch itself reports a call that waits. Without it, the steps run on torch's "meta"
device, which has no values to wait for, and their code is searched for such calls.
"""

import ast
import contextlib
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training_steps import PUBLISHED, TRAININGS, batch

import wsss_fast
from wsss_fast.engine import fit, transfer
from wsss_fast.engine.ddp import TrainStepModule
from wsss_fast.engine.run_log import RunLog
from wsss_fast.engine.runtime import Runtime

PACKAGE = Path(wsss_fast.__file__).parent
META = torch.device("meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", TRAININGS)
def test_cuda_reports_no_call_that_waits(name, dtype, tmp_path):
    device = torch.device("cuda", torch.cuda.current_device())
    runtime, training = Runtime(device, 0, 0, dtype), TRAININGS[name]
    net = transfer.move_to_device(training.network(), device).train()
    log = RunLog(tmp_path, device, images=1, per_epoch=4, total=4)  # a row after update 4
    state = fit.TrainingState(net, training.optimizer(net), device, log)
    module = TrainStepModule(net, training.step)
    batches = [{k: v.pin_memory() for k, v in batch(name).items()} for _ in range(4)]
    losses = []
    try:
        for number, moved in enumerate(transfer.on_device(batches, device)):
            if number == 2:  # the first updates load kernels
                torch.cuda.synchronize()
                torch.cuda.set_sync_debug_mode("error")
            fit._seed_dropout(0, number)
            state.update(module, moved, runtime, 2)
            losses.append(state.loss_sum.clone())
            assert not state.should_stop()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(losses) == 4 and torch.stack(losses).isfinite().all()
    log.state()
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2


@dataclasses.dataclass(frozen=True)
class MetaRuntime(Runtime):
    """Runs on a device without values, for which torch has no autocast."""

    def autocast(self):
        return contextlib.nullcontext()


class NoCopies(TorchDispatchMode):
    """Raises for an operator whose tensors are on several devices: it copies or waits."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        if len({x.device.type for x in tensors}) > 1:
            raise RuntimeError(f"{function} copies between devices")
        return out


def update_on_meta(training, tensors):
    with META:
        net = training.network().train()
    module = TrainStepModule(net, training.step)
    optimizer = training.optimizer(net)
    with NoCopies():
        return fit._update(module, tensors, optimizer, MetaRuntime(META, 0, 0, torch.float32), 2)


@pytest.mark.parametrize("name", TRAININGS)
def test_steps_need_no_values(name):
    """The published networks; CCR's step is other losses on that of "seg"."""
    training = TRAININGS[name] if name == "ccr" else PUBLISHED[name]
    losses = tree_leaves(update_on_meta(training, batch(name, device="meta")))
    assert {loss.device for loss in losses} == {META}


def waits_for_the_mean(net, x):
    return x / x.mean().item()


def waits_in_a_condition(net, x):
    return x if x.mean() > 0 else -x


def selects_by_a_mask(net, x):
    return x[x > 0]


def copies_to_the_host(net, x):
    return x.cpu()


WAITING = [
    waits_for_the_mean,
    waits_in_a_condition,
    selects_by_a_mask,
    copies_to_the_host,
]


@pytest.mark.parametrize("function", WAITING)
def test_steps_that_wait_are_found(function):
    def step(net, tensors):
        return function(net, net(tensors["x"])).sum()

    training = TRAININGS["cam"]._replace(
        network=lambda: nn.Linear(4, 4),
        step=step,
        optimizer=lambda net: torch.optim.SGD(net.parameters()),
    )
    with pytest.raises((RuntimeError, NotImplementedError)):
        update_on_meta(training, {"x": torch.ones(2, 4, device="meta")})


# Functions that run in a training step, by file; None for all functions of the file.
STEP_CODE = {
    "engine/fit.py": ("update", "should_stop", "_update"),
    "engine/run_log.py": ("add",),
    "engine/transfer.py": ("to_device", "on_device", "note", "read", "arrived"),
    "engine/ddp.py": None,
    "engine/distributed.py": ("all_reduce_mean", "all_gather_tensor"),
    "stages/batch_losses.py": None,
    "stages/energy.py": ("added_to",),
    "data/levels.py": ("rgb_levels", "photo_pixels"),
    "ops/reference/nearest.py": None,
    "ops/_library.py": (
        *("call", "define_loss", "_direct_function", "forward", "backward", "_scaled_in_place"),
        *("_loss_backward", "presence", "can_inspect_values", "has_data"),
    ),
    "ops/pixel_loss.py": None,
    "ops/saliency_loss.py": ("saliency_loss", "_check_tensors"),
    "ops/aamr_loss.py": ("aamr_loss", "_check"),
    "ops/dense_energy_loss.py": ("dense_energy_loss", "_grid", "_check_maps"),
    "ops/label_conditioned.py": None,
    "irn/relations.py": None,
    **{f"{name}/training.py": ("_step",) for name in ("cam", "amn", "irn", "seg")},
    "eps/training.py": ("_step", "losses"),
    "ccr/training.py": ("_extra_loss",),
    **{f"nets/{path.name}": None for path in (PACKAGE / "nets").glob("*.py")},
}
NOT_IN_A_STEP = {
    f"nets/{name}.py"
    for name in (
        *("__init__", "constructors", "inference", "library_names", "model_file", "names"),
        "weights",
    )
}
# (file, function, construct): why it does not wait.
ALLOWED = {
    ("engine/transfer.py", "read", ".synchronize()"): "of the update before, or at an epoch's end",
    ("engine/transfer.py", "read", "bool()"): "host memory",
    ("engine/transfer.py", "arrived", ".synchronize()"): "where asked to, outside of the updates",
    ("engine/transfer.py", "arrived", ".tolist()"): "host memory",
    ("ops/reference/nearest.py", "_centres", "torch.tensor()"): "stays on the host",
    ("ops/reference/nearest.py", "_centres", ".to(device)"): "of a CPU device; CUDA's is pinned",
    ("ops/reference/nearest.py", "_centres", "int()"): "Python's numbers",
    ("ops/_library.py", "_scaled_in_place", ".item()"): "on the CPU only",
    ("ops/pixel_loss.py", "_from_reference", "if .any()"): "on the CPU only",
    ("ops/pixel_loss.py", "_from_reference", ".item()"): "on the CPU only",
    ("ops/pixel_loss.py", "pixel_cross_entropy", "float()"): "an option",
    ("ops/pixel_loss.py", "pixel_bce", "float()"): "an option",
    ("ops/pixel_loss.py", "_balance", "int()"): "an option",
    ("ops/saliency_loss.py", "saliency_loss", "float()"): "an option",
    ("ops/saliency_loss.py", "saliency_loss", ".item()"): "on the CPU only",
    ("ops/aamr_loss.py", "aamr_loss", "float()"): "an option",
    ("ops/aamr_loss.py", "aamr_loss", ".item()"): "on the CPU only",
    ("ops/dense_energy_loss.py", "dense_energy_loss", "float()"): "an option",
    ("ops/dense_energy_loss.py", "dense_energy_loss", ".item()"): "on the CPU, or with `check`",
    ("ops/dense_energy_loss.py", "dense_energy_loss", "if .any()"): "on the CPU, or with `check`",
    ("ops/dense_energy_loss.py", "_grid", "float()"): "an option",
    ("ops/dense_energy_loss.py", "_grid", "bool()"): "an option",
    ("ops/label_conditioned.py", "_check_classes", "int()"): "on the CPU only",
    ("nets/deeplab.py", "_scaled", "int()"): "Python's numbers",
}
WAITING_METHODS = {
    *("argwhere", "cpu", "cuda", "is_nonzero", "item", "masked_select"),
    *("nonzero", "numpy", "synchronize", "tolist", "unique"),
}
REDUCTIONS = {"all", "any", "isnan", "max", "mean", "min", "sum"}
COPIES = {"as_tensor", "asarray", "from_numpy", "new_tensor", "tensor"}


def waiting_calls(function):
    """Constructs in a function's syntax tree that wait for a device, or copy to it and wait."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            if name in WAITING_METHODS:
                yield f".{name}()"
            elif name in COPIES or name in ("equal", "allclose"):
                yield f"torch.{name}()"
            elif name == "to" and _has_device(node) and not _is_asynchronous(node):
                yield ".to(device)"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            constant = all(isinstance(arg, ast.Constant) for arg in node.args)
            if node.func.id in ("bool", "float", "int") and not constant:
                yield f"{node.func.id}()"
        elif isinstance(node, ast.Subscript) and _is_mask(node.slice):
            yield "[mask]"
        elif isinstance(node, (ast.If, ast.While, ast.IfExp, ast.Assert)):
            for part in ast.walk(node.test):
                if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute):
                    name = part.func.attr
                    if name in REDUCTIONS and ast.unparse(part.func.value) != "math":
                        yield f"if .{name}()"


def _has_device(call):
    values = [*call.args, *(k.value for k in call.keywords)]
    return any("device" in ast.unparse(value) for value in values)


def _is_asynchronous(call):
    return any(k.arg == "non_blocking" and ast.unparse(k.value) == "True" for k in call.keywords)


def _is_mask(index):
    logical = ast.BitAnd, ast.BitOr
    return (
        isinstance(index, ast.Compare)
        or (isinstance(index, ast.UnaryOp) and isinstance(index.op, ast.Invert))
        or (isinstance(index, ast.BinOp) and isinstance(index.op, logical))
    )


def functions(tree, names):
    """The outermost functions of a file that have one of the names, and all methods of classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from functions(node, names)
        elif isinstance(node, ast.FunctionDef) and (names is None or node.name in names):
            yield node


def test_code_of_the_steps_waits_nowhere():
    found, seen = set(), set()
    for file, names in STEP_CODE.items():
        if file in NOT_IN_A_STEP:
            continue
        for function in functions(ast.parse((PACKAGE / file).read_text()), names):
            seen.add((file, function.name))
            found |= {(file, function.name, construct) for construct in waiting_calls(function)}
    missing = {(f, n) for f, names in STEP_CODE.items() for n in names or ()} - seen
    assert not missing
    assert found - set(ALLOWED) == set()
    assert set(ALLOWED) - found == set(), "no longer needed"


@pytest.mark.parametrize(
    "code, construct",
    [
        ("x.sum().item()", ".item()"),
        ("bool(x)", "bool()"),
        ("float(x.max())", "float()"),
        ("x[x > 0]", "[mask]"),
        ("x[~known]", "[mask]"),
        ("x.nonzero()", ".nonzero()"),
        ("torch.unique(x)", ".unique()"),
        ("torch.tensor([1, 2], device=x.device)", "torch.tensor()"),
        ("x.new_tensor([1])", "torch.new_tensor()"),
        ("x.to(device)", ".to(device)"),
        ("x.to(y.device, non_blocking=False)", ".to(device)"),
        ("x.cpu()", ".cpu()"),
        ("1 if x.any() else 2", "if .any()"),
        ("torch.cuda.synchronize()", ".synchronize()"),
    ],
)
def test_search_finds_calls_that_wait(code, construct):
    assert construct in set(waiting_calls(ast.parse(f"def step(x):\n    return {code}")))


@pytest.mark.parametrize(
    "code", ["x.to(device, non_blocking=True)", "x.to(torch.float32)", "x.sum(1)", "float('inf')"]
)
def test_search_allows_calls_that_do_not(code):
    assert not set(waiting_calls(ast.parse(f"def step(x):\n    return {code}")))
