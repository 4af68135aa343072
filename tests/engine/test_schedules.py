"""Learning-rate schedules: their factors, and that they are data."""

import dataclasses
import pickle

import pytest

from wsss_fast.engine.schedules import Constant, OneCycle, Poly
from wsss_fast.engine.serialize import jsonable

DEFAULTS = (Poly(), OneCycle(), Constant())


def test_poly_decays_from_1_to_0():
    factors = [Poly(power=0.9)(i / 10) for i in range(10)]
    assert factors == [(1 - i / 10) ** 0.9 for i in range(10)]


def test_warmup_rises_linearly_from_0():
    factors = [Poly(power=1.0, warmup=0.2)(i / 10) for i in range(10)]
    assert factors[0] == 0 and factors[1] == pytest.approx(0.5 * 0.9)
    assert factors[2:] == pytest.approx([1 - i / 10 for i in range(2, 10)])


def test_stairs_keep_the_factor_constant_on_equal_parts():
    factors = [Poly(0.9, stairs=5)(i / 50) for i in range(50)]
    assert len(set(factors)) == 5
    assert all(factors[i] == (1 - i // 10 / 5) ** 0.9 for i in range(50))
    every_ten_updates = Poly(stairs=2000)
    assert all(every_ten_updates(i / 20000) == (1 - i // 10 / 2000) ** 0.9 for i in range(20000))


def test_one_cycle_rises_to_1_and_falls_to_the_end():
    schedule = OneCycle(warmup=0.3, start=0.04, end=0.01)
    factors = [schedule(i / 100) for i in range(100)]
    assert factors[0] == pytest.approx(0.04) and factors[30] == pytest.approx(1.0)
    assert factors[:31] == sorted(factors[:31])
    assert factors[30:] == sorted(factors[30:], reverse=True)
    assert schedule(1.0) == pytest.approx(0.01)


def test_constant_is_1():
    assert Constant()(0.0) == Constant()(0.99) == 1.0


@pytest.mark.parametrize("schedule", DEFAULTS, ids=repr)
def test_schedules_are_printable_picklable_and_equal_by_value(schedule):
    copy = pickle.loads(pickle.dumps(schedule))
    assert copy == schedule and hash(copy) == hash(schedule)
    names = {cls.__name__: cls for cls in (Poly, OneCycle, Constant)}
    assert eval(repr(schedule), names) == schedule
    assert all(copy(progress / 7) == schedule(progress / 7) for progress in range(7))
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.power = 1.0


def test_schedules_with_other_factors_are_not_equal():
    schedules = [
        *DEFAULTS,
        Poly(power=1.0),
        Poly(warmup=0.1),
        Poly(stairs=5),
        OneCycle(warmup=0.2),
        OneCycle(start=0.1),
        OneCycle(end=0.0),
    ]
    assert len(set(schedules)) == len(schedules)
    assert len({str(jsonable(schedule)) for schedule in schedules}) == len(schedules)
