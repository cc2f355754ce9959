"""Wall-clock buckets hold back a lane or a caller, and nobody else."""

from __future__ import annotations

import pytest

from celery_lanes.store.attempts import Outcome, Release
from celery_lanes.store.calls import Busy
from celery_lanes.store.checks import MAX_TIME_MS
from celery_lanes.store.rules import Bucket, CallerRules


def test_lane_bucket_lets_a_burst_pass_then_says_when_to_ask(lane):
    lane.configure(10, rate=Bucket(count=10, period_ms=2_000, burst=2))
    lane.park(times=5)

    turn = lane.turn(5)
    assert len(turn.grants) == 2
    assert 0 < turn.due_in_ms <= 200

    lane.clock.sleep_ms(turn.due_in_ms + 2)
    assert len(lane.turn(5).grants) == 1


def test_caller_with_an_empty_bucket_is_set_aside_and_blocks_nobody(lane):
    rate = Bucket(count=1, period_ms=200, burst=1)
    lane.configure(10, callers={"ann": CallerRules(rate=rate)})
    lane.park("ann", times=3)
    lane.park("bob", times=2)

    turn = lane.turn(5)

    assert [g.caller for g in turn.grants] == ["ann", "bob", "bob"]
    assert lane.counts == (3, 2, 0, 0)
    assert 0 < turn.due_in_ms <= 200
    lane.clock.sleep_ms(turn.due_in_ms + 2)
    assert [g.caller for g in lane.turn(5).grants] == ["ann"]


def test_caller_set_aside_comes_back_without_credit(lane):
    rate = Bucket(count=1, period_ms=100, burst=1)
    lane.configure(callers={"ann": CallerRules(rate=rate)})
    lane.park("ann", times=2)
    lane.park("bob", times=50)
    early = lane.order(21).count("ann") - 1  # 1 if the machine stalled until it was back
    lane.clock.sleep_ms(110)

    assert early + lane.order(4).count("ann") == 1


def test_cancelling_all_calls_of_a_caller_set_aside_leaves_nothing_behind(lane):
    rate = Bucket(count=1, period_ms=60_000, burst=1)
    lane.configure(5, callers={"ann": CallerRules(rate=rate)})
    lane.park("ann")
    lane.park("ann", task_id="t", times=2)
    lane.turn(3)

    lane.store.cancel(lane.lane, "t")

    assert lane.store.snapshot(lane.lane).callers_waiting == 0
    assert lane.turn(1).due_in_ms is None


def test_removed_rate_frees_what_was_set_aside(lane):
    rate = Bucket(count=1, period_ms=60_000, burst=1)
    lane.configure(5, callers={"ann": CallerRules(rate=rate)})
    lane.park("ann", times=3)
    lane.turn(3)

    lane.configure(5)

    assert len(lane.turn(3).grants) == 2


def test_urgent_call_of_a_caller_set_aside_is_its_first_when_it_returns(lane):
    rate = Bucket(count=1, period_ms=50, burst=1)
    lane.configure(5, callers={"ann": CallerRules(rate=rate)})
    lane.park("ann", times=2)
    lane.turn(3)
    lane.park("ann", id="urgent", priority=9)

    lane.clock.sleep_ms(60)

    assert [g.call for g in lane.turn(3).grants] == ["urgent"]


def test_cost_bucket_counts_cost(lane):
    lane.configure(10, tokens=Bucket(count=1_000, period_ms=10_000, burst=100))
    lane.park(times=3, cost=40)

    turn = lane.turn(5)

    assert len(turn.grants) == 2
    assert 0 < turn.due_in_ms <= 200


def test_call_dearer_than_the_burst_passes_a_full_bucket_alone(lane):
    lane.configure(10, tokens=Bucket(count=1_000, period_ms=10_000, burst=100))
    lane.park(cost=500)
    lane.park(cost=1)

    turn = lane.turn(5)

    assert len(turn.grants) == 1
    assert 4_000 < turn.due_in_ms <= 5_000


def test_real_cost_gives_back_what_was_not_used(lane):
    lane.configure(10, tokens=Bucket(count=1, period_ms=60_000, burst=100))
    lane.park(times=2, cost=100)
    (grant,) = lane.turn(5).grants
    assert lane.turn(5).grants == ()

    turn = lane.turn(5, Release(grant.call, grant.token, Outcome.DONE, 0))

    assert 50_000 < turn.due_in_ms <= 60_000  # a real cost counts as 1 at least
    assert turn.grants == ()
    lane.configure(10)
    assert len(lane.turn(5).grants) == 1


def test_blocked_lane_does_not_make_workers_wake_each_other(lane):
    lane.configure(10, rate=Bucket(count=1, period_ms=60_000, burst=1))
    ears = [lane.store.listen(worker) for worker in ["w1", "w2"]]
    lane.park(times=5)
    lane.turn(1, worker="w3")

    for worker in ["w1", "w2", "w1", "w2"]:
        assert lane.turn(1, worker=worker).grants == ()

    lane.clock.sleep_ms(20)
    assert [ear.drain() for ear in ears] == [set(), set()]
    for ear in ears:
        ear.close()


@pytest.mark.parametrize(
    "bucket", [Bucket(0, 1000, 1), Bucket(1, 0, 1), Bucket(1, 1000, 0)], ids=str
)
def test_odd_buckets_are_refused(lane, bucket):
    with pytest.raises(ValueError, match="rate: "):
        lane.configure(rate=bucket)


@pytest.mark.parametrize("weight", [0, -1, 1e4, float("nan")])
def test_odd_weights_are_refused(lane, weight):
    with pytest.raises(ValueError, match="weight of caller 'ann'"):
        lane.configure(callers={"ann": CallerRules(weight=weight)})


def test_a_bucket_that_takes_for_ever_says_so(lane):
    lane.configure(9, tokens=Bucket(count=1e-9, period_ms=1_000, burst=1))
    calls = lane.park(times=2, cost=1e9)

    assert lane.turn(2).due_in_ms == MAX_TIME_MS
    assert lane.store.position(lane.lane, calls[1].task_id).lane_tokens_in_ms == MAX_TIME_MS
    assert lane.admit(lane.call(), max_wait_ms=5) == [Busy(1, MAX_TIME_MS)]
