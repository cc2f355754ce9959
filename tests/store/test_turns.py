"""A turn releases, then grants: never beyond the cap, never a call twice, and repeatable."""

from __future__ import annotations

import pytest

from celery_lanes.errors import LaneNotConfigured
from celery_lanes.store.attempts import Outcome, Reason, Release, Turn
from celery_lanes.store.base import MAX_BATCH, MAX_BATCH_BYTES
from celery_lanes.store.rules import Policy


def test_grants_never_exceed_the_cap(lane):
    lane.configure(3)
    lane.park(times=5)

    assert len(lane.turn(10).grants) == 3
    assert lane.turn(10).grants == ()
    assert lane.counts == (3, 2, 0, 0)


def test_release_and_grant_happen_in_one_turn(lane):
    lane.configure(1)
    lane.park(times=2)
    first = lane.take()

    (second,) = lane.turn(1, Release(first.call, first.token)).grants

    assert second.call == "c2"
    assert lane.store.snapshot(lane.lane).done_last_minute == 1


def test_lane_without_rules_says_so_after_the_releases(lane):
    lane.park()

    with pytest.raises(LaneNotConfigured):
        lane.turn()


def test_repeated_request_gets_the_same_grants_again(lane):
    lane.configure(2)
    lane.park(times=3)

    first = lane.turn(2, request=7)

    assert lane.turn(2, request=7) == first
    assert lane.counts == (2, 1, 0, 0)


def test_repeated_request_releases_once(lane):
    lane.configure(1)
    lane.park(times=3)
    grant = lane.turn(1, request=1).grants[0]
    release = Release(grant.call, grant.token)
    answer = lane.turn(1, release, request=2)

    assert lane.turn(1, release, request=2).grants == answer.grants
    assert lane.counts == (1, 1, 0, 0)
    assert lane.store.snapshot(lane.lane).done_last_minute == 1


def test_repeated_request_does_not_give_what_was_taken_away_meanwhile(lane):
    lane.configure(2)
    lane.park(times=2)
    first = lane.turn(2, request=1).grants
    lane.store.next(lane.lane, worker="w2", request=1, want=0, releases=[_end(first[0])])

    assert [g.call for g in lane.turn(2, request=1).grants] == [first[1].call]


def test_late_twin_of_an_old_request_gets_nothing(lane):
    lane.configure(3)
    lane.park(times=3)
    lane.turn(1, request=4)
    lane.turn(1, request=5)

    assert lane.turn(1, request=4).grants == ()
    assert lane.counts == (2, 1, 0, 0)


def test_late_twin_does_not_wake_a_worker_from_its_waiting(lane):
    lane.configure()
    ear = lane.store.listen("w1")
    lane.turn(1, request=2)

    lane.turn(1, request=1)
    lane.park()

    assert lane.heard(ear) == {lane.lane}
    ear.close()


def test_request_for_no_calls_leaves_a_worker_waiting_for_one(lane):
    lane.configure()
    ear = lane.store.listen("w1")
    lane.turn(1)

    lane.turn(0)
    lane.park()

    assert lane.heard(ear) == {lane.lane}
    ear.close()


def test_repeated_request_gets_the_same_results_to_write_again(lane):
    lane.configure()
    lane.park(task_id="t")
    lane.store.cancel(lane.lane, "t")

    first = lane.turn(0, closings=2, request=3)

    assert len(first.closings) == 1
    assert lane.turn(0, closings=2, request=3) == first


def test_workers_have_their_own_request_numbers(lane):
    lane.configure(2)
    lane.park(times=2)

    calls = [lane.turn(1, worker=worker, request=1).grants[0].call for worker in ["w1", "w2"]]

    assert calls == ["c1", "c2"]


def test_release_with_an_old_token_changes_nothing(lane):
    lane.configure(1)
    lane.park(times=1)
    old = lane.take()
    lane.release(old, Outcome.BACK)
    new = lane.take()

    lane.release(old, Outcome.DONE)

    assert new.attempt == 2
    assert lane.counts == (1, 0, 0, 0)


def test_more_releases_than_one_batch_takes_are_all_heard(lane):
    many = MAX_BATCH * 2 + 3
    lane.configure(many)
    lane.park(times=many)
    grants = [g for _ in range(3) for g in lane.turn(many).grants]
    assert len(grants) == many

    lane.park()
    turn = lane.turn(1, *map(_end, grants))

    assert len(turn.grants) == 1
    assert lane.counts == (1, 0, 0, 0)


def test_urgent_calls_of_a_caller_go_first_and_equals_in_order(lane):
    lane.configure()
    for name, priority in [("low", -1000), ("a", 0), ("top", 1000), ("b", 0), ("high", 5)]:
        lane.park(id=name, priority=priority)

    grants = [lane.take()]
    while len(grants) < 5:
        grants += lane.turn(1, _end(grants[-1])).grants

    assert [grant.call for grant in grants] == ["top", "high", "a", "b", "low"]


def test_call_put_back_returns_to_its_place(lane):
    lane.configure()
    lane.park(times=3)
    first = lane.take()

    lane.release(first, Outcome.BACK)

    again = lane.take()
    assert (again.call, again.attempt) == ("c1", 2)


def test_lost_call_runs_again_and_is_a_dead_letter_after_max_leases(lane):
    lane.configure(max_leases=3)
    lane.park()
    for _ in range(3):
        assert lane.counts == (0, 1, 0, 0)
        lane.release(lane.take(), Outcome.LOST)

    assert lane.counts == (0, 0, 0, 1)
    closing = lane.closing()
    assert closing.reason is Reason.DEAD
    lane.store.close(lane.lane, call=closing.call, token=closing.token)
    assert lane.store.snapshot(lane.lane).dead == 1


def test_putting_back_is_not_counted_as_a_loss(lane):
    lane.configure(max_leases=2)
    lane.park()

    for _ in range(5):
        lane.release(lane.take(), Outcome.BACK)

    assert lane.counts == (0, 1, 0, 0)


def test_lost_call_of_a_task_acknowledged_early_does_not_run_again(lane):
    lane.configure(acks_early={"generate": True})
    lane.park()

    lane.release(lane.take(), Outcome.LOST)

    assert lane.closing().reason is Reason.LOST


def test_when_a_task_acknowledges_is_remembered_from_the_grant(lane):
    lane.configure(acks_early={"generate": True, "other": True})
    lane.park()
    grant = lane.take()
    lane.configure(acks_early={"generate": False})

    lane.release(grant, Outcome.LOST)
    assert lane.closing().reason is Reason.LOST

    lane.park(task="other")  # not named again: unchanged
    lane.release(lane.take(), Outcome.LOST)
    assert lane.counts == (0, 0, 0, 2)


def test_strange_call_is_delayed_longer_each_time_then_dead(lane):
    lane.configure(max_leases=2)
    lane.park()

    lane.release(lane.take(), Outcome.STRANGE)
    turn = lane.turn(1)
    assert turn.grants == ()
    assert 900 < turn.due_in_ms <= 1000

    lane.clock.sleep_ms(turn.due_in_ms + 5)
    lane.release(lane.take(), Outcome.STRANGE)
    assert lane.closing().reason is Reason.DEAD


def test_fifo_lane_serves_by_priority_then_first_come_whoever_calls(lane):
    lane.configure()
    lane.policy = Policy.FIFO
    lane.park("ann", times=3)
    lane.park("bob")
    lane.park("cid", priority=1)

    assert lane.order(5) == ["cid", "ann", "ann", "ann", "bob"]


def test_paused_lane_grants_nothing_until_resumed(lane):
    lane.configure()
    lane.park()
    lane.store.set_paused(lane.lane, paused=True)
    assert lane.turn().grants == ()
    assert lane.store.snapshot(lane.lane).paused

    lane.store.set_paused(lane.lane, paused=False)

    assert len(lane.turn().grants) == 1


def test_changed_cap_holds_at_once_and_survives_configure(lane):
    lane.configure(2)
    lane.park(times=5)
    lane.store.set_max_concurrent(lane.lane, 1)
    lane.configure(2)
    assert len(lane.turn(5).grants) == 1

    lane.store.set_max_concurrent(lane.lane, None)

    assert len(lane.turn(5).grants) == 1
    assert lane.store.snapshot(lane.lane).max_concurrent == 2


def test_lowered_cap_lets_running_calls_finish_and_starts_none(lane):
    lane.configure(3)
    lane.park(times=6)
    grants = lane.turn(3).grants
    lane.store.set_max_concurrent(lane.lane, 1)

    assert lane.turn(3, _end(grants[0])).grants == ()
    assert lane.turn(3, _end(grants[1])).grants == ()
    assert len(lane.turn(3, _end(grants[2])).grants) == 1


@pytest.mark.parametrize("slots", [-1, 1.5, True, "2"])
def test_odd_caps_are_refused(lane, slots):
    with pytest.raises(ValueError, match="max_concurrent"):
        lane.store.set_max_concurrent(lane.lane, slots)


LARGE = b"x" * (3 * MAX_BATCH_BYTES // 8)


def test_large_calls_are_granted_as_many_as_one_answer_holds_and_the_rest_at_once(lane):
    lane.configure(9)
    lane.park(times=3, envelope=LARGE)
    lane.park(envelope=b"x" * (MAX_BATCH_BYTES + 1))
    lane.park()

    turns = [lane.turn(9) for _ in range(4)]

    assert [[grant.call for grant in turn.grants] for turn in turns] == [
        ["c1", "c2"], ["c3"], ["c4"], ["c5"]
    ]  # fmt: skip
    assert [turn.due_in_ms for turn in turns] == [1, 1, 1, None]


def test_large_results_to_write_are_handed_out_as_many_as_one_answer_holds(lane):
    lane.configure(9)
    lane.park(times=3, envelope=LARGE)
    assert lane.store.cancel_caller(lane.lane, "ann") == 3

    request, again, last = (lane.turn(1, closings=4, request=number) for number in (1, 1, 2))

    assert [len(turn.closings) for turn in (request, again, last)] == [2, 2, 1]
    assert again == request
    assert [turn.due_in_ms for turn in (request, last)] == [1, None]


def test_snapshot_of_an_unknown_lane_is_empty(store):
    snapshot = store.snapshot("nowhere")

    assert snapshot.max_concurrent is None
    assert snapshot.running == snapshot.waiting == snapshot.oldest_wait_ms == 0


def test_snapshot_tells_the_oldest_wait_and_who_waits(lane):
    lane.configure()
    lane.park("ann")
    lane.park("bob", times=2)
    lane.turn(0)
    lane.clock.sleep_ms(30)

    snapshot = lane.store.snapshot(lane.lane)

    assert 30 <= snapshot.oldest_wait_ms < 5_000
    assert (snapshot.waiting, snapshot.callers_waiting, snapshot.workers) == (3, 2, 1)


def test_turn_without_anything_is_empty(lane):
    lane.configure()

    assert lane.turn(0) == Turn()


def _end(grant) -> Release:
    return Release(grant.call, grant.token)
