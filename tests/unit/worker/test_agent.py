"""The store thread's rounds, one by one: what one lane's trouble must not do to the others."""

from __future__ import annotations

import select
import time
from collections import Counter
from collections.abc import Callable, Iterator
from unittest.mock import Mock

import pytest
from billiard.pool import ApplyResult

from celery_lanes.errors import StoreError, StoreUnavailable
from celery_lanes.store.calls import Call
from celery_lanes.store.memory.store import MemoryStore
from celery_lanes.store.rules import LaneRules, Policy, Scope
from celery_lanes.worker import arrivals, conversation
from celery_lanes.worker import share as shares
from celery_lanes.worker.agent import Agent

PATIENCE_S = 10.0
LEASE_S = 30.0
AHEAD_S = 3600.0
"""A third of ``Source``'s leases."""


class Odd(MemoryStore):
    """A store that answers one verb, or any, of one lane with an error; it counts what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.refused, self.error = ("", ""), None
        self.heard = Counter()

    def renew(self, lane, **named):
        self._note("renew", lane)
        return super().renew(lane, **named)

    def next(self, lane, **asked):
        self._note("next", lane)
        return super().next(lane, **asked)

    def reap(self, lane):
        self._note("reap", lane)
        return super().reap(lane)

    def _note(self, *said: str) -> None:
        self.heard[said] += 1
        if self.refused in (said, ("any", said[1])):
            raise self.error


class Slow(MemoryStore):
    """A store whose answers to ``next`` are late, or lost."""

    def __init__(self, seconds: Seconds) -> None:
        super().__init__()
        self.delay_s, self.is_lost = 0.0, False
        self._seconds = seconds

    def next(self, lane, **asked):
        turn = super().next(lane, **asked)
        self._seconds.now += self.delay_s
        if self.is_lost:
            raise StoreUnavailable
        return turn


class Mute(MemoryStore):
    """A store whose wake-ups are lost on the way."""

    def _publish(self, worker, lane):
        return True


class Seconds:
    """The worker's own clock, as the test says."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


class Source:
    def rules(self, lane):
        return LaneRules(max_concurrent=1, lease_ttl_ms=30_000)

    def policy(self, lane):
        return Policy.FAIR

    def scope(self, lane):
        return Scope.CALLER


class Hands:
    """A pool that takes everything and ends nothing."""

    def __init__(self) -> None:
        self.room = 9
        self.started = []
        self.held = frozenset()

    def free(self):
        return self.room

    def dispatch(self, attempt):
        attempt.claim()
        attempt.is_placed = True
        self.started.append(attempt)

    def finished(self, attempt):
        pass

    def grow(self):
        pass

    def hold_intake(self, lanes):
        self.held = lanes


def park(store: MemoryStore, *lanes: str) -> None:
    for lane in lanes:
        store.admit(lane, [Call(id=lane, task_id=lane, task="x")], policy=Policy.FAIR)


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def agent_of(hands: Hands) -> Iterator[Callable[..., Agent]]:
    """Make an agent that asks a store for calls of these lanes; the test takes its rounds."""
    agents = []

    def make(store: MemoryStore, *lanes: str) -> Agent:
        agent = Agent(node="w", open_store=lambda: store, source=Source(), hands=hands)
        agent.open(lanes)
        agents.append(agent)
        return agent

    yield make
    for agent in agents:
        agent._link.close()


def work(agent: Agent, rounds: int = 4, *, is_tick: bool = True) -> None:
    """Take rounds without waiting for their time."""
    for _ in range(rounds):
        agent._retry_at = 0.0
        if is_tick:
            agent._tick_at = 0.0
        agent._work(heard=False)


def tend(agent: Agent) -> None:
    """Look after every lane once, also after those that rest."""
    for share in agent._shares.values():
        share.rests_until = 0.0
    work(agent, 1)


def work_until(agent: Agent, is_so: Callable[[], bool]) -> None:
    for _ in range(20):
        if is_so():
            return
        work(agent, 1, is_tick=False)
    pytest.fail("it did not come to pass in 20 rounds")


def test_a_lane_whose_node_is_away_does_not_cost_the_others_their_leases(agent_of, hands):
    store = Odd()
    agent = agent_of(store, "a", "b", "c")
    park(store, "a", "b", "c")
    work_until(agent, lambda: len(hands.started) == 3)
    store.heard.clear()
    store.refused, store.error = ("renew", "a"), StoreUnavailable("away")

    work(agent)

    assert store.heard["renew", "b"] >= 3
    assert store.heard["renew", "c"] >= 3


def test_a_lane_whose_node_is_away_does_not_keep_the_others_from_their_turns(agent_of, hands):
    store = Odd()
    agent = agent_of(store, "a", "b")
    work(agent)
    store.heard.clear()
    store.refused, store.error = ("any", "a"), StoreUnavailable("away")
    park(store, "a", "b")

    work(agent, is_tick=False)
    work(agent)

    assert [attempt.lane for attempt in hands.started] == ["b"]
    assert hands.held == {"a"}  # what comes by the broker for b, is taken
    assert store.heard["next", "a"] <= 1  # nor do the others wait for it again and again

    store.refused = ("", "")
    tend(agent)
    work_until(agent, lambda: len(hands.started) == 2)
    assert hands.held == frozenset()


def test_a_store_that_is_away_is_left_alone_for_a_while(agent_of, hands):
    store = Odd()
    agent = agent_of(store, "a")
    work(agent)
    store.refused, store.error = ("any", "a"), StoreUnavailable("away")

    agent._tick_at = 0.0
    agent._work(heard=False)
    assert 0 < agent._timeout_s() < 1
    assert hands.held == {"a"}

    store.refused = ("", "")
    work(agent, 1, is_tick=False)
    assert hands.held == frozenset()


def test_an_ear_that_is_lost_is_not_the_end_of_the_store(agent_of, hands, monkeypatch):
    store = MemoryStore()
    agent = agent_of(store, "a")
    work(agent)
    monkeypatch.setattr(agent._link.ears, "drain", Mock(side_effect=StoreUnavailable))
    park(store, "a")

    agent._work(heard=True)

    assert len(hands.started) == 1
    assert hands.held == frozenset()
    assert agent._link.ears is not None


# -- refusals


def test_a_lane_that_is_refused_its_renewal_is_passed_over_in_the_same_tick(agent_of, hands):
    store = Odd()
    agent = agent_of(store, "a", "b", "c")
    park(store, "a", "b", "c")
    work_until(agent, lambda: len(hands.started) == 3)
    store.heard.clear()
    store.refused, store.error = ("renew", "a"), StoreError("WRONGTYPE")

    work(agent, 1)

    assert [store.heard["renew", lane] for lane in "abc"] == [1, 1, 1]


def test_a_lane_that_is_refused_its_turns_holds_up_no_other(agent_of, hands):
    store = Odd()
    agent = agent_of(store, "a", "b", "c")
    store.refused, store.error = ("next", "a"), StoreError("WRONGTYPE")
    park(store, "a", "b", "c")

    for _ in range(20):
        agent._work(heard=False)

    assert sorted(attempt.lane for attempt in hands.started) == ["b", "c"]
    assert store.heard["next", "a"] == 1  # nor is the store asked again and again


def test_a_lane_that_was_refused_a_turn_is_served_when_it_may_be_again(agent_of, hands):
    store = Odd()
    agent = agent_of(store, "a")
    store.refused, store.error = ("next", "a"), StoreError("WRONGTYPE")
    park(store, "a")
    work(agent)

    store.refused = ("", "")
    agent._share("a").rests_until = 0.0

    work_until(agent, lambda: hands.started)
    assert [attempt.lane for attempt in hands.started] == ["a"]


@pytest.mark.parametrize("what", ["_timeout_s", "_round", "_went_away", "_is_done"])
def test_whatever_goes_wrong_the_thread_goes_on(agent_of, hands, monkeypatch, what):
    store = Odd()
    agent = agent_of(store, "a")
    park(store, "a")
    store.refused, store.error = ("next", "a"), StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(agent, what, Mock(side_effect=RuntimeError("a bug")))
        assert agent._goes_on()

    store.refused = ("", "")
    tend(agent)
    work_until(agent, lambda: hands.started)


# -- asking again


def test_a_call_whose_wake_up_was_lost_is_found_by_the_tick(agent_of, hands):
    store = Mute()
    agent = agent_of(store, "a")
    work(agent)
    park(store, "a")
    work(agent, is_tick=False)
    assert hands.started == []

    work(agent, 1)

    assert len(hands.started) == 1


def test_a_place_that_a_plain_task_has_left_is_asked_for_at_once(agent_of, hands):
    store = MemoryStore()
    agent = agent_of(store, "a")
    hands.room = 0
    park(store, "a")
    work(agent)
    assert hands.started == []
    assert agent._timeout_s() > 0

    hands.room = 1
    agent.nudge()

    assert select.select([agent._mail], [], [], 0)[0]
    work(agent, 1, is_tick=False)
    assert len(hands.started) == 1


def test_the_place_of_a_call_that_has_ended_is_asked_for_once(agent_of, hands):
    store = MemoryStore()
    agent = agent_of(store, "a")
    park(store, "a")
    work(agent)
    hands.room = 0
    work(agent)  # the store thread would be told of room from now on

    hands.room = 1
    hands.started[0].end()
    agent._mail.open()
    agent.nudge()  # the loop turns before the round that the end has brought is over

    assert not select.select([agent._mail], [], [], 0)[0]


def test_a_place_that_was_taken_only_between_two_looks_is_asked_for_at_once(agent_of, hands):
    store = MemoryStore()
    agent = agent_of(store, "a")
    work(agent)
    park(store, "a")
    agent._share("a").hear()
    hands.room = 0
    assert agent._timeout_s() == 0  # to tell the store that it has called
    agent._share("a").is_woken = agent._share("a").is_called = False
    assert agent._timeout_s() > 0

    hands.room = 1
    agent.nudge()

    assert select.select([agent._mail], [], [], 0)[0]


def test_a_call_that_came_by_the_broker_starts_at_once_where_there_is_room(agent_of, hands):
    agent, taken = agent_of(MemoryStore(), "a"), []
    work(agent)
    agent._tick_at = float("inf")  # nothing else would make it ask

    agent.admit("a", Call(id="a", task_id="a", task="x"), lambda: taken.append("a"))
    work(agent, 3, is_tick=False)

    assert taken == ["a"]
    assert len(hands.started) == 1


def test_arrivals_wait_for_more_while_the_lane_has_others_to_start(agent_of, hands, arrivals_clock):
    agent, taken = busy_agent(agent_of, hands), []

    agent.admit("a", arriving("one"), lambda: taken.append("one"))
    agent.admit("a", arriving("two"), lambda: taken.append("two"))
    agent._tick_at = float("inf")  # nothing else would make it ask
    work(agent, 3, is_tick=False)
    assert taken == []
    assert 0 < agent._timeout_s() <= AHEAD_S + arrivals.PATIENCE_S

    arrivals_clock.now += arrivals.PATIENCE_S
    work(agent, 1, is_tick=False)
    assert taken == ["one", "two"]


def test_many_arrivals_do_not_wait(agent_of, hands, arrivals_clock):
    agent, taken = busy_agent(agent_of, hands), []

    for number in range(arrivals.MANY):
        agent.admit("a", arriving(str(number)), lambda: taken.append(1))
    work(agent, 1, is_tick=False)

    assert len(taken) == arrivals.MANY


def test_arrivals_of_a_lane_that_was_refused_do_not_make_the_thread_spin(agent_of, hands):
    agent = busy_agent(agent_of, hands)
    agent.admit("a", arriving("one"), lambda: None)
    work(agent, 1, is_tick=False)

    agent._shares["a"].rests_until = time.monotonic() + 1.0

    assert agent._timeout_s() > arrivals.PATIENCE_S


def busy_agent(agent_of, hands) -> Agent:
    """Give an agent that knows of more to start than it has room for, and asks for nothing."""
    store = MemoryStore()
    agent = agent_of(store, "a")
    store.admit("a", [arriving(f"parked-{number}") for number in range(3)], policy=Policy.FAIR)
    hands.room = 1
    work_until(agent, lambda: hands.started)
    assert [attempt.lane for attempt in hands.started] == ["a"]
    hands.room = 0
    work(agent)
    agent._tick_at = float("inf")
    return agent


def arriving(name: str) -> Call:
    return Call(id=name, task_id=name, task="x")


# -- jobs that a pool has dropped


def test_a_call_whose_job_has_vanished_from_the_pool_runs_again(agent_of, hands, monkeypatch):
    monkeypatch.setattr(conversation, "LOST_AFTER_S", 0.0)
    store, cache = MemoryStore(), {}
    agent = agent_of(store, "a")
    park(store, "a")
    work_until(agent, lambda: hands.started)
    assert [attempt.lane for attempt in hands.started] == ["a"]
    job = hands.started[0].job = ApplyResult(cache, callback=None)
    work(agent)
    assert store.snapshot("a").running == 1

    job.discard()
    work(agent)

    assert [attempt.grant.attempt for attempt in hands.started] == [1, 2]


# -- late replies


@pytest.fixture
def arrivals_clock(monkeypatch) -> Seconds:
    seconds = Seconds()
    seconds.now = time.monotonic() + AHEAD_S  # so far that a slow machine does not catch up
    monkeypatch.setattr(arrivals, "time", seconds)
    return seconds


@pytest.fixture
def seconds(monkeypatch) -> Seconds:
    seconds = Seconds()
    for module in (conversation, shares):
        monkeypatch.setattr(module, "time", seconds)
    return seconds


def test_a_call_whose_grant_came_late_is_not_started_but_given_back(agent_of, hands, seconds):
    store = Slow(seconds)
    agent = agent_of(store, "a")
    park(store, "a")

    store.delay_s = PATIENCE_S + 1
    work_until(agent, lambda: store.snapshot("a").running == 1)
    assert hands.started == []

    store.delay_s = 0.0
    work_until(agent, lambda: hands.started)
    assert [attempt.lane for attempt in hands.started] == ["a"]
    assert [attempt.grant.attempt for attempt in hands.started] == [2]


def test_a_grant_is_as_old_as_the_first_request_for_it_whose_reply_was_lost(
    agent_of, hands, seconds
):
    store = Slow(seconds)
    agent = agent_of(store, "a")
    park(store, "a")

    store.is_lost = True
    work_until(agent, lambda: store.snapshot("a").running == 1)
    seconds.now += PATIENCE_S + 1
    store.is_lost = False

    work_until(agent, lambda: hands.started)
    assert [attempt.lane for attempt in hands.started] == ["a"]
    assert [attempt.grant.attempt for attempt in hands.started] == [2]


def test_a_lease_is_ours_for_a_while_after_its_grant_and_after_each_renewal(
    agent_of, hands, seconds
):
    agent = agent_of(MemoryStore(), "a")
    park(agent._link.store, "a")
    work_until(agent, lambda: hands.started)
    assert [attempt.lane for attempt in hands.started] == ["a"]
    granted = hands.started[0].good_until
    assert seconds.now < granted < seconds.now + LEASE_S

    seconds.now += PATIENCE_S
    work(agent)

    assert hands.started[0].good_until == granted + PATIENCE_S


# -- closings, and lanes that are not ours any more


def test_results_to_write_are_fetched_one_after_another_without_waiting_for_a_tick(agent_of, hands):
    store = MemoryStore()
    agent = agent_of(store, "a")
    work(agent)
    store.admit(
        "a",
        [Call(id=f"c{n}", task_id="t", task="x", due_ms=2**50) for n in range(20)],
        policy=Policy.FAIR,
    )
    hands.close = agent.closed
    store.cancel("a", "t")

    agent._work(heard=True)
    work_until(agent, lambda: store.snapshot("a").closing == 0)
    assert store.snapshot("a").delayed == 0


@pytest.mark.parametrize("leave", [Agent.shut, lambda agent: agent.open([])], ids=["shut", "gone"])
def test_a_worker_that_leaves_a_lane_asks_for_no_more_results_to_write(agent_of, hands, leave):
    store = Odd()
    agent = agent_of(store, "a")
    work(agent)
    calls = [Call(id=f"c{n}", task_id="t", task="x", due_ms=2**50) for n in range(20)]
    store.admit("a", calls, policy=Policy.FAIR)
    hands.close = lambda lane, closing: None  # it has not written any yet
    store.cancel("a", "t")
    agent._work(heard=True)
    work(agent, is_tick=False)

    leave(agent)
    work(agent, is_tick=False)
    store.heard.clear()
    for closing in list(agent._shares["a"].closings.values()):
        agent.closed("a", closing)
    work(agent, 20, is_tick=False)

    assert store.heard["next", "a"] <= 1


def test_a_result_that_a_worker_has_let_go_is_anothers_in_seconds_and_never_again_its_own(
    agent_of, hands, seconds
):
    """As when its broker goes away: its loop has the order still, and would write it in the end."""
    store, orders = MemoryStore(lambda: round(seconds.now * 1000)), []
    hands.close = lambda _lane, closing: orders.append(closing)
    worker = agent_of(store, "a")
    work(worker)
    call = Call(id="c", task_id="t", task="x", due_ms=2**50)
    store.admit("a", [call], policy=Policy.FAIR)
    store.cancel("a", "t")
    worker._work(heard=True)
    assert worker.holds("a", orders[0])

    worker.shut()
    for _ in range(7):
        work(worker, 1)
        seconds.now += 1
    assert not worker.holds("a", orders[0])
    other = agent_of(store, "a")
    work(other)

    assert [order.call for order in orders] == ["c", "c"]
    assert other.holds("a", orders[1])


def test_a_wake_up_for_a_lane_that_is_not_ours_any_more_goes_to_another_worker(agent_of):
    store = MemoryStore()
    agent = agent_of(store, "a")
    work(agent)
    ear = store.listen("other")
    store.next("a", worker="other", request=1, want=1)
    agent.open([])

    park(store, "a")
    work(agent, 1, is_tick=False)
    agent._work(heard=True)

    assert ear.drain() == {"a"}
    ear.close()
