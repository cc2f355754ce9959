"""Urgent calls take the slots of lowly ones: real signals, real greenlets, an observer outside."""

from __future__ import annotations

import pytest
from celery import chord
from celery.exceptions import TaskRevokedError

from celery_lanes import CallInfo, Preempted
from tests.integration.conftest import until, waiting

AT_ONCE = 'preemption = true\nmin_runtime = 0\npreempt_grace = "500ms"\nmax_concurrent = {cap}'
LOW = {"lane_priority": -10, "preemptible": True}
LONG_S = 30


@pytest.fixture
def make_busy(make_shop):
    """Make a shop whose worker is about to be interrupted."""

    def make(*, cap=1, pool="prefork", concurrency=None, more=""):
        shop = make_shop(rest=f"[lanes.ollama]\n{AT_ONCE.format(cap=cap)}\n{more}")
        shop.worker(pool=pool, concurrency=concurrency or cap)
        return shop

    return make


def ask(shop, observer, key, **options):
    return shop.tasks.ask.apply_async(("ollama/x", observer.url, key), **options)


def begun(shop):
    until(lambda: "begun" in shop.tasks.marked(), timeout_s=20)


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_running_call_makes_room_and_runs_again(make_busy, observer, pool):
    shop = make_busy(pool=pool)
    times = iter([LONG_S])  # of the first request, the lowly one's
    observer.service = lambda _: next(times, 0)
    low = ask(shop, observer, "low", **LOW)
    observer.wait_until(lambda: observer.inside == 1)

    assert ask(shop, observer, "vip", lane_priority=10).get(timeout=15) == "vip"

    assert observer.highest == 1
    assert low.get(timeout=15) == "low"
    assert [record.prompt for record in observer.log] == ["low", "vip", "low"]


@pytest.mark.parametrize("pool", ["threads", "solo", "prefork", "gevent"])
def test_a_body_may_look_whether_to_make_room(make_busy, pool):
    shop = make_busy(pool=pool)
    low = shop.tasks.polite.delay("ollama/x", 3)
    begun(shop)

    assert shop.tasks.echo.apply_async(("ollama/x", "soon"), lane_priority=10).get(timeout=15)

    assert low.get(timeout=15) == 2


def test_a_body_may_save_its_work_and_a_retry_is_none_of_it(make_busy):
    shop = make_busy()
    low = shop.tasks.saving.delay("ollama/x")
    begun(shop)

    shop.tasks.echo.apply_async(("ollama/x",), lane_priority=10).get(timeout=15)

    assert low.get(timeout=15) == 2
    assert shop.tasks.marked() == ["begun", "saved", "begun"]


@pytest.mark.parametrize("to", ["requests", "everything"])
def test_a_body_that_will_not_hear_is_stopped_in_the_end(make_busy, to):
    shop = make_busy()
    low = shop.tasks.deaf.delay("ollama/x", to)
    begun(shop)

    shop.tasks.echo.apply_async(("ollama/x",), lane_priority=10).get(timeout=20)

    assert low.get(timeout=15) == 2


def test_it_fails_as_preempted_where_the_lane_says_so(make_busy):
    shop = make_busy(more='on_preempt = "fail"')
    low = shop.tasks.saving.apply_async(("ollama/x",), caller="nightly")
    begun(shop)

    shop.tasks.echo.apply_async(("ollama/x",), lane_priority=10).get(timeout=15)

    with pytest.raises(Preempted) as raised:
        low.get(timeout=15)
    assert CallInfo.from_error(raised.value).caller == "nightly"


def test_a_users_own_revoke_wins(make_busy):
    shop = make_busy()
    low = shop.tasks.deaf.delay("ollama/x", "everything")
    begun(shop)
    shop.tasks.echo.apply_async(("ollama/x",), lane_priority=10)

    shop.tasks.app.control.revoke(low.id, terminate=True, signal="SIGKILL")

    with pytest.raises(TaskRevokedError):
        low.get(timeout=15)
    until(lambda: waiting(shop) == 0)


def test_a_chord_hears_nothing_of_it(make_busy):
    shop = make_busy(cap=2)
    tasks = shop.tasks
    members = [tasks.polite.s("ollama/x", 2), tasks.polite.s("ollama/x", 2)]
    result = chord(members)(tasks.total.s())
    until(lambda: tasks.marked().count("begun") == 2, timeout_s=20)

    tasks.echo.apply_async(("ollama/x",), lane_priority=10).get(timeout=15)

    assert result.get(timeout=20) == 3  # one at its first attempt, one at its second


def test_a_worker_that_has_not_been_told_of_preemption_goes_on_with_its_calls(make_shop):
    lane = '[lanes.ollama]\nmax_concurrent = 1\npriority_scope = "lane"\n'
    shop = make_shop(rest=lane)
    old = shop.worker(concurrency=1)
    shop.configure(rest=f"{lane}preemption = true\nmin_runtime = 0")
    shop.worker(concurrency=1).stop()  # it has told the store
    low = shop.tasks.sleep.apply_async(("ollama/x", 3), **LOW)
    old.wait_for_log("begins to sleep")

    vip = shop.tasks.echo.apply_async(("ollama/x", "vip"), lane_priority=10)

    assert low.get(timeout=15) == "slept"
    assert vip.get(timeout=15) == "vip"
