"""Calls that leave a lane for another one, and calls that wait again and say how far they are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_lanes.errors import AlreadyStarted
from celery_lanes.store.attempts import Closing, Grant, Outcome, Reason, Release
from celery_lanes.store.calls import MOVED_AGAIN_MS, Call, Duplicate, Parked
from celery_lanes.store.rules import Policy, Preemption, Scope
from tests.store.driving import Driver

TTL_MS = 300


@pytest.fixture
def there(lane: Driver) -> Driver:
    """The next lane, in the same store."""
    there = Driver(lane.store, lane.clock, lane="next")
    there.configure(1, dedupe_ttl_ms=0)
    return there


def moved(grant: Grant, cost: float | None = None) -> Release:
    return Release(grant.call, grant.token, Outcome.MOVED, cost, envelope=b"on")


def back(grant: Grant, **how) -> Release:
    return Release(grant.call, grant.token, Outcome.BACK, **how)


def move(lane: Driver, grant: Grant) -> Closing:
    (closing,) = lane.turn(0, moved(grant)).closings
    return closing


def onward(closing: Closing) -> Call:
    return replace(closing.onward, id=f"{closing.call}-on")


def close(lane: Driver, closing: Closing) -> bool:
    return lane.store.close(lane.lane, call=closing.call, token=closing.token)


def test_a_move_frees_the_slot_at_once_and_hands_the_call_to_its_own_worker(lane):
    lane.configure(1)
    known = {"priority": 7, "cost": 3.0, "preemptible": True}
    call, other = lane.park(times=2, redelivery_ms=9, **known)

    turn = lane.turn(1, moved(lane.take()))

    (grant,), (closing,) = turn.grants, turn.closings
    assert grant.call == other.id
    assert (closing.call, closing.reason, closing.envelope) == (call.id, Reason.MOVED, b"on")
    assert closing.onward == replace(
        call, has_waited=True, redelivery_ms=MOVED_AGAIN_MS, envelope=b"on"
    )
    assert lane.counts == (1, 0, 0, 1)


def test_a_lane_counts_what_has_moved_on_apart_from_what_has_ended_in_it(lane):
    lane.configure(9)
    lane.park(times=4)
    first, second, third, _ = lane.turn(4).grants

    lane.turn(0, moved(first), moved(replace(third, token="x")), request=50)
    lane.turn(0, moved(first), request=50)
    lane.turn(0, moved(second), Release(third.call, third.token))

    now = lane.store.snapshot(lane.lane)
    assert (now.done_last_minute, now.moved_last_minute) == (1, 2)


def test_a_move_whose_reply_was_lost_is_handed_out_again_but_to_nobody_else(lane):
    lane.configure(1)
    lane.park()
    release = moved(lane.take())
    first = lane.turn(0, release, request=50)

    again = lane.turn(0, release, request=50)
    others = lane.turn(0, release, worker="w2", closings=4)

    assert first == again
    assert (len(first.closings), others.closings) == (1, ())


def test_a_move_is_finished_once_whoever_tries(lane, there):
    lane.configure(1, lease_ttl_ms=TTL_MS)
    lane.park()
    first = move(lane, lane.take())
    assert there.admit(onward(first)) == [Parked(0)]  # and there its worker dies
    handed = []

    def is_handed_out() -> bool:
        handed.extend(lane.turn(0, closings=1, worker="w2").closings)
        return bool(handed)

    lane.reap_until(is_handed_out)

    (second,) = handed
    assert second.onward == first.onward
    assert there.admit(onward(second)) == [Duplicate("waiting")]
    assert not close(lane, first)
    assert close(lane, second)
    assert (lane.counts, there.counts) == ((0, 0, 0, 0), (0, 1, 0, 0))


def test_a_call_that_has_ended_there_cannot_be_moved_again_until_it_has_left_here(lane, there):
    lane.configure(1)
    lane.park(times=2)
    for is_confirmed in (False, True):
        call = onward(closing := move(lane, lane.take()))
        there.admit(call)
        if is_confirmed:
            there.store.confirm(there.lane, call.id)
        there.release(there.take())
        lane.clock.sleep_ms(2)  # "next" forgets at once here

        again = there.admit(call)

        assert again == [Parked(0)] if is_confirmed else [Duplicate("settled")]
        assert close(lane, closing)


def test_a_call_is_confirmed_also_if_it_has_ended_already(lane, there):
    lane.configure(1)
    lane.park()
    call = onward(move(lane, lane.take()))
    there.admit(call)
    there.release(there.take())

    for _ in range(2):
        there.store.confirm(there.lane, call.id)
        there.store.confirm(there.lane, "unknown")

    lane.clock.sleep_ms(2)
    assert there.admit(call) == [Parked(0)]


def test_the_broker_may_bring_a_call_again_that_has_moved(lane):
    lane.configure(1, dedupe_ttl_ms=0)
    call = lane.park(redelivery_ms=60_000)[0]
    closing = move(lane, lane.take())

    assert lane.admit(call) == [Duplicate("closing")]
    close(lane, closing)
    lane.clock.sleep_ms(2)

    assert lane.admit(call) == [Duplicate("settled")]


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("scope", Scope)
def test_what_has_waited_goes_first_among_its_equals(lane, policy, scope):
    lane.policy, lane.scope = policy, scope
    lane.configure(1)
    for name, how in {
        "new": {},
        "urgent": {"priority": 1},
        "moved first": {"has_waited": True},
        "moved then": {"has_waited": True},
    }.items():
        lane.park(id=name, **how)
    order = ["urgent", "moved first", "moved then", "new"]

    places = [lane.store.position(lane.lane, f"task-{name}") for name in order]
    moved_first, *_ = served(lane, 2)[1:]
    lane.turn(0, back(moved_first))

    assert [place.own_ahead for place in places] == [0, 1, 2, 3]
    assert [grant.call for grant in served(lane, 3)] == order[1:]


def served(lane: Driver, count: int) -> list[Grant]:
    """Serve calls one after another; the last one still runs."""
    grants = [lane.take()]
    while len(grants) < count:
        ended = Release(grants[-1].call, grants[-1].token)
        grants += lane.turn(1, ended).grants
    return grants


def test_across_callers_a_move_changes_nothing(lane):
    lane.configure(1)
    lane.park("ann", 2)
    lane.park("bob", 2)
    lane.order(2)

    lane.park("ann", has_waited=True)

    assert lane.order(3) in (["ann", "bob", "ann"], ["bob", "ann", "ann"])


@pytest.mark.parametrize(
    ("end", "then"),
    [
        pytest.param(moved, ["bob", "bob", "bob"], id="moved"),
        pytest.param(lambda grant: moved(grant, cost=1), ["bob", "ann", "bob"], id="real-cost"),
        pytest.param(back, ["ann", "bob", "bob"], id="back"),
        pytest.param(
            lambda grant: back(grant, wait_ms=60_000), ["ann", "bob", "ann"], id="back-later"
        ),
    ],
)
def test_an_attempt_that_moves_is_charged_as_served_and_one_that_goes_back_is_not(lane, end, then):
    lane.configure(1)
    lane.park("ann", cost=3.0)
    lane.park("ann", 3)
    lane.park("bob", 4)

    lane.turn(0, end(lane.take()))

    assert lane.order(3) == then


def test_a_call_that_goes_back_is_where_it_was_with_its_new_message(lane):
    lane.configure(1, max_leases=2)
    first, *_ = lane.park(times=3)

    for attempt in range(1, 5):  # no loss is counted
        grant = lane.take()
        assert (grant.call, grant.attempt) == (first.id, attempt)
        assert grant.envelope == (first.envelope if attempt == 1 else b"again")
        lane.turn(0, back(grant, envelope=b"again" if attempt == 1 else b""))

    assert lane.counts == (0, 3, 0, 0)


def test_a_call_that_goes_back_for_a_while_waits_from_then_on(lane):
    lane.configure(1)
    lane.park(id="later")
    lane.park(id="other")
    grant = lane.take()

    turn = lane.turn(1, back(grant, wait_ms=500, envelope=b"again"))

    assert turn.grants[0].call == "other"
    assert 0 < turn.due_in_ms <= 500
    assert lane.counts == (1, 0, 1, 0)
    lane.release(turn.grants[0])
    grants = []
    lane.until(lambda: grants.extend(lane.turn(1).grants) or grants)
    assert (grants[0].call, grants[0].attempt, grants[0].envelope) == ("later", 2, b"again")


def test_between_the_lanes_a_call_cannot_be_cancelled(lane, there):
    lane.configure(1)
    lane.park(task_id="t")
    closing = move(lane, lane.take())

    with pytest.raises(AlreadyStarted):
        lane.store.cancel(lane.lane, "t")

    there.admit(onward(closing))
    assert there.store.cancel(there.lane, "t") == 1


def test_a_marked_call_that_moves_has_made_room(lane):
    lane.scope = Scope.LANE
    lane.configure(1, preemption=Preemption(min_runtime_ms=0, most=3, fails=False))
    lane.park(preemptible=True)
    lane.park("bob")
    grant = lane.take()
    lane.park("vip", priority=9)
    assert lane.turn(0).preempted == ((grant.call, grant.token),)

    turn = lane.turn(1, moved(grant))

    assert turn.grants[0].caller == "vip"
    assert (turn.preempted, len(turn.closings)) == ((), 1)


@pytest.mark.parametrize(
    ("outcome", "how"),
    [
        pytest.param(Outcome.MOVED, {}, id="moved-nowhere"),
        pytest.param(Outcome.DONE, {"envelope": b"on"}, id="done-and-on"),
        pytest.param(Outcome.MOVED, {"envelope": b"on", "wait_ms": 1}, id="moved-later"),
        pytest.param(Outcome.BACK, {"wait_ms": -1}, id="back-in-the-past"),
        pytest.param(Outcome.BACK, {"wait_ms": 0.5}, id="back-by-half-a-millisecond"),
    ],
)
def test_odd_releases_are_refused(lane, outcome, how):
    lane.configure(1)
    lane.park()
    grant = lane.take()

    with pytest.raises(ValueError, match="expected"):
        lane.turn(0, Release(grant.call, grant.token, outcome, **how))

    assert lane.counts == (1, 0, 0, 0)
