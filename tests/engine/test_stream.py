"""Streams: order, bounded memory, failures and signals, whatever the threads do first."""

import threading
import time

import numpy as np
import pytest
import torch

from wsss_fast.engine import stream
from wsss_fast.engine.stream import Steps, Times, host_tensor, num_threads, run

CPU = torch.device("cpu")


class Recorder:
    """Steps that record what happened; item 3 is slow, so that later ones overtake it."""

    def __init__(self, fail=None, size=1):
        self.fail, self.size = fail, size
        self.computed, self.written, self.done = [], [], []
        self.lock, self.held, self.most = threading.Lock(), 0, 0

    def check(self, step, item):
        if self.fail == (step, item):
            raise RuntimeError(f"{step} {item}")

    def load(self, item):
        with self.lock:
            self.held += 1
            self.most = max(self.most, self.held)
        time.sleep(0.02 if item == 3 else 0.0)
        self.check("load", item)
        return item * 10

    def compute(self, item, loaded):
        self.check("compute", item)
        assert loaded == 10 * item
        self.computed.append(item)
        return {"sum": torch.tensor([loaded + 1]), "item": item}

    def write(self, item, result):
        self.check("write", item)
        time.sleep(0.02 if item == 3 else 0.0)
        with self.lock:
            self.written.append(item)
            self.held -= 1
        return int(result["sum"])

    def steps(self):
        done = lambda item, value: self.done.append((item, value))  # noqa: E731
        return Steps(self.load, self.compute, self.write, done, lambda item: self.size)


@pytest.fixture(params=[1, 3])
def threads(request, monkeypatch):
    monkeypatch.setattr(stream, "num_threads", lambda: request.param)
    return request.param


def test_results_come_in_the_order_of_the_items(threads):
    seen = Recorder()
    run(range(20), seen.steps(), Times(CPU))
    assert seen.computed == list(range(20))
    assert seen.done == [(i, 10 * i + 1) for i in range(20)]
    assert sorted(seen.written) == list(range(20))


def test_no_items():
    seen = Recorder()
    run([], seen.steps(), Times(CPU))
    assert not seen.done


def test_memory_is_bounded(threads, monkeypatch):
    monkeypatch.setattr(stream, "LARGEST_WAITING", 100)
    seen = Recorder(size=40)
    run(range(20), seen.steps(), Times(CPU))
    assert seen.most <= 3  # two fit, besides the one that is computed
    assert len(seen.done) == 20


def test_an_item_above_the_bound_is_processed_alone(threads, monkeypatch):
    monkeypatch.setattr(stream, "LARGEST_WAITING", 100)
    seen = Recorder(size=1000)
    run(range(5), seen.steps(), Times(CPU))
    assert seen.most == 1 and len(seen.done) == 5


@pytest.mark.parametrize("step", ["load", "compute", "write"])
def test_a_failure_loses_nothing_before_it(step, threads):
    seen = Recorder(fail=(step, 7))
    with pytest.raises(RuntimeError, match=f"{step} 7"):
        run(range(50), seen.steps(), Times(CPU))
    assert set(range(7)) <= set(seen.written)
    assert len(seen.computed) < 50
    assert not [t for t in threading.enumerate() if t.name.startswith(("load_", "write_"))]


def test_the_first_of_several_failures_is_raised(threads):
    class Failing(Recorder):
        def write(self, item, result):
            time.sleep(0.05)
            raise OSError(f"write {item}")

    seen = Failing(fail=("load", 2))
    with pytest.raises(OSError, match="write 0"):
        run(range(9), seen.steps(), Times(CPU))


def test_ctrl_c_finishes_what_is_being_written(threads):
    """As the exception; tests/stages/test_streams.py sends signals to processes."""
    seen = Recorder()
    steps = seen.steps()

    def compute(item, loaded):
        if item == 5:
            raise KeyboardInterrupt
        return seen.compute(item, loaded)

    with pytest.raises(KeyboardInterrupt):
        run(range(50), Steps(steps.load, compute, steps.write, steps.done, steps.size), Times(CPU))
    assert sorted(seen.written) == seen.computed == list(range(5))


def test_times_add_up():
    times = Times(CPU)

    def busy(seconds):
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    def compute(item, loaded):
        with times.computing():
            busy(0.02)
        busy(0.01)

    steps = Steps(
        lambda item: busy(0.02), compute, lambda *_: busy(0.01), lambda *_: None, lambda _: 1
    )
    run(range(5), steps, times)
    notes = times.notes()
    for name, seconds in {"load": 0.1, "write": 0.05, "host": 0.2}.items():
        assert seconds * 0.99 <= notes[name] < seconds * 1.5 + 0.05, name
    assert 0.099 <= notes["device"] <= notes["wall"] and 0 <= notes["wait"] <= notes["wall"]
    assert notes["peak_memory"] > 10 << 20 and "peak_device_memory" not in notes


@pytest.mark.parametrize("array", [np.zeros((2, 3), np.uint8), np.ones((3, 4, 2), np.float32).T])
def test_host_tensor(array):
    found = host_tensor(array, CPU)
    assert found.is_contiguous()
    np.testing.assert_array_equal(found.numpy(), array)


def test_number_of_threads():
    assert 1 <= num_threads() <= 4


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@cuda
@pytest.mark.parametrize("name", ["cuda"])
def test_on_cuda_nothing_waits_and_values_are_right(name):
    where = torch.device(name)
    seen, times = {}, Times(where)

    def load(item):
        return host_tensor(np.full((64, 64), item, np.float32), where)

    def compute(item, loaded):
        on_device = loaded.to(where, non_blocking=True)
        return [(item, (on_device @ on_device).sum()), {"half": on_device.half()}]

    def write(item, result):
        (number, total), halves = result
        assert number == item and halves["half"].device.type == "cpu"
        assert (halves["half"] == item).all()
        return float(total)

    steps = Steps(load, compute, write, seen.__setitem__, lambda _: 1 << 14)
    run(range(2), steps, times)  # warm-up
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(range(30), steps, times)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert seen == {i: 64**3 * float(i) ** 2 for i in range(30)}
    notes = times.notes()
    assert notes["device"] > 0 and notes["peak_device_memory"] > 0
