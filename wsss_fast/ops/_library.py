"""The torch library `wsss_fast` and the one way to add an op to it."""

import re
from collections.abc import Callable

import torch

from wsss_fast import _native

LIBRARY = torch.library.Library("wsss_fast", "DEF")


def define(
    schema: str,
    *,
    reference: Callable,
    fake: Callable,
    backward: Callable | None = None,
    setup_context: Callable | None = None,
    gradient_op: bool = False,
):
    """Define an op and return its default overload.

    `reference` becomes the default kernel of every backend. Its first call builds and loads the native library: at run
    time, so a compiled graph never traces a build. From then on the dispatcher prefers the native kernels for the
    devices that have one. `backward` and `setup_context` go to `torch.library.register_autograd`; without them the op
    refuses inputs that require a gradient. A `gradient_op` is only called by a backward: it gets no autograd formula,
    so that its reference may itself use autograd (a formula would switch that off below it).
    """
    name = schema[: schema.index("(")]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    overload = getattr(torch.ops.wsss_fast, name).default

    def default_kernel(*args):
        device = next(a.device for a in args if isinstance(a, torch.Tensor))
        if _native.load(device.type) and has_native_kernel(name, device):
            return overload(*args)
        return reference(*args)

    LIBRARY.impl(name, default_kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"wsss_fast::{name}", fake, lib=LIBRARY)

    def refuse(ctx, *grads):
        raise NotImplementedError(f"wsss_fast::{name} cannot be differentiated")

    if not gradient_op:
        torch.library.register_autograd(
            f"wsss_fast::{name}", backward or refuse, setup_context=setup_context, lib=LIBRARY
        )
    return overload


def call(overload, *args):
    """Call an op; an input that its native kernel refuses is a ValueError, as everywhere."""
    if torch.compiler.is_compiling():
        return overload(*args)
    try:
        return overload(*args)
    except RuntimeError as error:
        name = overload.name().partition("::")[2].partition(".")[0]
        found = re.search(rf"(?:{name}|permutohedral lattice): [^\n]*", str(error))
        if type(error) is RuntimeError and found:
            raise ValueError(found.group()) from None
        raise


def can_inspect_values(tensor: torch.Tensor) -> bool:
    """Whether a look at the values costs nothing: it waits for no device, breaks no graph, and there are values."""
    return has_data(tensor) and tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def has_data(tensor: torch.Tensor) -> bool:
    """Whether there are values at all: a FakeTensor has a shape only."""
    return type(tensor) in (torch.Tensor, torch.nn.Parameter)


def scaled_gradient(gradient: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """`gradient`, made by the forward pass, times the scalar `by` that backward got.

    Not copied where `by` is seen to be 1, the usual case.
    """
    return gradient if can_inspect_values(by) and by.item() == 1 else gradient * by


def has_native_kernel(name: str, device: torch.device) -> bool:
    """Whether the loaded native library implements the op `name` for `device`."""
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device.type)
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key(
        f"wsss_fast::{name}", key
    )
