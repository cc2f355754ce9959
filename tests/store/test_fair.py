"""Callers share a lane by weight and cost; nobody starves, and idle time earns no credit."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from celery_lanes.store.attempts import Outcome, Release
from celery_lanes.store.rules import CallerRules


def test_callers_alternate_however_much_one_of_them_has_waiting(lane):
    lane.configure()
    lane.park("ann", times=50)
    lane.park("bob", times=3)

    assert lane.order(6) == ["ann", "bob"] * 3


def test_equals_are_served_first_come(lane):
    lane.configure()
    for caller in ["zoe", "ann", "mia"]:
        lane.park(caller)

    assert lane.order(3) == ["zoe", "ann", "mia"]


def test_one_shot_callers_at_full_load_do_not_starve_a_waiting_caller(lane, kind):
    grants, waiting = (10_000, 100) if kind == "memory" else (2_000, 50)
    lane.configure()
    lane.park("zoe", times=waiting)
    served = Counter()
    releases = ()

    for number in range(grants):
        lane.park(f"one-shot-{number}")  # one arrives for each that is served: load 1.0
        (grant,) = lane.turn(1, *releases).grants
        served[grant.caller] += 1
        releases = (Release(grant.call, grant.token),)

    assert served["zoe"] == waiting


def test_one_shot_callers_are_served_though_others_have_a_backlog(lane):
    lane.configure()
    lane.park("ann", times=200)
    lane.park("bob", times=200)
    lane.order(20)

    lane.park("zoe")

    assert "zoe" in lane.order(4)


def test_weights_share_the_lane_within_five_percent(lane):
    lane.configure(callers={"ann": CallerRules(weight=1), "bob": CallerRules(weight=3)})
    lane.park("ann", times=250)
    lane.park("bob", times=350)

    served = Counter(lane.order(400))

    assert served["bob"] / served["ann"] == pytest.approx(3, rel=0.05)


def test_changed_weight_holds_for_what_waits_already(lane):
    lane.configure()
    lane.park("ann", times=300)
    lane.park("bob", times=300)
    assert Counter(lane.order(100))["bob"] == 50

    lane.configure(callers={"bob": CallerRules(weight=4)})

    assert Counter(lane.order(200))["bob"] == pytest.approx(160, abs=2)


def test_dear_calls_count_for_more(lane):
    lane.configure()
    lane.park("ann", times=300, cost=1)
    lane.park("bob", times=100, cost=10)

    served = Counter(lane.order(220))

    assert served["ann"] / served["bob"] == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("cap", [1, 4])
def test_service_of_two_backlogged_callers_stays_within_the_bound(lane, cap):
    chance, dearest = random.Random(cap), 100
    lane.configure(cap)
    real = {}
    for caller in ["ann", "bob"]:
        calls = [lane.call(caller, cost=chance.randint(1, dearest)) for _ in range(150)]
        real |= {call.id: chance.randint(1, dearest) for call in calls}
        lane.admit(*calls)
    bound = 2 * dearest + cap * dearest
    got, running = Counter(), list(lane.turn(cap).grants)

    while got.total() < 9_000:
        ended = running.pop(chance.randrange(len(running)))
        got[ended.caller] += real[ended.call]
        release = Release(ended.call, ended.token, Outcome.DONE, real[ended.call])
        running += lane.turn(1, release).grants
        assert abs(got["ann"] - got["bob"]) <= bound


def test_nobody_starves_where_a_tag_is_too_large_for_the_next_step(lane):
    heavy, light = CallerRules(weight=1e-3), CallerRules(weight=1e3)
    lane.configure(callers={"night": heavy, "ann": light, "bob": light})
    lane.park("night", times=31, cost=1e9)
    lane.order(30)
    lane.park("ann", times=5)
    lane.park("bob", times=5)

    assert lane.order(9).count("bob") == 4


def test_real_cost_corrects_the_account(lane):
    lane.configure()
    lane.park("ann", times=40, cost=1)
    lane.park("bob", times=40, cost=1)

    served = Counter(lane.order(44, ends=lambda g: _end(g, cost=10 if g.caller == "bob" else 1)))

    assert served["ann"] == pytest.approx(40, abs=1)


def test_overestimates_do_not_keep_newcomers_waiting(lane):
    """V follows what was served, not what was estimated."""
    lane.configure()
    lane.park("ann", times=100, cost=1000)
    lane.park("bob", times=100, cost=1000)
    lane.order(100, ends=lambda grant: _end(grant, cost=10))

    lane.park("new", times=5, cost=10)

    assert "new" in lane.order(3, ends=lambda grant: _end(grant, cost=10))


def test_idle_time_earns_no_credit(lane):
    lane.configure()
    lane.park("ann", times=100)
    lane.park("bob", times=100)
    lane.order(60)

    lane.park("cid", times=30)  # was idle all the time

    assert Counter(lane.order(30))["cid"] == pytest.approx(10, abs=1)


def test_debt_is_not_forgotten_by_being_idle_for_a_moment(lane):
    """One dear call at a time must not beat a caller with a backlog of cheap ones."""
    lane.configure()
    lane.park("ann", times=400, cost=1)
    cost = Counter()
    lane.park("bob", cost=10)
    releases = ()

    for _ in range(200):
        (grant,) = lane.turn(1, *releases).grants
        cost[grant.caller] += 10 if grant.caller == "bob" else 1
        releases = (_end(grant),)
        if grant.caller == "bob":
            lane.park("bob", cost=10)

    assert cost["bob"] / cost.total() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("outcome", [Outcome.BACK, Outcome.LOST])
def test_call_that_goes_back_is_refunded(lane, outcome):
    lane.configure(max_leases=100)
    lane.park("ann", cost=50)
    lane.park("ann", cost=50)
    lane.park("bob", times=3, cost=50)
    lane.release(lane.take(), outcome)

    assert lane.order(5) == ["ann", "bob", "ann", "bob", "bob"]


def test_accounts_start_afresh_when_the_lane_is_empty(lane):
    lane.configure()
    lane.park("ann", cost=1000)
    lane.order(1)

    lane.park("ann", times=2)
    lane.park("bob", times=2)

    assert lane.order(4) == ["ann", "bob", "ann", "bob"]


def test_delayed_calls_do_not_keep_old_accounts_alive(lane):
    lane.configure()
    lane.park("ann", cost=1000)
    lane.park("cid", due_ms=lane.clock() + 60_000)
    lane.order(1)

    lane.park("ann", times=2)
    lane.park("bob", times=2)

    assert lane.order(4) == ["ann", "bob", "ann", "bob"]


def _end(grant, cost=None) -> Release:
    return Release(grant.call, grant.token, Outcome.DONE, cost)
