"""IRN's pair losses: against a slow definition, gradients, and labels that are all equal."""

import pytest
import torch
from torch.testing import assert_close

from wsss_fast import InputError
from wsss_fast.irn.relations import offsets, pairs, relation_losses
from wsss_fast.ops.reference.random_walk import path


def example(height=9, width=11, seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)
    edge = torch.randn(batch, 1, height, width, generator=generator, dtype=torch.float64)
    displacement = torch.randn(batch, 2, height, width, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 255])[
        torch.randint(4, (batch, height, width), generator=generator)
    ]
    return edge, displacement, labels


def by_definition(edge, displacement, labels, radius):
    """Pair by pair: equations 2 to 6 of the paper, with the public code's constants."""
    _, height, width = labels.shape
    probability = edge.sigmoid()
    terms = {name: [] for name in ("bg", "fg", "different", "offset_fg", "offset_bg")}
    for b, y, x, (dy, dx) in (
        (b, y, x, offset)
        for b in range(len(labels))
        for y in range(height - radius + 1)
        for x in range(radius - 1, width - radius + 1)
        for offset in offsets(radius)
    ):
        source, target = labels[b, y, x].item(), labels[b, y + dy, x + dx].item()
        if 255 in (source, target):
            continue
        affinity = 1 - max(probability[b, 0, y + v, x + u].item() for v, u in path(dy, dx))
        difference = displacement[b, :, y, x] - displacement[b, :, y + dy, x + dx]
        if source != target:
            terms["different"].append(-torch.tensor(1 + 1e-5 - affinity).log())
            continue
        terms["bg" if source == 0 else "fg"].append(-torch.tensor(affinity + 1e-5).log())
        expected = torch.zeros(2) if source == 0 else torch.tensor([dy, dx])
        distance = (difference - expected).abs().mean()
        terms["offset_bg" if source == 0 else "offset_fg"].append(distance)
    mean = {name: torch.stack(values).double().mean() for name, values in terms.items()}
    positive = (mean["bg"] + mean["fg"]) / 2
    return positive, mean["different"], mean["offset_fg"], mean["offset_bg"]


@pytest.mark.parametrize("radius", [2, 3, 4])
def test_losses_match_the_definition(radius):
    losses, expected = relation_losses(*example(), radius), by_definition(*example(), radius)
    for loss, truth in zip(losses, expected, strict=True):
        assert_close(loss.double(), truth.double(), rtol=1e-5, atol=1e-6)


def test_offsets_are_half_of_the_neighbours():
    assert len(offsets(5)) == 34 and len(offsets(10)) == 152
    assert not {(-y, -x) for y, x in offsets(5)} & set(offsets(5))


def test_gradients_match_finite_differences():
    """Of a path, only the highest boundary probability has a gradient."""
    edge, displacement, labels = example(6, 7, batch=1)
    edge.requires_grad_(), displacement.requires_grad_()
    relation_losses(edge, displacement, labels, 3).total().backward()
    step = 1e-5
    for values in (edge, displacement):
        for i in range(0, values.numel(), 5):
            totals = []
            for sign in (1, -1):
                changed = [v.detach().clone() for v in (edge, displacement)]
                changed[0 if values is edge else 1].flatten()[i] += sign * step
                totals.append(relation_losses(*changed, labels, 3).total().item())
            difference = (totals[0] - totals[1]) / (2 * step)
            gradient = values.grad.flatten()[i].item()
            assert difference == pytest.approx(gradient, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("label", [0, 1, 255])
def test_labels_that_are_all_equal(label):
    edge, displacement, labels = example()
    edge.requires_grad_()
    losses = relation_losses(edge, displacement, torch.full_like(labels, label), 3)
    losses.total().backward()
    assert edge.grad.isfinite().all() and all(v.isfinite() for v in losses)
    assert (losses.positive > 0) == (label != 255) and losses.negative == 0
    assert (losses.foreground > 0) == (label == 1) and (losses.background > 0) == (label == 0)


def test_losses_of_a_perfect_prediction_are_near_0():
    """A band across the image between ignored rows with boundaries, and its displacements."""
    labels = torch.zeros(1, 12, 12, dtype=torch.uint8)
    labels[:, 2:10] = 1
    labels[:, [1, 10]] = 255
    edge = torch.where(labels == 255, 20.0, -20.0)[:, None]
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    to_centre = torch.stack([5.5 - rows, 5.5 - columns])
    displacement = torch.where(labels == 1, to_centre, torch.zeros(()))[None]
    losses = relation_losses(edge, displacement, labels, 3)
    assert all(v < 1e-4 for v in losses)
    assert relation_losses(-edge, displacement, labels, 3).positive > 5


def test_bad_input_raises():
    edge, displacement, labels = example()
    with pytest.raises(InputError, match=r"radius: got 7, but a grid of 9x11 .* allows 2\.\.6"):
        relation_losses(edge, displacement, labels, 7)
    relation_losses(edge, displacement, labels, 6)
    with pytest.raises(InputError, match="radius: got 1"):
        list(pairs(edge[:, 0].sigmoid(), displacement, labels, 1))
    with pytest.raises(
        ValueError, match=r"edge_logits is \[2, 1, 9, 11\] but labels is \[2, 4, 11\]"
    ):
        relation_losses(edge, displacement, labels[:, :4], 3)
