"""Slots that come, go or end as something else happens."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from celery_lanes.errors import (
    StoreUnavailable,
    WaitCancelled,
)
from celery_lanes.slots.holder import Holder
from celery_lanes.store.attempts import Outcome
from celery_lanes.store.memory.store import MemoryStore
from tests.unit.slots.waiters import DEADLINE_S, Waiter, counts, ends_of, held
from tests.waiting import pass_time, until


class Racing(MemoryStore):
    """A store where the slot comes free in the very moment in which somebody stops to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.before_withdraw = lambda: None

    def withdraw(self, lane, **said):
        self.before_withdraw()
        return super().withdraw(lane, **said)


@pytest.fixture
def racing(lanes, monkeypatch) -> Racing:
    store = Racing()
    monkeypatch.setattr(lanes.parts, "open_store", lambda: store)
    return store


def raise_the_cap(store):
    return lambda: store.set_max_concurrent("ollama", 2)


def test_a_grant_that_comes_with_the_end_of_patience_is_the_waiters(lanes, racing):
    racing.before_withdraw = raise_the_cap(racing)

    with lanes.slot("ollama/x"), lanes.slot("ollama/x", max_wait=0.05):
        assert racing.snapshot("ollama").running == 2

    assert racing.snapshot("ollama").running == 0


def test_a_grant_that_comes_when_nobody_wants_it_any_more_goes_back(lanes, racing):
    racing.before_withdraw = raise_the_cap(racing)

    async def wait_and_be_cancelled():
        with lanes.slot("ollama/x"):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(lanes.slot("ollama/x").__aenter__(), 0.05)
            until(lambda: racing._lanes["ollama"].override == 2)
            until(lambda: racing.snapshot("ollama").running == 1)

    asyncio.run(wait_and_be_cancelled())
    assert (racing.snapshot("ollama").running, racing.snapshot("ollama").waiting) == (0, 0)


def test_no_waiter_wakes_without_a_grant(lanes):
    """Of many waiters one goes on with each slot that comes free; nobody else is disturbed."""
    running = Waiter(lanes.slot("ollama/x"))
    assert running.has_it.wait(DEADLINE_S)
    waiters = [Waiter(lanes.slot("ollama/x", caller=f"c{n}")) for n in range(20)]
    until(lambda: counts(lanes) == (1, 20))

    for left in range(20, 0, -1):
        running.go()
        until(lambda: sum(waiter.has_it.is_set() for waiter in waiters) == 1)
        assert counts(lanes) == (1, left - 1)
        (running,) = [waiter for waiter in waiters if waiter.has_it.is_set()]
        waiters.remove(running)

    running.go()


def test_a_cancelled_wait_is_withdrawn(lanes):
    async def main():
        async with lanes.slot("ollama/x"):
            waiting = asyncio.create_task(lanes.slot("ollama/x").__aenter__())
            await asyncio.to_thread(until, lambda: counts(lanes) == (1, 1))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await asyncio.to_thread(until, lambda: counts(lanes) == (1, 0))

    asyncio.run(main())


def test_a_cancellation_that_comes_with_the_slot_is_heard(lanes):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with lanes.slot("ollama/x"):
            slot = lanes.slot("ollama/x", max_wait=60)
            waiting = asyncio.create_task(held(slot))
            while slot._keeper is None:  # noqa: ASYNC110 # nobody says so
                await asyncio.sleep(0)
            slot._ticket.granted.add_done_callback(
                lambda _: loop.call_soon_threadsafe(waiting.cancel)
            )
        await waiting

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())

    with lanes.slot("ollama/x"):
        assert counts(lanes) == (1, 0)


def test_cancelling_a_caller_ends_its_waits(lanes):
    with lanes.slot("ollama/x", caller="ann"):
        waiter = Waiter(lanes.slot("ollama/x", caller="ann"))
        until(lambda: counts(lanes) == (1, 1))

        assert lanes.cancel_caller("ann") == {"ollama": 1}

        assert waiter.has_it.wait(DEADLINE_S)
        assert isinstance(waiter.error, WaitCancelled)
        assert counts(lanes) == (1, 0)


def test_a_slot_whose_lease_is_gone_says_so_and_gives_nothing_back(lanes):
    with lanes.slot("ollama/x") as slot:
        ledger = lanes.parts.store._lanes["ollama"]
        with lanes.parts.store._lock:
            ledger.leases[next(iter(ledger.leases))] = 0
            lanes.parts.store.reap("ollama")

        until(lambda: slot.is_lost)
        assert slot.should_yield()
        with lanes.slot("ollama/x"):
            slot.release()
            assert counts(lanes) == (1, 0)


def test_who_cannot_start_a_thread_is_told_and_so_is_the_next(lanes, monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "lanes-slots":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="can't start"):
                lanes.slot("ollama/x").__enter__()

    with lanes.slot("ollama/x"):
        assert counts(lanes) == (1, 0)


def test_an_interrupt_when_the_wish_is_out_leaves_no_slot_behind(lanes, monkeypatch):
    want = Holder.want

    def want_and_be_interrupted(holder, ticket):
        want(holder, ticket)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Holder, "want", want_and_be_interrupted)
        with pytest.raises(KeyboardInterrupt):
            lanes.slot("ollama/x").__enter__()

    with lanes.slot("ollama/x"):
        assert counts(lanes) == (1, 0)


def test_an_answer_that_is_older_than_its_lease_is_not_trusted(lanes, monkeypatch):
    class Slow(MemoryStore):
        """A store whose first answer that tells of a slot comes when the lease is over."""

        is_slow = True

        def claim(self, lane, **said):
            claim = super().claim(lane, **said)
            if self.is_slow and claim.granted:
                self.is_slow = False
                pass_time(1.1, because="it is a third of a lease")
                with self._lock:
                    self._lanes[lane].leases[claim.granted[0][0]] = 0
                    self.reap(lane)
            return claim

    store = Slow()
    store.configure("ollama", lanes.parts.rules("ollama"))
    monkeypatch.setattr(lanes.parts, "open_store", lambda: store)

    with pytest.raises(WaitCancelled), lanes.slot("ollama/x"):
        pytest.fail("it was let in")


def test_what_the_store_let_in_although_its_answer_was_lost_goes_back(lanes, monkeypatch):
    class Lossy(MemoryStore):
        is_lossy = True

        def admit(self, *args, **kwargs):
            verdicts = super().admit(*args, **kwargs)
            if self.is_lossy:
                raise StoreUnavailable
            return verdicts

    store = Lossy()
    store.configure("ollama", lanes.parts.rules("ollama"))
    monkeypatch.setattr(lanes.parts, "open_store", lambda: store)

    with pytest.raises(StoreUnavailable), lanes.slot("ollama/x"):
        pytest.fail("it was let in")

    store.is_lossy = False
    with lanes.slot("ollama/x"):
        assert store.snapshot("ollama").running == 1


def test_a_slot_that_nobody_here_has_asked_for_goes_back(make_lanes):
    """The server may execute an admit long after its sender has given it up."""
    lanes = make_lanes(lane={"max_concurrent": 2})
    ends = ends_of(lanes.parts.store)
    with lanes.slot("ollama/x"):
        (record,) = lanes.parts.store._lanes["ollama"].records.values()
        ghost = replace(record.call, id="ghost", task_id="ghost")

        lanes.parts.admit("ollama", [ghost])

        until(lambda: ends)
        assert [(end.call, end.outcome) for end in ends] == [("ghost", Outcome.BACK)]
        assert counts(lanes) == (1, 0)
