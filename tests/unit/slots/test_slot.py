"""``lanes.slot``: slots for code that is no task, on a store in this process's memory."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from contextlib import ExitStack
from dataclasses import replace

import pytest
from celery import Celery

from celery_lanes import call_context
from celery_lanes.app import Lanes
from celery_lanes.config.settings import Settings
from celery_lanes.errors import (
    ConfigError,
    LaneBusy,
    LanesError,
    StoreError,
    StoreUnavailable,
    WaitCancelled,
)
from celery_lanes.slots import slot as slot_module
from celery_lanes.slots.holder import Holder
from celery_lanes.store.attempts import Outcome, Release
from celery_lanes.store.connect import open_store
from celery_lanes.store.memory.store import MemoryStore
from tests.waiting import pass_time, until

DEADLINE_S = 10


@pytest.fixture
def make_lanes():
    def make(**settings) -> Lanes:
        url = f"memory://{uuid.uuid4().hex}"
        table = {"max_concurrent": 1, "lease_ttl": "3s", **settings.pop("lane", {})}
        return Lanes(
            Celery(broker="memory://"),
            Settings.parse({"store": {"url": url}, "lanes": {"ollama": table}, **settings}),
        )

    return make


@pytest.fixture
def lanes(make_lanes) -> Lanes:
    return make_lanes()


def counts(lanes: Lanes) -> tuple[int, int]:
    now = lanes.parts.store.snapshot("ollama")
    return now.running, now.waiting


def ends_of(store: MemoryStore) -> list[Release]:
    """Note what the store is told of the ends of slots, once it has heard it."""
    ends, claim = [], store.claim

    def noted(lane, **said):
        answer = claim(lane, **said)
        ends.extend(said["releases"])
        return answer

    store.claim = noted
    return ends


class Waiter(threading.Thread):
    """Waits for a slot in a thread of its own, and keeps it until it is told."""

    def __init__(self, slot) -> None:
        super().__init__(daemon=True)
        self.slot, self.error = slot, None
        self.has_it, self.may_go = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        try:
            with self.slot:
                self.has_it.set()
                self.may_go.wait(DEADLINE_S)
        except LanesError as error:
            self.error = error
            self.has_it.set()

    def go(self) -> None:
        self.may_go.set()
        self.join(DEADLINE_S)
        assert not self.is_alive()


def test_a_slot_is_held_for_the_block_and_free_when_it_has_ended(lanes):
    with lanes.slot("ollama/llama3.1:8b", caller="alice") as slot:
        assert counts(lanes) == (1, 0)
        assert (slot.lane, slot.caller, slot.is_lost, slot.should_yield()) == (
            "ollama",
            "alice",
            False,
            False,
        )

    assert counts(lanes) == (0, 0)
    assert lanes.parts.store.snapshot("ollama").done_last_minute == 1


def test_a_slot_of_a_lane_by_name(lanes):
    with lanes.slot(lane="ollama"):
        assert counts(lanes) == (1, 0)


def test_the_block_of_another_waits_until_the_slot_is_given_back(lanes):
    first = Waiter(lanes.slot("ollama/x"))
    assert first.has_it.wait(DEADLINE_S)
    second = Waiter(lanes.slot("ollama/x"))
    until(lambda: counts(lanes) == (1, 1))
    assert not second.has_it.is_set()

    first.go()

    assert second.has_it.wait(DEADLINE_S)
    assert counts(lanes) == (1, 0)
    second.go()


def test_releasing_early_and_twice_is_legal(lanes):
    with lanes.slot("ollama/x") as slot:
        slot.release()
        assert counts(lanes) == (0, 0)
        slot.release()
        with lanes.slot("ollama/x"):
            slot.release()
            assert counts(lanes) == (1, 0)

    slot.release()
    assert counts(lanes) == (0, 0)
    assert lanes.parts.store.snapshot("ollama").done_last_minute == 2


def test_a_block_that_raises_gives_its_slot_back_and_says_nothing_of_service_times(lanes):
    with pytest.raises(KeyError), lanes.slot("ollama/x"):
        raise KeyError

    assert counts(lanes) == (0, 0)
    assert not lanes.parts.store._lanes["ollama"].times_ms


def test_the_real_cost_is_charged(make_lanes):
    lanes = make_lanes(lane={"cost": "tokens"})
    ends = ends_of(lanes.parts.store)

    with lanes.slot("ollama/x", cost=500) as slot:
        slot.release(cost=120)

    assert [(end.outcome, end.cost) for end in ends] == [(Outcome.DONE, 120)]


def test_whose_and_how_urgent_it_is_as_given_or_as_the_context_says(lanes):
    with lanes.slot("ollama/x"):
        with call_context(caller="bob", priority=7):
            waiters = [
                Waiter(lanes.slot("ollama/x")),
                Waiter(lanes.slot("ollama/x", caller="zoe", priority=0)),
            ]
        until(lambda: counts(lanes) == (1, 2))
        waiting = [r for r in lanes.parts.store._lanes["ollama"].records.values() if not r.token]
        assert sorted((r.call.caller, r.call.priority) for r in waiting) == [("bob", 7), ("zoe", 0)]

    for waiter in waiters:
        waiter.may_go.set()
    for waiter in waiters:
        waiter.go()


def test_who_would_wait_too_long_is_refused_at_once(lanes):
    with lanes.slot("ollama/x"):
        pass_time(0.06, because="so long a call of this lane takes")
    with lanes.slot("ollama/x"):
        begun_at = time.monotonic()
        with (
            pytest.raises(LaneBusy, match="would wait") as busy,
            lanes.slot("ollama/x", max_wait=0),
        ):
            pytest.fail("it was let in")

    assert time.monotonic() - begun_at < DEADLINE_S
    assert busy.value.position == 1
    assert busy.value.eta_s > 0
    assert busy.value.retry_after_s == busy.value.eta_s
    assert counts(lanes) == (0, 0)


def test_who_has_waited_too_long_is_told_where_it_stood(lanes):
    with lanes.slot("ollama/x"):
        waiter = Waiter(lanes.slot("ollama/x"))
        until(lambda: counts(lanes) == (1, 1))
        with pytest.raises(LaneBusy, match=r"within 0\.1s, and 1 others") as busy:
            lanes.slot("ollama/x", max_wait=0.1).__enter__()
        assert counts(lanes) == (1, 1)

    assert (busy.value.position, busy.value.eta_s, busy.value.retry_after_s) == (2, None, None)
    waiter.go()


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


def test_in_an_event_loop_waiters_leave_it_free(lanes):
    seen = []

    async def hold(number):
        async with lanes.slot("ollama/x", caller=f"c{number}"):
            seen.append(counts(lanes)[0])
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(*(hold(number) for number in range(30)))

    asyncio.run(main())

    assert seen == [1] * 30
    assert counts(lanes) == (0, 0)


def test_an_async_block_may_release_early_without_waiting(lanes):
    async def main():
        async with lanes.slot("ollama/x") as slot:
            slot.release()
            slot.release()
        assert counts(lanes) == (0, 0)

    asyncio.run(main())


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
            waiting = asyncio.create_task(_held(slot))
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


def test_a_preemptible_slot_is_asked_for_by_a_more_urgent_one(make_lanes):
    lanes = make_lanes(lane={"preemption": True, "min_runtime": 0})
    with lanes.slot("ollama/x", priority=-10, preemptible=True) as slot:
        urgent = Waiter(lanes.slot("ollama/x", priority=10))
        until(slot.should_yield)
        assert not slot.is_lost
        assert not urgent.has_it.is_set()

    assert urgent.has_it.wait(DEADLINE_S)
    assert urgent.error is None
    urgent.go()


def test_what_is_no_answer_is_refused(lanes):
    with pytest.raises(ValueError, match="expected preemptible to be True or False"):
        lanes.slot("ollama/x", preemptible="yes")


def test_slots_are_renewed_while_their_blocks_run(lanes):
    with lanes.slot("ollama/x") as slot:
        ledger = lanes.parts.store._lanes["ollama"]
        (call,) = ledger.leases
        first = ledger.leases[call]
        until(lambda: ledger.leases[call] > first + 100)
        assert not slot.is_lost


def test_a_lease_may_last_for_longer_than_the_system_can_wait(make_lanes):
    lanes = make_lanes(lane={"lease_ttl": "100d"})

    with lanes.slot("ollama/x"):
        pass_time(0.1, because="the thread goes to sleep")

    assert counts(lanes) == (0, 0)


def test_a_bucket_that_refills_lets_the_waiter_go_with_no_worker_there(make_lanes):
    lanes = make_lanes(lane={"max_concurrent": 5, "rate": "10/s"})

    for _ in range(3):
        with lanes.slot("ollama/x"):
            pass

    assert lanes.parts.store.snapshot("ollama").done_last_minute == 3


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
            asyncio.run(asyncio.wait_for(_held(lanes.slot("ollama/x", max_wait=600)), DEADLINE_S))
        assert not waiter.has_it.is_set()
        away.is_away = False

    assert waiter.has_it.wait(DEADLINE_S)
    waiter.go()


async def _held(slot) -> None:
    async with slot:
        pytest.fail("it was let in")


def test_a_longest_wait_holds_while_the_store_hangs(lanes, away, monkeypatch):
    monkeypatch.setattr(slot_module, "MARGIN_S", 0.1)
    goes_on, listen = threading.Event(), away.listen

    def hang(worker):
        goes_on.wait(3 * DEADLINE_S)
        return listen(worker)

    monkeypatch.setattr(away, "listen", hang)
    in_thread = Waiter(lanes.slot("ollama/x", max_wait=0.1))

    with pytest.raises(StoreUnavailable, match=r"no answer for ollama within 0\.2 s"):
        asyncio.run(asyncio.wait_for(_held(lanes.slot("ollama/x", max_wait=0.1)), DEADLINE_S))
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


def test_a_slot_is_for_one_block(lanes):
    slot = lanes.slot("ollama/x")
    with slot:
        pass

    with pytest.raises(LanesError, match="ask for another one"), slot:
        pytest.fail("it was let in")


def test_where_lanes_are_switched_off_slots_are_free(make_lanes):
    lanes = make_lanes(enabled=False)

    with ExitStack() as slots:
        for _ in range(9):
            slots.enter_context(lanes.slot("ollama/x"))

    assert counts(lanes) == (0, 0)


@pytest.mark.parametrize("model", ["quick", "best", "quick,openai/y"])
def test_an_alias_names_the_lane_of_its_first_model(make_lanes, model):
    lanes = make_lanes(aliases={"quick": "ollama/x,openai/y", "best": "quick"})

    with lanes.slot(model) as slot:
        assert (slot.lane, counts(lanes)) == ("ollama", (1, 0))


@pytest.mark.parametrize(
    ("wish", "complaint"),
    [
        ({}, "expected a model"),
        ({"model": "ollama/x", "lane": "ollama"}, "expected a model"),
        ({"model": "ollama"}, "or an alias, got 'ollama'; a lane has a name: slot"),
        ({"model": 3}, "expected model to be"),
        ({"lane": "olama"}, "did you mean ollama"),
        ({"model": "ollama/x", "max_wait": -1}, "expected max_wait to be a number of seconds"),
        ({"model": "ollama/x", "max_wait": "5s"}, "expected max_wait to be a number of seconds"),
        ({"model": "ollama/x", "max_wait": 1e13}, "expected max_wait to be a number of seconds"),
        (
            {"model": "ollama/x", "max_wait": float("nan")},
            "expected max_wait to be a number of seconds",
        ),
        ({"model": "ollama/x", "priority": 1001}, "expected priority to be a whole number"),
        ({"model": "ollama/x", "cost": 0}, "expected the cost"),
        ({"model": "ollama/x", "caller": "x" * 300}, "expected a caller of up to 256 bytes"),
    ],
    ids=str,
)
def test_odd_wishes_are_refused_before_anything_waits(lanes, wish, complaint):
    with pytest.raises((ValueError, ConfigError), match=complaint):
        lanes.slot(**wish)
