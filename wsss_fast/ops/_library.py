"""The torch library `wsss_fast`: how an op is added to it, and how it is called."""

import operator
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad

from wsss_fast import _native
from wsss_fast._process import shared

from ._arguments import describe


class _Functions(NamedTuple):
    """What an op calls, as the newest import of the package defines it."""

    schema: str
    kernel: Callable
    fake: Callable
    backward: Callable
    setup_context: Callable | None


# A library can be registered with torch once in a process, but the package can be imported again.
LIBRARY: torch.library.Library = shared(
    "library", lambda: torch.library.Library("wsss_fast", "DEF")
)
_DEFINED: dict[str, _Functions] = shared("operators", dict)
# What `call` calls for inputs that require a gradient, instead of torch's slower autograd formula.
_DIRECT: dict[torch._ops.OpOverload, Callable] = {}
# `call` leaves values of other types, such as subclasses of Tensor, to the dispatcher.
_PLAIN_TYPES = frozenset((torch.Tensor, torch.nn.Parameter, type(None), bool, int, float, list))
# Private functions of torch that direct calls need; where one is missing, all calls go through the
# dispatcher.
_PRIVATE = (
    "_AutoDispatchBelowAutograd",
    "_any_requires_grad",
    "_are_functorch_transforms_active",
    "_autograd._get_current_graph_task_keep_graph",
    "_dispatch_keys",
    "_is_tracing",
    "_len_torch_dispatch_stack",
)


def define(
    schema: str,
    *,
    reference: Callable,
    fake: Callable,
    backward: Callable | None = None,
    setup_context: Callable | None = None,
    once: bool = True,
    gradient_op: bool = False,
) -> torch._ops.OpOverload:
    """Define an op and return its default overload.

    `reference` becomes the default kernel of every backend. Its first call builds and loads the
    native library: at run time, so that a compiled graph never traces a build. From then on the
    dispatcher prefers the native kernels on the devices that have one.

    Args:
        schema: the op in torch's schema language, without the library's name.
        reference: the op in plain PyTorch.
        fake: shapes and dtypes of the results, for torch.compile.
        backward, setup_context: as for `torch.library.register_autograd`; without them the op
            raises NotImplementedError for inputs that require a gradient.
        once: `backward` returns a gradient without a graph. With create_graph=True it raises
            NotImplementedError, for otherwise a second derivative would be dropped without a word.
        gradient_op: the op is only called by the backward pass of another one. It gets no autograd
            formula, which would disable autograd inside its reference.
    """
    name = schema[: schema.index("(")]

    def default_kernel(*args):
        tensors = _tensors_of(args)
        device = tensors[0].device
        for tensor in tensors:
            # Such calls come here even if there is a native kernel, whose call would come back.
            if tensor.layout != torch.strided or tensor.device != device:
                raise ValueError(
                    f"{name}: got {describe(tensor)} on {tensor.device}; "
                    "tensors must be dense and on one device"
                )
        if _native.load(device.type) and has_native_kernel(name, device):
            return overload(*args)
        return reference(*args)

    def refuse(ctx, *grads):
        if name.endswith("_backward"):
            raise NotImplementedError(_second_derivative(name.removesuffix("_backward")))
        raise NotImplementedError(f"wsss_fast::{name} cannot be differentiated")

    def differentiate(ctx, *grads):
        if once and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise NotImplementedError(_second_derivative(name))
        assert backward is not None
        try:
            return backward(ctx, *grads)
        except RuntimeError as error:
            _raise_out_of_memory(name, error)
            raise

    known = _DEFINED.get(name)
    if known is not None and known.schema != schema:
        raise RuntimeError(
            f"wsss_fast::{name} was registered with torch with another signature by an earlier "
            "import of wsss_fast; start a new process"
        )
    formula = refuse if backward is None else differentiate
    _DEFINED[name] = _Functions(schema, default_kernel, fake, formula, setup_context)
    if known is None:
        _register(name, differentiable=not gradient_op)
    overload = getattr(torch.ops.wsss_fast, name).default
    if backward is not None:
        _DIRECT[overload] = _direct_function(overload, formula, setup_context)
    return overload


def define_loss(schema: str, *, reference: Callable, fake: Callable) -> torch._ops.OpOverload:
    """Define an op that computes a loss together with its gradient, and return its overload.

    Its first result is the loss, a scalar, which is differentiable once in the first argument. Its
    last one is that gradient, or empty if none is needed; `call` may leave it out. Results in
    between carry no gradient. The arguments are as for `define`.
    """
    overload = define(
        schema,
        reference=reference,
        fake=fake,
        backward=_loss_backward,
        setup_context=_set_up_loss,
    )
    name = overload.name().partition("::")[2]

    def direct(*args):
        with torch._C._AutoDispatchBelowAutograd():
            loss, *others, gradient = overload(*args)
        logits = torch._C._functorch.unwrap_if_dead(args[0])
        return _apply_loss(logits, name, [loss, gradient]), *others

    _DIRECT[overload] = direct
    return overload


def _register(name: str, *, differentiable: bool) -> None:
    """Register an op with torch; its functions are looked up when they are called."""
    defined = _DEFINED[name]
    LIBRARY.define(defined.schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, lambda *args: _DEFINED[name].kernel(*args), "CompositeExplicitAutograd")
    torch.library.register_fake(
        f"wsss_fast::{name}", lambda *args: _DEFINED[name].fake(*args), lib=LIBRARY
    )
    if not differentiable:
        return

    def setup_context(ctx, inputs, output):
        function = _DEFINED[name].setup_context
        assert function is not None
        return function(ctx, inputs, output)

    torch.library.register_autograd(
        f"wsss_fast::{name}",
        lambda ctx, *grads: _DEFINED[name].backward(ctx, *grads),
        setup_context=setup_context if defined.setup_context else None,
        lib=LIBRARY,
    )


def _direct_function(
    overload: torch._ops.OpOverload, formula: Callable, setup_context: Callable | None
) -> Callable:
    """What torch's autograd kernel of the op does, without the dispatcher's way through Python."""

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *args):
            with torch._C._AutoDispatchBelowAutograd():
                results = overload(*args)
            if setup_context is not None:
                setup_context(ctx, args, results)
            return results

        @staticmethod
        def backward(ctx, *grads):
            return formula(ctx, *grads)

    return Direct.apply


class _Loss(torch.autograd.Function):
    """A loss whose gradient exists already; nobody else has this gradient."""

    @staticmethod
    def forward(ctx, logits, name, results):
        ctx.name, ctx.dtype = name, logits.dtype
        ctx.set_materialize_grads(False)
        loss, gradient = results
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx, by):
        if torch.is_grad_enabled():
            raise NotImplementedError(_second_derivative(ctx.name))
        (gradient,) = ctx.saved_tensors
        return None if by is None else _scaled_in_place(gradient, by, ctx.dtype), None, None


# What Function.apply calls where no transform is active.
_apply_loss = super(torch.autograd.Function, _Loss).apply


def _scaled_in_place(gradient: torch.Tensor, by: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`gradient * by` in another dtype, in the memory of `gradient` if backward is over with it."""
    keys, own_keys = torch._C._dispatch_keys(by), torch._C._dispatch_keys(gradient)
    # With retain_graph=True it is needed again. A batch of gradients has dispatch keys of its own.
    if torch._C._autograd._get_current_graph_task_keep_graph() or keys != own_keys:
        return (gradient * by).to(dtype)
    if type(by) is torch.Tensor and by.is_cpu and by.item() == 1:
        return gradient.to(dtype)
    if gradient.dtype == dtype:
        return gradient.mul_(by)
    return torch.mul(gradient, by, out=gradient.new_empty(gradient.shape, dtype=dtype))


def _set_up_loss(ctx, inputs, output):
    ctx.dtype, ctx.inputs = inputs[0].dtype, len(inputs)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[-1])
    ctx.mark_non_differentiable(*output[1:])


def _loss_backward(ctx, by, *_):
    (gradient,) = ctx.saved_tensors
    of_logits = None if by is None else (gradient * by).to(ctx.dtype)
    return of_logits, *[None] * (ctx.inputs - 1)


def _tensors_of(args: tuple) -> list[torch.Tensor]:
    """The tensors among an op's arguments, in its lists too."""
    lists = (arg if isinstance(arg, list) else [arg] for arg in args)
    return [each for some in lists for each in some if isinstance(each, torch.Tensor)]


def _second_derivative(op: str) -> str:
    return (
        f"{op} is differentiable once; its gradient cannot be differentiated "
        f"(create_graph=True); ops.reference.{op} can be, any number of times"
    )


def call(overload: torch._ops.OpOverload, *args: Any) -> Any:
    """Call an op; an argument that its native kernel rejects is a ValueError.

    An eager call on plain tensors applies autograd here: torch's own way through the dispatcher and
    Python takes twice as long.

    The kernels raise that themselves, except where a CUDA op falls back to the CPU's kernel, whose
    error reaches Python as a RuntimeError and is converted here.

    Raises:
        NotImplementedError: forward-mode differentiation, whose derivatives torch would drop.
        torch.OutOfMemoryError: a kernel could not allocate results or workspace.
    """
    if torch.compiler.is_compiling():
        return overload(*args)
    # Private, but unpacking the tensors of every call would take longer than a small kernel.
    if forward_ad._current_level >= 0:
        _refuse_tangents(overload, args)
    try:
        if not _is_plain(args):
            return overload(*args)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return _DIRECT.get(overload, overload)(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return overload(*args)
    except RuntimeError as error:
        name = overload.name().partition("::")[2].partition(".")[0]
        found = re.search(rf"(?:{name}|permutohedral lattice): [^\n]*", str(error))
        if type(error) is RuntimeError and found:
            raise ValueError(found.group()) from None
        _raise_out_of_memory(name, error)
        raise


def _raise_out_of_memory(name: str, error: RuntimeError) -> None:
    """Raise torch's error for one that a kernel raised because it could not allocate memory."""
    if found := re.search(r"wsss_fast: (out of memory: [^\n]*)", str(error)):
        raise torch.OutOfMemoryError(f"{name}: {found.group(1)}") from None


def _has_all(names: Iterable[str]) -> bool:
    """Whether torch._C has these functions."""
    try:
        operator.attrgetter(*names)(torch._C)
    except AttributeError:
        return False
    return True


_CALLS_DIRECTLY = _has_all(_PRIVATE)


def _is_plain(args: tuple) -> bool:
    """Whether a call is eager, on plain tensors: no subclass, mode, transform or trace."""
    return (
        _CALLS_DIRECTLY
        and _PLAIN_TYPES.issuperset(map(type, args))
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._is_tracing()
    )


def _refuse_tangents(overload: torch._ops.OpOverload, args: tuple) -> None:
    for tensor in _tensors_of(args):
        if forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError(
                f"{overload.name().partition('::')[2]} has no forward-mode derivative (jvp, "
                "jacfwd); use backward() or torch.autograd.grad"
            )


def refuse_gradient(op: str, **targets: torch.Tensor | None) -> None:
    """Raise for inputs that require a gradient, though the op gives them none.

    Raises:
        ValueError: with the input's name.
    """
    for name, tensor in targets.items():
        if tensor is not None and tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{op}: {name} requires a gradient, but gets none; pass .detach()")


def presence(present: torch.Tensor) -> torch.Tensor:
    """uint8, not 0 where `present`, of any dtype, is not 0."""
    known = present if present.dtype == torch.bool else present != 0
    return known.view(torch.uint8)


def can_inspect_values(tensor: torch.Tensor) -> bool:
    """Whether reading the values is free: no device sync, no graph break, and there are values."""
    return has_data(tensor) and tensor.is_cpu


def has_data(tensor: torch.Tensor) -> bool:
    """Whether the tensor has values of its own, outside of compiled graphs.

    A FakeTensor and one on "meta" have only a shape; one inside torch.vmap stands for several.
    """
    if torch.compiler.is_compiling() or type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return False
    return not tensor.is_meta and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def has_native_kernel(name: str, device: torch.device) -> bool:
    """Whether the loaded native library implements the op `name` for `device`."""
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device.type)
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key(
        f"wsss_fast::{name}", key
    )
