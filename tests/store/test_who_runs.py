"""Who has the calls of a lane that run: as operators ask it."""

from __future__ import annotations

import pytest

from celery_lanes.store.attempts import HEAD_BYTES, READ_BYTES, Outcome
from celery_lanes.store.checks import MAX_LEASES


def test_of_each_running_call_it_is_said_whose_it_is_and_who_has_it(lane):
    lane.configure(3)
    lane.admit(
        lane.call("Änne", id="c1", task_id="t:1", priority=5, envelope=b"its headers\nits body"),
        lane.call("bob", id="c2"),
        lane.call("bob", id="c3"),
    )
    first, second = lane.take("celery@one/1f"), lane.take("two")
    lane.clock.sleep_ms(30)

    his, hers = sorted(lane.store.leases(lane.lane, 9), key=lambda lease: lease.caller)

    assert (hers.call, his.call) == (first.call, second.call) == ("c1", "c2")
    assert (hers.task_id, hers.task, hers.caller, hers.priority) == ("t:1", "generate", "Änne", 5)
    assert (hers.worker, his.worker) == ("celery@one/1f", "two")
    assert (hers.head, his.head) == (b"its headers", b"c2")
    assert (hers.attempt, hers.is_established) == (1, False)
    assert 30 <= hers.ran_ms < 10_000


def test_a_call_that_ends_or_goes_back_is_nobodys_any_more(lane):
    lane.configure(2)
    lane.park(times=2)
    first, second = lane.take(), lane.take()

    lane.release(first)
    lane.release(second, Outcome.BACK)

    assert lane.store.leases(lane.lane, 9) == []
    again = lane.take("w2")
    (lease,) = lane.store.leases(lane.lane, 9)
    assert (lease.call, lease.worker, lease.attempt) == (again.call, "w2", 2)


def test_a_stream_without_a_slot_is_told_and_a_result_that_is_being_written_is_not(lane):
    lane.configure(1)
    lane.park(times=2)
    stream = lane.take()
    lane.store.establish(lane.lane, call=stream.call, token=stream.token)
    lane.store.cancel(lane.lane, "task-c2")
    lane.closing("w2")

    (lease,) = lane.store.leases(lane.lane, 9)

    assert (lease.call, lease.is_established) == (stream.call, True)


def test_a_slot_that_is_held_outside_tasks_is_told_with_its_holder(lane):
    lane.configure(1)
    lane.store.claim(lane.lane, holder="host:7/1f")
    lane.admit(lane.call(holder="host:7/1f", task="", envelope=b""))
    lane.store.claim(lane.lane, holder="host:7/1f")

    (lease,) = lane.store.leases(lane.lane, 9)

    assert (lease.worker, lease.task, lease.head) == ("host:7/1f", "", b"")


def test_those_are_read_first_whose_leases_end_first(lane):
    lane.configure(4)
    lane.park(times=4)
    grants = []
    for _ in range(4):
        grants.append(lane.take())
        lane.clock.sleep_ms(3)
    oldest = grants[0]
    lane.store.renew(lane.lane, worker="w1", held=[(oldest.call, oldest.token)])

    read = [lease.call for lease in lane.store.leases(lane.lane, 3)]

    assert read == [grant.call for grant in grants[1:]]


@pytest.mark.parametrize(
    ("envelope", "head"),
    [
        (b"h" * HEAD_BYTES + b"\nbody", b"h" * HEAD_BYTES),
        (b"h" * HEAD_BYTES + b"h\nbody", b""),
        (b"head\n" + b"b" * (READ_BYTES - 5), b"head"),
        (b"head\n" + b"b" * (READ_BYTES - 4), b""),
        (b"\nbody", b""),
    ],
    ids=["longest-head", "longer-head", "longest-message", "longer-message", "no-head"],
)
def test_no_more_of_a_message_is_read_than_is_cheap(lane, envelope, head):
    lane.configure()
    lane.admit(lane.call(envelope=envelope))
    lane.take()

    assert [lease.head for lease in lane.store.leases(lane.lane, 1)] == [head]


@pytest.mark.parametrize("limit", [0, MAX_LEASES + 1, 1.5, True])
def test_an_odd_number_of_leases_is_refused(lane, limit):
    with pytest.raises(ValueError, match="expected the number of leases to be a whole number"):
        lane.store.leases(lane.lane, limit)


def test_to_ask_about_a_lane_is_not_to_use_it(lane, store):
    assert store.leases("only asked about", 1) == []
    assert "only asked about" not in store.lanes()
