"""Calls that are taken back before they run, by our words and by Celery's."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from celery import chord
from celery.exceptions import ChordError, TaskRevokedError
from celery.exceptions import TimeoutError as GaveUp

from celery_lanes import CallInfo
from celery_lanes.errors import NotQueued
from tests.integration.conftest import running, until, waiting

ONE_SLOT = "[lanes.ollama]\nmax_concurrent = 1"


def by_the_result(shop, result):
    result.revoke()


def by_a_list_of_ids(shop, result):
    shop.tasks.app.control.revoke([result.id, "another"])


def by_terminate(shop, result):
    shop.tasks.app.control.terminate(result.id)


def by_celerys_command(shop, result):
    command = [sys.executable, "-m", "celery", "-A", "tests.integration.shop", "control"]
    subprocess.run(
        [*command, "-t", "0.1", "revoke", result.id], env=shop.full_env, capture_output=True,
        check=False,  # it calls it a failure that no worker answers
    )  # fmt: skip


@pytest.mark.parametrize(
    "revoke", [by_the_result, by_a_list_of_ids, by_terminate, by_celerys_command]
)
def test_a_call_that_is_revoked_with_no_worker_up_never_runs(shop, observer, revoke):
    ask = shop.tasks.ask.s("ollama/x", observer.url, "hi").set(caller="ann")
    body = chord([ask], shop.tasks.total.s()).apply_async()
    (result,) = body.parent.results
    until(lambda: waiting(shop) == 1)

    revoke(shop, result)
    assert waiting(shop) == 0
    with pytest.raises(TaskRevokedError, match="cancelled"):
        result.get(timeout=15)
    assert body.state == "PENDING"
    shop.worker()

    with pytest.raises(ChordError, match="cancelled"):
        shop.tasks.app.AsyncResult(body.id).get(timeout=15)
    again = shop.tasks.app.AsyncResult(result.id)
    assert (again.state, CallInfo.from_error(again.result).caller) == ("REVOKED", "ann")
    assert shop.tasks.echo.delay("ollama/x", 1).get(timeout=10) == 1
    assert observer.served == 0


def test_a_waiting_call_is_cancelled_at_once_and_a_running_or_ended_one_is_not(make_shop):
    shop = make_shop(rest=ONE_SLOT)
    worker = shop.worker(concurrency=2)
    ended = shop.tasks.echo.delay("ollama/x", 0)
    assert ended.get(timeout=10) == 0
    runs = shop.tasks.sleep.delay("ollama/x", 30)
    worker.wait_for_log("begins to sleep")  # the ended one's slot may still count as running
    waits = shop.tasks.echo.apply_async(("ollama/x", 1), caller="alice")

    assert waits.cancel() == {"ollama": 1}

    with pytest.raises(TaskRevokedError, match="cancelled") as caught:
        waits.get(timeout=10)
    assert CallInfo.from_error(caught.value).caller == "alice"
    for result in (runs, ended, shop.tasks.app.AsyncResult("never")):
        with pytest.raises(NotQueued, match=result.id):
            result.cancel()
    assert not runs.ready()
    worker.kill()  # it would wait for that


def test_a_call_that_nobody_waits_for_any_more_is_cancelled_if_it_has_not_begun(make_shop):
    shop = make_shop(rest=ONE_SLOT)
    shop.worker(concurrency=2)
    runs = shop.tasks.sleep.delay("ollama/x", 3)
    until(lambda: running(shop) == 1)

    with pytest.raises(GaveUp):
        shop.tasks.lanes.call(shop.tasks.echo.s("ollama/x", 1), timeout=0.3)

    assert waiting(shop) == 0
    assert runs.get(timeout=15)
    assert shop.tasks.lanes.call(shop.tasks.echo.s("ollama/x", 2), timeout=15) == 2
    with pytest.raises(ValueError, match="boom"):
        shop.tasks.lanes.call(shop.tasks.fail.s("ollama/x"), timeout=15)


def test_a_call_that_runs_goes_on_when_nobody_waits_for_it_any_more(shop, observer):
    observer.service = 4.0
    shop.worker()

    with pytest.raises(GaveUp):
        shop.tasks.lanes.call(shop.tasks.ask.s("ollama/x", observer.url, "hi"), timeout=2)

    until(lambda: observer.served == 1)


@pytest.mark.parametrize("broker", ["redis", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def test_what_the_broker_still_has_is_cancelled_when_it_comes(make_shop, observer, broker):
    shop = make_shop(broker, defaults='intake = "broker"', rest=ONE_SLOT)
    result = shop.tasks.ask.delay("ollama/x", observer.url, "hi")

    with pytest.raises(NotQueued):
        shop.tasks.lanes.cancel(result)
    shop.worker()

    with pytest.raises(TaskRevokedError, match="cancelled"):
        result.get(timeout=15)
    assert shop.tasks.echo.delay("ollama/x", 1).get(timeout=10) == 1
    assert observer.served == 0


@pytest.mark.parametrize("word", ["lanes", "celery"])
def test_all_that_waits_of_a_caller_is_cancelled(shop, word):
    hers = [shop.tasks.echo.apply_async(("ollama/x", n), caller="alice") for n in range(3)]
    his = shop.tasks.echo.apply_async(("ollama/x", 7), caller="bob")

    if word == "lanes":
        assert shop.tasks.lanes.cancel_caller("alice") == {"ollama": 3}
    else:
        shop.tasks.app.control.revoke_by_stamped_headers({"caller": ["alice", "nobody"]})
    shop.worker()

    assert his.get(timeout=15) == 7
    for result in hers:
        with pytest.raises(TaskRevokedError, match="cancelled"):
            result.get(timeout=10)


def test_a_revoke_meant_for_one_worker_leaves_what_waits(shop):
    shop.tasks.echo.delay("ollama/x", 1)

    result = shop.tasks.echo.delay("ollama/x", 2)
    shop.tasks.app.control.revoke(result.id, destination=["another@host"])

    assert waiting(shop) == 2


def test_a_result_that_can_be_cancelled_is_celerys_in_all_else(shop):
    result = shop.tasks.echo.delay("ollama/x", 1)

    again = pickle.loads(pickle.dumps(result))

    assert (type(again), again.id) == (type(result), result.id)
    assert isinstance(result, shop.tasks.app.AsyncResult)
    assert again.cancel() == {"ollama": 1}
