"""Bodies of every kind of task make room, in Celery's own tracer: real signals, in this process."""

from __future__ import annotations

import os
import signal

import pytest
from celery import Celery, Task
from celery.app import trace
from celery.app.trace import build_tracer

from celery_lanes import Lanes, Settings
from celery_lanes.worker import body
from celery_lanes.worker.body import ASKED_BY, Yielded

HEADER = {"lane": "ollama", "nonce": "n", "token": "t"}


def tell():
    os.kill(os.getpid(), ASKED_BY)
    return "went on"


class OwnCall(Task):
    """As many a code base has one: around each body, with Celery's Task as its base."""

    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)


class OwnRun(Task):
    name = "own-run"

    def run(self, model):
        return tell()


@pytest.fixture
def app():
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    Lanes(app, Settings())
    before = signal.getsignal(ASKED_BY)
    trace._install_stack_protection()  # as a worker does: one request for a task and its body
    body.listen()
    yield app
    signal.signal(ASKED_BY, before)
    trace.reset_worker_optimizations(app)


def bound(self, model):
    return tell()


def unbound(model):
    return tell()


KINDS = {
    "plain": lambda app: app.task(unbound, name="plain"),
    "bound": lambda app: app.task(bound, name="bound", bind=True),
    "own call": lambda app: app.task(unbound, name="own-call", base=OwnCall),
    "own run": lambda app: app.register_task(OwnRun()),
    "autoretry": lambda app: app.task(
        unbound, name="autoretry", base=OwnCall, autoretry_for=(Exception,)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_body_of_a_task_makes_room(app, kind):
    task = app.tasks[KINDS[kind](app).name]
    body.watch(task, lambda _lane: 60.0)
    request = {"id": kind, "lanes": HEADER, "is_eager": False, "delivery_info": {}, "retries": 0}

    ended = build_tracer(task.name, task, app=app)(kind, ("m",), {}, request)

    assert ended.info.state == "IGNORED"
    assert isinstance(ended.retval.exception.exc, Yielded)
