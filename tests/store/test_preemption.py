"""Running calls make room for more urgent ones: who is marked, when, and whose the slot is then."""

from __future__ import annotations

import pytest

from celery_lanes.fairness.levels import TURN_EVERY
from celery_lanes.store.attempts import Outcome, Reason, Release
from celery_lanes.store.rules import Bucket, CallerRules, Preemption, Scope

AT_ONCE = Preemption(min_runtime_ms=0)


@pytest.fixture
def lane(lane):
    lane.scope = Scope.LANE
    return lane


def start(lane, caller="low", *, times=1, worker="w1", **fields):
    """Let preemptible calls run; give their grants."""
    lane.park(caller, times=times, **{"priority": -10, "preemptible": True} | fields)
    return list(lane.turn(times, worker=worker).grants)


def marked(lane, worker="w1"):
    return [call for call, _ in lane.turn(0, worker=worker).preempted]


def make_room(lane, grant, *, want=0):
    return lane.turn(want, Release(grant.call, grant.token, Outcome.PREEMPTED))


def test_an_urgent_call_has_the_slot_of_a_lowly_one_once_that_has_ended(lane):
    lane.configure(preemption=AT_ONCE)
    (victim,) = start(lane)
    lane.park("vip", priority=10)

    assert lane.turn(1).grants == ()  # never cap + 1
    assert marked(lane) == [victim.call]
    (grant,) = make_room(lane, victim, want=1).grants

    assert grant.caller == "vip"
    assert marked(lane) == []
    assert lane.counts == (1, 1, 0, 0)


def test_the_victims_worker_is_woken(lane, store):
    lane.configure(preemption=AT_ONCE)
    ear = store.listen("w1")
    lane.until(lambda: ear.drain() or True)
    start(lane)
    heard = set()

    lane.park("vip", priority=10)

    lane.until(lambda: heard.update(ear.drain()) or heard)
    assert heard == {lane.lane}
    ear.close()


def test_nobody_is_marked_without_preemption_nor_for_an_equal_nor_if_not_preemptible(lane):
    lane.configure(max_concurrent=3, preemption=AT_ONCE)
    start(lane, preemptible=False)
    start(lane, priority=10)
    start(lane, priority=10)
    lane.park("vip", priority=10)
    assert marked(lane) == []

    lane.configure(max_concurrent=3)
    lane.park("vip", priority=20)

    assert marked(lane) == []


def test_the_lowest_level_goes_first_and_of_it_the_oldest(lane):
    lane.configure(max_concurrent=3, preemption=AT_ONCE)
    (middle,) = start(lane, priority=-5)
    lane.clock.sleep_ms(2)
    (oldest,) = start(lane)
    lane.clock.sleep_ms(2)
    (young,) = start(lane)

    lane.park("vip", priority=0)
    assert marked(lane) == [oldest.call]
    lane.park("vip", times=5, priority=0)

    assert marked(lane) == [oldest.call, young.call, middle.call]


def test_as_many_are_marked_as_urgent_calls_have_no_slot_coming(lane):
    lane.configure(max_concurrent=4, preemption=AT_ONCE)
    victims = start(lane, times=3)
    lane.park("vip", priority=10)
    assert marked(lane) == []  # a slot is free

    lane.park("vip", times=2, priority=10)

    assert len(marked(lane)) == 2
    lane.store.set_max_concurrent(lane.lane, 0)
    lane.park("vip", times=9, priority=10)
    assert len(marked(lane)) == 2  # what comes free is nobody's
    assert {v.call for v in victims} > set(marked(lane))


def test_a_call_is_left_alone_until_it_has_run_for_a_while_and_somebody_asks_then(lane):
    lane.configure(preemption=Preemption(min_runtime_ms=300))
    (victim,) = start(lane)
    lane.park("vip", priority=10)

    turn = lane.turn(1)
    assert (turn.grants, turn.preempted) == ((), ())
    assert 1 <= turn.due_in_ms <= 300

    lane.until(lambda: marked(lane) == [victim.call])


def test_one_that_waits_already_is_served_when_preemption_is_switched_on(lane):
    lane.configure()
    lane.configure(preemption=AT_ONCE)
    (victim,) = start(lane)
    lane.configure()
    lane.park("vip", priority=10)
    assert marked(lane) == []

    lane.configure(preemption=AT_ONCE)

    assert marked(lane) == [victim.call]


def test_the_slot_is_the_urgent_ones_also_when_it_is_a_low_levels_turn(lane):
    lane.configure(max_concurrent=2, preemption=AT_ONCE)
    (victim,) = start(lane)
    lane.park("low", priority=-10)
    lane.park("vip", priority=10, times=TURN_EVERY - 1)
    assert lane.order(TURN_EVERY - 1) == ["vip"] * (TURN_EVERY - 1)  # next is the low level's turn
    lane.store.set_max_concurrent(lane.lane, 1)
    lane.park("vip", priority=10)
    assert marked(lane) == [victim.call]

    (grant,) = make_room(lane, victim, want=1).grants

    assert grant.caller == "vip"
    lane.release(grant)
    assert lane.take().caller == "low"  # the turn was only put off


def test_a_call_that_had_its_slot_by_a_turn_is_left_alone(lane):
    lane.configure(preemption=AT_ONCE)
    lane.park("low", priority=-10, preemptible=True)
    lane.park("vip", priority=10, times=TURN_EVERY + 5)
    assert lane.order(TURN_EVERY - 1) == ["vip"] * (TURN_EVERY - 1)

    grant = lane.take()

    assert grant.caller == "low"
    assert marked(lane) == []


def test_the_stopped_call_waits_again_at_its_place_refunded_and_counted(lane):
    lane.configure(preemption=Preemption(min_runtime_ms=0, most=1))
    (victim,) = start(lane)
    lane.park("low", priority=-10, preemptible=True)
    lane.park("vip", priority=10)
    marked(lane)
    (vip,) = make_room(lane, victim, want=1).grants
    again = lane.turn(1, Release(vip.call, vip.token)).grants[0]

    assert (again.call, again.attempt) == (victim.call, 2)
    lane.park("vip", priority=10)
    assert marked(lane) == []  # once is enough: it may finish now


def test_it_is_closed_as_preempted_where_the_rules_say_so(lane):
    lane.configure(preemption=Preemption(min_runtime_ms=0, fails=True))
    (victim,) = start(lane)
    lane.park("vip", priority=10)
    marked(lane)

    make_room(lane, victim)

    closing = lane.closing()
    assert (closing.call, closing.reason) == (victim.call, Reason.PREEMPTED)


def test_a_call_that_ends_in_the_same_instant_keeps_its_end(lane):
    lane.configure(preemption=AT_ONCE)
    (victim,) = start(lane)
    lane.park("vip", priority=10)
    marked(lane)

    lane.release(victim, Outcome.DONE)

    assert lane.take().caller == "vip"
    assert lane.counts == (1, 0, 0, 0)


def test_one_that_stops_unasked_goes_back_unharmed(lane):
    lane.configure(preemption=Preemption(min_runtime_ms=0, fails=True))
    (grant,) = start(lane)

    make_room(lane, grant)

    assert lane.counts == (0, 1, 0, 0)


def test_the_mark_goes_with_the_lease(lane):
    lane.configure(preemption=AT_ONCE, lease_ttl_ms=300)
    (victim,) = start(lane)
    lane.park("vip", priority=10)
    assert marked(lane) == [victim.call]

    lane.reap_until(lambda: lane.counts[0] == 0)

    assert marked(lane) == []
    assert lane.take().caller == "vip"


def test_nobody_is_stopped_for_a_call_that_may_not_start(lane):
    rates = {"vip": CallerRules(rate=Bucket(1, 3_600_000, 1))}
    lane.configure(max_concurrent=2, preemption=AT_ONCE, callers=rates)
    start(lane)
    lane.park("vip", priority=10)
    lane.take()  # and the bucket of vip is empty
    lane.park("vip", priority=10)
    assert marked(lane) == []

    lane.store.set_paused(lane.lane, paused=True)
    lane.park("other", priority=10)
    assert marked(lane) == []
    lane.store.set_paused(lane.lane, paused=False)
    assert len(marked(lane)) == 1


def test_no_more_are_stopped_than_the_callers_bucket_lets_start(lane):
    rates = {"vip": CallerRules(rate=Bucket(1, 3_600_000, 2))}
    lane.configure(max_concurrent=4, preemption=AT_ONCE, callers=rates)
    start(lane, times=4)

    lane.park("vip", times=9, priority=10)

    assert len(marked(lane)) == 2


def test_no_more_are_stopped_than_the_lanes_bucket_lets_start(lane):
    lane.configure(max_concurrent=4, preemption=AT_ONCE, rate=Bucket(1, 3_600_000, 5))
    start(lane, times=4)

    lane.park("vip", times=9, priority=10)

    assert len(marked(lane)) == 1


def test_a_repeated_request_tells_the_marks_again(lane):
    lane.configure(preemption=AT_ONCE)
    (victim,) = start(lane)
    lane.park("vip", priority=10)

    first = lane.turn(1, request=50)

    assert first.preempted == ((victim.call, victim.token),)
    assert lane.turn(1, request=50) == first
    assert marked(lane, worker="w2") == []
