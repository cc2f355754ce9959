"""The app's task class: what it is for tasks of every kind, whenever they were made."""

from __future__ import annotations

import uuid

import pytest
from celery import Celery
from celery.contrib.django.task import DjangoTask
from django.db import transaction

from celery_lanes import CallInfo, Lanes, Settings, call_context


def shop(**options: object) -> Celery:
    url = f"memory://{uuid.uuid4().hex}"
    return Celery("shop", broker=url, backend="cache+memory://", set_as_current=False, **options)


def with_lanes(app: Celery) -> Lanes:
    return Lanes(app, Settings.parse({"store": {"url": app.conf.broker_url}}))


def ask(model: str) -> None:
    """Do nothing."""


def waiting(lanes: Lanes) -> list[tuple[str, int]]:
    """Give caller and priority of each call that waits in lane ollama, in order."""
    records = lanes.parts.store._lanes["ollama"].records.values()
    return [(record.call.caller, record.call.priority) for record in records]


@pytest.mark.parametrize("is_finalized", [True, False])
def test_tasks_that_were_made_before_the_lanes_are_tasks_of_lanes(is_finalized):
    app = shop()

    class Base(app.Task):
        abstract = True

    @app.task(base=Base, bind=True)
    def whose(self, model):
        return CallInfo.from_request(self.request).caller

    if is_finalized:
        app.finalize()
    with_lanes(app)

    assert whose.apply(("ollama/x",), caller="alice").result == "alice"
    assert whose.should_yield() is False
    with pytest.raises(TypeError, match="did you mean caller"):
        whose.apply_async(("ollama/x",), caler="alice")


def test_an_app_may_be_given_lanes_anew():
    app = shop()
    task = app.task(ask)
    with_lanes(app)
    assert app.backend

    lanes = with_lanes(app)

    task.apply_async(("ollama/x",), caller="alice")
    assert waiting(lanes) == [("alice", 0)]


def test_a_publish_that_waits_for_a_commit_is_whose_it_was_when_it_was_asked_for(monkeypatch):
    app, at_commit = shop(task_cls=DjangoTask), []
    monkeypatch.setattr(transaction, "on_commit", at_commit.append)
    task = app.task(ask)
    lanes = with_lanes(app)

    with call_context(caller="alice", priority=5):
        task.delay_on_commit("ollama/x")
        task.apply_async_on_commit(("ollama/x",), lane_priority=2)
        task.apply_async_on_commit(("ollama/x",), caller="bob")
    for publish in at_commit:
        publish()

    assert waiting(lanes) == [("alice", 5), ("alice", 2), ("bob", 5)]
