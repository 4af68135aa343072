"""IRN's pair losses: against a slow definition, gradients, and the corners that labels can have."""

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
    """Pair by pair, as the paper's equations 2 to 6 and the public code's constants say."""
    _, height, width = labels.shape
    probability, groups = (
        edge.sigmoid(),
        {name: [] for name in ("bg", "fg", "neg", "dp_fg", "dp_bg")},
    )
    for b, y, x, (dy, dx) in (
        (b, y, x, o)
        for b in range(len(labels))
        for y in range(height - radius + 1)
        for x in range(radius - 1, width - radius + 1)
        for o in offsets(radius)
    ):
        one, other = labels[b, y, x].item(), labels[b, y + dy, x + dx].item()
        if 255 in (one, other):
            continue
        affinity = 1 - max(probability[b, 0, y + v, x + u].item() for v, u in path(dy, dx))
        moved = displacement[b, :, y, x] - displacement[b, :, y + dy, x + dx]
        if one != other:
            groups["neg"].append(-torch.tensor(1 + 1e-5 - affinity).log())
            continue
        groups["bg" if one == 0 else "fg"].append(-torch.tensor(affinity + 1e-5).log())
        target = torch.zeros(2) if one == 0 else torch.tensor([dy, dx])
        groups["dp_bg" if one == 0 else "dp_fg"].append((moved - target).abs().mean())
    mean = {name: torch.stack(values).double().mean() for name, values in groups.items()}
    return (mean["bg"] + mean["fg"]) / 2, mean["neg"], mean["dp_fg"], mean["dp_bg"]


@pytest.mark.parametrize("radius", [2, 3, 4])
def test_against_the_definition(radius):
    sample = example()
    for ours, truth in zip(
        relation_losses(*sample, radius), by_definition(*sample, radius), strict=True
    ):
        assert_close(ours.double(), truth.double(), rtol=1e-5, atol=1e-6)


def test_half_of_the_neighbours():
    assert len(offsets(5)) == 34 and len(offsets(10)) == 152
    assert not {(-y, -x) for y, x in offsets(5)} & set(offsets(5))


def test_gradient_goes_to_the_highest_cell_of_each_path():
    """Against finite differences: perturbing any boundary logit moves the total as its gradient says."""
    edge, displacement, labels = example(6, 7, batch=1)
    edge.requires_grad_(), displacement.requires_grad_()
    relation_losses(edge, displacement, labels, 3).total().backward()
    step = 1e-5
    for values in (edge, displacement):
        for i in range(0, values.numel(), 5):
            moved = []
            for sign in (1, -1):
                other = [v.detach().clone() for v in (edge, displacement)]
                other[0 if values is edge else 1].flatten()[i] += sign * step
                moved.append(relation_losses(*other, labels, 3).total().item())
            assert (moved[0] - moved[1]) / (2 * step) == pytest.approx(
                values.grad.flatten()[i].item(), rel=1e-5, abs=1e-8
            )


@pytest.mark.parametrize("label", [0, 1, 255])
def test_one_label_everywhere(label):
    edge, displacement, labels = example()
    edge.requires_grad_()
    losses = relation_losses(edge, displacement, torch.full_like(labels, label), 3)
    losses.total().backward()
    assert edge.grad.isfinite().all() and all(v.isfinite() for v in losses)
    assert (losses.positive > 0) == (label != 255) and losses.negative == 0
    assert (losses.foreground > 0) == (label == 1) and (losses.background > 0) == (label == 0)


def test_a_perfect_network_loses_next_to_nothing():
    """A band across the image, boundaries on the ignored rows around it, displacements that lead to its middle row."""
    labels = torch.zeros(1, 12, 12, dtype=torch.uint8)
    labels[:, 2:10] = 1
    labels[:, [1, 10]] = 255
    edge = torch.where(labels == 255, 20.0, -20.0)[:, None]
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    displacement = torch.where(
        labels == 1, torch.stack([5.5 - rows, 5.5 - columns]), torch.zeros(())
    )[None]
    losses = relation_losses(edge, displacement, labels, 3)
    assert all(v < 1e-4 for v in losses)
    assert relation_losses(-edge, displacement, labels, 3).positive > 5


def test_bad_input():
    edge, displacement, labels = example()
    with pytest.raises(
        InputError, match=r"radius: got 7, but a grid of 9x11 cells .* has room for 2\.\.6"
    ):
        relation_losses(edge, displacement, labels, 7)
    relation_losses(edge, displacement, labels, 6)
    with pytest.raises(InputError, match="radius: got 1"):
        list(pairs(edge[:, 0].sigmoid(), displacement, labels, 1))
    with pytest.raises(
        ValueError,
        match=r"relation_losses: edge_logits is \[2, 1, 9, 11\] but labels is \[2, 4, 11\]",
    ):
        relation_losses(edge, displacement, labels[:, :4], 3)
