"""Every way to publish a task leads into the lane, by the store and by the broker alike.

Each is checked for the same: routed, attributed, run once, the result as in plain Celery.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import chain, chord, group
from celery.beat import ScheduleEntry, Scheduler
from kombu import Connection

from celery_lanes import call_context
from tests.integration.conftest import listening, until

ALICE = {"caller": "alice", "run_id": "run-17", "lane": "ollama"}


def by_delay(tasks: Any) -> Any:
    with call_context(caller="alice", run_id="run-17"):
        return tasks.whose.delay("ollama/x").get(timeout=15)


def by_apply_async(tasks: Any) -> Any:
    result = tasks.whose.apply_async(("ollama/x",), caller="alice", run_id="run-17")
    return result.get(timeout=15)


def by_signature(tasks: Any) -> Any:
    return tasks.whose.s("ollama/x").set(caller="alice", run_id="run-17").delay().get(timeout=15)


def by_send_task(tasks: Any) -> Any:
    name = "tests.integration.shop.whose"
    result = tasks.app.send_task(name, ("ollama/x",), caller="alice", run_id="run-17")
    return result.get(timeout=15)


def by_chain(tasks: Any) -> Any:
    steps = chain(tasks.echo.si("ollama/a", 1), tasks.whose.si("ollama/x"))
    with call_context(caller="alice", run_id="run-17"):
        return steps.delay().get(timeout=15)


def by_group(tasks: Any) -> Any:
    with call_context(caller="alice", run_id="run-17"):
        seen = group(tasks.whose.s("ollama/x") for _ in range(3)).delay().get(timeout=15)
    assert seen[0] == seen[1] == seen[2]
    return seen[0]


def by_chord(tasks: Any) -> Any:
    header = [tasks.echo.s("ollama/a", n) for n in range(3)]
    with call_context(caller="alice", run_id="run-17"):
        return chord(header, tasks.whose.si("ollama/x")).delay().get(timeout=15)


def by_link(tasks: Any) -> Any:
    with call_context(caller="alice", run_id="run-17"):
        result = tasks.echo.apply_async(("ollama/a", 1), link=tasks.whose.si("ollama/x"))
        result.get(timeout=15)
    return result.children[0].get(timeout=15)


def by_parent(tasks: Any) -> Any:
    with call_context(caller="alice", run_id="run-17"):
        child = tasks.parent.delay("ollama/x").get(timeout=15)
    result = tasks.app.AsyncResult(child)
    until(result.ready)  # asks each time: another result object of this id may unsubscribe from it
    return result.result


def by_replace(tasks: Any) -> Any:
    with call_context(caller="alice", run_id="run-17"):
        return tasks.replaced.delay("ollama/x").get(timeout=15)


WAYS = [
    by_delay, by_apply_async, by_signature, by_send_task, by_chain, by_group, by_chord, by_link,
    by_parent, by_replace,
]  # fmt: skip


@pytest.fixture(params=["store", "broker"])
def served_shop(request: pytest.FixtureRequest, make_shop: Callable[..., Any]) -> Any:
    shop = make_shop(defaults=f'intake = "{request.param}"')
    shop.worker()
    return shop


def test_every_way_in_is_routed_attributed_and_run_once(served_shop):
    for way in WAYS:
        seen = way(served_shop.tasks)

        assert {key: seen[key] for key in ALICE} == ALICE, way.__name__
        assert seen["attempt"] == 1, way.__name__


def test_a_retry_stays_in_the_lane_and_keeps_its_caller(served_shop):
    with call_context(caller="alice"):
        retries = served_shop.tasks.flaky.delay("ollama/x").get(timeout=15)

    assert retries == 2


def test_an_errback_learns_whose_call_failed(served_shop, tmp_path):
    note = tmp_path / "note"
    errback = served_shop.tasks.noted.s(path=str(note))

    with call_context(caller="alice", run_id="run-17"):
        result = served_shop.tasks.fail.apply_async(("ollama/x",), link_error=errback)

    with pytest.raises(ValueError, match="boom"):
        result.get(timeout=15)
    until(lambda: note.exists() and note.read_text())
    assert note.read_text() == "alice run-17 boom"


def test_a_task_that_names_its_lane_goes_there(make_shop):
    shop = make_shop(rest='[lanes.gpu-imagine]\nmax_concurrent = 1\npolicy = "fifo"')
    shop.worker("gpu-imagine", "openai")

    assert shop.tasks.imagine.delay("a cat").get(timeout=15) == "a cat"
    assert shop.tasks.other_name.delay("hi", "openai/gpt-5").get(timeout=15) == "openai/gpt-5"
    assert shop.tasks.lanes.parts.store.lanes() == ["gpu-imagine", "openai"]


def test_an_eta_is_served_by_the_store_and_not_by_the_worker(served_shop):
    seen = served_shop.tasks.whose.apply_async(("ollama/x",), countdown=0.5).get(timeout=15)

    assert seen["eta"] is None
    assert seen["attempt"] == 1


def test_eager_mode_and_apply_carry_attribution_too(shop):
    tasks = shop.tasks
    tasks.app.conf.task_always_eager = True

    seen = tasks.whose.apply_async(("ollama/x",), caller="alice", run_id="r").get()

    assert (seen["caller"], seen["run_id"], seen["lane"]) == ("alice", "r", "")


def test_beat_publishes_into_the_lane_in_its_entrys_name(served_shop):
    app = served_shop.tasks.app
    entry = ScheduleEntry(
        name="nightly",
        task="tests.integration.shop.whose",
        schedule=60,
        args=("ollama/x",),
        options={"caller": "beat", "run_id": "nightly"},
        app=app,
    )

    result = Scheduler(app, lazy=True).apply_async(
        entry, producer=app.amqp.Producer(app.connection())
    )

    seen = result.get(timeout=15)
    assert (seen["caller"], seen["run_id"], seen["lane"]) == ("beat", "nightly", "ollama")


def test_a_publish_to_another_broker_is_left_alone(make_shop, make_store):
    shop, other = make_shop(), make_store()

    with Connection(other.url(0)) as elsewhere:
        shop.tasks.echo.apply_async(("ollama/x", 1), connection=elsewhere)
        message = elsewhere.SimpleQueue(shop.queue("ollama")).get(timeout=5)

    assert message.headers["task"] == "tests.integration.shop.echo"
    assert shop.tasks.lanes.parts.store.lanes() == []


def test_task_sent_events_go_to_the_broker_and_not_into_the_lane(shop):
    tasks, seen = shop.tasks, []
    tasks.app.conf.task_send_sent_event = True

    with listening(tasks.app, "task-sent", seen):
        published = [tasks.echo.delay("ollama/x", 1)]
        until(lambda: seen or published.append(tasks.echo.delay("ollama/x", 1)))

    assert seen[0]["queue"] == shop.queue("ollama")
    assert tasks.lanes.parts.store.snapshot("ollama").waiting == len(published)
