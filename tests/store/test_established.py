"""A call whose stream has been established runs on without a slot: it is leased all the same."""

from __future__ import annotations

import pytest

from celery_lanes.store.attempts import Outcome, Reason, Release, Renewal
from celery_lanes.store.rules import Preemption, Scope

TTL_MS = 60


def establish(lane, grant, token=None):
    return lane.store.establish(lane.lane, call=grant.call, token=token or grant.token)


def established(lane):
    return lane.store.snapshot(lane.lane).established


def test_its_slot_is_the_next_ones_and_so_is_the_cap(lane):
    lane.configure()
    lane.park(times=3)
    first = lane.take()
    assert lane.turn(1).grants == ()

    assert establish(lane, first)

    second = lane.take()
    assert second.call != first.call
    assert lane.turn(1).grants == ()
    assert (lane.counts, established(lane)) == ((1, 1, 0, 0), 1)


def test_an_idle_worker_is_woken_for_the_slot(lane, store):
    lane.configure()
    lane.park(times=2)
    first = lane.take("w1")
    ear = store.listen("w2")
    lane.until(lambda: ear.drain() or True)
    lane.turn(1, worker="w2")

    establish(lane, first)

    assert lane.heard(ear) == {lane.lane}
    ear.close()


def test_a_ticket_gets_the_slot(lane):
    lane.configure()
    lane.park()
    first = lane.take()
    ticket = lane.call(holder="h", envelope=b"")
    lane.store.claim(lane.lane, holder="h")
    lane.admit(ticket)

    establish(lane, first)

    ((granted, token),) = lane.store.claim(lane.lane, holder="h").granted
    assert granted == ticket.id
    assert not lane.store.establish(lane.lane, call=ticket.id, token=token)


def test_it_is_said_again_without_harm_and_only_the_holder_may_say_it(lane):
    lane.configure(2)
    lane.park(times=3)
    first, _ = lane.turn(2).grants
    assert not establish(lane, first, token="x")

    assert establish(lane, first)
    assert establish(lane, first)

    assert (lane.counts, established(lane)) == ((1, 1, 0, 0), 1)
    lane.release(first)
    assert not establish(lane, first)
    assert established(lane) == 0


def test_it_is_renewed_by_its_worker_and_runs_again_when_that_dies(lane):
    lane.configure(lease_ttl_ms=TTL_MS)
    lane.park(times=2)
    first = lane.take("dead")
    establish(lane, first)
    held = [(first.call, first.token)]
    assert lane.store.renew(lane.lane, worker="dead", held=held) == Renewal()

    lane.reap_until(lambda: established(lane) == 0)

    assert lane.counts == (0, 2, 0, 0)
    assert lane.store.renew(lane.lane, worker="dead", held=held).lost == (first.call,)
    again = lane.take()
    assert (again.call, again.attempt) == (first.call, 2)
    assert established(lane) == 0


def test_one_that_is_acknowledged_early_ends_as_lost_when_its_worker_dies(lane):
    lane.configure(lease_ttl_ms=TTL_MS, acks_early={"generate": True})
    lane.park()
    establish(lane, lane.take("dead"))

    lane.reap_until(lambda: established(lane) == 0)

    assert lane.closing().reason is Reason.LOST


@pytest.mark.parametrize("outcome", [Outcome.BACK, Outcome.LOST, Outcome.PREEMPTED])
def test_it_goes_back_as_any_other(lane, outcome):
    lane.configure()
    lane.park()
    first = lane.take()
    establish(lane, first)

    lane.release(first, outcome)

    assert (lane.counts, established(lane)) == ((0, 1, 0, 0), 0)
    assert lane.take().call == first.call


def test_the_time_of_its_slot_is_told_once_and_not_that_of_its_stream(lane):
    lane.configure()
    lane.park()
    began_at = lane.clock()
    first = lane.take()
    lane.clock.sleep_ms(60)
    establish(lane, first)
    most_ms = lane.clock() - began_at + 1
    lane.clock.sleep_ms(2 * most_ms)
    lane.release(first)
    lane.park()

    (served_ms,) = lane.store.position(lane.lane, "task-c2").served_ms

    assert 60 <= served_ms <= most_ms


def test_one_that_was_told_to_make_room_has_made_it(lane):
    lane.scope = Scope.LANE
    lane.configure(preemption=Preemption(min_runtime_ms=0))
    lane.park("low", priority=-10, preemptible=True)
    victim = lane.take()
    lane.park("low", priority=-10)
    lane.park("vip", priority=10)
    assert [call for call, _ in lane.turn(0).preempted] == [victim.call]

    establish(lane, victim)

    assert lane.turn(0).preempted == ()
    assert lane.take().caller == "vip"


def test_it_has_no_slot_that_anybody_could_take(lane):
    lane.scope = Scope.LANE
    lane.configure(preemption=Preemption(min_runtime_ms=0))
    lane.park("low", priority=-10, preemptible=True)
    establish(lane, lane.take())
    lane.park("mid", priority=0)
    lane.take()

    lane.park("vip", priority=10)

    assert lane.turn(0).preempted == ()


def test_it_may_go_on_in_another_lane(lane):
    lane.configure()
    lane.park()
    first = lane.take()
    establish(lane, first)

    moved = Release(first.call, first.token, Outcome.MOVED, envelope=b"on")
    (closing,) = lane.turn(0, moved).closings

    assert closing.reason is Reason.MOVED
    assert (lane.counts, established(lane)) == ((0, 0, 0, 1), 0)
