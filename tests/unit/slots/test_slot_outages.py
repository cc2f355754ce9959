"""Slots of a store that is away, hangs, or takes nothing new."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from celery_lanes.app import Lanes
from celery_lanes.errors import (
    LaneBusy,
    StoreError,
    StoreUnavailable,
)
from celery_lanes.slots import slot as slot_module
from celery_lanes.store.connect import open_store
from celery_lanes.store.memory.store import MemoryStore
from tests.unit.slots.waiters import DEADLINE_S, Waiter, held
from tests.waiting import until


class Away(MemoryStore):
    """A store that can be away."""

    is_away = False

    def _open(self, lane):
        self._answer()
        return super()._open(lane)

    def listen(self, worker):
        self._answer()
        return super().listen(worker)

    def _answer(self):
        if self.is_away:
            raise StoreUnavailable


@pytest.fixture
def away(lanes, monkeypatch) -> Away:
    store = Away()
    monkeypatch.setattr(lanes.parts, "open_store", lambda: store)
    return store


def test_without_the_store_there_is_no_slot(lanes, away):
    away.is_away = True

    with pytest.raises(StoreUnavailable), lanes.slot("ollama/x"):
        pytest.fail("it was let in")

    away.is_away = False
    with lanes.slot("ollama/x"):
        assert away.snapshot("ollama").running == 1


def test_who_asks_when_the_store_has_gone_is_told_whatever_its_patience(lanes, away):
    with lanes.slot("ollama/x"):
        waiter = Waiter(lanes.slot("ollama/x"))
        until(lambda: away.snapshot("ollama").waiting == 1)
        away.is_away = True
        late = [Waiter(lanes.slot("ollama/x", max_wait=wait)) for wait in (None, 0, 600)]

        for one in late:
            assert one.has_it.wait(DEADLINE_S)
            assert isinstance(one.error, StoreUnavailable)
        with pytest.raises(StoreUnavailable):
            asyncio.run(asyncio.wait_for(held(lanes.slot("ollama/x", max_wait=600)), DEADLINE_S))
        assert not waiter.has_it.is_set()
        away.is_away = False

    assert waiter.has_it.wait(DEADLINE_S)
    waiter.go()


def test_a_longest_wait_holds_while_the_store_hangs(lanes, away, monkeypatch):
    monkeypatch.setattr(slot_module, "MARGIN_S", 0.1)
    goes_on, listen = threading.Event(), away.listen

    def hang(worker):
        goes_on.wait(3 * DEADLINE_S)
        return listen(worker)

    monkeypatch.setattr(away, "listen", hang)
    in_thread = Waiter(lanes.slot("ollama/x", max_wait=0.1))

    with pytest.raises(StoreUnavailable, match=r"no answer for ollama within 0\.2 s"):
        asyncio.run(asyncio.wait_for(held(lanes.slot("ollama/x", max_wait=0.1)), DEADLINE_S))
    assert in_thread.has_it.wait(DEADLINE_S)
    assert isinstance(in_thread.error, StoreUnavailable)

    goes_on.set()
    with lanes.slot("ollama/x"):  # what was given up has gone
        assert away.snapshot("ollama").running == 1


def test_a_store_that_cannot_be_opened_is_told_to_who_asks(make_lanes, monkeypatch):
    lanes = make_lanes()
    monkeypatch.setattr(lanes.parts, "open_store", lambda: open_store("nowhere://"))

    waiter = Waiter(lanes.slot("ollama/x", max_wait=600))

    assert waiter.has_it.wait(DEADLINE_S)
    assert isinstance(waiter.error, StoreError)
    assert "nowhere" in str(waiter.error)


def test_who_waits_waits_on_while_the_store_is_away(lanes, away):
    with lanes.slot("ollama/x"):
        waiter = Waiter(lanes.slot("ollama/x"))
        impatient = Waiter(lanes.slot("ollama/x", max_wait=0.3))
        until(lambda: away.snapshot("ollama").waiting == 2)
        away.is_away = True
        assert impatient.has_it.wait(DEADLINE_S)
        assert isinstance(impatient.error, LaneBusy)
        assert not waiter.has_it.is_set()
        away.is_away = False

    assert waiter.has_it.wait(DEADLINE_S)
    assert waiter.error is None
    waiter.go()
    until(lambda: away.snapshot("ollama").waiting == 0)


class Full(MemoryStore):
    """A store that can be full: it takes nothing new, and keeps what it has."""

    is_full = False

    def admit(self, *args, **how):
        if self.is_full:
            raise StoreUnavailable
        return super().admit(*args, **how)


@pytest.fixture
def full(lanes, monkeypatch) -> Full:
    store = Full()
    monkeypatch.setattr(lanes.parts, "open_store", lambda: store)
    return store


def ask_in_vain(lanes: Lanes, *, until_when) -> None:
    """Ask for a slot again and again, as the visitors of a web site do."""
    deadline = time.monotonic() + DEADLINE_S
    while not until_when():
        assert time.monotonic() < deadline, "it did not come to pass"
        with pytest.raises(StoreUnavailable):
            lanes.slot("ollama/x", caller="visitor").__enter__()


def test_wishes_that_a_full_store_refuses_cost_nobody_the_lease(lanes, full):
    with lanes.slot("ollama/x") as slot:
        full.is_full = True
        ledger = full._lanes["ollama"]
        for _ in range(2):
            ((call, last),) = ledger.leases.items()
            ask_in_vain(lanes, until_when=lambda c=call, t=last: ledger.leases[c] > t + 100)
        assert not slot.is_lost


def test_a_slot_that_cannot_be_renewed_may_be_lost_until_the_store_says_it_is_not(lanes, away):
    with lanes.slot("ollama/x") as slot:
        assert not slot.is_lost
        away.is_away = True
        until(slot.should_yield)
        assert slot.is_lost

        away.is_away = False
        until(lambda: not slot.is_lost)
    assert not slot.is_lost


def test_what_is_asked_for_while_the_store_is_away_is_not_withdrawn_one_by_one(lanes, away):
    """After a long outage there would be thousands, and leases that nobody renews meanwhile."""
    withdrawn = []
    with lanes.slot("ollama/x"):
        away.withdraw = lambda _lane, **said: withdrawn.append(said["call"])
        away.is_away = True
        for _ in range(5):
            with pytest.raises(StoreUnavailable):
                lanes.slot("ollama/x").__enter__()
        away.is_away = False

    assert len(withdrawn) <= 1


def test_a_lane_whose_node_is_away_costs_other_lanes_no_slot(make_lanes, monkeypatch):
    class Cluster(MemoryStore):
        """A store whose node for one lane can be away."""

        away = ""

        def _open(self, lane):
            if lane == self.away:
                raise StoreUnavailable
            return super()._open(lane)

    lanes, store = make_lanes(rules=[{"match": "gpu/*", "lane": "gpu"}]), Cluster()
    monkeypatch.setattr(lanes.parts, "open_store", lambda: store)
    with lanes.slot("gpu/x") as lost, lanes.slot("ollama/x") as slot:
        store.away = "gpu"
        ledger = store._lanes["ollama"]
        (call,) = ledger.leases
        for _ in range(2):
            last = ledger.leases[call]
            until(lambda last=last: ledger.leases[call] > last + 100)
        assert not slot.is_lost
        store.away = ""
    assert not lost.is_lost
