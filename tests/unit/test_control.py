"""Celery's control, where there is no lane store to tell, and the ways stamps may be given."""

from __future__ import annotations

import logging
import pickle
import uuid

import pytest
from celery import Celery
from celery.app.control import Control
from celery.exceptions import TaskRevokedError

from celery_lanes import Lanes, Settings
from celery_lanes.control import LaneControl
from celery_lanes.errors import AlreadyStarted, NotQueued
from celery_lanes.store.calls import Call, fitting
from celery_lanes.store.rules import LaneRules, Policy
from celery_lanes.store.standing import Hold

MEMORY = {"broker_url": "memory://", "result_backend": "cache+memory://"}


@pytest.fixture
def app() -> Celery:
    app = Celery("control", set_as_current=False)
    app.conf.update(MEMORY)
    prefix = uuid.uuid4().hex  # the stores of a process are one
    Lanes(app, Settings(store={"prefix": prefix}, lanes={"a": {}, "b": {"intake": "broker"}}))
    return app


def park(app: Celery, *task_ids: str, lane: str = "a", caller: str = "ann", **fields) -> None:
    calls = [Call(id=f"n-{t}", task_id=t, task="x", caller=caller, **fields) for t in task_ids]
    app.lanes.parts.store.admit(lane, calls, policy=Policy.FAIR)


def waiting(app: Celery, lane: str = "a") -> int:
    return app.lanes.parts.store.snapshot(lane).waiting


@pytest.mark.parametrize(
    "headers",
    [{"caller": "ann"}, {"caller": ["ann", "bob"]}, ["caller=ann", "x=y"]],
    ids=["mapping", "many", "as-the-command-sends-it"],
)
def test_stamps_may_be_given_in_all_of_celerys_ways(app, headers):
    park(app, "1", "2")

    app.control.revoke_by_stamped_headers(headers)

    assert waiting(app) == 0


def test_ids_and_stamps_need_not_be_text(app):
    task_id = uuid.uuid4()
    park(app, str(task_id))
    park(app, "1", caller="5")

    app.control.revoke(task_id)
    app.control.revoke_by_stamped_headers({"caller": 5})

    assert waiting(app) == 0


def test_where_no_worker_is_up_who_cancels_writes_the_result(app):
    park(app, "1", "2")

    app.control.revoke("1")
    app.lanes.cancel("2")

    for task_id in ("1", "2"):
        with pytest.raises(TaskRevokedError, match="cancelled"):
            app.AsyncResult(task_id).get(timeout=0)
        assert app.lanes.position(task_id).reason is Hold.CLOSING  # a worker will do the rest


def test_what_has_a_result_keeps_it_and_a_worker_that_is_up_writes_its_own(app):
    park(app, "ended", "served")
    app.backend.mark_as_done("ended", 7)
    app.lanes.cancel("ended")
    app.lanes.parts.store.configure("a", LaneRules(max_concurrent=1))
    app.lanes.parts.store.next("a", worker="w", request=1, want=0)

    app.lanes.cancel("served")

    assert app.AsyncResult("ended").get(timeout=0) == 7
    assert app.AsyncResult("served").state == "PENDING"


def test_a_result_that_cannot_be_written_leaves_the_call_cancelled(app, monkeypatch, caplog):
    def away(*_, **__):
        raise ConnectionError("the backend is away")

    park(app, "1")
    monkeypatch.setattr(app.backend, "get_state", away)

    assert app.lanes.cancel("1") == {"a": 1}
    assert "1 is cancelled; a worker will have to write its result" in caplog.text


@pytest.mark.parametrize("destination", [[], None])
def test_a_revoke_for_nobody_in_particular_is_for_all(app, destination):
    park(app, "1")

    app.control.revoke("1", destination=destination)

    assert waiting(app) == 0


def test_other_commands_and_other_stamps_leave_what_waits(app):
    park(app, "1")

    app.control.ping(timeout=0.01)
    app.control.revoke_by_stamped_headers({"header": "ann"})
    app.control.revoke("another")

    assert waiting(app) == 1


def test_without_a_store_or_a_valid_file_control_works_as_celerys(tmp_path):
    app = Celery("plain", broker="amqp://nowhere//", set_as_current=False)
    app.conf.broker_url = "memory://"
    broken = tmp_path / "lanes.toml"
    broken.write_text("lanes = 3")
    Lanes(app, broken)

    assert app.control.ping(timeout=0.01) == []
    assert app.control.revoke("x", reply=True, timeout=0.01) == []


def test_a_revoke_that_the_store_does_not_hear_is_logged_and_answers(app, caplog):
    app.conf.broker_url = "memory://"
    away = Celery("away", set_as_current=False)
    away.conf.update(MEMORY)
    Lanes(away, Settings(store={"url": "redis://127.0.0.1:1/0"}))

    with caplog.at_level(logging.ERROR):
        assert away.control.revoke("x", reply=True, timeout=0.01) == []

    assert "only the workers know of this revoke" in caplog.text


def test_a_task_that_runs_in_one_lane_is_not_forbidden_in_another(app):
    store = app.lanes.parts.store
    store.configure("a", LaneRules(max_concurrent=1))
    park(app, "t")
    store.next("a", worker="w", request=1, want=1)

    with pytest.raises(AlreadyStarted):
        app.lanes.cancel("t")

    park(app, "t", lane="b", redelivery_ms=1)  # its retry, say, by the broker
    assert waiting(app, "b") == 1


def test_of_a_task_id_in_two_lanes_the_call_that_waits_stands(app):
    store = app.lanes.parts.store
    store.configure("a", LaneRules(max_concurrent=1))
    park(app, "t")
    store.next("a", worker="w", request=1, want=1)
    park(app, "t", lane="b")  # what replaces it, say

    assert app.lanes.position("t").lane == "b"
    assert app.lanes.position("t", lane="a").reason is Hold.RUNNING


def test_what_the_broker_may_still_have_is_forbidden_where_it_would_come(app):
    with pytest.raises(NotQueued, match="in the broker"):
        app.lanes.cancel("t")

    park(app, "t", lane="b", redelivery_ms=1)
    assert waiting(app, "b") == 0


def test_a_caller_whose_name_was_shortened_is_found_by_the_whole_name(app):
    park(app, "t", caller=fitting("x" * 300))

    assert app.lanes.cancel_caller("x" * 300) == {"a": 1}


def test_a_name_that_is_empty_cancels_nothing_unless_that_is_meant(app):
    park(app, "t", caller="")

    with pytest.raises(ValueError, match="expected the name of a caller"):
        app.lanes.cancel_caller("")
    app.control.revoke_by_stamped_headers({"caller": ""})
    assert waiting(app, "a") == 1

    assert app.lanes.cancel_caller("", anonymous=True) == {"a": 1}


def test_lanes_may_be_made_twice_and_own_classes_are_kept(app):
    class Own(Control):
        pass

    again = Celery("own", control=Own, set_as_current=False)
    again.conf.update(MEMORY)
    for _ in range(2):
        Lanes(again, Settings())
        Lanes(app, Settings())

    assert isinstance(again.control, Own)
    assert isinstance(again.control, LaneControl)
    assert len(app.AsyncResult.__mro__) == len(again.AsyncResult.__mro__)


def test_a_pickled_app_has_a_control_without_lanes(app):
    again = pickle.loads(pickle.dumps(app))

    assert again.control.ping(timeout=0.01) == []
    again.control.revoke("x")
