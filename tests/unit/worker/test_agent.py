"""The store thread's rounds, one by one."""

from __future__ import annotations

from collections import Counter

from celery_lanes.errors import StoreUnavailable
from celery_lanes.store.base import Call, LaneRules, Policy
from celery_lanes.store.memory import MemoryStore
from celery_lanes.worker.agent import Agent


class HalfAStore(MemoryStore):
    """A cluster of which one node, with one lane, is away."""

    def __init__(self) -> None:
        super().__init__()
        self.away = ""
        self.renewed = Counter()

    def renew(self, lane, **named):
        if lane == self.away:
            raise StoreUnavailable
        self.renewed[lane] += 1
        return super().renew(lane, **named)


class Source:
    def rules(self, lane):
        return LaneRules(max_concurrent=1)

    def policy(self, lane):
        return Policy.FAIR


class Hands:
    """A pool that takes everything and ends nothing."""

    def __init__(self) -> None:
        self.started = []

    def free(self):
        return 9

    def dispatch(self, attempt):
        attempt.claim()
        attempt.is_placed = True
        self.started.append(attempt)

    def grow(self):
        pass

    def hold_intake(self, *, is_held):
        pass


def agent_of(store: MemoryStore, *lanes: str) -> Agent:
    """Have an agent that runs a call of each lane."""
    hands = Hands()
    for lane in lanes:
        store.admit(lane, [Call(id=lane, task_id=lane, task="x")], policy=Policy.FAIR)
    agent = Agent(open_store=lambda: store, source=Source(), hands=hands)
    agent.open(lanes)
    while len(hands.started) < len(lanes):
        agent._work(heard=False)
    return agent


def test_a_lane_whose_node_is_away_does_not_cost_the_others_their_leases():
    store = HalfAStore()
    agent = agent_of(store, "a", "b", "c")
    store.renewed.clear()
    store.away = "a"

    for _ in range(4):
        agent._tick_at = agent._retry_at = 0.0
        agent._work(heard=False)

    assert store.renewed["b"] >= 3
    assert store.renewed["c"] >= 3


def test_a_call_that_came_by_the_broker_starts_at_once_where_there_is_room():
    agent = agent_of(MemoryStore(), "a")
    agent.open(["b"])
    for _ in range(3):
        agent._work(heard=False)
    agent._tick_at = float("inf")  # nothing else would make it ask
    taken = []

    agent.admit("b", Call(id="b", task_id="b", task="x"), lambda: taken.append("b"))
    for _ in range(3):
        agent._work(heard=agent._sleep())
    agent._disconnect()

    assert taken == ["b"]
    assert [attempt.lane for attempt in agent._hands.started] == ["a", "b"]
