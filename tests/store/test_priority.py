"""Priorities across callers: levels go first, lower ones are served within a bound, shares hold."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from celery_lanes.fairness.levels import TURN_EVERY
from celery_lanes.store.attempts import Outcome, Release
from celery_lanes.store.rules import Bucket, CallerRules, Policy, Scope


@pytest.fixture
def lane(lane):
    lane.scope = Scope.LANE
    return lane


def serve(lane, grants, *, before=lambda number: None):
    """Grant calls one after another, after something has happened before each; give the grants."""
    served, releases = [], ()
    for number in range(grants):
        before(number)
        (grant,) = lane.turn(1, *releases).grants
        served.append(grant)
        releases = (Release(grant.call, grant.token),)
    lane.turn(0, *releases)
    return served


def callers(served):
    return [grant.caller for grant in served]


def test_a_call_of_a_higher_level_goes_before_those_of_other_callers(lane):
    lane.configure()
    lane.park("ann", times=2, priority=-5)
    lane.park("bob", times=2)
    lane.park("cid", times=2, priority=10)

    assert lane.order(6) == ["cid", "cid", "bob", "bob", "ann", "ann"]


def test_with_the_scope_caller_others_take_turns(lane):
    lane.scope = Scope.CALLER
    lane.configure()
    lane.park("ann", times=2)
    lane.park("bob", times=2, priority=10)

    assert lane.order(4) == ["ann", "bob"] * 2


@pytest.mark.parametrize("scope", Scope)
def test_within_a_caller_urgent_calls_go_first_and_equals_in_order(lane, scope):
    lane.scope = scope
    lane.configure()
    calls = [lane.park(priority=priority)[0] for priority in (0, 5, -5, 5, 0)]

    served = [grant.call for grant in serve(lane, 5)]

    assert served == [calls[at].id for at in (1, 3, 0, 4, 2)]


def test_a_flood_of_urgent_calls_delays_a_low_one_by_no_more_than_the_bound(lane):
    lane.configure()
    lane.park("vip", times=3, priority=10)
    lane.park("low", priority=-10)

    served = serve(lane, 3 * TURN_EVERY, before=lambda _: lane.park("vip", priority=10))

    assert callers(served).index("low") + 1 <= TURN_EVERY


def test_one_shot_callers_at_full_load_do_not_starve_the_low_level(lane, kind):
    grants = 10_000 if kind == "memory" else 2_000
    lane.configure()
    lane.park("urgent", priority=10)
    lane.park("low", times=grants // TURN_EVERY, priority=-10)

    def one_more(number):
        lane.park(f"one-shot-{number}", priority=10)

    served = callers(serve(lane, grants, before=one_more))
    turns = [at for at, caller in enumerate(served, start=1) if caller == "low"]
    assert turns == list(range(TURN_EVERY, grants + 1, TURN_EVERY))


@pytest.mark.parametrize("cap", [1, 4])
def test_every_level_is_served_within_the_bound_under_a_hostile_load(lane, cap):
    """All levels have calls waiting all the time; more come, anywhere, than can be served."""
    chance, priorities, level_of = random.Random(cap), range(6), {}

    def park(caller, priority, times=1):
        level_of.update((call.id, priority) for call in lane.park(caller, times, priority=priority))

    lane.configure(cap)
    for priority in priorities:
        park("backlog", priority, times=30)
    running = list(lane.turn(cap).grants)
    levels = [level_of[grant.call] for grant in running]

    for number in range(600):
        park(f"flood-{number}", max(priorities))
        park("now and then", chance.choice(priorities))
        ended = running.pop(chance.randrange(len(running)))
        running += lane.turn(1, Release(ended.call, ended.token)).grants
        levels.append(level_of[running[-1].call])

    for priority in priorities:
        at = [0, *(n for n, level in enumerate(levels, start=1) if level == priority), len(levels)]
        waits = [after - before for before, after in pairwise(at)]
        assert max(waits) <= TURN_EVERY * (len(priorities) - 1)
    assert Counter(levels)[max(priorities)] >= len(levels) * (TURN_EVERY - 1) // TURN_EVERY


def test_shares_within_a_level_stay_within_the_bound(lane):
    chance, dearest, cap = random.Random(7), 100, 4
    lane.configure(cap)
    lane.park("vip", times=400, priority=10)
    real = {}
    for caller in ["ann", "bob"]:
        calls = [lane.call(caller, cost=chance.randint(1, dearest)) for _ in range(150)]
        real |= {call.id: chance.randint(1, dearest) for call in calls}
        lane.admit(*calls)
    got, running = Counter(), list(lane.turn(cap).grants)

    while got.total() < 3_000:
        ended = running.pop(chance.randrange(len(running)))
        cost = real.get(ended.call, 1)
        if ended.caller != "vip":
            got[ended.caller] += cost
        running += lane.turn(1, Release(ended.call, ended.token, Outcome.DONE, cost)).grants
        assert abs(got["ann"] - got["bob"]) <= (2 + cap) * dearest


def test_what_a_caller_had_at_one_level_is_not_held_against_it_at_another(lane):
    lane.configure()
    lane.park("ann", times=10, priority=5, cost=1000)
    lane.order(10)

    lane.park("stop", priority=5)
    lane.park("ann", times=3)
    lane.park("bob", times=3)

    assert lane.order(7) == ["stop", *["ann", "bob"] * 3]


def test_weights_hold_at_every_level_and_for_what_waits_already(lane):
    lane.configure()
    for priority in (1, 0):
        lane.park("ann", times=100, priority=priority)
        lane.park("bob", times=100, priority=priority)

    lane.configure(callers={"bob": CallerRules(weight=3)})

    served = Counter(lane.order(120))
    assert served["bob"] / served["ann"] == pytest.approx(3, rel=0.1)


def test_a_fifo_lane_has_levels_too(lane):
    lane.policy = Policy.FIFO
    lane.configure()
    lane.park("ann", times=2)
    lane.park("bob")
    lane.park("cid", priority=1)

    assert lane.order(4) == ["cid", "ann", "ann", "bob"]


def test_a_caller_whose_bucket_is_empty_gives_way_at_every_level(lane):
    slow = CallerRules(rate=Bucket(count=1, period_ms=60_000, burst=1))
    lane.configure(callers={"ann": slow})
    lane.park("ann", times=2, priority=5)
    lane.park("ann")
    lane.park("bob")

    assert lane.order(2) == ["ann", "bob"]
    assert lane.turn(1).grants == ()
    lane.configure()

    assert lane.order(2) == ["ann", "ann"]


@pytest.mark.parametrize("outcome", [Outcome.BACK, Outcome.LOST])
def test_a_call_that_goes_back_returns_to_its_level_refunded(lane, outcome):
    lane.configure(max_leases=100)
    lane.park("ann", times=2, priority=5, cost=50)
    lane.park("bob", times=2, priority=5, cost=50)
    lane.park("cid")
    lane.release(lane.take(), outcome)

    assert lane.order(5) == ["ann", "bob", "ann", "bob", "cid"]


def test_cancelling_the_last_call_of_a_level_leaves_the_others_in_order(lane):
    lane.configure()
    (high,) = lane.park("ann", priority=5)
    lane.park("bob")

    lane.store.cancel(lane.lane, high.task_id)

    assert lane.order(1) == ["bob"]


def test_another_scope_holds_from_when_the_lane_is_empty(lane):
    lane.scope = Scope.CALLER
    lane.configure()
    lane.park("ann", times=2)
    lane.scope = Scope.LANE
    lane.park("bob", times=2, priority=5)
    assert lane.order(4) == ["ann", "bob"] * 2

    lane.park("ann", times=2)
    lane.park("bob", times=2, priority=5)

    assert lane.order(4) == ["bob", "bob", "ann", "ann"]


def test_turns_begin_afresh_when_the_lane_is_empty(lane):
    lane.configure()
    lane.park("ann", times=TURN_EVERY, priority=3)
    lane.park("bob", priority=2)
    assert lane.order(TURN_EVERY + 1)[TURN_EVERY - 1] == "bob"

    lane.park("ann", times=TURN_EVERY, priority=3)
    lane.park("bob", priority=2)
    lane.park("cid", priority=1)

    assert lane.order(TURN_EVERY)[-1] == "bob"


def test_a_snapshot_counts_a_caller_at_each_of_its_levels(lane):
    lane.configure()
    lane.park("ann", priority=5)
    lane.clock.sleep_ms(20)
    lane.park("ann", times=2)

    now = lane.store.snapshot(lane.lane)

    assert (now.waiting, now.callers_waiting) == (3, 2)
    assert now.oldest_wait_ms >= 20


def test_the_oldest_wait_is_found_at_the_lowest_level_behind_hundreds_of_callers(lane):
    lane.configure()
    lane.park("forgotten")
    lane.clock.sleep_ms(1_000)
    lane.admit(*(lane.call(f"new-{number}") for number in range(260)))
    lane.admit(*(lane.call(f"urgent-{number}", priority=1) for number in range(260)))

    assert lane.store.snapshot(lane.lane).oldest_wait_ms >= 1_000
