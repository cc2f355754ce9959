"""What monitors are told, whatever becomes of the broker."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from celery_lanes.journeys.crier import MOST
from celery_lanes.journeys.herald import EVENT, Herald
from celery_lanes.llm.chains.events import FailoverEvent

FAR_S = 30.0


class Broker:
    """An app whose broker can be away: then whoever sends an event waits."""

    def __init__(self) -> None:
        self.here, self.asked, self.told = threading.Event(), threading.Semaphore(0), []
        self.heard = threading.Semaphore(0)
        self.current_worker_task = SimpleNamespace(request=SimpleNamespace(id="t", hostname="w@h"))
        self.events = self

    @contextmanager
    def default_dispatcher(self, hostname):
        self.asked.release()
        assert self.here.wait(FAR_S)
        yield self
        self.heard.release()

    def send(self, type_, **fields):
        self.told.append((type_, fields))
        if fields["attempt"] == 0:
            raise OSError("cut off")


@pytest.fixture
def broker():
    broker = Broker()
    yield broker
    broker.here.set()


@pytest.fixture
def herald(broker):
    herald = Herald(broker)
    herald.sends_events = True
    return herald


def event(attempt):
    return FailoverEvent(
        kind="advance", ts=12.5, call_id="c", run_id="", caller="ann", spec="a/x", target="a/x",
        next_target=None, elapsed_s=1.0, attempt=attempt,
    )  # fmt: skip


def test_a_broker_that_is_away_holds_up_no_call_and_what_is_too_much_is_dropped(
    broker, herald, caplog
):
    herald(event(1))
    assert broker.asked.acquire(timeout=FAR_S)
    for attempt in range(2, MOST + 6):
        herald(event(attempt))

    assert broker.told == []
    broker.here.set()
    for _ in range(MOST + 1):
        assert broker.heard.acquire(timeout=FAR_S)

    assert [fields["attempt"] for _, fields in broker.told] == list(range(1, MOST + 2))
    assert broker.told[0][0] == EVENT
    assert broker.told[0][1].items() >= {"uuid": "t", "timestamp": 12.5, "caller": "ann"}.items()
    assert caplog.text.count("the broker takes no events") == 1
    assert caplog.text.count("missed 4 events") == 1


def test_an_event_that_fails_ends_no_others(broker, herald, caplog):
    broker.here.set()
    herald(event(0))
    herald(event(1))

    assert broker.heard.acquire(timeout=FAR_S)
    assert [fields["attempt"] for _, fields in broker.told] == [0, 1]
    assert "cut off" in caplog.text
