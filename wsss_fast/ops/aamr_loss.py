"""CCR's activation-aware mask refinement loss: schema, fake, autograd, public function."""

import math

import torch
from torch import Tensor

from . import reference
from ._library import can_inspect_values, define, scaled_gradient


def _reference(logits, saliency, response, salient, active, overlap):
    options = {"salient": salient, "active": active, "overlap": overlap}
    wide = logits.to(saliency.dtype)
    loss, region = reference.aamr_loss(wide, saliency, response, **options, return_region=True)
    grad = reference.aamr_loss_grad(wide, saliency, response, **options)
    return loss, region.to(torch.uint8).contiguous(), grad.contiguous()


def _fake(logits, saliency, response, salient, active, overlap):
    region = saliency.new_empty((logits.shape[0], *logits.shape[2:]), dtype=torch.uint8)
    return saliency.new_empty(()), region, saliency.new_empty(logits.shape)


def _setup_context(ctx, inputs, output):
    ctx.dtype = inputs[0].dtype
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[2])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx, grad_loss, *_):
    (grad,) = ctx.saved_tensors
    return None if grad_loss is None else scaled_gradient(grad, grad_loss).to(ctx.dtype), *[
        None
    ] * 5


# logits [B, K, h, w], saliency [B, H, W] and response [B, H', W'] float32 (float64 for float64 logits)
# -> loss [] and d loss / d logits [B, K, h, w] of the saliency's dtype, region [B, h, w] uint8 between them
_op = define(
    "aamr_loss(Tensor logits, Tensor saliency, Tensor response, float salient, float active, float overlap) "
    "-> (Tensor, Tensor, Tensor)",
    reference=_reference,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)


def aamr_loss(
    logits: Tensor,
    saliency: Tensor,
    response: Tensor,
    *,
    salient: float = 0.5,
    active: float = 0.2,
    overlap: float = 0.1,
    return_region: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Binary cross-entropy of "anything but background" against a saliency map, where both speak of labelled objects.

    With F = 1 - softmax(logits)[0], S the saliency and R the response, both read at the logits' size by nearest with
    indices rounded down, loss = mean over Omega of -S log F - (1 - S) log(1 - F). Omega, over the whole batch, is
      - the pixels with S < salient and R < active: a pixel that is active, but not salient, is an object in the background;
      - the regions with S >= salient of whose pixels at least the share `overlap` has R >= active: what is salient but
        hardly active is none of the labelled classes. Regions are 8-connected, within an image, at the logits' size.

    Args:
        logits: [B, C+1, h, w] floating, background first, C >= 1.
        saliency: [B, 1, H, W] or [B, H, W] floating, in 0..1.
        response: [B, H', W'] floating, the largest response of any present class, usually in 0..1; or [B, C', H', W'],
            of which the largest is taken: maps of absent classes must be 0 or left out. Not NaN.
        salient: in 0..1, the saliency from which a pixel is salient.
        active: finite, the response from which a pixel is active.
        overlap: in 0..1, the share of a region; 0 keeps every salient region.
        return_region: return (loss, Omega), the latter [B, h, w] bool.

    Returns:
        The loss, a scalar in nats, float32 (float64 for float64 logits); 0 if Omega is empty. Logits outside of Omega do
        not matter.

    Differentiable in logits, once.
    Raises ValueError, naming the argument and what it got. A saliency out of range or a NaN makes the loss NaN where a look
    at the values would cost time: on other devices than the CPU and in compiled graphs.
    Source: reconstructed by this project from the abstract of CCR (WACV 2022), whose authors published no code of it; the
    thresholds, the mean over the batch, soft saliency as the target and 8-connectivity are this project's choices.

    >>> logits = torch.tensor([[1.0, 1.0, 1.0], [0.0, 2.0, 2.0]]).view(1, 2, 1, 3)
    >>> saliency, response = torch.tensor([[[0.0, 1.0, 0.0]]]), torch.tensor([[[0.0, 0.9, 0.9]]])
    >>> aamr_loss(logits, saliency, response, return_region=True)
    (tensor(0.3133), tensor([[[ True,  True, False]]]))
    """
    _check(logits, saliency, response, salient, active, overlap)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    shown = saliency.detach().to(dtype).reshape(logits.shape[0], *saliency.shape[-2:])
    answer = response.detach().to(dtype)
    if answer.dim() == 4:
        answer = answer.amax(1)
    loss, region, _ = _op(logits, shown, answer, float(salient), float(active), float(overlap))
    if can_inspect_values(loss) and math.isnan(loss.item()):
        _check_values(saliency, response)
    return (loss, region.bool()) if return_region else loss


def _check(logits, saliency, response, salient, active, overlap) -> None:
    op = "aamr_loss"
    if (
        logits.dim() != 4
        or not logits.is_floating_point()
        or logits.shape[1] < 2
        or 0 in logits.shape[2:]
    ):
        raise ValueError(
            f"{op}: logits is {logits.dtype} {list(logits.shape)}; must be floating [B, C+1, h, w], C, h, w >= 1"
        )
    if (
        saliency.dim() not in (3, 4)
        or saliency.dim() == 4
        and saliency.shape[1] != 1
        or not saliency.is_floating_point()
    ):
        given = f"{saliency.dtype} {list(saliency.shape)}"
        raise ValueError(f"{op}: saliency is {given}; must be floating [B, 1, H, W] or [B, H, W]")
    if response.dim() not in (3, 4) or not response.is_floating_point():
        given = f"{response.dtype} {list(response.shape)}"
        raise ValueError(f"{op}: response is {given}; must be floating [B, C, H, W] or [B, H, W]")
    for name, tensor in (("saliency", saliency), ("response", response)):
        if tensor.shape[0] != logits.shape[0] or 0 in tensor.shape[1:]:
            raise ValueError(
                f"{op}: logits is {list(logits.shape)} but {name} is {list(tensor.shape)}; B must match, the rest "
                "be >= 1"
            )
        if tensor.device != logits.device:
            raise ValueError(f"{op}: logits is on {logits.device} but {name} is on {tensor.device}")
    for name, value in (("salient", salient), ("overlap", overlap)):
        if not 0 <= value <= 1:
            raise ValueError(f"{op}: {name} is {value}; must be in [0, 1]")
    if not math.isfinite(active):
        raise ValueError(f"{op}: active is {active}; must be finite")


def _check_values(saliency: Tensor, response: Tensor) -> None:
    """Wrong values make the loss NaN. Only then, and where it does not wait for a device, are they looked for."""
    low, high = (v.item() for v in saliency.detach().aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"aamr_loss: saliency spans {low:g}..{high:g}; must be within 0..1")
    if wrong := int(response.isnan().sum()):
        raise ValueError(f"aamr_loss: response is NaN in {wrong} of {response.numel()} places")
