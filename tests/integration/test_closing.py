"""A closing is done to its end, also by a second worker after the first was cut short."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import redis
import sqlalchemy.exc
from celery import chord, states
from celery.exceptions import ChordError, WorkerLostError

from celery_lanes.envelope import Envelope
from celery_lanes.store.attempts import Closing, Reason
from celery_lanes.worker.closing import write_result
from tests.integration.conftest import until

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's backend


def closings_of(tasks) -> list[Closing]:
    """Take what waits, as a worker that is then lost."""
    lanes = tasks.lanes
    lanes.parts.store.configure("ollama", lanes.parts.rules("ollama"))
    turn = lanes.parts.store.next("ollama", worker="lost", request=1, want=4)
    return [Closing(grant.call, grant.token, Reason.LOST, grant.envelope) for grant in turn.grants]


def test_a_chord_part_is_reported_though_the_first_worker_got_no_further_than_the_result(
    shop, monkeypatch
):
    tasks = shop.tasks
    worker = SimpleNamespace(app=tasks.app, hostname="w@here", consumer=None)
    header = [tasks.add.s("ollama/x", 1), tasks.add.s("ollama/x", 2)]
    body = chord(header, tasks.total.s()).apply_async()
    closings = closings_of(tasks)

    with monkeypatch.context() as patch:
        patch.setattr(tasks.app.backend, "on_chord_part_return", _fail)
        for closing in closings:
            with pytest.raises(ConnectionError):
                write_result(worker, closing)
    assert [part.state for part in body.parent.results] == [states.FAILURE] * 2
    assert body.state == states.PENDING
    for closing in closings:
        write_result(worker, closing)

    until(lambda: body.state == states.FAILURE)
    assert isinstance(body.result, ChordError)


def test_a_result_that_the_body_wrote_stays(shop):
    tasks = shop.tasks
    worker = SimpleNamespace(app=tasks.app, hostname="w@here", consumer=None)
    done, lost = tasks.add.delay("ollama/x", 1), tasks.add.delay("ollama/x", 2)
    tasks.app.backend.store_result(done.id, 1, states.SUCCESS)

    for closing in closings_of(tasks):
        write_result(worker, closing)

    assert (done.state, done.result) == (states.SUCCESS, 1)
    assert isinstance(lost.result, WorkerLostError)


@pytest.mark.parametrize(
    "index", [["a"], {}, True, "first", ""], ids=["list", "dict", "true", "text", "empty"]
)
def test_a_lost_part_with_a_spoilt_place_in_its_chord_fails_the_chord(shop, index):
    tasks = shop.tasks
    worker = SimpleNamespace(app=tasks.app, hostname="w@here", consumer=None)
    body = chord([tasks.add.s("ollama/x", 1)], tasks.total.s()).apply_async()
    (closing,) = closings_of(tasks)
    envelope = Envelope.unpack(closing.envelope)
    envelope.headers["group_index"] = index

    write_result(worker, replace(closing, envelope=envelope.pack()))

    until(lambda: body.state == states.FAILURE)
    assert isinstance(body.result, ChordError)


@pytest.mark.parametrize(
    "error",
    [redis.DataError("a list"), sqlalchemy.exc.DataError("INSERT", {}, ValueError("too long"))],
    ids=["redis", "sqlalchemy"],
)
def test_a_call_whose_data_the_backend_refuses_is_not_tried_for_ever(shop, monkeypatch, error):
    tasks = shop.tasks
    worker = SimpleNamespace(app=tasks.app, hostname="w@here", consumer=None)
    tasks.add.delay("ollama/x", 1)
    (closing,) = closings_of(tasks)
    refused = Mock(side_effect=error)
    monkeypatch.setattr(tasks.app.backend, "mark_as_failure", refused)

    write_result(worker, closing)  # raises nothing: the caller would let another worker try

    refused.assert_called_once()


def _fail(*_: object, **__: object) -> None:
    raise ConnectionError("the backend is away")
