"""What the store thread must leave to the thread that owns the pool."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from celery import Celery
from celery.concurrency.solo import TaskPool

from celery_lanes import Lanes, Settings
from celery_lanes.store.attempts import Closing, Grant, Outcome, Reason
from celery_lanes.worker import step
from celery_lanes.worker.attempt import Attempt
from celery_lanes.worker.postman import HubPostman
from celery_lanes.worker.step import WorkerLanes, _checked


def test_the_pool_grows_in_the_thread_that_opens_the_mail_and_not_in_the_store_thread():
    """A forked child ends with the thread that forked it."""
    grown_in = []
    lanes = WorkerLanes(
        worker=SimpleNamespace(hostname="w"), parts=SimpleNamespace(open_store=None)
    )
    lanes.postman = HubPostman()
    lanes._view = SimpleNamespace(grow=lambda: grown_in.append(threading.get_ident()))

    store_thread = threading.Thread(target=lanes.grow)
    store_thread.start()
    store_thread.join()
    assert grown_in == []

    lanes.postman.stop()  # opens what has come
    assert grown_in == [threading.get_ident()]


def test_a_call_that_was_asked_for_before_its_consumer_was_cancelled_goes_back():
    settings = SimpleNamespace(lane_of_queue=lambda queue: queue)
    lanes = WorkerLanes(
        SimpleNamespace(hostname="w"), SimpleNamespace(open_store=None, settings=settings)
    )
    started, released = [], []
    start = SimpleNamespace(start=lambda attempt: attempt.claim() and started.append(attempt.lane))
    lanes.dispatcher = start

    for queues in (["a", "b"], ["a"]):
        lanes.open(queues)
        for lane in ("a", "b"):
            lanes._dispatch(Attempt(lane, Grant(lane, "t", "ann", 1, 0, b""), released.append))

    assert started == ["a", "b", "a"]
    assert [(attempt.lane, attempt.outcome) for attempt in released] == [("b", Outcome.BACK)]


@pytest.mark.parametrize("preempts", [True, False])
def test_a_worker_whose_settings_know_no_preemption_leaves_its_calls_alone(preempts):
    """As while a fleet is being told: its processes would end of the unknown signal."""
    settings = SimpleNamespace(
        preempts=preempts, lane=lambda _: SimpleNamespace(preempt_grace_s=1.0)
    )
    lanes = WorkerLanes(
        SimpleNamespace(hostname="w"), SimpleNamespace(open_store=None, settings=settings)
    )
    lanes.postman, told = HubPostman(), []
    lanes.dispatcher = SimpleNamespace(make_room=lambda attempt, _: told.append(attempt.lane))

    lanes.make_room(Attempt("a", Grant("a", "t", "ann", 1, 0, b""), None))
    lanes.postman.stop()

    assert bool(told) is preempts


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_result_that_another_worker_has_had_to_write_is_not_written(monkeypatch, is_ours):
    lanes, written = (
        WorkerLanes(SimpleNamespace(hostname="w"), SimpleNamespace(open_store=None)),
        [],
    )
    monkeypatch.setattr(step, "write_result", lambda _, closing: written.append(closing))
    closing = Closing("c", "t", Reason.CANCELLED, b"")
    lanes.agent._share("a").closings["c"] = replace(closing) if not is_ours else closing
    lanes.postman = HubPostman()

    lanes.close("a", closing)
    lanes.postman.stop()

    assert bool(written) is is_ours


@pytest.mark.parametrize("durability", ["store", "aof"])
@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_a_worker_starts_while_its_store_is_away(scheme, durability):
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # and does not listen
        url = f"{scheme}://127.0.0.1:{unheard.getsockname()[1]}"
        app = Celery("shop", broker="memory://", set_as_current=False)
        Lanes(app, Settings.parse({"store": {"url": url, "durability": durability}}))

        assert _checked(SimpleNamespace(app=app, pool_cls=TaskPool))
