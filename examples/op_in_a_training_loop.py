"""Operators inside a training loop: AMN's head and its per-pixel loss, compiled as one graph.

    python examples/op_in_a_training_loop.py

The step scales features by the image's labels, applies four dilated convolutions
(`label_conditioned_logits`) and compares the upsampled logits with labels of 8 times their size
(`pixel_cross_entropy`), which never exist in memory. Where there is a C++ compiler, the step goes
through `torch.compile(fullgraph=True)`: neither operator breaks the graph.

Then the same training runs with plain PyTorch, and the losses of both are compared.
"""

import shutil
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

import wsss_fast as wf

BATCH, CHANNELS, CLASSES, SIDE, DILATIONS = 2, 32, 5, 16, [1, 2, 4, 6]
Step = Callable[[dict[str, Tensor], Tensor, Tensor, Tensor], Tensor]


def parameters() -> dict[str, Tensor]:
    torch.manual_seed(0)
    branches = len(DILATIONS)
    weight = 0.05 * torch.randn(branches, CLASSES, CHANNELS, 3, 3)
    bias = torch.zeros(branches, CLASSES)
    to_scale = 0.1 * torch.randn(CLASSES, CHANNELS)
    named = {"weight": weight, "bias": bias, "to_scale": to_scale}
    return {name: value.requires_grad_() for name, value in named.items()}


def step(p: dict[str, Tensor], features: Tensor, tags: Tensor, labels: Tensor) -> Tensor:
    """The loss with the operators of this package."""
    scale = 1 + tags @ p["to_scale"]  # [B, C]
    logits = wf.ops.label_conditioned_logits(features, scale, p["weight"], p["bias"], DILATIONS)
    return wf.ops.pixel_cross_entropy(logits, labels, smoothing=0.4, balance=True, resize="logits")


def plain_step(p: dict[str, Tensor], features: Tensor, tags: Tensor, labels: Tensor) -> Tensor:
    """The same in plain PyTorch."""
    scaled = features * (1 + tags @ p["to_scale"])[:, :, None, None]
    logits = sum(
        F.conv2d(scaled, p["weight"][r], p["bias"][r], padding=d, dilation=d)
        for r, d in enumerate(DILATIONS)
    )
    logits = F.interpolate(logits, labels.shape[1:], mode="bilinear")
    soft = F.one_hot(labels, CLASSES).permute(0, 3, 1, 2) * (0.6 - 0.4 / (CLASSES - 1))
    each = -((soft + 0.4 / (CLASSES - 1)) * logits.log_softmax(dim=1)).sum(dim=1)
    return (each[labels == 0].mean() + each[labels > 0].mean()) / 2


def train(step: Step, updates: int = 8) -> list[float]:
    p = parameters()
    optimizer = torch.optim.Adam(p.values(), lr=0.01)
    features = torch.randn(BATCH, CHANNELS, SIDE, SIDE)
    labels = torch.randint(0, CLASSES, (BATCH, SIDE // 2, SIDE // 2))
    labels = labels.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)  # [B, 128, 128]
    tags = torch.eye(CLASSES)[labels.flatten(1)].amax(dim=1)  # [B, K], classes that are present
    losses = []
    for _ in range(updates):
        loss = step(p, features, tags, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    compiled = shutil.which("g++") is not None
    print("torch.compile(fullgraph=True)" if compiled else "no C++ compiler: without torch.compile")
    ours = train(torch.compile(step, fullgraph=True) if compiled else step)
    plain = train(plain_step)
    print(f"loss: {ours[0]:.4f} before, {ours[-1]:.4f} after {len(ours)} updates")
    difference = max(abs(a - b) for a, b in zip(ours, plain, strict=True))
    print(f"largest difference from plain PyTorch: {difference:.1e}")
    assert difference < 1e-4, f"losses differ: {ours} and {plain}"


if __name__ == "__main__":
    main()
