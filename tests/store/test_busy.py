"""Calls that say how long they would wait at most: refused at the door, or taken for good."""

from __future__ import annotations

from statistics import median

import pytest

from celery_lanes.store.calls import Busy, Delayed, Duplicate, Parked
from celery_lanes.store.rules import Bucket, CallerRules


@pytest.fixture
def busy_lane(lane):
    """A lane of one slot whose calls take some 100 ms, with one that runs and 20 of ann's."""
    lane.configure()
    lane.park("served", times=3)
    for _ in range(3):
        grant = lane.take()
        lane.clock.sleep_ms(100)
        lane.release(grant)
    lane.park("ann", times=21)
    lane.take()
    return lane


def test_heavy_caller_is_refused_where_a_light_one_gets_in(busy_lane):
    (heavy,) = busy_lane.admit(busy_lane.call("ann"), max_wait_ms=1000)
    (light,) = busy_lane.admit(busy_lane.call("bob"), max_wait_ms=1000)

    assert isinstance(heavy, Busy)
    assert heavy.ahead == 20
    assert 1900 < heavy.wait_ms < 5000
    assert isinstance(light, Parked)


def test_wait_is_by_the_mean_and_the_same_to_the_millisecond_as_where_a_call_stands(lane):
    lane.configure()
    for ms in (60, 60, 60, 300):
        lane.park()
        grant = lane.take()
        lane.clock.sleep_ms(ms)
        lane.release(grant)
    lane.park(times=10)  # and nothing runs: no time goes by
    call = lane.call()
    _, standing = lane.place(call)
    lane.store.cancel(lane.lane, call.task_id)

    (refused,) = lane.admit(lane.call(), max_wait_ms=0)

    assert refused == Busy(10, standing.wait_ms)
    assert refused.wait_ms == 10 * sum(standing.served_ms) // 4 > 10 * median(standing.served_ms)


def test_refused_call_leaves_nothing_behind(busy_lane):
    before = busy_lane.store.snapshot(busy_lane.lane)
    call = busy_lane.call("ann")

    busy_lane.admit(call, max_wait_ms=0)

    after = busy_lane.store.snapshot(busy_lane.lane)
    assert (after.waiting, after.running) == (before.waiting, before.running)
    assert isinstance(busy_lane.admit(call)[0], Parked)  # it is not known as a duplicate


def test_each_call_of_a_batch_is_judged_behind_those_before_it(busy_lane):
    calls = [busy_lane.call("bob") for _ in range(9)]

    verdicts = busy_lane.admit(*calls, max_wait_ms=700)

    taken = [isinstance(verdict, Parked) for verdict in verdicts]
    assert taken == sorted(taken, reverse=True)
    assert 1 <= sum(taken) < 9


def test_taken_call_that_comes_again_is_a_duplicate_however_busy_the_lane_is(busy_lane):
    call = busy_lane.call("bob")
    busy_lane.admit(call, max_wait_ms=10_000)

    assert busy_lane.admit(call, max_wait_ms=0) == [Duplicate("waiting")]


def test_call_that_finds_a_free_slot_is_taken_whatever_it_asks_for(lane):
    lane.configure(2)
    lane.park()

    assert isinstance(lane.admit(lane.call("bob"), max_wait_ms=0)[0], Parked)


def test_delayed_call_is_taken(busy_lane):
    due_ms = busy_lane.clock() + 60_000

    verdicts = busy_lane.admit(busy_lane.call("ann", due_ms=due_ms), max_wait_ms=0)

    assert verdicts == [Delayed(due_ms)]


def test_call_is_taken_where_nobody_can_tell_the_wait(lane):
    lane.configure()
    lane.park(times=3)
    lane.take()

    assert isinstance(lane.admit(lane.call(), max_wait_ms=0)[0], Parked)


def test_call_is_taken_into_a_paused_lane(busy_lane):
    busy_lane.store.set_paused(busy_lane.lane, paused=True)

    assert isinstance(busy_lane.admit(busy_lane.call("ann"), max_wait_ms=0)[0], Parked)


def test_what_has_run_for_a_while_is_waited_for_the_shorter(lane):
    lane.configure()
    lane.park(times=2)
    served = lane.take()
    lane.clock.sleep_ms(400)
    lane.release(served)
    lane.take()
    (early,) = lane.admit(lane.call(), max_wait_ms=250)

    lane.clock.sleep_ms(300)

    (late,) = lane.admit(lane.call(), max_wait_ms=250)
    assert isinstance(early, Busy)
    assert isinstance(late, Parked)


def test_empty_bucket_of_its_caller_refuses_a_call(lane):
    lane.configure(9, callers={"ann": CallerRules(rate=Bucket(1, 60_000, 1))})
    lane.park("ann")
    lane.take()

    (ann,) = lane.admit(lane.call("ann"), max_wait_ms=1000)
    (bob,) = lane.admit(lane.call("bob"), max_wait_ms=1000)

    assert isinstance(ann, Busy)
    assert 55_000 < ann.wait_ms <= 60_000
    assert isinstance(bob, Parked)


def test_call_that_was_refused_gets_in_when_the_others_have_gone(busy_lane):
    assert isinstance(busy_lane.admit(busy_lane.call("ann"), max_wait_ms=1000)[0], Busy)

    busy_lane.store.cancel_caller(busy_lane.lane, "ann")

    assert isinstance(busy_lane.admit(busy_lane.call("ann"), max_wait_ms=1000)[0], Parked)


@pytest.mark.parametrize("wait", [-1, 0.5, float("nan")], ids=str)
def test_longest_wait_that_is_no_time_is_refused(lane, wait):
    with pytest.raises(ValueError, match="max_wait_ms"):
        lane.admit(lane.call(), max_wait_ms=wait)


def test_a_wait_can_be_foreseen_and_nothing_is_admitted(busy_lane):
    store, name = busy_lane.store, busy_lane.lane
    heavy, light = busy_lane.call("ann"), busy_lane.call("bob")
    before = store.snapshot(name)

    foreseen = [store.foresee(name, call, policy=busy_lane.policy) for call in (heavy, light)]
    waited = store.foresee(name, busy_lane.call("ann", has_waited=True), policy=busy_lane.policy)

    assert foreseen[0].ahead == 20
    assert foreseen[0].wait_ms > foreseen[1].wait_ms
    assert waited.ahead < 20  # it goes before its caller's others
    assert store.snapshot(name).waiting == before.waiting
    assert isinstance(busy_lane.admit(heavy)[0], Parked)


def test_the_wait_in_a_lane_that_nobody_has_used_cannot_be_foreseen(lane):
    assert lane.store.foresee(lane.lane, lane.call(), policy=lane.policy) is None
