"""Learning-rate schedules: their factors, and that they are data."""

import dataclasses
import pickle

import pytest

from wsss_fast.engine.schedules import Constant, OneCycle, Poly, for_updates
from wsss_fast.engine.serialize import Plain, exact, from_config, jsonable
from wsss_fast.errors import InputError

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


def test_every_keeps_the_published_rate_whatever_the_length():
    """Rates of 30,000 updates that change every 10, by hand: 1 - 0, 0, 1/3000 * 299 and so on."""
    schedule = for_updates(Poly(power=0.9, every=10), 30_000)
    assert schedule == Poly(power=0.9, stairs=3000)
    rates = {n: 2.5e-4 * schedule(n / 30_000) for n in (0, 9, 10, 2999, 15_000)}
    assert rates == pytest.approx(
        {
            0: 2.5e-4,
            9: 2.5e-4,
            10: 2.5e-4 * (1 - 10 / 30_000) ** 0.9,
            2999: 2.5e-4 * (1 - 2990 / 30_000) ** 0.9,
            15_000: 1.339716827e-4,  # 2.5e-4 / 2 ** 0.9
        },
        rel=1e-9,
    )
    odd = for_updates(Poly(every=10), 25)  # the last step is shorter
    assert [odd(n / 25) for n in (0, 9, 10, 19, 20, 24)] == pytest.approx(
        [1, 1, 0.6**0.9, 0.6**0.9, 0.2**0.9, 0.2**0.9]
    )
    assert for_updates(OneCycle(), 25) == OneCycle()
    assert for_updates(Poly(stairs=5), 25) == Poly(stairs=5)


def test_every_and_stairs_exclude_each_other():
    with pytest.raises(InputError, match="got stairs 2000 and every 10; one of them must be None"):
        Poly(stairs=2000, every=10)
    read = from_config({"stairs": Plain("2000")}, Poly, "schedule", Poly(every=10))
    assert read == Poly(stairs=2000)  # of an earlier version's config.json
    assert exact(Poly(stairs=2000)).keys() == {"class", "power", "warmup", "stairs"}
    assert exact(Poly(every=10))["every"] == 10
