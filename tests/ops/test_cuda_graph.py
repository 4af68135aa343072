"""Ops without a device sync: a CUDA graph of them can be replayed with new inputs."""

import pytest
import torch

from wsss_fast import ops

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize(("sets", "labels"), [(1, 2), (2, 3), (1, 21)])
def test_dense_crf_can_be_captured(sets, labels):
    def call(image, unary):
        terms = [3.0, 3.0, 3.0], [30.0, 30.0, 9.0, 9.0, 9.0, 10.0], [0.0, 255.0], 4
        return torch.ops.wsss_fast.dense_crf(image, unary, *terms)

    def inputs(seed):
        generator = torch.Generator("cuda").manual_seed(seed)
        image = torch.randint(0, 256, (3, 3, 41, 53), generator=generator, device="cuda").float()
        return image, torch.rand(3, sets, labels, 41, 53, generator=generator, device="cuda") * 3

    captured = inputs(0)
    call(*captured)  # loads the kernels
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        q = call(*captured)
    for seed in (1, 2, 1):
        fresh = inputs(seed)
        for to, new in zip(captured, fresh, strict=True):
            to.copy_(new)
        graph.replay()
        assert torch.equal(q, call(*fresh))


def test_image_views_can_be_captured():
    def call(image):
        return ops.image_views(image, [0.5, 1.0, 1.5, 2.0], dtype=torch.bfloat16)

    def inputs(seed):
        generator = torch.Generator("cuda").manual_seed(seed)
        size = (2, 75, 100, 3)
        return torch.randint(0, 256, size, generator=generator, device="cuda", dtype=torch.uint8)

    captured = inputs(0)
    call(captured)  # loads the kernels
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        views = call(captured)
    for seed in (1, 2, 1):
        fresh = inputs(seed)
        captured.copy_(fresh)
        graph.replay()
        for view, expected in zip(views, call(fresh), strict=True):
            assert torch.equal(view, expected)


def test_image_views_never_waits():
    image = torch.zeros(75, 100, 3, dtype=torch.uint8, device="cuda")
    ops.image_views(image, [0.5, 2.0])  # loads the kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        ops.image_views(image, [0.5, 2.0])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", ["relative", "softmax", "sum"])
def test_merge_maps_can_be_captured(kind):
    def call(*views):
        channels = [(0, 2), (), (1,)]
        images = ops.merge_maps(views, channels, (37, 50), kind=kind, dtype=torch.float16)
        return [maps for image in images for maps in image]

    def inputs(seed):
        generator = torch.Generator("cuda").manual_seed(seed)
        shapes = (6, 3, 3, 4), (6, 3, 5, 7)
        return [torch.rand(shape, generator=generator, device="cuda") for shape in shapes]

    captured = inputs(0)
    call(*captured)  # loads the kernels
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        maps = call(*captured)
    for seed in (1, 2, 1):
        fresh = inputs(seed)
        for to, new in zip(captured, fresh, strict=True):
            to.copy_(new)
        graph.replay()
        assert all(map(torch.equal, maps, call(*fresh)))
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call(*captured)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
