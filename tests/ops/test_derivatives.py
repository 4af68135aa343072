"""What is not differentiable, or not twice, says so instead of dropping a derivative."""

import warnings

import pytest
import torch
from torch.autograd import forward_ad

from wsss_fast import ops

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(1, 3, 4, 5, generator=GENERATOR)
LABELS = torch.randint(0, 3, (1, 4, 5), generator=GENERATOR)
MAP = torch.rand(1, 4, 5, generator=GENERATOR)
IMAGE = torch.randint(0, 256, (1, 3, 4, 5), generator=GENERATOR, dtype=torch.uint8)
PRESENT = torch.ones(1, 2)
HEAD = (None, torch.randn(1, 2, 3, 3, 3, generator=GENERATOR), torch.zeros(1, 2), [1])


def energy(logits, image=IMAGE, roi=MAP):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `MAP` as an image is within 0..1
        return ops.dense_energy_loss(image, logits.softmax(1), roi, LABELS, weight=0.1)


ONCE = {
    "pixel_cross_entropy": lambda x: ops.pixel_cross_entropy(x, LABELS),
    "pixel_bce": lambda x: ops.pixel_bce(x, LABELS),
    "saliency_loss": lambda x: ops.saliency_loss(x, MAP, PRESENT).loss,
    "aamr_loss": lambda x: ops.aamr_loss(x, MAP, MAP),
    "dense_crf": lambda x: ops.dense_crf(IMAGE, x, iterations=1).square().sum(),
    "dense_energy_loss": energy,
    "label_conditioned_logits": lambda x: ops.label_conditioned_logits(x, *HEAD).square().sum(),
    "pixel_adaptive_refine": lambda x: (
        ops.pixel_adaptive_refine(IMAGE, x, iterations=2).square().sum()
    ),
    "resized_activation": lambda x: (
        ops.label_conditioned_activation(x, *HEAD, size=(8, 9)).square().sum()
    ),
}
LATTICE = ops.PermutohedralLattice(torch.randn(9, 2, generator=GENERATOR))


@pytest.mark.parametrize(
    ("name", "compiled"), [*((name, False) for name in ONCE), ("pixel_cross_entropy", True)]
)
def test_a_second_derivative_is_an_error(name, compiled):
    loss = ONCE[name]
    if compiled:
        loss = torch.compile(loss, backend="eager")
    x = LOGITS.clone().requires_grad_()
    with pytest.raises(NotImplementedError, match="is differentiable once; its gradient cannot"):
        (grad,) = torch.autograd.grad(loss(x), x, create_graph=True)
        torch.autograd.grad(grad.square().sum() + x.square().sum(), x)


def test_the_references_can_be_differentiated_twice():
    x = LOGITS.double().requires_grad_()
    for loss in (
        lambda x: ops.reference.pixel_cross_entropy(x, LABELS),
        lambda x: ops.reference.pixel_bce(x, LABELS),
        lambda x: ops.reference.saliency_loss(x, MAP, PRESENT).loss,
        lambda x: ops.reference.aamr_loss(x, MAP, MAP),
        lambda x: ops.reference.dense_energy_loss(
            IMAGE, x.softmax(1), MAP, None, gradient="exact", weight=0.1
        ),
    ):
        assert torch.autograd.gradgradcheck(loss, x)


def test_the_lattice_filter_can_be_differentiated_twice():
    values = torch.randn(9, 2, generator=GENERATOR, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda v: LATTICE.filter(v).square(), values)


@pytest.mark.parametrize(
    ("op", "call"),
    [(name, loss) for name, loss in ONCE.items() if name != "resized_activation"]
    + [
        ("lattice_filter", lambda x: LATTICE.filter(x.flatten()[:9, None])),
        ("random_walk", lambda x: ops.random_walk(x, MAP)),
    ],
)
def test_forward_mode_is_an_error(op, call):
    """Its derivative would be 0, or missing."""
    with pytest.raises(NotImplementedError, match=f"{op} has no forward-mode derivative"):
        torch.func.jvp(call, (LOGITS,), (LOGITS,))
    with (
        forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match=f"{op} has no forward-mode derivative"),
    ):
        call(forward_ad.make_dual(LOGITS, LOGITS))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("saliency_loss: saliency", lambda t: ops.saliency_loss(LOGITS, t, PRESENT)),
        ("saliency_loss: labels", lambda t: ops.saliency_loss(LOGITS, MAP, t[0, :1, :2])),
        ("aamr_loss: saliency", lambda t: ops.aamr_loss(LOGITS, t, MAP)),
        ("dense_energy_loss: image", lambda t: energy(LOGITS[:, :1], image=t[None])),
        ("dense_energy_loss: roi", lambda t: energy(LOGITS, roi=t)),
        ("aamr_loss: response", lambda t: ops.aamr_loss(LOGITS, MAP, t)),
        (
            "pixel_adaptive_refine: image",
            lambda t: ops.pixel_adaptive_refine(t[None], LOGITS, iterations=1),
        ),
        ("pixel_bce: present", lambda t: ops.pixel_bce(LOGITS, LABELS, present=t[0, :1, :3])),
    ],
)
def test_an_input_that_gets_no_gradient_may_not_require_one(name, call):
    wanting = MAP.clone().requires_grad_()
    with pytest.raises(ValueError, match=rf"{name} requires a gradient, but gets none; pass .det"):
        call(wanting)
    with torch.no_grad():
        call(wanting)
    call(wanting.detach())


def test_vmap_is_a_loop_over_the_calls():
    stack, maps = torch.stack([LOGITS, 2 * LOGITS]), torch.stack([MAP, 1 - MAP])
    for call in (
        lambda x, m: ops.pixel_cross_entropy(x, LABELS),
        lambda x, m: ops.saliency_loss(x, m, PRESENT).loss,
        lambda x, m: ops.aamr_loss(x, m, m),
        lambda x, m: energy(x, roi=m),
        lambda x, m: ops.random_walk(x, m, steps=2),
        lambda x, m: ops.dense_crf(IMAGE, x, iterations=1),
        lambda x, m: ops.unary_from_labels((m * 3).long(), 3),
    ):
        expected = torch.stack([call(x, m) for x, m in zip(stack, maps, strict=True)])
        torch.testing.assert_close(torch.vmap(call)(stack, maps), expected)
