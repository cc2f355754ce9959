"""A server's clock goes back, by NTP or in a failover: nobody waits until it is what it was."""

from __future__ import annotations

import uuid

import pytest
from redis import Redis

from celery_lanes.store.connect import open_store
from celery_lanes.store.memory.store import MemoryStore
from celery_lanes.store.rules import Bucket, CallerRules
from tests.store.clocked import ClockedFunctions, ServerClock
from tests.store.driving import Driver

ONE_A_SECOND = Bucket(count=1, period_ms=1_000, burst=1)
HOUR_MS = 3_600_000


@pytest.fixture
def clock(valkey):
    with Redis.from_url(valkey.url(db=1)) as client:
        yield ServerClock(client)


@pytest.fixture(params=["memory", "valkey"])
def lane(request, valkey, clock):
    if request.param == "memory":
        yield Driver(MemoryStore(clock), clock)
        return
    store = open_store(valkey.url(db=1), prefix=f"clock-{uuid.uuid4().hex}")
    store._wire.speak(ClockedFunctions())
    yield Driver(store, clock)
    store.disconnect()


def test_no_caller_is_kept_aside(lane):
    lane.configure(9, callers={"ann": CallerRules(rate=ONE_A_SECOND)})
    lane.park("ann", times=2)
    lane.take()
    assert lane.turn(9).due_in_ms == 1_000

    lane.clock.set_back(HOUR_MS)

    assert lane.turn(9).due_in_ms == 1_000
    lane.clock.sleep_ms(1_000)
    assert lane.take().caller == "ann"


def test_a_caller_who_comes_later_has_waited_at_most_as_if_his_bucket_were_empty(lane):
    lane.configure(9, callers={"ann": CallerRules(rate=ONE_A_SECOND)})
    lane.park("ann")
    lane.take()

    lane.clock.set_back(HOUR_MS)
    lane.park("ann")

    assert lane.turn(9).due_in_ms == 1_000
    lane.clock.sleep_ms(1_000)
    assert lane.take().caller == "ann"


@pytest.mark.parametrize("limit", ["rate", "tokens"])
def test_what_was_spent_of_a_lanes_bucket_stays_spent(lane, limit):
    lane.configure(9, **{limit: ONE_A_SECOND})
    lane.park(times=2)
    lane.take()
    lane.clock.sleep_ms(400)
    lane.turn(0)

    lane.clock.set_back(HOUR_MS)

    assert lane.turn(9).due_in_ms == 600
    lane.clock.sleep_ms(600)
    assert lane.take()


def test_what_ended_in_a_minute_to_come_is_not_counted(lane):
    lane.configure()
    lane.park()
    lane.release(lane.take())
    assert lane.store.snapshot(lane.lane).done_last_minute == 1

    lane.clock.set_back(HOUR_MS)
    lane.park()
    lane.release(lane.take())

    assert lane.store.snapshot(lane.lane).done_last_minute == 1
