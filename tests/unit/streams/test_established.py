"""What a running task says of its call: told to its lane, or, if that cannot be, to nobody."""

from __future__ import annotations

import pytest
from celery import Celery
from celery.app.task import Context

from celery_lanes import Lanes, Settings
from celery_lanes.callinfo import HEADER
from celery_lanes.errors import StoreUnavailable


@pytest.fixture
def lanes():
    app = Celery("shop", broker="memory://", set_as_current=False)
    tables = {"short": {"stream_slot": "establish"}, "long": {}}
    yield Lanes(app, Settings.parse({"store": {"url": "memory://running"}, "lanes": tables}))
    app.close()


def within(lane):
    return Context({HEADER: {"lane": lane, "nonce": "c1", "token": "x"}})


def test_a_stream_gives_its_slot_back_early_only_where_its_lane_says_so(lanes, monkeypatch):
    told = []
    monkeypatch.setattr(
        lanes.parts.store, "establish", lambda *at, **whose: told.append((at, whose))
    )

    for request in (within("short"), within("long"), Context({})):
        lanes.established(request)

    assert told == [(("short",), {"call": "c1", "token": "x"})]


def test_a_stream_keeps_its_slot_if_its_store_is_away(lanes, monkeypatch, caplog):
    def fail(*_, **__):
        raise StoreUnavailable

    monkeypatch.setattr(lanes.parts.store, "establish", fail)

    lanes.established(within("short"))

    assert "c1 keeps its slot to its end" in caplog.text
