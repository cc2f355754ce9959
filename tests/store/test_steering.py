"""Callers and buckets that are steered while calls wait: at once, and whatever the rules say."""

from __future__ import annotations

import pytest

from celery_lanes.errors import StoreError
from celery_lanes.store import live
from celery_lanes.store.attempts import Outcome
from celery_lanes.store.calls import Parked
from celery_lanes.store.redis import operators as redis
from celery_lanes.store.rules import (
    MAX_CALLERS,
    Bucket,
    CallerRules,
    LaneRules,
    Limit,
    Policy,
    Scope,
    Unlimited,
)
from celery_lanes.store.standing import Hold

SLOW = Bucket(count=1, period_ms=60_000, burst=1)


def pause(lane, caller="ann", *, paused=True):
    lane.store.set_caller_paused(lane.lane, caller, paused=paused)


def status(lane, caller="ann"):
    return next(s for s in lane.store.callers(lane.lane) if s.caller == caller)


def test_a_paused_callers_calls_wait_and_others_are_granted(lane):
    lane.configure(10)
    lane.park("ann", times=2)
    pause(lane)
    lane.park("bob", times=2)
    assert lane.admit(lane.call("ann"), lane.call("ann")) == [Parked(4), Parked(5)]

    turn = lane.turn(9)

    assert [grant.caller for grant in turn.grants] == ["bob", "bob"]
    assert turn.due_in_ms is None  # nobody asks again and again
    assert lane.counts == (2, 4, 0, 0)


def test_a_resumed_caller_is_served_at_once_and_somebody_is_woken_for_it(lane):
    ear = lane.store.listen("w1")
    lane.configure(10)
    pause(lane)
    lane.park("ann", times=2)
    lane.turn(1)

    pause(lane, paused=False)

    lane.until(lambda: ear.drain() == {lane.lane})
    assert [grant.caller for grant in lane.turn(9).grants] == ["ann", "ann"]
    ear.close()


def test_time_in_which_a_caller_was_paused_earns_no_credit(lane):
    lane.configure()
    lane.park("ann", times=9)
    lane.park("bob", times=30)
    pause(lane)
    lane.order(10)

    pause(lane, paused=False)

    assert lane.order(6).count("ann") == 3


def test_a_paused_caller_of_many_levels_is_set_aside_and_comes_back_at_each(lane):
    lane.scope = Scope.LANE
    lane.configure(10)
    for priority in (5, 0, -5):
        lane.park("ann", priority=priority)
    pause(lane)
    lane.park("ann", priority=7)
    assert lane.turn(9).grants == ()

    pause(lane, paused=False)

    levels = [7, 5, 0, -5]
    assert len(lane.turn(9).grants) == len(levels)


def test_delayed_calls_of_a_paused_caller_become_waiting_at_their_time(lane):
    lane.configure(10)
    pause(lane)
    lane.park("ann", due_ms=lane.clock() + 30)

    lane.until(lambda: not lane.turn(1).grants and lane.counts == (0, 1, 0, 0))
    pause(lane, paused=False)

    assert len(lane.turn(1).grants) == 1


def test_a_running_call_of_a_paused_caller_ends_and_one_that_is_put_back_waits(lane):
    lane.configure(10)
    lane.park("ann", times=2)
    done, lost = lane.turn(2).grants
    pause(lane)

    lane.release(done)
    lane.release(lost, Outcome.LOST)

    assert lane.counts == (0, 1, 0, 0)
    assert lane.turn(1).grants == ()


def test_cancel_works_on_the_calls_of_a_paused_caller(lane):
    lane.configure(10)
    lane.park("ann", task_id="t")
    lane.park("ann", times=2)
    pause(lane)

    assert lane.store.cancel(lane.lane, "t") == 1
    assert lane.store.cancel_caller(lane.lane, "ann") == 2

    assert lane.counts == (0, 0, 0, 3)
    pause(lane, paused=False)
    assert lane.turn(1).grants == ()


def test_the_calls_of_a_paused_caller_are_before_nobody_and_say_why_they_wait(lane):
    lane.configure()
    lane.park("ann", times=6, task_id="theirs")
    done = lane.take()
    lane.clock.sleep_ms(60)
    lane.release(done)  # so that a lane knows how long its calls take
    lane.turn(1)
    pause(lane)
    lane.park("ann", task_id="late")
    lane.park("bob", task_id="mine")

    mine = lane.store.position(lane.lane, "mine")
    late = lane.store.position(lane.lane, "late")

    assert (mine.ahead, mine.hold) == (0, Hold.CAP)
    assert (late.hold, late.eta_ms, late.wait_ms) == (Hold.CALLER_PAUSED, None, None)
    assert lane.admit(lane.call("ann"), max_wait_ms=0) == [Parked(6)]  # nobody can tell


def test_a_weight_changes_shares_of_what_waits_at_once(lane):
    lane.configure()
    lane.park("ann", times=60)
    lane.park("bob", times=60)
    assert lane.order(20).count("ann") == 10

    lane.store.set_weight(lane.lane, "ann", 3)

    assert abs(lane.order(40).count("ann") - 30) <= 1


def test_a_rate_holds_back_what_waits_and_none_lets_it_go(lane):
    lane.configure(10, callers={"ann": CallerRules(rate=Bucket(1000, 1000, 1000))})
    lane.park("ann", times=5)

    lane.store.set_rate(lane.lane, "ann", SLOW)
    assert len(lane.turn(9).grants) == 1
    lane.store.set_rate(lane.lane, "ann", Unlimited.UNLIMITED)
    assert len(lane.turn(2).grants) == 2
    lane.store.set_rate(lane.lane, "ann", None)

    assert len(lane.turn(9).grants) == 2
    assert status(lane).rate == Bucket(1000, 1000, 1000)


def test_what_a_slower_rate_has_held_back_refills_at_the_new_one(lane):
    lane.configure(10, callers={"ann": CallerRules(rate=SLOW)}, rate=SLOW)
    lane.park("ann", times=2)
    assert len(lane.turn(9).grants) == 1

    fast = Bucket(count=1, period_ms=20, burst=1)
    lane.store.set_rate(lane.lane, "ann", fast)
    lane.store.set_limit(lane.lane, Limit.RATE, fast)

    assert (lane.turn(9).due_in_ms or 0) <= 20
    lane.until(lambda: lane.counts[0] == 2 or lane.turn(9).grants)


@pytest.mark.parametrize("limit", Limit)
def test_a_lanes_own_buckets_change_at_run_time(lane, limit):
    ear = lane.store.listen("w1")
    lane.configure(10, **{limit.value: SLOW})
    lane.park("ann", times=5)
    assert len(lane.turn(9).grants) == 1

    lane.store.set_limit(lane.lane, limit, Unlimited.UNLIMITED)
    lane.until(lambda: ear.drain() == {lane.lane})
    assert len(lane.turn(2).grants) == 2
    lane.store.set_limit(lane.lane, limit, None)

    assert len(lane.turn(9).grants) == 1  # of a full bucket
    assert getattr(lane.store.snapshot(lane.lane), limit.value) == SLOW
    ear.close()


def test_what_was_set_survives_workers_that_write_their_rules(lane):
    lane.store.set_weight(lane.lane, "ann", 3)
    lane.store.set_rate(lane.lane, "bob", SLOW)
    pause(lane, "cid")
    lane.store.set_limit(lane.lane, Limit.RATE, SLOW)

    for rate in (None, Bucket(5, 1000, 1)):
        callers = {"ann": CallerRules(2, rate), "bob": CallerRules(2, rate)}
        lane.configure(10, callers=callers, rate=rate)

        told = lane.store.callers(lane.lane)
        assert [(s.caller, s.weight, s.rate, s.paused, s.live) for s in told] == [
            ("ann", 3, rate, False, ("weight",)),
            ("bob", 2, SLOW, False, ("rate",)),
            ("cid", 1, None, True, ("paused",)),
        ]
        assert lane.store.snapshot(lane.lane).rate == SLOW
    lane.configure(10)
    assert [s.caller for s in lane.store.callers(lane.lane)] == ["ann", "bob", "cid"]


def test_none_gives_back_what_the_rules_say_and_the_memory(lane):
    lane.configure(10, callers={"ann": CallerRules(2, SLOW)})
    for caller in ("ann", "bob"):
        lane.store.set_weight(lane.lane, caller, 5)
        lane.store.set_rate(lane.lane, caller, Unlimited.UNLIMITED)
        pause(lane, caller)

    for caller in ("ann", "bob"):
        lane.store.set_weight(lane.lane, caller, None)
        lane.store.set_rate(lane.lane, caller, None)
        pause(lane, caller, paused=False)

    (told,) = lane.store.callers(lane.lane)
    assert (told.caller, told.weight, told.rate, told.live) == ("ann", 2, SLOW, ())


def test_a_caller_is_told_with_what_waits_of_it_at_every_level(lane):
    lane.scope = Scope.LANE
    lane.configure(1, callers={"a b:ü": CallerRules()})
    lane.park("a b:ü", times=2)
    lane.park("a b:ü", priority=3)
    lane.park("other")

    told = [(s.caller, s.waiting) for s in lane.store.callers(lane.lane)]
    assert told == [("a b:ü", 3), ("other", 1)]


@pytest.mark.parametrize("scope", Scope)
def test_whoever_waits_is_told_of_and_whoever_has_used_up_a_rate(lane, scope):
    lane.scope = scope
    lane.configure(1, callers={"bob": CallerRules(rate=SLOW)})
    lane.park("bob", times=3)
    lane.order(1)
    assert lane.turn(1).grants == ()
    lane.park("", times=2)

    told = {s.caller: s.waiting for s in lane.store.callers(lane.lane)}

    assert told == {"": 2, "bob": 2}


def test_in_a_fifo_lane_nobody_waits_by_name(lane):
    lane.policy = Policy.FIFO
    lane.configure(1)
    lane.park("ann")

    assert lane.store.callers(lane.lane) == []


def test_no_more_callers_than_a_bound_are_steered(lane, monkeypatch):
    for module in (live, redis):
        monkeypatch.setattr(module, "MAX_LIVE_CALLERS", 2)
    pause(lane, "ann")
    lane.store.set_weight(lane.lane, "bob", 2)

    with pytest.raises(StoreError, match="callers of a lane to be steered"):
        pause(lane, "cid")
    lane.store.set_weight(lane.lane, "ann", 2)  # one of them
    pause(lane, "cid", paused=False)  # nothing to keep
    lane.store.set_weight(lane.lane, "bob", None)
    pause(lane, "cid")

    assert [s.caller for s in lane.store.callers(lane.lane)] == ["ann", "cid"]


@pytest.mark.parametrize("weight", [0, -1, 1e4, float("nan"), True])
def test_odd_weights_are_refused_at_run_time_too(lane, weight):
    with pytest.raises(ValueError, match="weight of caller 'ann'"):
        lane.store.set_weight(lane.lane, "ann", weight)


@pytest.mark.parametrize("bucket", [Bucket(0, 1000, 1), Bucket(1, 0, 1)], ids=str)
def test_odd_buckets_are_refused_at_run_time_too(lane, bucket):
    with pytest.raises(ValueError, match="rate of caller 'ann': "):
        lane.store.set_rate(lane.lane, "ann", bucket)
    with pytest.raises(ValueError, match="tokens: "):
        lane.store.set_limit(lane.lane, Limit.TOKENS, bucket)


def test_rules_that_name_more_callers_than_a_server_takes_in_at_once_are_refused(store):
    callers = {f"user {number}": CallerRules() for number in range(MAX_CALLERS + 1)}

    with pytest.raises(ValueError, match="the number of callers in the rules"):
        store.configure("ollama", LaneRules(max_concurrent=1, callers=callers))
