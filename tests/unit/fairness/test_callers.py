"""The arithmetic of fair shares and of buckets."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_lanes.fairness.callers import Charge, FairQueue, VirtualTime, ready_at, spent

COSTS = st.floats(1, 1e6)


def queue_of(**waiting) -> FairQueue:
    queue, seq = FairQueue(), 0
    for account, calls in waiting.items():
        for _ in range(calls):
            seq += 1
            queue.put(account, (0, seq, f"c{seq}"))
    return queue


def serve(queue, times, cost=1.0, real=None):
    served = []
    for _ in range(times):
        account, _ = queue.first()
        charge = queue.take(account, cost)
        if real is not None:
            queue.correct(account, charge, real)
        queue.time.finish(charge)
        served.append(account)
    return served


def test_empty_queue_has_no_first():
    assert FairQueue().first() is None


def test_accounts_alternate_first_come_first():
    assert serve(queue_of(zoe=2, ann=2), 4) == ["zoe", "ann", "zoe", "ann"]


def test_weights_share_service():
    queue = queue_of(ann=100, bob=300)
    queue.reweigh("bob", 3.0)

    assert Counter(serve(queue, 200)) == pytest.approx({"ann": 50, "bob": 150}, abs=1)


def test_virtual_time_moves_on_though_newcomers_always_start_at_it():
    queue = queue_of(zoe=10)
    served = []

    for number in range(200):
        queue.put(f"new{number}", (0, 1_000 + number, "c"))
        served += serve(queue, 1)

    assert served.count("zoe") == 10


def test_dear_account_pays_when_it_comes_back():
    queue = queue_of(ann=5, bob=1)
    served = serve(queue, 2, cost=10)
    queue.put("bob", (0, 99, "c"))

    assert served == ["ann", "bob"]
    assert queue.ring["bob"] == 10


def test_tag_is_forgotten_only_when_served_time_has_passed_it():
    queue = queue_of(ann=2, bob=1)
    queue.take("ann", 1000)
    bob = queue.take("bob", 10)
    queue.time.finish(bob)

    queue.forget_finishes(100)

    assert "bob" in queue.finishes  # V is beyond it only by what ann was estimated


def test_correction_moves_the_account_and_the_virtual_time():
    queue = queue_of(ann=2, bob=2)
    charge = queue.take("ann", 1000)
    assert (queue.ring["ann"], queue.time.now) == (1000, 500)

    queue.correct("ann", charge, 10)

    assert (queue.ring["ann"], queue.time.now) == (10, 5)


def test_correction_of_a_forgotten_account_is_remembered_if_it_owes():
    queue = queue_of(ann=1, bob=2)
    charge = queue.take("ann", 1)
    queue.finishes.clear()

    queue.correct("ann", charge, 1)
    assert queue.finishes == {}
    queue.correct("ann", charge, 9)

    assert queue.finishes["ann"] == queue.time.now + 8


def test_set_aside_account_blocks_nobody_and_returns_without_credit():
    queue = queue_of(ann=1, bob=20)
    queue.set_aside("ann", until_ms=5.0)
    assert serve(queue, 10) == ["bob"] * 10

    queue.come_back("ann")

    assert queue.ring["ann"] == queue.time.now


def test_removing_the_last_call_of_an_account_takes_it_out_of_everything():
    queue = queue_of(ann=1, bob=1)
    queue.set_aside("bob", until_ms=5.0)

    queue.remove("ann", (0, 1, "c1"))
    queue.remove("bob", (0, 2, "c2"))

    assert (queue.ring, queue.aside, queue.waiting, queue.total_weight) == ({}, {}, {}, 0.0)


@given(estimate=COSTS, real=COSTS, start=st.floats(0, 1e6))
def test_virtual_time_ends_where_the_real_cost_takes_it(estimate, real, start):
    corrected, direct = VirtualTime(served=5.0), VirtualTime(served=5.0)
    guess, sure = Charge(estimate, 1.0, 3.0), Charge(real, 1.0, 3.0)

    corrected.begin(start, guess)
    corrected.correct(guess, real)
    guess.cost = real
    corrected.finish(guess)
    direct.begin(start, sure)
    direct.finish(sure)

    assert corrected.now == pytest.approx(direct.now)


@given(costs=st.lists(st.tuples(COSTS, COSTS), min_size=120, max_size=120))
def test_two_backlogged_accounts_stay_within_two_of_the_dearest_calls(costs):
    queue, got = FairQueue(), Counter()
    price = {}
    for seq, (ann, bob) in enumerate(costs):
        for account, cost in [("ann", ann), ("bob", bob)]:
            place = (0, 2 * seq + (account == "bob"), f"{account}{seq}")
            price[place[2]] = cost
            queue.put(account, place)
    dearest = max(price.values())

    while {"ann", "bob"} <= queue.waiting.keys():
        account, (_, _, call) = queue.first()
        queue.time.finish(queue.take(account, price[call]))
        got[account] += price[call]
        assert abs(got["ann"] - got["bob"]) <= 2 * dearest * (1 + 1e-9)


def test_full_bucket_lets_its_burst_pass():
    full_at, passed = 0.0, 0

    while ready_at(full_at, interval_ms=100, burst=3, cost=1) <= 1000:
        full_at = spent(full_at, 1000, interval_ms=100, cost=1)
        passed += 1

    assert passed == 3
    assert ready_at(full_at, interval_ms=100, burst=3, cost=1) == 1100


def test_cost_above_the_burst_waits_for_a_full_bucket_only():
    assert ready_at(500.0, interval_ms=1, burst=10, cost=99) == 500.0


@given(costs=st.lists(st.floats(1, 50), min_size=2, max_size=50))
def test_bucket_never_gives_more_than_burst_plus_refill(costs):
    now = full_at = given_out = 0.0
    for cost in costs:
        now = max(now, ready_at(full_at, interval_ms=2, burst=50, cost=cost))
        full_at = spent(full_at, now, interval_ms=2, cost=cost)
        given_out += cost
        assert given_out <= 50 + now / 2 + 1e-6
