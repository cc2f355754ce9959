"""Calls that go on in another lane, or later in their own: who waits for them notices nothing."""

from __future__ import annotations

import time

import pytest
from celery import chord
from celery.exceptions import TaskRevokedError

from celery_lanes import CallInfo
from celery_lanes.errors import NotInLane, NotQueued
from celery_lanes.store.standing import Hold
from tests.integration.conftest import ROOT, running, until, waiting

ONE_EACH = "[lanes.ollama]\nmax_concurrent = 1\n[lanes.gpu]\nmax_concurrent = 1\n"


def where(shop, result):
    """Name the lane where a call waits; "" while it is nowhere."""
    try:
        position = shop.tasks.lanes.position(result)
    except NotQueued:
        return ""
    return position.lane if position.place else ""


def test_a_moved_call_waits_in_its_next_lane_while_its_slot_serves_others(make_shop):
    shop = make_shop(rest=ONE_EACH)
    tasks, lanes = shop.tasks, shop.tasks.lanes
    lanes.lane("gpu").pause()
    shop.worker("ollama", "gpu", concurrency=3)

    others = [tasks.mark.apply_async(("gpu/x", text), caller="ann") for text in ("b", "c")]
    moved = tasks.wander.apply_async(("ollama/x", "gpu"), caller="ann")
    until(lambda: where(shop, moved) == "gpu")
    part = chord([tasks.wander_and.s("ollama/x", "gpu", "retry"), tasks.echo.s("ollama/x", 1)])(
        tasks.gathered.s()
    )
    failed = tasks.wander_and.apply_async(("ollama/x", "gpu", "fail"), caller="ann", run_id="r1")
    revoked = tasks.wander.delay("ollama/x", "gpu")
    until(lambda: waiting(shop, "gpu") == len(others) + 4)

    assert tasks.echo.delay("ollama/x", "free").get(timeout=15) == "free"  # its slot is
    until(lambda: running(shop, "ollama") == lanes.parts.store.snapshot("ollama").closing == 0)
    position = lanes.position(moved)
    assert (position.own_ahead, position.reason) == (0, Hold.PAUSED)  # it has waited: it goes first
    assert moved.state == part.state == "PENDING"
    assert lanes.cancel(revoked) == {"gpu": 1}

    lanes.lane("gpu").resume()

    assert moved.get(timeout=15) == [["ollama", "ann", 1], ["gpu", "ann", 1]]
    (first, lane), one = part.get(timeout=15)
    assert (len(first), lane, one) == (32, "gpu", 1)
    with pytest.raises(ValueError, match=r"^boom$") as caught:
        failed.get(timeout=15)
    info = CallInfo.from_error(caught.value)
    assert (info.caller, info.run_id, info.lane, info.model) == ("ann", "r1", "gpu", "gpu/y")
    assert info.origin not in ("", info.nonce)
    with pytest.raises(TaskRevokedError):
        revoked.get(timeout=15)


@pytest.mark.parametrize("acks", ["late", "early"])
def test_the_lane_waits_as_its_provider_asks_and_the_call_goes_back_to_its_place(make_shop, acks):
    shop = make_shop(rest=f'[lanes.ollama]\nmax_concurrent = 1\nacks = "{acks}"')
    worker = shop.worker(concurrency=2)
    lanes = shop.tasks.lanes
    asked_at = time.monotonic()

    back = shop.tasks.come_back.apply_async(("ollama/x",), {"retry_after": 3}, caller="ann")
    until(lambda: lanes.lane("ollama").stats().provider_wait_ms > 0 and running(shop) == 0)
    later = shop.tasks.echo.apply_async(("ollama/x", "later"), caller="ann")
    place = lanes.position(later)

    assert (place.own_ahead, place.reason) == (1, Hold.PROVIDER_WAIT)
    assert back.get(timeout=20) == [1, 2]
    assert time.monotonic() - asked_at >= 2.9
    assert later.get(timeout=15) == "later"
    assert "Traceback" not in worker.log(), worker.log()[-6000:]


def test_a_call_that_two_workers_died_of_moving_runs_once_in_its_next_lane(make_shop):
    """One is killed before the next lane has the call, one before the first lane lets it go."""
    shop = make_shop(rest=ONE_EACH)
    store = shop.tasks.lanes.parts.store
    moved = shop.tasks.wander.delay("ollama/x", "gpu")
    seen = []
    for verb in ("admit", "close"):
        dying = str(ROOT / "tests/integration/dying.py"), verb
        shop.worker(pool="solo", concurrency=1, program=dying).wait()
        seen.append((store.snapshot("ollama").closing, store.snapshot("gpu").waiting))

    shop.worker("ollama", "gpu", pool="solo", concurrency=1)

    assert moved.get(timeout=15) == [["ollama", "", 1], ["gpu", "", 1]]
    until(lambda: store.snapshot("ollama").closing == 0)
    assert seen == [(1, 0), (1, 1)]
    assert store.snapshot("gpu").done_last_minute == 1


def test_a_call_that_runs_in_no_lane_cannot_go_on(shop):
    with pytest.raises(NotInLane, match="does not run in a lane"):
        shop.tasks.wander_and.apply(("ollama/x", "gpu", "fail")).get()
