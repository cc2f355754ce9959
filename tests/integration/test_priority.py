"""How urgent a call is: every way to say it, and what becomes of it on the way."""

from __future__ import annotations

import pytest
from celery.beat import ScheduleEntry, Scheduler

from celery_lanes import call_context
from tests.integration.conftest import until, waiting


@pytest.mark.parametrize("intake", ["store", "broker"])
def test_calls_run_by_the_priority_that_publish_context_task_and_beat_give_them(make_shop, intake):
    shop = make_shop(rest=f'[lanes.ollama]\nmax_concurrent = 1\nintake = "{intake}"')
    tasks, store = shop.tasks, shop.tasks.lanes.parts.store
    store.set_paused("ollama", paused=True)
    by_beat(tasks, "beat", lane_priority=-5)
    tasks.mark.delay("ollama/x", "nothing")
    tasks.mark_soon.delay("ollama/x", "task")
    with call_context(priority=7):
        tasks.mark.delay("ollama/x", "context")
        tasks.mark_soon.apply_async(("ollama/x", "publish"), lane_priority=10)
    tasks.app.send_task(tasks.mark.name, ("ollama/x", "send_task"), lane_priority=1000)
    tasks.mark.s("ollama/x", "signature").set(lane_priority=-1000).delay()

    shop.worker(concurrency=1)
    until(lambda: waiting(shop) == 7)

    store.set_paused("ollama", paused=False)

    until(lambda: len(tasks.marked()) == 7)

    expected = ["send_task", "publish", "context", "task", "nothing", "beat", "signature"]
    assert tasks.marked() == expected


@pytest.mark.parametrize("intake", ["store", "broker"])
def test_levels_go_first_across_callers_where_the_lane_says_so(make_shop, intake):
    lane = f'max_concurrent = 1\nintake = "{intake}"\npriority_scope = "lane"'
    shop = make_shop(rest=f"[lanes.ollama]\n{lane}")
    tasks, store = shop.tasks, shop.tasks.lanes.parts.store
    store.set_paused("ollama", paused=True)
    for number in range(2):
        tasks.mark.apply_async(("ollama/x", f"ann {number}"), caller="ann")
        tasks.mark.apply_async(("ollama/x", f"bob {number}"), caller="bob", lane_priority=10)
        by_beat(tasks, f"beat {number}", caller="beat", lane_priority=-5)
    shop.worker(concurrency=1)
    until(lambda: waiting(shop) == 6)

    store.set_paused("ollama", paused=False)

    until(lambda: len(tasks.marked()) == 6)
    assert tasks.marked() == ["bob 0", "bob 1", "ann 0", "ann 1", "beat 0", "beat 1"]


def test_a_retry_and_a_replacement_keep_their_priority(served_shop):
    tasks = served_shop.tasks

    retried = tasks.retried.apply_async(("ollama/x",), caller="alice", lane_priority=7)
    replaced = tasks.replaced.apply_async(("ollama/x",), caller="alice", lane_priority=-7)

    assert retried.get(timeout=15) == {"caller": "alice", "priority": 7}
    assert replaced.get(timeout=15)["priority"] == -7


def test_a_child_inherits_its_caller_and_is_as_urgent_as_its_context_says(served_shop):
    tasks = served_shop.tasks

    with call_context(caller="alice", priority=10):
        plain = tasks.parent.delay("ollama/x").get(timeout=15)
        urgent = tasks.urgent_parent.delay("ollama/x").get(timeout=15)

    seen = [tasks.app.AsyncResult(child).get(timeout=15) for child in (plain, urgent)]
    assert [(child["caller"], child["priority"]) for child in seen] == [
        ("alice", None),
        ("alice", 7),
    ]


@pytest.fixture(params=["store", "broker"])
def served_shop(request, make_shop):
    shop = make_shop(defaults=f'intake = "{request.param}"')
    shop.worker()
    return shop


def by_beat(tasks, text, **options):
    entry = ScheduleEntry(
        name="nightly",
        task=tasks.mark.name,
        schedule=60,
        args=("ollama/x", text),
        options=options,
        app=tasks.app,
    )
    producer = tasks.app.amqp.Producer(tasks.app.connection())
    Scheduler(tasks.app, lazy=True).apply_async(entry, producer=producer)
