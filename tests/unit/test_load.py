"""`service.load`: a controller over measured queueing delay, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections import Counter

from recsys.events import Surface
from service.costs import Costs
from service.ladder import Rung
from service.load import INTERVAL_SECONDS, POPULAR, Allowance, Load


class Clock:
    now = 100.0
    worked = 7.0

    def __call__(self) -> float:
        return self.now


def made(most_inside: int = 1_000) -> tuple[Load, Clock]:
    clock = Clock()
    return Load(clock, queue_seconds=0.02, most_inside=most_inside, worked=lambda: clock.worked), clock


def interval(load: Load, clock: Clock, *lags: float, busy: float = 0.9, seconds: float = INTERVAL_SECONDS) -> None:
    """One interval with these lags, evenly, in which the loop worked for a share `busy`."""
    for lag in lags:
        clock.now += seconds / len(lags) + 1e-9
        clock.worked += busy * seconds / len(lags)
        load.note(lag)


def entering(load: Load, n: int) -> Counter[Rung | None]:
    """What so many requests may cost that come one after the other."""
    found: Counter[Rung | None] = Counter()
    for _ in range(n):
        rung = load.enter()
        found[rung] += 1
        if rung is not None:
            load.leave()
    return found


def test_a_burst_that_is_gone_within_the_interval_changes_nothing() -> None:
    load, clock = made()
    for _ in range(20):
        interval(load, clock, 0.5, 0.3, 0.01, 0.4)
    assert load.level == 0.0
    assert entering(load, 50) == {Rung.FULL: 50}


def test_a_standing_queue_makes_answers_cheaper_faster_and_faster() -> None:
    load, clock = made()
    levels = []
    for _ in range(7):
        interval(load, clock, 0.5, 0.021)
        levels.append(round(load.level, 6))
    # Steps of 0.1, 0.2, 0.4, 0.8, and what is left to 2.
    assert levels == [0.1, 0.3, 0.7, 1.5, 2.0, 2.0, 2.0]
    load.level = 0.25
    assert entering(load, 8) == {Rung.FULL: 6, Rung.REMEMBERED: 2}
    load.level = 1.0
    assert entering(load, 10) == {Rung.REMEMBERED: 10}
    load.level = 1.5
    assert entering(load, 10) == {Rung.REMEMBERED: 5, Rung.POPULAR: 5}
    load.level = POPULAR
    assert entering(load, 10) == {Rung.POPULAR: 10}


def test_relief_comes_slowly_and_ends_at_ease() -> None:
    load, clock = made()
    load.level = POPULAR
    for _ in range(99):
        interval(load, clock, 0.001)
    assert load.level > 0.0
    interval(load, clock, 0.001)
    interval(load, clock, 0.001)  # 2 / 0.02, which is ten seconds; rounding may leave a trace
    assert load.level == 0.0
    interval(load, clock, 0.03)
    assert round(load.level, 6) == 0.1
    interval(load, clock, 0.03)
    interval(load, clock, 0.001)
    interval(load, clock, 0.03)
    assert round(load.level, 6) == 0.1 + 0.2 - 0.02 + 0.1  # the step begins anew


def test_while_there_is_a_queue_who_has_waited_long_gets_the_cheapest_answer_and_too_long_none() -> None:
    load, clock = made()
    load.note(0.3)  # once: nothing stands
    assert entering(load, 70) == {Rung.FULL: 70}
    interval(load, clock, 0.05, 0.03)
    assert load.level == 0.1
    # As late as the loop has just been, 30 ms, and then more: from 40 ms on popularity, from 45 ms on nothing.
    assert load.enter(0.009) is Rung.FULL
    assert load.enter(0.011) is Rung.POPULAR
    assert load.enter(0.014) is Rung.POPULAR
    assert load.enter(0.016) is None


def late(load: Load, waited: float) -> Rung | None:
    """What one gets that has waited so long."""
    rung = load.enter(waited)
    if rung is not None:
        load.leave()
    return rung


def test_a_few_are_not_refused_however_late_since_that_saves_no_time() -> None:
    load, clock = made()
    load.level = 1.0
    entering(load, 40)
    interval(load, clock, 0.0, seconds=2 * INTERVAL_SECONDS)  # 200 a second
    assert late(load, 0.14) is Rung.POPULAR  # 28 wait
    assert late(load, 0.16) is None  # 32 do
    interval(load, clock, 0.0)
    assert late(load, 0.16) is Rung.POPULAR  # hardly anybody came any more


def test_a_burst_after_a_pause_is_many_too() -> None:
    load, clock = made()
    load.level = 1.0
    interval(load, clock, 0.0)  # nobody came
    assert late(load, 0.05) is Rung.POPULAR
    for _ in range(60):
        late(load, 0.0)
    assert late(load, 0.04) is Rung.REMEMBERED
    assert late(load, 0.05) is None  # half of 62
    clock.now += 0.2  # those came in two tenths of a second, then
    assert late(load, 0.05) is Rung.POPULAR
    assert late(load, 0.1) is None


def test_who_is_kept_from_work_refuses_only_the_hopelessly_late() -> None:
    load, clock = made()
    entering(load, 60)
    interval(load, clock, 0.0, busy=0.4)  # 600 a second
    assert late(load, 10.0) is Rung.FULL  # no queue stands
    load.level = 1.0
    assert late(load, 0.19) is Rung.REMEMBERED
    assert late(load, 0.21) is None
    entering(load, 10)
    interval(load, clock, 0.0, busy=0.4)  # 140 a second
    load.level = 1.0
    assert late(load, 0.21) is Rung.REMEMBERED
    # What is busy is a share, however long the interval is.
    entering(load, 200)
    interval(load, clock, 0.0, busy=0.4, seconds=2 * INTERVAL_SECONDS)
    load.level = 1.0
    assert late(load, 0.05) is Rung.REMEMBERED


def test_there_is_no_relief_while_the_loop_is_busy_and_anybody_has_waited_long() -> None:
    load, clock = made()
    load.level = 1.0
    for _ in range(15):
        load.enter(0.05)
        load.enter(0.0)  # that another waits no longer changes nothing
        interval(load, clock, 0.001)
    assert load.level == POPULAR
    interval(load, clock, 0.001)
    assert round(load.level, 6) == 1.98
    load.level = 0.0
    load.enter(0.05)
    interval(load, clock, 0.001)
    assert load.level == 0.0  # a burst


def test_nobody_is_refused_where_a_quota_keeps_the_loop_from_its_work() -> None:
    load, clock = made()
    load.level = 1.0
    found: Counter[Rung | None] = Counter()
    for _ in range(60):  # half of each interval it stands still
        found.update(entering(load, 5))
        interval(load, clock, 0.001, 0.07, busy=0.3)
    assert None not in found
    assert load.level == 0.0
    assert load.enter(1.0) is Rung.FULL


def test_only_so_many_are_inside() -> None:
    load, _ = made(most_inside=4)
    assert [load.enter() for _ in range(5)] == [Rung.FULL, Rung.FULL, Rung.POPULAR, Rung.POPULAR, None]
    load.leave()
    assert load.enter() is Rung.POPULAR
    for _ in range(3):
        load.leave()
    assert load.enter() is Rung.FULL
    assert made(most_inside=1)[0].enter() is Rung.FULL


def test_what_is_left_of_the_time_decides_what_a_request_gets() -> None:
    clock = Clock()
    costs = {Rung.FULL: 0.02, Rung.SIMPLE: 0.005}
    allowance = Allowance(clock, Rung.FULL, clock.now, seconds=0.05, patience=0.045)
    assert allowance.best(costs.__getitem__) is Rung.FULL
    clock.now += 0.031  # 19 ms are left
    assert allowance.best(costs.__getitem__) is Rung.REMEMBERED
    assert round(allowance.to_wait, 6) == 0.009  # 80% of 50 ms are sooner than its patience of 45 ms
    clock.now += 0.015  # 4 ms
    assert allowance.best(costs.__getitem__) is Rung.POPULAR
    impatient = Allowance(clock, Rung.FULL, clock.now - 0.05, seconds=1.0, patience=0.04)
    assert impatient.best(costs.__getitem__) is Rung.POPULAR
    cheap = Allowance(clock, Rung.REMEMBERED, clock.now, seconds=1.0, patience=0.04)
    assert cheap.best(costs.__getitem__) is Rung.REMEMBERED
    assert Allowance(clock, Rung.POPULAR, clock.now, 1.0, 0.04).best(costs.__getitem__) is Rung.POPULAR


def test_a_rung_that_was_slow_once_is_tried_again() -> None:
    costs = Costs()
    assert costs.of(Surface.HOME, Rung.FULL) == 0.0
    costs.note(Surface.HOME, Rung.FULL, 0.010)
    costs.note(Surface.HOME, Rung.FULL, 0.110)  # a mean of 0.02
    assert round(costs.of(Surface.HOME, Rung.FULL), 9) == 0.040
    answers = 0
    while costs.of(Surface.HOME, Rung.FULL) > 0.02:
        costs.note(Surface.HOME, Rung.SIMPLE, 0.001)
        answers += 1
    assert answers == 35  # 0.98^35 is the first power below a half
    assert round(costs.of(Surface.HOME, Rung.SIMPLE), 9) == 0.002
    assert costs.of(Surface.CART, Rung.FULL) == 0.0


def test_the_loop_is_watched() -> None:
    async def work() -> list[float]:
        load = Load(asyncio.get_running_loop().time, queue_seconds=0.02, most_inside=1)
        noted: list[float] = []
        load.note = noted.append  # type: ignore[method-assign]
        task = asyncio.create_task(load.watch())
        while len(noted) < 3:
            await asyncio.sleep(0.01)
        task.cancel()
        return noted

    assert all(lag >= 0 for lag in asyncio.run(work()))
