"""What becomes of a call whose body is stopped: Celery's own pools, strategy and requests."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from unittest.mock import Mock

import gevent
import pytest
from celery import Celery
from celery.concurrency import gevent as green
from celery.concurrency import thread
from celery.contrib.testing.app import setup_default_app
from celery.worker import state
from gevent.event import Event as GreenEvent
from kombu import serialization, uuid

from celery_lanes import Lanes, Settings
from celery_lanes.envelope import Envelope
from celery_lanes.store.attempts import Grant, Outcome
from celery_lanes.worker.attempt import Attempt
from celery_lanes.worker.consumer import LaneConsumer
from celery_lanes.worker.dispatch import Dispatcher
from celery_lanes.worker.pools import pool_view

SETTINGS = Settings.parse({"lanes": {name: {"acks": name} for name in ("task", "late", "early")}})
LATE, EARLY = {"acks_late": True}, {"acks_late": False}


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("shop", broker="memory://", backend="cache+memory://")
    with setup_default_app(app):
        app.set_current()
        app.set_default()  # for threads
        Lanes(app, SETTINGS)
        yield app
    for known in (state.active_requests, state.reserved_requests, state.successful_requests):
        known.clear()


class Stage:
    """A worker's pool of one place, and its dispatcher."""

    def __init__(self, app: Celery, pool) -> None:
        pool.start()
        self.app, self.pool, self.ended, self.result = app, pool, [], None
        worker = SimpleNamespace(app=app, pool=pool, pool_putlocks=True, semaphore=None)
        self.dispatcher = Dispatcher(worker, SETTINGS, pool_view(worker))
        self.consumer = LaneConsumer.__new__(LaneConsumer)
        vars(self.consumer).update(
            app=app, hostname="me", event_dispatcher=None, connection_errors=(), pool=pool,
            controller=SimpleNamespace(state=state), task_buckets=defaultdict(lambda: None),
            on_task_message=set(),
        )  # fmt: skip

    def start(self, task, lane: str = "task") -> Attempt:
        """Hand a granted call to Celery."""
        self.dispatcher.forget(self.consumer)  # of tasks that it does not know
        headers, properties, body, _ = self.app.amqp.as_task_v2(uuid(), task.name)
        kind, encoding, payload = serialization.dumps(body, "json")
        envelope = Envelope(
            body=payload, content_type=kind, content_encoding=encoding,
            headers=headers, properties=properties,
        )  # fmt: skip
        self.result = task.AsyncResult(headers["id"])
        attempt = Attempt(lane, Grant("c", "t", "ann", 1, 0, envelope.pack()), self._released)
        self.dispatcher.start(attempt)
        return attempt

    def _released(self, attempt: Attempt) -> None:
        self.dispatcher.finished(attempt)
        self.ended.append(attempt)

    def stop_cold(self, attempt: Attempt) -> None:
        """Do to an active request what Celery does at a cold shutdown."""
        self.dispatcher.is_cold = True
        attempt.request.cancel(self.pool)


@pytest.mark.parametrize(
    ("pool", "make_event"),
    [(green.TaskPool, GreenEvent), (thread.TaskPool, threading.Event)],
    ids=["gevent", "threads"],
)
def test_a_call_that_comes_after_a_plain_task_into_the_last_place_goes_back(app, pool, make_event):
    """Behind it, it would hold its slot without running; and gevent's dispatcher would wait."""
    stage, may_end = Stage(app, pool(1)), make_event()
    stage.pool.apply_async(may_end.wait, callback=id)

    attempt = stage.start(sleeper(app)[0])
    ended = list(stage.ended)
    may_end.set()
    stage.pool.stop()

    assert (attempt.outcome, ended) == (Outcome.BACK, [attempt])


# -- gevent, whose pool gives the result of a body that ended well for a killed greenlet


@pytest.fixture
def stage(app) -> Stage:
    return Stage(app, green.TaskPool(1))


def sleeper(app, **options):
    begun = GreenEvent()

    @app.task(name="sleeper", **options)
    def sleeper():
        begun.set()
        gevent.sleep(60)

    return sleeper, begun


@pytest.mark.parametrize(
    ("lane", "acks", "outcome"),
    [
        ("task", LATE, Outcome.BACK),
        ("task", EARLY, Outcome.LOST),
        ("late", EARLY, Outcome.BACK),
        ("early", LATE, Outcome.LOST),
    ],
)
def test_a_greenlet_that_a_cold_shutdown_kills_has_not_ended_well(stage, lane, acks, outcome):
    task, begun = sleeper(stage.app, **acks)
    attempt = stage.start(task, lane)
    assert begun.wait(5)

    stage.stop_cold(attempt)
    stage.pool.stop()

    assert (attempt.outcome, stage.ended) == (outcome, [attempt])
    assert not state.successful_requests
    assert not stage.result.ready()  # RETRY, Celery 5.5 says


@pytest.mark.parametrize("is_quick", [False, True])
def test_a_greenlet_that_a_revoke_has_killed_neither_ends_well_nor_runs_again(
    stage, monkeypatch, is_quick
):
    """It may have ended before the backend has been told that it was revoked."""
    task, begun = sleeper(stage.app, **LATE)
    attempt = stage.start(task)
    assert begun.wait(5)
    write = stage.app.backend.mark_as_revoked

    def write_later(*args, **options):
        while is_quick and not stage.ended:
            gevent.sleep(0)
        write(*args, **options)

    monkeypatch.setattr(stage.app.backend, "mark_as_revoked", write_later)
    told = []
    monkeypatch.setattr(stage.app.backend, "mark_as_failure", lambda *a, **_: told.append(a))

    attempt.request.terminate(stage.pool, signal="KILL")
    stage.pool.stop()

    assert attempt.outcome is Outcome.FAILED
    assert stage.result.state == "REVOKED"
    assert not told


def test_a_greenlet_that_somebody_else_has_killed_is_a_failure_that_says_so(stage):
    task, begun = sleeper(stage.app, **LATE)
    attempt = stage.start(task)
    assert begun.wait(5)

    stage.pool.terminate_job(attempt.request.worker_pid)
    stage.pool.stop()

    assert attempt.outcome is Outcome.FAILED
    assert "without a result" in str(stage.result.result)


def test_an_end_that_the_result_backend_cannot_be_told_of_is_a_lost_one(stage, monkeypatch):
    """Settled, its result would be pending for ever."""
    task, begun = sleeper(stage.app, **LATE)
    attempt = stage.start(task)
    assert begun.wait(5)
    monkeypatch.setattr(task.backend, "get_state", Mock(side_effect=ConnectionError))

    stage.pool.terminate_job(attempt.request.worker_pid)
    stage.pool.stop()

    assert (attempt.outcome, attempt.release().outcome) == (Outcome.LOST, Outcome.LOST)


def test_a_body_that_ends_well_though_it_was_killed_keeps_its_end(stage):
    begun = GreenEvent()

    @stage.app.task(name="stubborn", acks_late=True)
    def stubborn():
        begun.set()
        try:
            gevent.sleep(60)
        except gevent.GreenletExit:
            return "saved"

    attempt = stage.start(stubborn)
    assert begun.wait(5)
    stage.stop_cold(attempt)
    stage.pool.stop()

    assert attempt.outcome is Outcome.DONE
    assert stage.result.result == "saved"


# -- threads, which cannot be stopped


@pytest.mark.parametrize("acks", [EARLY, LATE], ids=["early", "late"])
@pytest.mark.parametrize("ends", [Outcome.DONE, Outcome.FAILED])
def test_a_threads_body_that_a_cold_shutdown_could_not_stop_keeps_its_end(app, acks, ends):
    stage, begun, may_end = Stage(app, thread.TaskPool(1)), threading.Event(), threading.Event()

    @app.task(name="body", **acks)
    def body():
        begun.set()
        may_end.wait(10)
        return 1 if ends is Outcome.DONE else 1 / 0

    attempt = stage.start(body)
    assert begun.wait(10)
    stage.stop_cold(attempt)
    may_end.set()
    stage.pool.stop()

    assert attempt.outcome is ends
