"""Every operator on other streams and devices, in graphs, in large batches, and out of memory."""

import ctypes
import gc
import os

import pytest
import torch
from op_calls import CALLS
from op_testing import each_device

from wsss_fast import ops

CALLS_BY_NAME = {op.name: op for op in CALLS}
EMULATED = os.environ.get("WSSS_FAST_EMULATE_CUDA")
each_call = pytest.mark.parametrize("op", CALLS, ids=lambda op: op.name)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
on_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")


def moved(tensors, device):
    return [t.to(device) for t in tensors]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def assert_close(found, expected):
    """Up to the order of sums."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@on_gpu
@each_call
def test_another_stream_is_used(op):
    """What this stream writes late is waited for; kernels of other streams would read zeros."""
    inputs = moved(op.inputs(0), "cuda")
    expected = op(inputs)
    late, stream = [torch.zeros_like(t) for t in inputs], torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        for to, values in zip(late, inputs, strict=True):
            to.copy_(values)
        found = op(late)
    stream.synchronize()
    assert_equal(found, expected)


# Building a lattice from points waits for the number of its vertices.
RECORDED = [op for op in CALLS if op.name != "permutohedral_filter"]


@on_gpu
@pytest.mark.parametrize("op", RECORDED, ids=lambda op: op.name)
def test_a_graph_is_replayed_with_other_inputs(op):
    inputs = moved(op.inputs(0), "cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        op(inputs)  # loads the kernels
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = op(inputs)
    for seed in (1, 2, 1):
        fresh = moved(op.inputs(seed), "cuda")
        for to, values in zip(inputs, fresh, strict=True):
            to.copy_(values)
        graph.replay()
        assert_equal(recorded, op(fresh))


@on_two
@each_call
def test_a_second_device_gives_the_same(op):
    """Also while another one is current."""
    expected = op(moved(op.inputs(0), "cuda:0"))
    found = op(moved(op.inputs(0), "cuda:1"))
    assert all(t.device == torch.device("cuda:1") for t in found)
    assert torch.cuda.current_device() == 0
    assert_equal(moved(found, "cuda:0"), expected)


SEVERAL = [op for op in CALLS if len(op.inputs(0)) > 1]


@each_device
@pytest.mark.parametrize("op", SEVERAL, ids=lambda op: op.name)
def test_tensors_on_different_devices_are_an_error(op, device):
    inputs = moved(op.inputs(0), device)
    others = ["meta"]
    others += ["cpu"] if device == "cuda" else []
    others += ["cuda:1"] if torch.cuda.device_count() > 1 else []
    for other in others:
        for place in range(len(inputs)):
            mixed = [*inputs]
            mixed[place] = mixed[place].to(other)
            with pytest.raises(ValueError, match="device| on "):
                op(mixed)
    op(inputs)


OF_IMAGES = [op for op in CALLS if op.of_images]
LOSSES = [op for op in CALLS if not op.of_images and op.name != "permutohedral_filter"]


def image_of(tensors, number, batch):
    """One image of tensors whose first dimension is the batch, or its repetitions."""
    return [t.unflatten(0, (-1, batch))[:, number] if len(t) % batch == 0 else t for t in tensors]


@each_device
@pytest.mark.parametrize("op", OF_IMAGES, ids=lambda op: op.name)
def test_images_of_a_large_batch_are_independent(op, device):
    inputs = moved(op.inputs(0, batch=1000, size=(2, 3)), device)
    found = op(inputs)
    for number in (0, 999):
        alone = op(image_of(inputs, number, 1000))
        for all_of_them, one in zip(found, alone, strict=True):
            assert_close(all_of_them[number : number + 1], one)


@each_device
@pytest.mark.parametrize("op", LOSSES, ids=lambda op: op.name)
def test_a_thousand_equal_images_have_the_loss_of_one(op, device):
    one = moved(op.inputs(0, batch=1, size=(2, 2)), device)
    many = [t.repeat(1000, *[1] * (t.dim() - 1)) for t in one]
    loss, *_, grad = op(many)
    loss_of_one, *_, grad_of_one = op(one)
    assert loss_of_one > 0
    assert_close(loss, loss_of_one)
    assert_close(1000 * grad, grad_of_one.expand_as(grad))


@each_device
def test_a_result_that_no_memory_holds_is_one_clear_error(device):
    features, *others = moved(CALLS_BY_NAME["label_conditioned_activation"].inputs(0), device)
    side = 1 << 20  # 32 TB
    with pytest.raises(torch.OutOfMemoryError) as caught:
        ops.label_conditioned_activation(
            features, *others, [1, 2], size=(side, side), activation="softmax"
        )
    text = str(caught.value)
    assert "out of memory" in text and f"{side}, {side}" in text and "\n" not in text


@on_gpu
@each_call
def test_memory_of_a_device_is_used_up(op):
    """Whichever allocation fails, there is one error, nothing leaks, and the next call works."""
    inputs = moved(op.inputs(0, batch=32, size=(96, 96)), "cuda")
    total = torch.cuda.get_device_properties(0).total_memory
    expected = [t.cpu() for t in op(inputs)]
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    op(inputs)
    needed = torch.cuda.max_memory_reserved() - reserved
    failures = 0
    try:
        for share in (0.0, 0.2, 0.4, 0.6, 0.8):
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            limit = torch.cuda.memory_reserved() + share * needed
            torch.cuda.set_per_process_memory_fraction(limit / total)
            try:
                op(inputs)
            except torch.OutOfMemoryError as error:
                assert "out of memory" in str(error)
                failures += 1
            gc.collect()
            torch.cuda.synchronize()
            assert torch.cuda.memory_allocated() == allocated
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert failures > 0
    assert_equal([t.cpu() for t in op(inputs)], expected)


def bytes_in_use():
    """Of the C library's heap and mappings."""

    class Usage(ctypes.Structure):
        names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
        _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Usage
    gc.collect()
    usage = mallinfo2()
    return usage.uordblks + usage.hblkhd


@pytest.mark.skipif(not EMULATED, reason="the emulator's allocations can be made to fail")
@each_call
def test_any_allocation_may_fail(op):
    """There is one error each time, nothing leaks, and the next call works."""
    fail = ctypes.CDLL(EMULATED).wsss_fast_fail_allocation
    fail.argtypes = [ctypes.c_int64]
    inputs = op.inputs(0, batch=3, size=(24, 24))
    expected = op(inputs)

    def attempt(number):
        fail(number)
        try:
            op(inputs)
        except torch.OutOfMemoryError as error:
            assert "out of memory" in str(error)
            return False
        finally:
            fail(-1)
        return True

    failing = next(number for number in range(1000) if attempt(number))
    assert failing > 0
    before = bytes_in_use()
    for _ in range(3):
        for number in range(failing):
            assert not attempt(number)
    assert bytes_in_use() - before < 3 * 4096  # less than any of the inputs, each time
    assert_equal(op(inputs), expected)
