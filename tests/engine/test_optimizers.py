"""Optimizers: their parameter groups, and that they are data."""

import dataclasses
import pickle

import pytest
import torch
from torch import nn

from wsss_fast.engine.optimizers import Adam, AdamW, ParameterGroup, Sgd, backbone_and_head
from wsss_fast.engine.serialize import jsonable

DEFAULTS = (Sgd(), Adam(), AdamW())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(4, 3)
        self.head = nn.Linear(3, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def names_of(net, parameters):
    names = {id(p): name for name, p in net.named_parameters()}
    return [names[id(p)] for p in parameters]


def test_backbone_and_head_have_their_learning_rates():
    net = Net()
    backbone, head = backbone_and_head(net, 0.1, 10.0)
    assert [name for name, _ in backbone.parameters] == ["backbone.weight", "backbone.bias"]
    assert (backbone.lr, head.lr) == (0.1, 1.0)


@pytest.mark.parametrize(
    ("optimizer", "kind"),
    [(Sgd(), torch.optim.SGD), (Adam(), torch.optim.Adam), (AdamW(), torch.optim.AdamW)],
    ids=lambda value: type(value).__name__,
)
def test_parameters_without_gradient_are_left_out(optimizer, kind):
    net = Net()
    built = optimizer(backbone_and_head(net, 0.1, 10.0))
    assert type(built) is kind
    backbone, head = built.param_groups
    assert names_of(net, backbone["params"]) == ["backbone.weight", "backbone.bias"]
    assert names_of(net, head["params"]) == ["head.weight", "head.bias"]
    assert (backbone["lr"], head["lr"]) == (0.1, 1.0)


def test_caffe_biases_learn_twice_as_fast_without_weight_decay():
    net = Net()
    optimizer = Sgd(weight_decay=5e-4, momentum=0.9, caffe_biases=True)
    groups = optimizer(backbone_and_head(net, 0.1, 10.0)).param_groups
    assert [names_of(net, group["params"]) for group in groups] == [
        ["backbone.weight"],
        ["backbone.bias"],
        ["head.weight"],
        ["head.bias"],
    ]
    assert [group["lr"] for group in groups] == [0.1, 0.2, 1.0, 2.0]
    assert [group["weight_decay"] for group in groups] == [5e-4, 0.0, 5e-4, 0.0]
    assert {group["momentum"] for group in groups} == {0.9}


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (
            Sgd(weight_decay=0.1, momentum=0.9),
            lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1, momentum=0.9),
        ),
        (Adam(weight_decay=0.1), lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1)),
        (AdamW(weight_decay=0.1), lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_updates_are_those_of_torch(optimizer, expected):
    weights = []
    for build in (lambda p: optimizer([ParameterGroup([("w", p)], 0.1)]), lambda p: expected([p])):
        weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        built = build(weight)
        for _ in range(3):
            built.zero_grad()
            weight.square().sum().backward()
            built.step()
        weights.append(weight.detach())
    assert torch.equal(*weights)


@pytest.mark.parametrize("optimizer", DEFAULTS, ids=repr)
def test_optimizers_are_printable_picklable_and_equal_by_value(optimizer):
    copy = pickle.loads(pickle.dumps(optimizer))
    assert copy == optimizer and hash(copy) == hash(optimizer)
    assert eval(repr(optimizer), {cls.__name__: cls for cls in (Sgd, Adam, AdamW)}) == optimizer
    with pytest.raises(dataclasses.FrozenInstanceError):
        optimizer.weight_decay = 1.0


def test_optimizers_with_other_updates_are_not_equal():
    optimizers = [
        Sgd(),
        Adam(),
        AdamW(),
        AdamW(0.0),
        Sgd(weight_decay=0.1),
        Sgd(momentum=0.1),
        Sgd(caffe_biases=True),
        Adam(0.1),
    ]
    assert len(set(optimizers)) == len(optimizers)
    assert len({str(jsonable(optimizer)) for optimizer in optimizers}) == len(optimizers)
