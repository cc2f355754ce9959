"""Calls that are taken out of a lane before they run."""

from __future__ import annotations

import pytest

from celery_lanes.errors import AlreadyStarted, NotQueued
from celery_lanes.store.attempts import Outcome, Reason
from celery_lanes.store.calls import Cancelled, Parked
from celery_lanes.store.rules import Bucket, CallerRules, Policy


def test_cancel_moves_waiting_and_delayed_calls_of_a_task_to_closing(lane):
    lane.configure()
    lane.park(task_id="t:1")
    lane.park(task_id="t:1", due_ms=lane.clock() + 60_000)
    lane.park(task_id="t")

    assert lane.store.cancel(lane.lane, "t:1") == 2

    assert lane.counts == (0, 1, 0, 2)
    turn = lane.turn(1, closings=5)
    assert {(c.call, c.reason, c.envelope) for c in turn.closings} == {
        ("c1", Reason.CANCELLED, b"c1"),
        ("c2", Reason.CANCELLED, b"c2"),
    }
    assert [g.call for g in turn.grants] == ["c3"]


def test_cancel_repeated_after_a_lost_reply_says_the_same(lane):
    lane.park(task_id="t")

    assert [lane.store.cancel(lane.lane, "t") for _ in range(2)] == [1, 1]


def test_cancel_of_a_running_or_unknown_task_is_not_queued(lane):
    lane.configure()
    lane.park(task_id="t")
    lane.take()

    with pytest.raises(AlreadyStarted):
        lane.store.cancel(lane.lane, "t")
    with pytest.raises(NotQueued) as unknown:
        lane.store.cancel(lane.lane, "never")
    assert type(unknown.value) is NotQueued


def test_cancelled_call_of_a_caller_lets_the_others_pass(lane):
    lane.configure()
    lane.park("ann", task_id="t")
    lane.park("ann")
    lane.park("bob")
    lane.store.cancel(lane.lane, "t")

    assert lane.order(2) == ["ann", "bob"]


# -- what a broker brings after it was cancelled

FOR_MS = 5_000


def brought(lane, **fields):
    return lane.call(redelivery_ms=1, **fields)


@pytest.mark.parametrize("due_in_ms", [0, 60_000], ids=["at-once", "with-an-eta"])
def test_what_a_broker_brings_of_a_forbidden_task_is_closed_and_never_runs(lane, due_in_ms):
    lane.configure()
    assert lane.store.forbid(lane.lane, "t", FOR_MS)

    late = brought(lane, task_id="t", due_ms=due_in_ms and lane.clock() + due_in_ms)
    assert lane.admit(late, brought(lane, task_id="u")) == [Cancelled(), Parked(0)]

    turn = lane.turn(5, closings=5)
    assert [(c.call, c.reason, c.envelope) for c in turn.closings] == [
        ("c1", Reason.CANCELLED, b"c1")
    ]
    assert [g.call for g in turn.grants] == ["c2"]
    assert lane.store.cancel(lane.lane, "t") == 1  # as for one that was cancelled while it waited


def test_a_forbidden_call_settles_as_any_other(lane):
    lane.configure()
    lane.store.forbid(lane.lane, "t", FOR_MS)
    late = brought(lane, task_id="t")
    lane.admit(late)
    closing = lane.closing()

    assert lane.store.close(lane.lane, call=late.id, token=closing.token)

    assert lane.counts == (0, 0, 0, 0)
    lane.park("ann")
    assert lane.order(1) == ["ann"]


def test_a_forbidden_task_may_come_again_in_time(lane):
    lane.store.forbid(lane.lane, "t", 20)
    lane.store.forbid(lane.lane, "u", FOR_MS)

    lane.clock.sleep_ms(25)

    assert lane.admit(brought(lane, task_id="t")) == [Parked(0)]
    assert lane.admit(brought(lane, task_id="u")) == [Cancelled()]


def test_what_no_broker_brings_is_not_forbidden(lane):
    lane.store.forbid(lane.lane, "t", FOR_MS)

    assert lane.admit(lane.call(task_id="t")) == [Parked(0)]


def test_a_task_that_is_here_is_not_forbidden(lane):
    lane.configure()
    lane.park(task_id="t")
    grant = lane.take()

    assert not lane.store.forbid(lane.lane, "t", FOR_MS)

    lane.release(grant, Outcome.BACK)
    assert lane.admit(brought(lane, task_id="t")) == [Parked(1)]


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_what_was_forbidden_is_forgotten(lane):
    client = lane.store._wire.client
    (key,) = lane.store._keys.of_lane(lane.lane, ("forbidden",))
    for number in range(300):
        lane.store.forbid(lane.lane, f"t{number}", 1)
    lane.clock.sleep_ms(5)

    assert client.zcard(key) < 300
    lane.store.forbid(lane.lane, "t", FOR_MS)
    assert FOR_MS - 1000 < client.pttl(key) <= FOR_MS


@pytest.mark.parametrize("kind", ["memory"])
def test_what_was_forbidden_is_forgotten_in_memory_too(lane):
    for number in range(300):
        lane.store.forbid(lane.lane, f"t{number}", 1)
        lane.clock.sleep_ms(1)

    assert len(lane.store._lanes[lane.lane].forbidden) < 10


# -- all of a caller's


@pytest.mark.parametrize("policy", Policy)
def test_all_that_waits_of_a_caller_is_cancelled_and_nothing_else(lane, policy):
    lane.policy = policy
    lane.configure()
    lane.park("ann")
    running = lane.take()
    lane.park("ann", 130, priority=3)
    lane.park("bob", 2)
    lane.park("ann", 130)
    due_ms = lane.clock() + 60_000
    lane.park("bob", 3, due_ms=due_ms)
    lane.park("ann", 230, due_ms=due_ms)

    assert lane.store.cancel_caller(lane.lane, "ann") == 490

    assert lane.counts == (1, 2, 3, 490)
    assert lane.store.cancel_caller(lane.lane, "ann") == 0
    lane.release(running)
    assert lane.order(2) == ["bob", "bob"]


def test_callers_of_like_names_keep_their_calls(lane):
    lane.configure()
    for caller in ["a", "a:b", "a%3Ab", "ab", ""]:
        lane.park(caller)

    assert [lane.store.cancel_caller(lane.lane, caller) for caller in ["a:b", "", "b"]] == [1, 1, 0]

    assert lane.order(3) == ["a", "a%3Ab", "ab"]


def test_a_caller_set_aside_leaves_nothing_behind(lane):
    rate = Bucket(count=1, period_ms=60_000, burst=1)
    lane.configure(5, callers={"ann": CallerRules(rate=rate)})
    lane.park("ann", 3)
    lane.turn(3)  # after the first one its bucket is empty: it is set aside

    assert lane.store.cancel_caller(lane.lane, "ann") == 2

    assert lane.counts == (1, 0, 0, 2)
    assert lane.turn(1).due_in_ms is None


def test_calls_that_become_due_meanwhile_do_not_hide_others(lane, monkeypatch):
    lane.configure()
    lane.park("bob", 100, due_ms=lane.clock() + 30)
    lane.park("ann", 150, due_ms=lane.clock() + 60_000)
    if hasattr(lane.store, "_wire"):  # the memory store takes all at once
        run = lane.store._wire.run

        def run_late(verb, *words):
            answer = run(verb, *words)
            lane.clock.sleep_ms(35)
            lane.turn(1)
            return answer

        monkeypatch.setattr(lane.store._wire, "run", lambda verb, *words: (
            run_late if verb == "cancel_caller" else run)(verb, *words))  # fmt: skip

    assert lane.store.cancel_caller(lane.lane, "ann") == 150
