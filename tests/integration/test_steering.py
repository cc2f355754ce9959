"""Callers steered while a real worker serves them, seen from outside: the server that calls ask."""

from __future__ import annotations

from collections import Counter

import pytest

from celery_lanes.errors import ConfigError
from celery_lanes.store.calls import fitting
from celery_lanes.store.standing import Hold
from tests.integration.conftest import until

ONE_SLOT = "[lanes.ollama]\nmax_concurrent = 1"
FIFO = '[lanes.ollama]\npolicy = "fifo"'


def publish(shop, observer, caller, times):
    args = ("ollama/x", observer.url, caller)
    return [shop.tasks.ask.apply_async(args, caller=caller) for _ in range(times)]


def started(observer):
    """Give the callers in the order in which their calls started."""
    return [r.prompt for r in sorted(observer.log, key=lambda record: record.start_s)]


def test_a_weight_changes_the_shares_of_a_backlog(make_shop, observer):
    shop = make_shop(rest=ONE_SLOT)
    observer.service = 0.03
    for caller in ("ann", "bob"):
        publish(shop, observer, caller, 100)
    shop.worker(concurrency=1)
    observer.wait_until(lambda: observer.served >= 20)

    shop.tasks.lanes.lane("ollama").caller("ann").set_weight(4)
    since = observer.served + 2  # one runs, and one may have been granted with its end
    observer.wait_until(lambda: observer.served >= since + 50, timeout_s=60)

    before, after = Counter(started(observer)[:20]), Counter(started(observer)[since:][:50])
    assert abs(before["ann"] - 10) <= 1
    assert abs(after["ann"] - 40) <= 1


def test_a_paused_callers_calls_do_not_start_until_it_is_resumed(make_shop, observer):
    shop = make_shop(rest=ONE_SLOT)
    lane = shop.tasks.lanes.lane("ollama")
    lane.caller("ann").pause()
    shop.worker(concurrency=1)  # which writes its settings as it starts
    theirs = publish(shop, observer, "ann", 3)
    for result in publish(shop, observer, "bob", 3):
        result.get(timeout=20)
    assert started(observer) == ["bob"] * 3
    assert shop.tasks.lanes.position(theirs[0]).reason is Hold.CALLER_PAUSED
    assert "its caller is paused" in shop.tasks.lanes.explain(theirs[0])
    theirs[2].cancel()

    lane.caller("ann").resume()

    assert [result.get(timeout=20) for result in theirs[:2]] == ["ann", "ann"]
    until(lambda: theirs[2].state == "REVOKED")
    assert started(observer) == ["bob"] * 3 + ["ann"] * 2


def test_a_rate_holds_a_caller_back_until_it_is_taken_away(make_shop, observer):
    shop = make_shop()
    lane = shop.tasks.lanes.lane("ollama")
    lane.caller("ann").set_rate("1/h")
    shop.worker(concurrency=2)
    theirs = publish(shop, observer, "ann", 3)
    theirs[0].get(timeout=20)
    for result in publish(shop, observer, "bob", 3):
        result.get(timeout=20)
    assert started(observer).count("ann") == 1

    lane.caller("ann").set_rate(None)

    assert [result.get(timeout=20) for result in theirs] == ["ann"] * 3


def test_a_lanes_own_rate_holds_all_back_until_it_is_faster(make_shop, observer):
    shop = make_shop()
    lane = shop.tasks.lanes.lane("ollama")
    lane.set_rate("1/h", burst=2)
    shop.worker(concurrency=2)
    results = publish(shop, observer, "ann", 4)
    observer.wait_until(lambda: observer.served == 2)
    assert shop.tasks.lanes.position(results[-1]).reason is Hold.LANE_RATE

    lane.set_rate("1000/s")

    assert [result.get(timeout=20) for result in results] == ["ann"] * 4


def test_a_name_that_is_too_long_is_the_one_under_which_a_broker_brought_its_calls(shop):
    lane = shop.tasks.lanes.lane("ollama")

    lane.caller("x" * 300).pause()

    assert [caller.caller for caller in lane.callers()] == [fitting("x" * 300)]


@pytest.mark.parametrize("rate", ["fast", 60, "0/m"])
def test_what_is_no_rate_is_refused(shop, rate):
    lane = shop.tasks.lanes.lane("ollama")

    for steered in (lane, lane.caller("ann")):
        with pytest.raises(ValueError, match="expected a rate such as"):
            steered.set_rate(rate)


def test_a_caller_of_a_fifo_lane_is_refused(make_shop):
    lane = make_shop(rest=FIFO).tasks.lanes.lane("ollama")

    with pytest.raises(ConfigError, match="ollama is fifo"):
        lane.caller("ann")
