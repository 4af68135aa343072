"""CCR's activation-aware mask refinement loss: schema, fake, autograd, public function."""

import math

import torch
from torch import Tensor

from ._arguments import FLOATING, argument_error, check_device, is_floating, is_number
from ._library import call, can_inspect_values, define_loss, refuse_gradient
from .reference.aamr_loss import aamr_loss as reference_loss
from .reference.aamr_loss import aamr_loss_grad as reference_grad


def _reference(logits, saliency, response, salient, active, overlap):
    options = {"salient": salient, "active": active, "overlap": overlap}
    wide = logits.to(saliency.dtype)
    loss, region = reference_loss(wide, saliency, response, **options, return_region=True)
    grad = reference_grad(wide, saliency, response, **options)
    return loss, region.to(torch.uint8).contiguous(), grad.contiguous()


def _fake(logits, saliency, response, salient, active, overlap):
    region = saliency.new_empty((logits.shape[0], *logits.shape[2:]), dtype=torch.uint8)
    return saliency.new_empty(()), region, saliency.new_empty(logits.shape)


# logits [B, K, h, w]; saliency [B, H, W] and response [B, H', W'] float32, or float64 for float64
# logits -> loss [], region [B, h, w] uint8, d loss / d logits [B, K, h, w] of the saliency's dtype
_op = define_loss(
    "aamr_loss(Tensor logits, Tensor saliency, Tensor response, float salient, float active, "
    "float overlap) -> (Tensor, Tensor, Tensor)",
    reference=_reference,
    fake=_fake,
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
    """Binary cross-entropy of the foreground probability against a saliency map, where it applies.

    With F = 1 - softmax(logits)[0], S the saliency and R the response, both resized to the logits'
    size by nearest with indices rounded down:

        loss = mean over Omega of -S log F - (1 - S) log(1 - F)

    Omega, over the whole batch, is the union of

    - the pixels with S < salient and R < active: a pixel that is active, but not salient, belongs
      to an object of the background;
    - the regions of pixels with S >= salient, 8-connected within an image, in which at least the
      share `overlap` of the pixels has R >= active: a salient object that is hardly active belongs
      to none of the labelled classes.

    Differentiable in logits, once. A saliency or a response that requires a gradient is an error.

    Args:
        logits: [B, C+1, h, w] floating point, background first, C, h and w >= 1.
        saliency: [B, 1, H, W] or [B, H, W] floating point, in 0..1.
        response: [B, H', W'] floating point, the largest response of any present class, usually in
            0..1; or [B, C', H', W'], of which the largest is taken: maps of absent classes must be
            0 or left out. Not NaN.
        salient: saliency from which a pixel is salient, in 0..1.
        active: response from which a pixel is active, finite.
        overlap: share of active pixels from which a region counts, in 0..1; 0 keeps every region.
        return_region: return (loss, Omega), the latter [B, h, w] bool.

    Returns:
        The loss, a scalar in nats, float32 (float64 for float64 logits); 0 if Omega is empty.
        Logits outside of Omega have no influence.

    Raises:
        ValueError: a wrong argument, with its name and value. A saliency out of range or a NaN
            makes the loss NaN instead where reading the values would cost time: on other devices
            than the CPU and in compiled graphs.

    Source: reconstructed from the abstract of CCR (WACV 2022), whose authors published no code of
    it. The thresholds, the mean over the batch, soft saliency as the target and 8-connectivity are
    choices of this project.

    >>> logits = torch.tensor([[1.0, 1.0, 1.0], [0.0, 2.0, 2.0]]).view(1, 2, 1, 3)
    >>> saliency = torch.tensor([[[0.0, 1.0, 0.0]]])
    >>> response = torch.tensor([[[0.0, 0.9, 0.9]]])
    >>> aamr_loss(logits, saliency, response, return_region=True)
    (tensor(0.3133), tensor([[[ True,  True, False]]]))
    """
    _check(logits, saliency, response, salient, active, overlap)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    target = saliency.to(dtype)
    if target.dim() == 4:
        target = target.squeeze(1)
    largest = response.to(dtype)
    if largest.dim() == 4:
        largest = largest.amax(1)
    thresholds = float(salient), float(active), float(overlap)
    loss, region, *_ = call(_op, logits, target, largest, *thresholds)
    if can_inspect_values(loss) and math.isnan(loss.item()):
        _check_values(saliency, response)
    return (loss, region.bool()) if return_region else loss


def _check(
    logits: Tensor,
    saliency: Tensor,
    response: Tensor,
    salient: float,
    active: float,
    overlap: float,
) -> None:
    op = "aamr_loss"
    if not is_floating(logits, 4) or logits.shape[1] < 2 or 0 in logits.shape[2:]:
        raise argument_error(
            op, "logits", logits, f"{FLOATING} [B, C+1, h, w] with C, h and w >= 1"
        )
    if not is_floating(saliency, 3, 4) or saliency.dim() == 4 and saliency.shape[1] != 1:
        raise argument_error(op, "saliency", saliency, f"{FLOATING} [B, 1, H, W] or [B, H, W]")
    if not is_floating(response, 3, 4):
        raise argument_error(op, "response", response, f"{FLOATING} [B, C, H, W] or [B, H, W]")
    for name, tensor in (("saliency", saliency), ("response", response)):
        if tensor.shape[0] != logits.shape[0] or 0 in tensor.shape[1:]:
            raise ValueError(
                f"{op}: logits is {list(logits.shape)} but {name} is {list(tensor.shape)}; "
                "B must match, the other sizes must be >= 1"
            )
    check_device(op, "logits", logits, saliency=saliency, response=response)
    refuse_gradient(op, saliency=saliency, response=response)
    for name, value in (("salient", salient), ("overlap", overlap)):
        if not is_number(value) or not 0 <= value <= 1:
            raise argument_error(op, name, value, "a number in 0..1")
    if not is_number(active):
        raise argument_error(op, "active", active, "a finite number")


def _check_values(saliency: Tensor, response: Tensor) -> None:
    """Raise for wrong values; reads all of them, so it is called only if the loss is NaN."""
    low, high = (v.item() for v in saliency.detach().aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"aamr_loss: saliency spans {low:g}..{high:g}; must be within 0..1")
    if wrong := int(response.isnan().sum()):
        raise ValueError(f"aamr_loss: response is NaN in {wrong} of {response.numel()} places")
