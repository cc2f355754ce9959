"""A lane that adapts to what its provider bears: an overload halves the cap, successes raise it."""

from __future__ import annotations

import pytest

from celery_lanes.store.adapting import MAX_PROVIDER_WAIT_MS
from celery_lanes.store.attempts import Outcome, Release
from celery_lanes.store.quota import KEPT_MS, Quota
from celery_lanes.store.rules import Preemption, Scope
from celery_lanes.store.standing import Hold


@pytest.fixture
def full(lane):
    """A lane with a backlog, and 8 calls running of 8."""
    lane.configure(8, adaptive=True)
    lane.park(times=99)
    grants = list(lane.turn(8).grants)
    lane.clock.sleep_ms(5)
    return lane, grants


def report(lane, grant, wait_ms=0):
    return lane.store.report(lane.lane, call=grant.call, token=grant.token, wait_ms=wait_ms)


def fail(lane, *grants):
    """Have calls refused and end; give those that start instead."""
    for grant in grants:
        assert report(lane, grant)
    lane.clock.sleep_ms(2)
    ends = [Release(grant.call, grant.token, Outcome.FAILED) for grant in grants]
    return list(lane.turn(8, *ends).grants)


def succeed(lane, *grants):
    """Have calls end well, one after another; give those that start instead."""
    started = []
    for grant in grants:
        started += lane.turn(8, Release(grant.call, grant.token)).grants
    lane.clock.sleep_ms(2)
    return started


def effective(lane):
    return lane.store.snapshot(lane.lane).effective


def test_an_overload_halves_the_cap_and_what_runs_ends_by_itself(full):
    lane, grants = full

    assert fail(lane, grants[0]) == []

    now = lane.store.snapshot(lane.lane)
    assert (now.effective, now.max_concurrent, now.running) == (4, 8, 7)
    assert succeed(lane, *grants[1:4]) == []  # 4 are left
    assert len(succeed(lane, *grants[4:6])) == 2  # release one, fill one


def test_a_burst_of_overloads_of_calls_that_ran_together_counts_once(full):
    lane, grants = full

    fail(lane, *grants[:3])
    lane.clock.sleep_ms(1_100)  # however long they took
    fail(lane, *grants[3:6])

    assert effective(lane) == 4


def test_one_report_for_each_attempt_counts_and_only_the_holders(full):
    lane, grants = full
    grants = [*fail(lane, *grants)]
    assert effective(lane) == 4

    assert not lane.store.report(lane.lane, call=grants[0].call, token="x", wait_ms=9_999)
    assert report(lane, grants[0])
    assert report(lane, grants[0], wait_ms=9_999)

    now = lane.store.snapshot(lane.lane)
    assert (now.effective, now.provider_wait_ms) == (2, 0)
    lane.release(grants[0])
    assert not report(lane, grants[0])


def test_the_next_attempt_of_a_call_may_report_again(full):
    lane, grants = full
    report(lane, grants[0])
    lane.clock.sleep_ms(5)
    back = [Release(g.call, g.token, Outcome.BACK) for g in grants]
    again = next(g for g in lane.turn(8, *back).grants if g.call == grants[0].call)

    assert report(lane, again)

    assert effective(lane) == 2


def test_the_cap_never_falls_below_one(full):
    lane, grants = full
    for _ in range(6):
        grants = fail(lane, *grants)

    assert effective(lane) == 1
    assert len(grants) == 1


def test_as_many_successes_as_the_cap_raise_it_by_one_until_it_is_the_lanes_again(full):
    lane, grants = full
    grants = fail(lane, *grants)
    caps = []
    while effective(lane) < 8:
        grants = [*grants[1:], *succeed(lane, grants[0])]
        caps.append(effective(lane))
        assert len(grants) == effective(lane)

    assert caps == [4] * 3 + [5] * 5 + [6] * 6 + [7] * 7 + [8]


def test_successes_of_calls_from_before_the_cut_do_not_raise_it(full):
    lane, grants = full
    fail(lane, grants[0])

    succeed(lane, *grants[1:])

    assert effective(lane) == 4


def test_calls_that_run_alone_do_not_raise_the_cap(lane):
    lane.configure(16, adaptive=True)
    lane.park(times=16)
    fail(lane, *lane.turn(16).grants)
    assert effective(lane) == 8

    for _ in range(20):
        lane.park()
        lane.order(1)

    assert effective(lane) == 8


def test_a_failure_or_a_call_that_was_refused_in_between_is_no_success(full):
    lane, grants = full
    grants = fail(lane, *grants)
    for _ in range(10):
        (start,) = lane.turn(1, Release(grants[0].call, grants[0].token, Outcome.FAILED)).grants
        grants = [*grants[1:], start]
    assert effective(lane) == 4
    lane.clock.sleep_ms(2)

    assert report(lane, grants[0])  # its body tries again by itself, and gets its answer
    for grant in grants:
        lane.release(grant)

    assert effective(lane) == 2


def test_a_lane_that_does_not_adapt_keeps_its_cap_and_waits_as_it_is_asked_to(lane):
    lane.configure(8)
    lane.park(times=9)
    first, second = lane.turn(2).grants

    assert report(lane, first)
    assert len(lane.turn(1).grants) == 1
    assert report(lane, second, wait_ms=60_000)
    assert report(lane, second, wait_ms=90_000)  # once for each attempt

    assert lane.store.snapshot(lane.lane).provider_wait_ms in range(50_000, 60_001)
    assert lane.turn(9).grants == ()
    lane.configure(7)
    assert lane.turn(9).grants == ()
    lane.store.set_paused(lane.lane, paused=False)
    assert len(lane.turn(9).grants) == 4
    assert effective(lane) == 7


def test_a_lane_that_adapts_no_more_has_its_cap_back_at_once(full):
    lane, grants = full
    report(lane, grants[0])

    lane.configure(8)

    lane.release(grants[0])
    assert len(lane.turn(8).grants) == 1
    assert effective(lane) == 8


def test_a_cap_that_is_set_binds_where_it_is_lower_and_is_the_most_where_it_is_higher(full):
    lane, grants = full
    grants = fail(lane, *grants)

    lane.store.set_max_concurrent(lane.lane, 2)
    assert effective(lane) == 2
    lane.store.set_max_concurrent(lane.lane, 100)
    assert effective(lane) == 4
    lane.store.set_max_concurrent(lane.lane, 5)
    for _ in range(9):
        grants = [*grants[1:], *succeed(lane, grants[0])]
    assert effective(lane) == 5
    lane.store.set_max_concurrent(lane.lane, None)

    assert effective(lane) == 5  # what was learned, and not all of the 8 at once


def test_a_provider_that_asks_to_wait_is_waited_for_by_everybody(lane):
    lane.configure(8, adaptive=True)
    lane.park(times=9)
    (grant,) = lane.turn(1, worker="w1").grants
    report(lane, grant, wait_ms=150)

    turn = lane.turn(8, worker="w2")
    assert turn.grants == ()
    assert 0 < turn.due_in_ms <= 150

    lane.clock.sleep_ms(turn.due_in_ms + 2)
    assert len(lane.turn(8, worker="w2").grants) == 3  # one runs of 4


def test_a_wait_is_made_longer_by_another_and_never_shorter_and_has_an_end(full):
    lane, grants = full

    waits = []
    for grant, wait_ms in zip(grants, [50_000, 10_000, 90_000, 0, 10**9], strict=False):
        report(lane, grant, wait_ms=wait_ms)
        waits.append(lane.store.snapshot(lane.lane).provider_wait_ms)

    bounds = [50_000, 50_000, 90_000, 90_000, MAX_PROVIDER_WAIT_MS]
    assert all(bound - 5_000 < wait <= bound for wait, bound in zip(waits, bounds, strict=True))


def test_resuming_the_lane_ends_the_wait_and_wakes_somebody(lane):
    ear = lane.store.listen("w2")
    lane.configure(8, adaptive=True)
    lane.park(times=9)
    (grant,) = lane.turn(1, worker="w1").grants
    report(lane, grant, wait_ms=60_000)
    lane.turn(8, worker="w2")

    lane.store.set_paused(lane.lane, paused=True)
    assert lane.store.snapshot(lane.lane).provider_wait_ms > 0
    lane.store.set_paused(lane.lane, paused=False)

    lane.until(lambda: ear.drain() == {lane.lane})
    assert len(lane.turn(8, worker="w2").grants) == 3
    ear.close()


def test_a_call_says_that_it_waits_for_the_provider_and_when_it_starts(full):
    lane, grants = full
    succeed(lane, grants[0])
    report(lane, grants[1], wait_ms=30_000)
    lane.park(task_id="last")

    now = lane.store.position(lane.lane, "last")

    assert now.hold is Hold.PROVIDER_WAIT
    assert now.max_concurrent == 4
    assert 20_000 < now.provider_wait_ms <= 30_000
    assert now.eta_ms[0] > 20_000
    (busy,) = lane.admit(lane.call(), max_wait_ms=10_000)
    assert busy.wait_ms > 20_000


def test_a_call_for_which_a_slot_is_free_waits_as_long_as_the_provider_asked(lane):
    lane.configure(8, adaptive=True)
    lane.park()
    report(lane, lane.take(), wait_ms=30_000)

    (busy,) = lane.admit(lane.call(), max_wait_ms=10_000)

    assert 20_000 < busy.wait_ms <= 30_000


def test_nobody_is_stopped_for_a_call_that_may_not_start_yet(lane):
    lane.scope = Scope.LANE
    lane.configure(2, adaptive=True, preemption=Preemption(min_runtime_ms=0))
    lane.park(times=2, preemptible=True)
    grants = lane.turn(2).grants
    report(lane, grants[0], wait_ms=60_000)
    lane.release(grants[0])
    lane.park(priority=9)
    assert lane.turn(1).preempted == ()

    lane.store.set_paused(lane.lane, paused=False)

    assert lane.turn(1).preempted == ((grants[1].call, grants[1].token),)


@pytest.mark.parametrize("wait_ms", [-1, 1.5, 2**53, True])
def test_an_odd_wait_is_refused(full, wait_ms):
    lane, grants = full

    with pytest.raises(ValueError, match="wait_ms"):
        report(lane, grants[0], wait_ms=wait_ms)


def told(lane, grant, quota, wait_ms=0):
    call, token = grant.call, grant.token
    return lane.store.report(lane.lane, call=call, token=token, wait_ms=wait_ms, quota=quota)


USED_UP = Quota("requests", left=0, of=60, resets_ms=12_000)


def test_a_provider_that_answers_and_has_nothing_left_is_waited_for_with_the_cap_as_it_is(full):
    lane, grants = full

    assert told(lane, grants[0], USED_UP, wait_ms=12_000)
    lane.clock.sleep_ms(2)
    lane.release(grants[0])

    now = lane.store.snapshot(lane.lane)
    assert (now.effective, now.quota) == (8, USED_UP)
    assert 0 < now.provider_wait_ms <= 12_000
    assert lane.turn(8).grants == ()
    assert told(lane, grants[1], Quota("requests", left=60, of=60))
    assert lane.store.snapshot(lane.lane).provider_wait_ms > 0  # never shortened
    assert report(lane, grants[1])
    assert effective(lane) == 4  # what it said when it answered is no report of a refusal


def test_what_a_provider_said_last_is_seen_for_a_minute(full):
    lane, grants = full
    told(lane, grants[0], Quota("requests", 12, 60))

    told(lane, grants[1], Quota("input-tokens", 9))
    lane.clock.sleep_ms(40)

    now = lane.store.snapshot(lane.lane)
    assert (now.quota, now.provider_wait_ms) == (Quota("input-tokens", 9), 0)
    assert 40 <= now.quota_age_ms < KEPT_MS


def test_a_lane_that_does_not_adapt_does_not_go_by_what_is_left_nor_one_by_a_strangers_word(lane):
    lane.configure(8)
    lane.park(times=2)
    (grant,) = lane.turn(1).grants

    assert told(lane, grant, USED_UP, wait_ms=12_000)
    assert not lane.store.report(lane.lane, call=grant.call, token="x", quota=USED_UP)

    now = lane.store.snapshot(lane.lane)
    assert (now.quota, now.quota_age_ms, now.provider_wait_ms) == (None, 0, 0)
    assert len(lane.turn(1).grants) == 1


@pytest.mark.parametrize(
    "quota",
    [
        Quota("two words", 1),
        Quota("", 1),
        Quota("requests", -1),
        Quota("requests", 1.5),
        Quota("requests", None),
        Quota("requests", 1, of=2**53),
        Quota("requests", 1, resets_ms=-1),
    ],
    ids=str,
)
def test_an_odd_quota_is_refused(full, quota):
    lane, grants = full

    with pytest.raises(ValueError, match="quota"):
        told(lane, grants[0], quota)
